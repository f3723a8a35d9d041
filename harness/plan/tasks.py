"""The tasks of a plan: opened once, hashed, and told apart by what they are used for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlhf_bench.harness import plugins, store
from rlhf_bench.harness.anchors import is_local
from rlhf_bench.harness.errors import BenchError, one_line
from rlhf_bench.harness.nouns import Origin, Split, to_row
from rlhf_bench.harness.presets import factory_settings
from rlhf_bench.harness.seams import GoldTask, HasOrigin, HasOwnJudges, Task
from rlhf_bench.harness.text.types import JsonObject, Row


@dataclass(frozen=True)
class TaskPlan:
    """What a plan needs of a task, read once.

    `fingerprint` hashes its code, `origin.sha256` all of its data, and `examples` its prompts and demonstrations alone:
    stages that read no pairs are shared between settings that change only the pairs.  `max_response` is in tokens of
    the policy, end-of-sequence included.  `has_utility`: the task is a `GoldTask`.  `judges` are the task's own.
    """

    name: str
    settings: Row
    fingerprint: str
    origin: Origin
    max_response: int
    examples: str
    has_utility: bool = False
    judges: tuple[str, ...] = ()

    @property
    def params(self) -> JsonObject:
        """What enters keys: name, settings and the hash of the data, which stands for the place of local files."""
        data = self.settings.get("data", "")
        where = {"data": ""} if isinstance(data, str) and is_local(data) else {}
        return {**self.opened, "settings": {**self.settings, **where}}

    @property
    def opened(self) -> JsonObject:
        """What opens the task again: name and settings, with the hash that its data must have."""
        return {"name": self.name, "settings": dict(self.settings), "sha256": self.origin.sha256}

    @property
    def content(self) -> dict[str, str]:
        """What enters the keys of stages that read examples and no pairs."""
        return {"name": self.name, "examples": self.examples}


@dataclass(frozen=True)
class Tasks:
    """The task that everything is trained on, the one whose prompts PPO optimises on, and the evaluated one.

    All three are the same unless --prompts or --train-prompts name another.
    """

    home: TaskPlan
    optimised: TaskPlan
    evaluated: TaskPlan

    @property
    def label(self) -> str:
        """The home task's name, followed by what differs from it."""
        # objects, not names: `make_plan` opens each task once, so one that is used twice is the same
        parts = [self.home.name]
        if self.optimised is not self.home:
            parts.append(f"optimised on {self.optimised.name}")
        if self.evaluated is not self.home:
            parts.append(f"on {self.evaluated.name}")
        return " ".join(parts)


def open_task(name: str, given: Row, splits: Sequence[Split] = ("sft", "train", "test")) -> tuple[TaskPlan, Task]:
    """Build the task with its settings and read its data once.

    `splits` are those that will be used: a task may have prompts alone.  Raises BenchError for an unknown name, a wrong
    setting, a missing member and data that cannot be read.
    """
    plugin = plugins.find("task", name)
    settings = factory_settings(name, plugin.factory(), given)
    task = plugins.build("task", name, settings)
    if not isinstance(task, Task):
        raise BenchError(f"The task {name!r} lacks members of the Task seam.", f"See: bench check task {name}")
    try:
        origin = origin_of(task)
        # by split: an example that moves from training to test changes the hash
        examples = store.content_key([[to_row(e) for e in task.examples(split)] for split in splits])
        max_response = int(task.max_response_tokens)
    except BenchError:
        raise
    except Exception as error:  # the members are code of a plugin, which may raise anything
        raise BenchError(f"The task {name!r} cannot be read: {one_line(error)}.") from error
    if max_response < 2:
        raise BenchError(f"The task {name!r} has max_response_tokens={max_response}.", "It needs 2 or more.")
    own = tuple(task.judges) if isinstance(task, HasOwnJudges) else ()
    opened = TaskPlan(
        name, settings, plugin.fingerprint(), origin, max_response, examples, isinstance(task, GoldTask), own
    )
    return opened, task


def origin_of(task: Task) -> Origin:
    """The origin that the task states, else one of kind "real" with the hash of its content, which says so.

    Raises what the task's members raise; `open_task` makes a BenchError of it.
    """
    if isinstance(task, HasOrigin):
        return task.origin
    # examples and pairs: the hash names the data in keys, so every row must enter it
    rows = [to_row(e) for split in ("sft", "train", "test") for e in task.examples(split)]
    rows += [to_row(pair) for split in ("train", "test") for pair in task.pairs(split)]
    return Origin("real", "a task that does not say where its data come from", store.content_key(rows))
