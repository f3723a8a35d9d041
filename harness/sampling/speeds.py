"""How fast a policy computes here: seconds for a token of a pass, for one of training, and for a step of decoding.

Measured on a loaded model in a few seconds, or computed from the operations and the speed of a matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlhf_bench.harness.forward.types import CausalLM
    from rlhf_bench.harness.models.memory import Sizes
    from rlhf_bench.harness.models.placement import Placement
    from rlhf_bench.harness.nouns import Rollout
    from rlhf_bench.harness.text.types import Tokenizer

ROWS = 4
"""Rows of the passes that are timed."""
STEPS = 8
"""Tokens that are decoded for each timing."""
SHAPES = 3
"""Lengths over which passes are timed where a new one costs time by itself."""
WIDE = 8
"""Rows that are decoded at once for the second of two timings, the first being of one row."""
LAUNCHES = 0.5e-3
"""Seconds in which Python launches one layer's kernels on a GPU: a step of decoding cannot be shorter.  Assumed."""
SHARE, CPU_SHARE = 0.4, 0.75
"""The share of a matrix product's speed that training and scoring are assumed to reach on a GPU, and on a CPU."""


@dataclass(frozen=True)
class Speeds:
    """Seconds: `read` and `trained` of a token in a pass without gradients and in one with its backward pass; `step`
    of decoding, and `row` for every row in it; `load` of reading the model.  `basis` says how they were found."""

    read: float
    trained: float
    step: float
    row: float
    load: float
    basis: str


@dataclass(frozen=True)
class Device:
    """Speeds of a device: operations per second of matrix products, bytes per second of memory, and bytes of memory.

    `share`: of its operations those that a pass reaches.  `name`: of a GPU that is not here.
    """

    flops: float
    bandwidth: float
    memory: int
    name: str = ""
    share: float = SHARE


# NVIDIA's data sheets: dense bfloat16, memory bandwidth, memory
KNOWN_DEVICES: Mapping[str, Device] = {
    "a100-80gb": Device(312e12, 2.0e12, 80 * 10**9, "a100-80gb"),
    "h100-80gb": Device(989e12, 3.35e12, 80 * 10**9, "h100-80gb"),
    "h200": Device(989e12, 4.8e12, 141 * 10**9, "h200"),
}
"""Devices that a plan can be made for without having one."""


def from_operations(sizes: Sizes, placement: Placement, device: Device, share: float = 0.25) -> Speeds:
    """Speeds from counts: 2 operations for each weight and token forward, 4 more backward (2 where weights are frozen).

    `share`: of the tokens those with logits.  A step of decoding reads all weights once, checkpointing repeats a pass.
    A device with a name is a GPU.
    """
    layers, head = sizes.total - sizes.outside, sizes.hidden * sizes.vocabulary
    passed = 2.0 * (layers + share * head) / (device.share * device.flops)
    backward = 1.0 if placement.lora else 2.0
    trained = passed * (2.0 + backward if placement.gradient_checkpointing else 1.0 + backward)
    width = 2 if placement.half else 4
    step = max((layers * width + head * 4) / device.bandwidth, LAUNCHES * sizes.layers * bool(device.name))
    row = 2.0 * (layers + head) / (device.share * device.flops)
    load = 4.0 * sizes.total / 1e9  # a disk of 1 GB/s
    where = device.name or "this machine"
    return Speeds(
        passed,
        trained,
        step,
        row,
        load,
        f"computed at {device.share:.0%} of {device.flops / 1e12:.3g} TFLOP/s, {where}",
    )


def speeds_of(
    model: CausalLM, tokenizer: Tokenizer, placement: Placement, prompt: int, response: int
) -> dict[str, float]:
    """`read`, `trained`, `step` and `row` of a loaded model by name; afterwards it has the adapters of `placement`.

    Rows have `prompt` + `response` tokens, logits at those of the response.  On a CPU in bfloat16 oneDNN compiles its
    code for every new shape, and batches of packed rows hardly ever have the shape of another: passes are then timed
    the first time that their length comes.
    """
    import torch

    from rlhf_bench.harness.models.lora import add_adapter
    from rlhf_bench.harness.models.memory import shortest
    from rlhf_bench.harness.models.placement import apply_placement
    from rlhf_bench.harness.sampling import decoding
    from rlhf_bench.harness.sampling.rollout import logprobs

    device = str(model.device)
    generator = torch.Generator().manual_seed(0)

    def ids(rows: int, count: int) -> torch.Tensor:
        return torch.randint(model.config.vocab_size, (rows, count), generator=generator).to(device)

    def decode(rows: int) -> float:
        asked, steps = ids(rows, prompt), min(STEPS, response)
        whole = torch.ones_like(asked)
        uniforms = torch.rand(rows, steps, generator=generator).to(device)

        def run(count: int) -> None:
            decoding.generate(model, tokenizer, asked, whole, uniforms[:, :count], count, 1.0)

        # the first token comes with the prompt's pass, which is counted as such
        return max(0.0, timed(lambda: run(steps), device) - timed(lambda: run(1), device)) / max(1, steps - 1)

    def per_token(run: Callable[[Rollout], object]) -> float:
        made = [_rollout(tokenizer, ids(ROWS, prompt + more), ids(ROWS, response)) for more in range(SHAPES + 1)]
        tokens = ROWS * (prompt + response)
        if not (placement.half and device == "cpu"):
            return timed(lambda: run(made[0]), device) / tokens
        run(made[0])  # loads kernels and grows the heap
        taken = sum(shortest(partial(run, rollout), device, 1) for rollout in made[1:])
        return taken / sum(tokens + ROWS * more for more in range(1, SHAPES + 1))

    model = apply_placement(model, placement)
    with torch.no_grad():
        read = per_token(lambda rollout: logprobs(model, rollout).sum().item())
    narrow, wide = decode(1), decode(WIDE)
    row = max(0.0, (wide - narrow) / (WIDE - 1))
    if placement.lora:
        add_adapter(model, placement, 0)

    def train(rollout: Rollout) -> None:
        logprobs(model, rollout).sum().backward()  # type: ignore[no-untyped-call]
        for parameter in model.parameters():
            parameter.grad = None

    return {"read": read, "trained": per_token(train), "step": max(0.0, narrow - row), "row": row}


def _rollout(tokenizer: Tokenizer, asked: object, answered: object) -> Rollout:
    import torch

    from rlhf_bench.harness.nouns import Rollout

    assert isinstance(asked, torch.Tensor)
    assert isinstance(answered, torch.Tensor)
    kept = torch.ones_like(answered, dtype=torch.bool)
    texts = ("",) * len(asked)
    # different prompts: those that repeat would be read once
    names = tuple(str(k) for k in range(len(asked)))
    return Rollout(names, texts, asked, torch.ones_like(asked), answered, kept, kept.any(1), tokenizer)


def timed(function: Callable[[], object], device: str) -> float:
    """Seconds of the shorter of two calls after a first one, which loads kernels and grows the heap."""
    from rlhf_bench.harness.models.memory import shortest

    function()
    return shortest(function, device, 2)
