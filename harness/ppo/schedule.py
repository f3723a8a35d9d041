"""A rollout read by a reward model and by others: by all of them at once where the machine has the threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock
from typing import TYPE_CHECKING

from rlhf_bench.harness.forward.threads import Check, both
from rlhf_bench.harness.models.micro_batch import Fit
from rlhf_bench.harness.nouns import Rollout
from rlhf_bench.harness.ppo.scoring import NamedRewardModel
from rlhf_bench.harness.sampling.rollout import batches_by_length, map_batches, rows_of

if TYPE_CHECKING:
    from torch import Tensor

Reader = Callable[[Rollout], "Tensor"]
"""Numbers [b, t] of a micro-batch."""


def ask(
    scorer: NamedRewardModel,
    readers: Sequence[Reader],
    rollout: Rollout,
    size: int,
    tokens: int = 0,
    fit: Fit | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """The rewards and what each reader says, [B, T] each; the last three are map_batches' own.

    Whoever is free takes a micro-batch for a reader that nobody is asking: a model cannot be in two threads.  The
    reward model, which may be anybody's, is asked in the calling thread.
    """
    import torch

    rows = torch.arange(len(rollout.prompts), device=rollout.mask.device)
    parts = batches_by_length(rollout, rows, size, tokens)
    tables = [torch.zeros_like(rollout.mask, dtype=torch.float32) for _ in readers]
    left = Left([list(parts) for _ in readers])

    def work(check: Check) -> None:
        while (job := left.take()) is not None:
            check()
            reader, part = job
            found = map_batches(readers[reader], rows_of(rollout, part), size, tokens, fit)
            tables[reader][part, : found.shape[1]] = found
            left.free(reader)

    def rewards_first(check: Check) -> Tensor:
        found = scorer.rewards(rollout)
        work(check)
        return found

    rewards, _ = both(rewards_first, work)
    return rewards, tables


class Left:
    """The micro-batches that are left of each reader.  Who takes one has that reader for himself until he frees it."""

    def __init__(self, parts: list[list[Tensor]]) -> None:
        self._parts, self._busy, self._lock = parts, set[int](), Lock()

    def take(self) -> tuple[int, Tensor] | None:
        """One of the free reader with most left, so that there is work for two for as long as can be; None where no
        reader is free: whoever has the others ends them."""
        with self._lock:
            free = [i for i, parts in enumerate(self._parts) if parts and i not in self._busy]
            if not free:
                return None
            reader = max(free, key=lambda i: len(self._parts[i]))
            self._busy.add(reader)
            return reader, self._parts[reader].pop()

    def free(self, reader: int) -> None:
        with self._lock:
            self._busy.discard(reader)
