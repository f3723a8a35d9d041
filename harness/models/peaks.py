"""The most memory that each kind of stage holds: weights, gradients and moments, activations, logits, KV cache.

From counts of a configuration (`memory.Sizes`), never from weights.  On a CPU memory is that of the process: libraries
are part of it, and a file that is read counts beside the weights that are made of it.  benchmarks/plan_memory.py
compares with what stages took.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rlhf_bench.harness.models.memory import LOGIT_COPIES, Sizes
from rlhf_bench.harness.models.placement import Placement

if TYPE_CHECKING:
    from collections.abc import Sequence

LIBRARIES = 430 * 2**20
"""Bytes of a process that has loaded torch and transformers."""
TEXTS = 270 * 2**20
"""Bytes of a process that judges texts."""
TRAINERS = 320 * 2**20
"""Bytes more with TRL, datasets and peft.  Every stage's process counts them: a worker takes stages of all kinds, and
what an earlier one has loaded stays."""
HALF_CODE = 280 * 2**20
"""Bytes that a process keeps after it has trained in bfloat16 on a CPU: oneDNN's code for the last shapes
(pipeline/machine.py bounds how many), and what lies between.  Measured."""
HEAP = 1.25
"""What a training process on a CPU holds over what a pass keeps: gradients on their way, and blocks that are free again
and too small for the next pass.  Measured."""
HALF_HEAP = 2.5
"""The same in bfloat16: every new shape leaves code of oneDNN between the blocks, which fit the next pass less often.
It grows over the first 50 or so steps.  Measured at 17 to 69 steps: 2.2 to 3.0."""
COPIED = 1.2
"""What a KV cache takes over its numbers: a layer at a time is copied as it grows, and as rows end."""
FLOAT = 4
TRAINED = 16
"""Bytes of a trained number: itself, its gradient and Adam's two moments, all float32."""
TILE = 4096 * 4096
"""Logits of one tile of TRL's fused loss (kernels/chunked_logprob.py: 4096 tokens, widths of at most 4096)."""
HELD = 1024
"""Response tokens whose float32 log-probabilities are computed at once (forward/passes.py)."""
EVALUATED = 32
"""Rows of which an evaluation computes logits at once (stages/evaluation.py)."""
PACKED = 2**29
"""Bytes that the packed copy of the weights may have with which decoding computes (sampling/packed_weights.py)."""


@dataclass(frozen=True)
class Peak:
    """The most bytes of a stage: `fixed`, and `each` for every one of `tokens` tokens in its largest pass.

    `row`: tokens of the longest row, without which nothing can be computed.  `setting`: what lowers `tokens`; "" where
    nothing does.  `floor`: bytes that another phase of the stage holds in any case.
    """

    fixed: int
    each: int = 0
    tokens: int = 0
    row: int = 0
    setting: str = ""
    floor: int = 0

    @property
    def bytes(self) -> int:
        """The peak with the settings as they are."""
        return max(self.floor, self.fixed + self.each * self.tokens)

    @property
    def least(self) -> int:
        """The peak of one row at a time."""
        return max(self.floor, self.fixed + self.each * min(self.row, self.tokens))


@dataclass(frozen=True)
class Host:
    """What a policy's models take, and where: `sizes` are those of rows of `tokens` tokens in all.

    `cpu`: memory is that of a process.  `packed`: rows go through the models end to end, without padding.
    """

    sizes: Sizes
    placement: Placement
    tokens: int
    cpu: bool
    packed: bool

    @property
    def whole(self) -> int:
        """Bytes of a model in float32."""
        return FLOAT * self.sizes.total

    @property
    def held(self) -> int:
        """Bytes of the policy while it computes: frozen layers under adapters may be in bfloat16."""
        if self.placement.lora and self.placement.half:
            return 2 * (self.sizes.total - self.sizes.outside) + FLOAT * self.sizes.outside
        return self.whole

    @property
    def trained(self) -> int:
        """Numbers that training changes."""
        return self.sizes.adapters if self.placement.lora else self.sizes.total

    @property
    def training(self) -> int:
        """Bytes of a model that is trained, with gradients and moments."""
        if self.placement.lora:
            return self.held + TRAINED * self.trained
        return TRAINED * self.trained

    @property
    def kept(self) -> int:
        """Bytes that a token of a pass keeps for the backward pass; with checkpointing a layer's are made again."""
        again = 2 * self.passing * self.placement.gradient_checkpointing
        heap = (HALF_HEAP if self.placement.half else HEAP) if self.cpu else 1.0
        return int(self.sizes.kept * heap / max(1, self.tokens)) + again

    @property
    def passing(self) -> int:
        """Bytes that a token of a pass without gradients takes: the widest layer's, and those that hand on."""
        return (2 if self.placement.half else FLOAT) * self.sizes.widest

    @property
    def libraries(self) -> int:
        """Bytes of a process that computes with models, before any of them; 0 of a GPU's memory."""
        return (LIBRARIES + TRAINERS + HALF_CODE * self.placement.half) * self.cpu

    def loading(self, models: Sequence[int]) -> int:
        """The most bytes while models of these sizes are read one after the other: on a CPU the file of the last one,
        in float32, is in memory beside what is made of it."""
        if not self.cpu:
            return sum(models)
        done = [sum(models[: at + 1]) for at in range(len(models))]
        return self.libraries + max((before + self.whole for before in done), default=0)


def training(host: Host, tokens: int, row: int, setting: str, labelled: bool, reference: int = 0) -> Peak:
    """A trainer's: `tokens` of its largest pass; `labelled`: with a loss over the vocabulary, in tiles.

    `reference`: bytes of a frozen model beside the trained one.  A forward pass of it keeps nothing.
    """
    fixed = host.libraries + host.training + reference
    fixed += 2 * FLOAT * min(TILE, tokens * host.sizes.vocabulary) * labelled
    loaded = host.loading([host.held, reference] if reference else [host.held])
    # the trained model is written, merged under adapters: what is written was in memory before
    return Peak(fixed, host.kept, tokens, row, setting, loaded)


def scoring(host: Host, models: Sequence[int], tokens: int, row: int, setting: str, predicted: int = 0) -> Peak:
    """A reward model's: `models` are the bytes of all that are loaded; `predicted`: of `tokens` those with logits."""
    each = host.passing + FLOAT * 2 * host.sizes.vocabulary * predicted // max(1, tokens)
    return Peak(host.libraries + sum(models), each, tokens, row, setting, host.loading(models))


def sampling(
    host: Host, models: Sequence[int], rows: int, prompt: int, limit: int, setting: str, apart: bool = False
) -> Peak:
    """A sampler's: `rows` rows of prompts of `prompt` and responses of up to `limit` tokens at once.

    `apart`: the policy has its adapters apart, as while it is trained, so that they may be merged for sampling.
    """
    number = 2 if host.placement.half else FLOAT
    cache = int(COPIED * number * host.sizes.cached * (prompt + limit))
    row = cache + LOGIT_COPIES * FLOAT * host.sizes.vocabulary + prompt * host.passing
    fixed = host.libraries + sum(models) + decoding_copy(host) + (merged_copy(host) if apart else 0)
    tokens = prompt + limit
    return Peak(fixed, row // tokens, rows * tokens, tokens, setting, host.loading(models))


def decoding_copy(host: Host) -> int:
    """Bytes of the packed copy of the weights with which a CPU decodes; 0 where there is none."""
    number = 2 if host.placement.half else FLOAT
    # the head computes in float32 in either precision
    size = number * (host.sizes.total - host.sizes.outside) + FLOAT * host.sizes.vocabulary * host.sizes.hidden
    return size if host.cpu and size <= PACKED else 0


def merged_copy(host: Host) -> int:
    """Bytes of the layers that `policy.merge_for_sampling` makes of a policy and its adapters; 0 without either.

    Counted as if every layer had an adapter.
    """
    if not (host.placement.lora and host.placement.merge_for_sampling):
        return 0
    return (2 if host.placement.half else FLOAT) * (host.sizes.total - host.sizes.outside)


def evaluating(host: Host, models: Sequence[int], rows: int, prompt: int, limit: int) -> Peak:
    """An evaluation's logits of the reference, by which it computes the KL."""
    rows = min(rows, EVALUATED)
    tokens = rows * limit
    table = FLOAT * host.sizes.vocabulary * (tokens + 2 * min(tokens, HELD))
    fixed = host.libraries + sum(models) + table
    return Peak(fixed, host.passing, rows * (prompt + limit), prompt + limit, "")


def updating(host: Host, models: Sequence[int], rows: int, prompt: int, limit: int, both: bool = False) -> Peak:
    """PPO's update of a micro-batch of `rows` rows; `both`: of policy and critic at once.

    On a CPU the merged policy is made at the end of a base that is read again, while the heap keeps what updates took.
    """
    tokens = prompt + limit
    row = host.kept * tokens * (2 if both else 1) + LOGIT_COPIES * FLOAT * (limit + 1) * host.sizes.vocabulary
    again = host.whole if host.cpu and host.placement.lora else 0
    fixed = host.libraries + sum(models) + again
    return Peak(fixed, row // tokens, rows * tokens, tokens, "ppo.micro_batch")


def largest(peaks: Sequence[Peak]) -> Peak:
    """The largest of the peaks of a stage's phases, never below what any of them needs for one row."""
    top = max(peaks, key=lambda peak: peak.bytes)
    return replace(top, floor=max(peak.least for peak in peaks))
