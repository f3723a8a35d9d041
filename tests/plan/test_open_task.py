"""A plan reads data that are generated once in a process, and data from files every time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from plain_task import Plain

from rlhf_bench.harness.nouns import Example, Origin, Split
from rlhf_bench.harness.plan import tasks
from rlhf_bench.harness.plan.tasks import open_task
from rlhf_bench.tasks.worlds.generated import Generated

HERE = "test_open_task"
SIZES = {"demonstrations": 8, "train_pairs": 8, "test_pairs": 8, "train_prompts": 8, "test_prompts": 8}
read: list[str] = []
"""The words of the examples that were read."""


class FromFile(Plain):
    """A task whose data change between two commands of one process."""

    word = "old"

    @property
    def origin(self) -> Origin:
        return Origin("real", "Words.", self.word.ljust(64, "0"))

    def examples(self, split: Split) -> Sequence[Example]:
        read.append(self.word)
        return [Example(f"{split}-0", f"say {split}", self.word)]


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """One entry for each world that is generated; none is known beforehand."""
    monkeypatch.setattr(tasks, "_generated", {})
    made: list[object] = []
    data: Any = vars(Generated)["_data"]
    draw = data.func

    def counted(world: Any) -> object:
        made.append(world)
        return draw(world)

    monkeypatch.setattr(data, "func", counted)
    return made


def test_a_world_is_generated_once_for_each_setting(draws: list[object]) -> None:
    first = open_task("dialogsum", SIZES)
    assert open_task("dialogsum", SIZES) == first
    assert len(draws) == 1
    other = open_task("dialogsum", {**SIZES, "seed": 1})
    assert len(draws) == 2
    assert other.origin.sha256 != first.origin.sha256
    assert first.demonstrations == SIZES["demonstrations"]


def test_prompts_alone_are_another_reading(draws: list[object]) -> None:
    whole, prompts = open_task("dialogsum", SIZES), open_task("dialogsum", SIZES, ("test",))
    assert len(draws) == 2
    assert whole.examples != prompts.examples
    assert prompts.demonstrations == 0


def test_data_from_files_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_task(f"{HERE}:FromFile", {})
    monkeypatch.setattr(FromFile, "word", "new")
    assert open_task(f"{HERE}:FromFile", {}).examples != first.examples
    assert {"old", "new"} <= set(read)
