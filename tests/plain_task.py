"""A task with the least that the seam asks for."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_bench.harness.nouns import Example, Pair, Split


class Plain:
    """A task without origin, judges and utility."""

    max_response_tokens = 8

    def examples(self, split: Split) -> Sequence[Example]:
        return [Example(f"{split}-0", f"say {split}", "word")]

    def pairs(self, split: Split) -> Sequence[Pair]:
        return [Pair(f"{split}-0", f"rank {split}", "good", "bad")] if split != "sft" else []
