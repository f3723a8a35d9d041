"""Tasks as a plan sees them: opened once, hashed, and which of them is trained, optimised and evaluated on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf_bench.harness import plugins, store
from rlhf_bench.harness.errors import BenchError, one_line
from rlhf_bench.harness.nouns import Origin, Split, to_row
from rlhf_bench.harness.presets import factory_settings
from rlhf_bench.harness.seams import HasOrigin, Task


@dataclass(frozen=True)
class TaskPlan:
    """A task that was opened once to learn what the plan needs of it.

    `examples` hashes its prompts and demonstrations alone: what does not look at pairs is shared between settings that
    change only them.
    """

    name: str
    settings: Mapping[str, Any]
    fingerprint: str
    origin: Origin
    max_response: int
    examples: str

    @property
    def params(self) -> dict[str, Any]:
        """What enters keys: name, settings and the hash of its content."""
        return {"name": self.name, "settings": dict(self.settings), "sha256": self.origin.sha256}

    @property
    def content(self) -> dict[str, str]:
        """What enters the keys of stages that see examples and no pairs."""
        return {"name": self.name, "examples": self.examples}


@dataclass(frozen=True)
class Tasks:
    """The task that the policy and the reward model come from, whose prompts PPO optimises on, and whose are held out.

    All three are one unless something out of distribution was asked for.
    """

    home: TaskPlan
    optimised: TaskPlan
    evaluated: TaskPlan

    @property
    def label(self) -> str:
        """The home task's name, and what differs."""
        parts = [self.home.name]
        if self.optimised is not self.home:
            parts.append(f"optimised on {self.optimised.name}")
        if self.evaluated is not self.home:
            parts.append(f"on {self.evaluated.name}")
        return " ".join(parts)


def open_task(
    name: str, given: Mapping[str, Any], splits: Sequence[Split] = ("sft", "train", "test")
) -> tuple[TaskPlan, Task]:
    """Build the task with its settings and look at its data once.  Raises BenchError for anything wrong with either.

    `splits` are those that will be used: a task may have prompts alone.
    """
    plugin = plugins.find("task", name)
    settings = factory_settings(name, plugin.factory(), given)
    task = plugins.build("task", name, settings)
    if not isinstance(task, Task):
        raise BenchError(f"The task {name!r} lacks members of the Task seam.", f"See: bench check task {name}")
    try:
        origin = origin_of(task)
        examples = store.content_key([[to_row(e) for e in task.examples(split)] for split in splits])
        max_response = int(task.max_response_tokens)
    except BenchError:
        raise
    except Exception as error:
        raise BenchError(f"The task {name!r} cannot be read: {one_line(error)}.") from error
    if max_response < 2:
        raise BenchError(f"The task {name!r} has max_response_tokens={max_response}.", "It needs 2 or more.")
    return TaskPlan(name, settings, plugin.fingerprint(), origin, max_response, examples), task


def origin_of(task: Task) -> Origin:
    """The task's own statement, else its content's hash under an unknown origin."""
    if isinstance(task, HasOrigin):
        return task.origin
    rows = [to_row(e) for split in ("sft", "train", "test") for e in task.examples(split)]
    rows += [to_row(pair) for split in ("train", "test") for pair in task.pairs(split)]
    return Origin("real", "a task that does not say where its data come from", store.content_key(rows))
