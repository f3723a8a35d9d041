"""A task whose demonstrations and training pairs are drawn anew from another task's, by a data seed.

For data that come from a file or the hub: they cannot be generated again, so that a bootstrap sample (Efron 1979) of
them stands for a new sample of people, documents and labels.  Synthetic tasks are generated anew instead
(plan/tasks.py).
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeVar

from rlhf_bench.harness import plugins
from rlhf_bench.harness.nouns import Example, Pair, Split
from rlhf_bench.harness.seams import HasEmptyDemonstrations, Task

T = TypeVar("T", Example, Pair)


class Redrawn:
    """The task `task` with `settings` (a JSON object), its demonstrations and training pairs redrawn by `seed`.

    As many rows as the task has, drawn with replacement: a row that is drawn again gets an id of its own.  Held-out
    prompts and pairs, and the prompts that PPO optimises on, stay as they are.
    """

    def __init__(self, task: str, settings: str, seed: int) -> None:
        self.name, self.settings, self.seed = task, settings, seed

    @cached_property
    def task(self) -> Task:
        settings: dict[str, Any] = json.loads(self.settings)
        made: Task = plugins.build("task", self.name, settings)
        return made

    @property
    def max_response_tokens(self) -> int:
        return self.task.max_response_tokens

    @property
    def sft_empty(self) -> float:
        """The task's own (`HasEmptyDemonstrations`)."""
        return self.task.sft_empty if isinstance(self.task, HasEmptyDemonstrations) else 0.0

    def examples(self, split: Split) -> Sequence[Example]:
        found = self.task.examples(split)
        return self._drawn(found, "demonstrations") if split == "sft" else found

    def pairs(self, split: Split) -> Sequence[Pair]:
        found = self.task.pairs(split)
        return self._drawn(found, "pairs") if split == "train" else found

    def _drawn(self, rows: Sequence[T], what: str) -> list[T]:
        # named by what is drawn: the number of demonstrations must not decide which pairs are drawn
        rng = random.Random(f"redrawn/{self.seed}/{what}")
        times: Counter[int] = Counter()
        drawn = []
        for place in rng.choices(range(len(rows)), k=len(rows)) if rows else ():
            times[place] += 1
            row = rows[place]
            drawn.append(row if times[place] == 1 else replace(row, id=f"{row.id}~{times[place]}"))
        return drawn
