"""The tasks of a plan: opened once, hashed, and told apart by what they are used for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rlhf_bench.harness import plugins, store
from rlhf_bench.harness.anchors import is_local
from rlhf_bench.harness.errors import BenchError, one_line
from rlhf_bench.harness.nouns import Origin, Split, to_row
from rlhf_bench.harness.plan.origins import origin_of
from rlhf_bench.harness.presets import factory_settings
from rlhf_bench.harness.seams import GoldTask, HasOwnJudges, Task
from rlhf_bench.harness.text.types import JsonObject, Row

REDRAWN = "rlhf_bench.tasks.redrawn:Redrawn"
"""The task that redraws demonstrations and training pairs of a task whose data cannot be generated again."""
EMPTY_DATA = "data='': "
"""How tasks of real data begin their error where `data` has its default, ""."""
DATA_SEED = "seed"
"""The setting of a synthetic task from which its data are generated."""


@dataclass(frozen=True)
class TaskPlan:
    """What a plan needs of a task, read once.

    `fingerprint` hashes its code, `origin.sha256` all of its data, and `examples` its prompts and demonstrations alone:
    stages that read no pairs are shared between settings that change only the pairs.  `max_response` is in tokens of
    the policy, end-of-sequence included.  `has_utility`: the task is a `GoldTask`.  `judges` are the task's own.
    `redrawn`: the data seed by which demonstrations and training pairs are redrawn (`with_data_seed`).
    `demonstrations`: their number, 0 where they were not asked for.
    """

    name: str
    settings: Row
    fingerprint: str
    origin: Origin
    max_response: int
    examples: str
    has_utility: bool = False
    judges: tuple[str, ...] = ()
    redrawn: int | None = None
    demonstrations: int = 0

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

    @property
    def trained_on(self) -> JsonObject:
        """`params` of the task whose demonstrations and pairs are trained on: this one, or what is redrawn from it."""
        return self._redrawn(self.params)

    @property
    def trained_opened(self) -> JsonObject:
        """`opened` of the task whose demonstrations and pairs are trained on."""
        return self._redrawn(self.opened)

    def _redrawn(self, found: JsonObject) -> JsonObject:
        if self.redrawn is None:
            return found
        settings = {"task": self.name, "settings": store.canonical(found["settings"]), "seed": self.redrawn}
        return {"name": REDRAWN, "settings": settings, "sha256": self.origin.sha256}

    @property
    def demonstrated(self) -> JsonObject:
        """`content` of the task whose demonstrations are trained on."""
        return self.content if self.redrawn is None else {**self.content, "redrawn": self.redrawn}

    @property
    def redrawing(self) -> tuple[str, ...]:
        """Hash of the code that redraws the data, for the keys of stages that read them; () where none does."""
        return () if self.redrawn is None else (plugins.find("task", REDRAWN).fingerprint(),)


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


_generated: dict[tuple[str, str, str, tuple[Split, ...]], TaskPlan] = {}
"""The generated tasks that this process has opened, by name, code, settings and splits.

An experiment opens one task for every run, and to generate a world of thousands of examples takes a second.  Data from
files are read each time: they may have changed.
"""


def open_task(name: str, given: Row, splits: Sequence[Split] = ("sft", "train", "test")) -> TaskPlan:
    """Build the task with its settings and read its data once; generated data once in a process.

    `splits` are those that will be used: a task may have prompts alone.  Raises BenchError for an unknown name, a wrong
    setting, a missing member and data that cannot be read.
    """
    plugin = plugins.find("task", name)
    settings = factory_settings(name, plugin.factory(), given)
    place = (name, plugin.fingerprint(), store.canonical(settings), tuple(splits))
    if place in _generated:
        return _generated[place]
    opened = _read(name, settings, plugin.fingerprint(), splits)
    if opened.origin.kind == "generated":
        _generated[place] = opened
    return opened


def _read(name: str, settings: Row, fingerprint: str, splits: Sequence[Split]) -> TaskPlan:
    """The task from its data; raises as `open_task`."""
    try:
        task = plugins.build("task", name, settings)
    except BenchError as error:
        if settings.get("data") == "" and error.seen.startswith(EMPTY_DATA):  # nobody wrote data=''
            raise BenchError(f"No data were named: {error.seen.removeprefix(EMPTY_DATA)}", error.fix) from None
        raise
    if not isinstance(task, Task):
        raise BenchError(f"The task {name!r} lacks members of the Task seam.", f"See: bench check task {name}")
    try:
        origin = origin_of(task)
        # by split: an example that moves from training to test changes the hash
        examples = store.content_key([[to_row(e) for e in task.examples(split)] for split in splits])
        demonstrations = len(task.examples("sft")) if "sft" in splits else 0
        max_response = int(task.max_response_tokens)
    except BenchError:
        raise
    except Exception as error:  # the members are code of a plugin, which may raise anything
        raise BenchError(f"The task {name!r} cannot be read: {one_line(error)}.") from error
    if max_response < 2:
        raise BenchError(f"The task {name!r} has max_response_tokens={max_response}.", "It needs 2 or more.")
    own = tuple(task.judges) if isinstance(task, HasOwnJudges) else ()
    return TaskPlan(
        name,
        settings,
        fingerprint,
        origin,
        max_response,
        examples,
        isinstance(task, GoldTask),
        own,
        demonstrations=demonstrations,
    )


def check_data(name: str, given: Mapping[str, object]) -> None:
    """Raises BenchError for an empty `data` among the settings by hand of the task `name`.

    It comes from a variable that is not set in a script.  As the setting's default it would mean the synthetic task,
    and the run would be of other data than was meant.
    """
    if given.get("data") == "":
        raise BenchError(f"{name}.data is empty.", "Name the data, or leave the setting out for its default.")


def is_generated(task: TaskPlan) -> bool:
    """Whether another seed gives the task other data: demonstrations, pairs and prompts."""
    return task.origin.kind == "generated" and DATA_SEED in task.settings


def with_data_seed(task: TaskPlan, data: int, splits: Sequence[Split]) -> TaskPlan:
    """The task as a data seed draws it: generated anew, or with its demonstrations and training pairs redrawn.

    Held-out prompts are drawn anew in the first case alone.  Raises BenchError as `open_task`.
    """
    if is_generated(task):
        return open_task(task.name, {**task.settings, DATA_SEED: data}, splits)
    return replace(task, redrawn=data)
