"""All private names of torch that the package uses.

`torch.ops.mkldnn._reorder_linear_weight` and `torch.ops.mkldnn._linear_pointwise`
    A linear layer with its weights in the layout that oneDNN's kernels read, bias and activation included
    (sampling/packed_weights.py).
    Gain: decoding steps of 8 to 32 rows read their weights a third faster, on an otherwise idle machine.
    Public path: `torch.nn.functional.linear`, then the activation.

`torch.cpu._is_avx512_bf16_supported` and `torch.cpu._is_amx_tile_supported`
    Whether the processor multiplies in bfloat16 (models/placement.py).
    Gain: `policy.dtype=auto` takes bfloat16 there.
    Public path: float32.

Tested with torch 2.13 (constraints.txt); pyproject.toml allows no later minor version.
"""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from rlhf_bench.harness.forward.fast_paths import FastPath, require_close

if TYPE_CHECKING:
    from torch import Tensor

Activation = tuple[str, str]
"""oneDNN's name of an activation and of its algorithm."""

# what oneDNN calls them: silu is its "swish"
NO_ACTIVATION: Activation = ("none", "")
GELU_TANH: Activation = ("gelu", "tanh")
SILU: Activation = ("swish", "")

MOST_ROWS = 2048
"""Rows that a layout is made for.  It serves fewer rows as well, which a layout for one row does not."""


def pack_weight(weight: Tensor) -> Tensor:
    """A weight [out, in] as oneDNN reads it, for `packed_linear` alone: its shape and strides are no longer public.

    The result is a copy: later changes of `weight` do not reach it.
    """
    import torch

    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, MOST_ROWS)
    return packed


def packed_linear(given: Tensor, packed: Tensor, bias: Tensor | None, activation: Activation) -> Tensor:
    """activation(given @ weight.T + bias), [..., in] to [..., out], in the weight's precision; without gradients.

    `packed` is of `pack_weight`; `given`, weight and bias have one type, float32 or bfloat16.
    """
    import torch

    name, algorithm = activation
    # the empty list: no activation here takes scalars
    found: Tensor = torch.ops.mkldnn._linear_pointwise(given, packed, bias, name, [], algorithm)
    return found


def _test_packed_linear(_: str) -> None:
    import torch
    from torch.nn.functional import gelu, linear, silu

    if platform.machine().lower() not in ("x86_64", "amd64") or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        raise ValueError("needs oneDNN on an x86-64 processor")
    # three dimensions, as hidden states have: the operator has to flatten them
    generator = torch.Generator().manual_seed(0)
    given, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((2, 3, 8), (5, 8), (5,)))
    plain = linear(given, weight, bias)
    expected = {NO_ACTIVATION: plain, GELU_TANH: gelu(plain, approximate="tanh"), SILU: silu(plain)}
    # bfloat16 has 8 bits of precision, and the sums here have eight terms
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.05)):
        packed = pack_weight(weight.to(dtype))
        for activation, wanted in expected.items():
            found = packed_linear(given.to(dtype), packed, bias.to(dtype), activation)
            require_close(found, wanted, tolerance)
        # Llama's layers have no bias
        require_close(packed_linear(given.to(dtype), packed, None, NO_ACTIVATION), plain - bias, tolerance)


def cpu_multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for products in bfloat16; False where torch does not say."""
    import torch

    try:
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    except (AttributeError, RuntimeError):  # other versions and builds of torch lack the names, or the operator below
        return False


PACKED_LINEAR = FastPath("packed weights (oneDNN)", _test_packed_linear)
