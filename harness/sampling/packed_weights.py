"""Linear layers of a model that decodes on a CPU, with their weights packed once as oneDNN's kernels read them.

Decoding multiplies a few rows by all weights, for every token.  Packed weights are read a third faster, bias and
activation included (measured with 8 to 32 rows; packing takes about as long as one or two such steps).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlhf_bench.harness.forward.patch import patched_forward
from rlhf_bench.harness.forward.torch_private import (
    GELU_TANH,
    NO_ACTIVATION,
    PACKED_LINEAR,
    SILU,
    Activation,
    pack_weight,
    packed_linear,
)
from rlhf_bench.harness.forward.transformers_private import is_conv1d

if TYPE_CHECKING:
    from rlhf_bench.harness.forward.types import CausalLM, Linear, Module

LARGEST = 2**29
"""Bytes of packed weights in all: they are a second copy."""

SMALLEST = 2**17
"""Numbers in a float32 weight that is worth packing: a call of oneDNN's takes longer than the product of a smaller one.
In bfloat16 all weights are packed, because autocast would cast those in float32 for every pass."""

PAIRS = (("c_fc", "act"), ("gate_proj", "act_fn"))
"""Attributes of a feed-forward part: a linear layer, and the activation that is applied to its output and nothing else
(GPT-2's and Llama's names)."""

ACTIVATIONS: dict[str, Activation] = {
    "GELUTanh": GELU_TANH,
    "NewGELUActivation": GELU_TANH,
    "SiLU": SILU,
    "SiLUActivation": SILU,
}
"""Classes of activations that oneDNN computes together with the product."""


@contextmanager
def packed_weights(model: CausalLM) -> Iterator[bool]:
    """Inside, linear layers of `model` multiply by packed copies of their present weights and apply the activation that
    follows.  Yields whether they do.

    Only for passes without gradients on an x86-64 CPU.  Models with more than LARGEST bytes of weights in the precision
    that they compute in stay as they are.  A model that computes in bfloat16 still does, and its head in float32.
    Equal up to rounding.
    """
    layers = linear_layers(model) if model.device.type == "cpu" and PACKED_LINEAR.usable() else {}
    try:
        # all weights are packed before anything is patched, so a failure leaves nothing behind
        forwards = [(layer, packed_forward(model, layer, activation)) for layer, activation in layers.items()]
    except MemoryError:  # says nothing about oneDNN, so the fast path stays on
        raise
    except Exception as error:
        PACKED_LINEAR.disable(error)
        layers, forwards = {}, []

    def applied_already(plain: Callable[..., Tensor], given: Tensor) -> Tensor:
        return plain(given) if torch.is_grad_enabled() else given  # with gradients the layer itself was plain, too

    with ExitStack() as patches:
        for layer, forward in forwards:
            patches.enter_context(patched_forward(layer, forward))
        # a set: a model may use one module for the activations of all its layers
        for activation in {x for x in layers.values() if x is not None}:
            patches.enter_context(patched_forward(activation, applied_already))
        yield bool(forwards)


def linear_layers(model: CausalLM) -> dict[Linear, Module | None]:
    """The linear layers worth packing, each with the activation that follows where oneDNN has it.

    Left out: modules whose forward is patched already (adapters, accelerate), because the patch must stay in force.
    Empty where the layers are too large together.
    """
    half = getattr(model, "computes_half", False)
    least, types = (0, (torch.float32, torch.bfloat16)) if half else (SMALLEST, (torch.float32,))
    # the head of such a model is patched to compute in float32 (placement.py), as its packed copy does
    head = model.get_output_embeddings() if half else None
    linear = [m for m in model.modules() if type(m) is torch.nn.Linear or is_conv1d(m)]
    linear = [m for m in linear if "forward" not in vars(m) or m is head]
    linear = [m for m in linear if m.weight.dtype in types and m.weight.numel() >= least]
    if sum(m.weight.numel() * packed_type(model, m).itemsize for m in linear) > LARGEST:
        return {}
    found: dict[Linear, Module | None] = dict.fromkeys(linear)
    for module in model.modules():
        for first, second in PAIRS:
            layer, activation = getattr(module, first, None), getattr(module, second, None)
            known = type(activation).__name__ in ACTIVATIONS
            if layer in found and activation is not None and known and "forward" not in vars(activation):
                found[layer] = activation
    return found


def packed_type(model: CausalLM, layer: Linear) -> torch.dtype:
    """What a packed layer of a model computes in: bfloat16 where the model does, except for the head."""
    half = getattr(model, "computes_half", False) and layer is not model.get_output_embeddings()
    return torch.bfloat16 if half else torch.float32


def packed_forward(model: CausalLM, layer: Linear, activation: Module | None) -> Callable[..., Tensor]:
    """The patch of one layer's forward (for `patched_forward`): act(x @ weight.T + bias) in one call.

    The weights are copied now: later changes of the layer do not reach the patch.  Raises anything that oneDNN does.
    """
    dtype = packed_type(model, layer)
    weight = layer.weight.detach().to(dtype)
    packed = pack_weight(weight.t() if is_conv1d(layer) else weight)  # [out, in]
    bias = None if layer.bias is None else layer.bias.detach().to(dtype)
    name = NO_ACTIVATION if activation is None else ACTIVATIONS[type(activation).__name__]
    activate = activation.forward if activation is not None else None  # its own, before it is patched

    def forward(plain: Callable[..., Tensor], given: Tensor) -> Tensor:
        if torch.is_grad_enabled():  # the operator has no backward pass
            return plain(given)
        try:
            return packed_linear(given.to(dtype), packed, bias, name)
        except Exception as error:  # for example a shape that the kernel refuses
            PACKED_LINEAR.disable(error)
            # the module that follows is patched to pass its input on, so the activation is applied here
            found = plain(given)
            return activate(found) if activate is not None else found

    return forward
