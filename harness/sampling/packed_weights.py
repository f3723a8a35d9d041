"""Matrix products of a model that only reads, on a CPU: its weights laid out once as oneDNN's kernels read them.

Decoding multiplies a few rows by all weights, for every token.  Laid out beforehand they are read a third faster, bias
included (measured with 8 to 32 rows; a layout takes about as long as one or two such steps).
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from rlhf_bench.harness.forward.replaced import patched_forward

if TYPE_CHECKING:
    from torch import Tensor

LARGEST = 2**29
"""Bytes of weights: the layout is a second copy of them."""

SMALLEST = 2**17
"""Weights of a float32 layer that is worth it: a call of oneDNN's takes longer than the product of a smaller one.  In
bfloat16 all are: autocast would cast them."""

ROWS = 2048
"""Rows that a layout is meant for: it then serves fewer as well, which one for a single row does not."""


NONE = ("none", "")
PAIRS = (("c_fc", "act"), ("gate_proj", "act_fn"))
"""Attributes of a feed-forward part: a linear layer, and the activation of what it gives and of nothing else."""

ACTIVATIONS = {
    "GELUTanh": ("gelu", "tanh"),
    "NewGELUActivation": ("gelu", "tanh"),
    "SiLU": ("swish", ""),
    "SiLUActivation": ("swish", ""),
}
"""Classes of activations that a product computes on its way out, and oneDNN's names for them."""


@contextmanager
def packed_weights(model: Any) -> Iterator[bool]:
    """Inside, linear layers of `model` multiply by laid-out copies of their weights as they are now, and apply the
    activation that follows.  Yields whether they do.

    Without gradients, for float32 weights on an x86 processor; elsewhere, and for models of more than LARGEST bytes,
    nothing changes.  A model that computes in bfloat16 goes on doing so.  Equal up to rounding.
    """
    layers = _layers(model) if _serves(model) else []
    followed = _activations(model, {layer for layer, _ in layers})
    with ExitStack() as stack:
        for layer, weight in layers:
            laid_out = _laid_out(layer, weight, followed[layer][1] if layer in followed else NONE)
            stack.enter_context(patched_forward(layer, laid_out))
        for activation in {activation for activation, _ in followed.values()}:
            stack.enter_context(patched_forward(activation, _already))
        yield bool(layers)


def _serves(model: Any) -> bool:
    import torch

    return (
        model.device.type == "cpu"
        and platform.machine().lower() in ("x86_64", "amd64")
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


def _layers(model: Any) -> list[tuple[Any, Tensor]]:
    """Large linear layers that are nobody else's business, with their weights [out, in]."""
    import torch
    from transformers.pytorch_utils import Conv1D

    turned = {torch.nn.Linear: False, Conv1D: True}
    half = getattr(model, "computes_half", False)
    least, dtype = (0, torch.bfloat16) if half else (SMALLEST, torch.float32)
    found = [m for m in model.modules() if type(m) in turned and "forward" not in vars(m)]
    found = [m for m in found if m.weight.dtype == torch.float32 and m.weight.numel() >= least]
    if sum(m.weight.nbytes for m in found) > LARGEST:
        return []
    weights = [m.weight.detach().to(dtype) for m in found]
    return [(m, weight.t() if turned[type(m)] else weight) for m, weight in zip(found, weights, strict=True)]


def _activations(model: Any, layers: set[Any]) -> dict[Any, tuple[Any, tuple[str, str]]]:
    """The activation that follows a layer, and its names."""
    found = {}
    for module in model.modules():
        for first, second in PAIRS:
            layer, activation = getattr(module, first, None), getattr(module, second, None)
            name = type(activation).__name__
            if layer in layers and name in ACTIVATIONS and "forward" not in vars(activation):
                found[layer] = activation, ACTIVATIONS[name]
    return found


def _laid_out(layer: Any, weight: Tensor, follows: tuple[str, str]) -> Callable[..., Tensor]:
    """What takes the place of the layer's forward."""
    import torch

    laid_out = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
    bias = None if layer.bias is None else layer.bias.detach().to(weight.dtype)
    multiply, (name, kind) = torch.ops.mkldnn._linear_pointwise, follows

    def forward(plain: Callable[..., Tensor], given: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return plain(given)
        found: Tensor = multiply(given.to(weight.dtype), laid_out, bias, name, [], kind)
        return found

    return forward


def _already(plain: Callable[..., Tensor], given: Tensor) -> Tensor:
    """An activation that the product before it has applied, unless that went the plain way."""
    import torch

    return plain(given) if torch.is_grad_enabled() else given
