"""Passes whose prompts nobody asks about: the last layer's feed-forward part is computed for the responses alone.

What a decoder's last layer makes of the prompt's positions is read by nothing but the output at those positions, and
PPO, its critic and reward models read the responses' only.  In a model of L layers this is up to 2/3L of a pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def only_last(model: Any, width: int) -> Iterator[None]:
    """Inside, hidden states and logits of `model` are right in the last `width` columns, undefined before them.

    Exact there, and gradients too, for any decoder whose layers have an `mlp` that takes positions one by one; others,
    and models that checkpoint gradients (they compute a layer again when this has ended), do all of the work.
    """
    mlp = _last_mlp(model)
    if mlp is None:
        yield
        return
    plain, own = mlp.forward, vars(mlp).get("forward")
    mlp.forward = lambda hidden, *more, **named: _shortened(plain, width, hidden, *more, **named)
    try:
        yield
    finally:
        if own is None:
            del mlp.forward
        else:  # somebody else's wrapper of this very module
            mlp.forward = own


def _shortened(plain: Any, width: int, hidden: Tensor, *more: Any, **named: Any) -> Any:
    """`plain` of hidden [B, C, D] in its last `width` columns, 0 before them."""
    from torch.nn.functional import pad

    skipped = hidden.shape[1] - width
    if skipped <= 0 or more or named:
        return plain(hidden, *more, **named)
    return pad(plain(hidden[:, skipped:].contiguous()), (0, 0, skipped, 0))


def _last_mlp(model: Any) -> Any:
    """The feed-forward part of the last decoder layer, None where there is none or it may be computed again."""
    from torch.nn import Module, ModuleList

    layers = [m[-1] for m in model.modules() if isinstance(m, ModuleList) and len(m) and hasattr(m[-1], "mlp")]
    if len(layers) != 1 or getattr(layers[0], "gradient_checkpointing", False):
        return None
    mlp = layers[0].mlp
    return mlp if isinstance(mlp, Module) and "moe" not in type(mlp).__name__.lower() else None
