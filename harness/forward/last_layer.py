"""Passes of which only some positions are read: the last layer's feed-forward part is computed for those alone.

What a decoder's last layer makes of a prompt's positions is read by nothing but the output there, and PPO, its critic
and reward models read the responses' only.  In a model of L layers this is up to 2/3L of a pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rlhf_bench.harness.forward.replaced import patched_forward

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def last_layer_only_at(model: Any, places: Tensor) -> Iterator[None]:
    """Inside, hidden states and logits of `model` for ids [B, C] are right at `places` (bool [B, C]), undefined
    elsewhere.

    Exact there, gradients too, for any decoder whose layers have an `mlp` that takes positions one by one; others, and
    models that checkpoint gradients (they compute a layer again when this has ended), do all of the work.
    """
    mlp = _last_mlp(model)
    if mlp is None:
        yield
        return
    with patched_forward(mlp, lambda plain, hidden, *more, **named: _at(plain, places, hidden, *more, **named)):
        yield


def _at(plain: Any, places: Tensor, hidden: Tensor, *more: Any, **named: Any) -> Any:
    """`plain` of hidden [B, C, D] at the places, 0 elsewhere."""
    import torch

    if more or named or hidden.shape[:-1] != places.shape:
        return plain(hidden, *more, **named)
    found = plain(hidden[places][None])[0]
    return torch.zeros_like(hidden, dtype=found.dtype).index_put((places,), found)


def _last_mlp(model: Any) -> Any:
    """The feed-forward part of the last decoder layer, None where there is none or it may be computed again."""
    from torch.nn import Module, ModuleList

    layers = [m[-1] for m in model.modules() if isinstance(m, ModuleList) and len(m) and hasattr(m[-1], "mlp")]
    if len(layers) != 1 or getattr(layers[0], "gradient_checkpointing", False):
        return None
    mlp = layers[0].mlp
    return mlp if isinstance(mlp, Module) and "moe" not in type(mlp).__name__.lower() else None
