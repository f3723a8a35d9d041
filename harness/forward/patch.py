"""Temporary patches of a module's forward: in general, and of the last layer so that it computes only what is read.

A decoder's last layer computes all positions, but its output is read at some of them only: PPO, its critic and reward
models read those of the response.  Skipping the others in the last feed-forward part saves up to 2/3L of a pass of L
layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from rlhf_bench.harness.forward.types import Module


@contextmanager
def patched_forward(module: Module, function: Callable[..., object]) -> Iterator[None]:
    """Inside, `module(...)` computes `function(original forward, ...)`.

    Patches of one module may be nested; they end in reverse order.  The patch is on the instance, so threads that
    share the module see it, too.
    """
    # `vars`, not `getattr`: what counts is whether the instance has a forward of its own, not that its class has one.
    inner, instance_forward = module.forward, vars(module).get("forward")
    module.forward = lambda *given, **named: function(inner, *given, **named)
    try:
        yield
    finally:
        if instance_forward is None:
            del module.forward  # the class's own forward is found again
        else:  # an outer patch, or a wrapper of another library (accelerate's)
            module.forward = instance_forward


@contextmanager
def last_layer_only_at(model: Module, positions: Tensor) -> Iterator[None]:
    """Inside, hidden states and logits of `model` for ids [B, C] are exact at `positions` (bool [B, C]) and undefined
    elsewhere; gradients are exact too.

    Works for every decoder whose layers have an `mlp` that treats positions one by one.  Other models, and models with
    gradient checkpointing, compute all positions.
    """
    mlp = last_mlp(model)
    if mlp is None:
        yield
        return

    def forward_at(plain: Callable[..., Tensor], hidden: Tensor, *more: object, **named: object) -> Tensor:
        import torch

        if more or named or hidden.shape[:-1] != positions.shape:  # another signature than assumed: compute everything
            return plain(hidden, *more, **named)
        found = plain(hidden[positions][None])[0]
        # index_put is differentiable; the type is that of the result, which under autocast is not that of `hidden`
        return torch.zeros_like(hidden, dtype=found.dtype).index_put((positions,), found)

    with patched_forward(mlp, forward_at):
        yield


def last_mlp(model: Module) -> Module | None:
    """The feed-forward part (`mlp`) of the last decoder layer; None where it is not known, or must not be patched.

    It is not known where a model has no list of layers with an `mlp`, or several (an encoder and a decoder).
    """
    from torch import nn

    layers = [m[-1] for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) and hasattr(m[-1], "mlp")]
    # A checkpointed layer is computed again in the backward pass, when the patch has been removed.
    if len(layers) != 1 or getattr(layers[0], "gradient_checkpointing", False):
        return None
    mlp = layers[0].mlp
    # A mixture of experts routes positions together: fewer positions may be routed otherwise.
    return mlp if isinstance(mlp, nn.Module) and "moe" not in type(mlp).__name__.lower() else None
