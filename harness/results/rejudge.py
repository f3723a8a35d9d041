"""Judging stored generations again, without training anything."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.pipeline.execute import Outcome, execute
from rlhf_bench.harness.pipeline.machine import Machine, StageProgress, no_stage_progress
from rlhf_bench.harness.pipeline.stage import Stage
from rlhf_bench.harness.plan import cells as plan_cells
from rlhf_bench.harness.plan import shared, tasks
from rlhf_bench.harness.plan.judges import JudgeSpec, judge_spec
from rlhf_bench.harness.results.arms import CellFiles
from rlhf_bench.harness.results.undecided import stored_rows
from rlhf_bench.harness.seams import SaysDeterministic
from rlhf_bench.harness.stages.judge import load_judge, undecided

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import Row


@dataclass
class Rejudged:
    """The verdict stages of a call, what failed, and a sentence for each that kept its earlier verdicts."""

    stages: list[Stage] = field(default_factory=list)
    outcome: Outcome = field(default_factory=Outcome)
    kept: list[str] = field(default_factory=list)


def judge_cells(
    cells: Sequence[CellFiles],
    root: store.Store,
    judges: Sequence[str],
    assignments: Mapping[str, Mapping[str, str]],
    progress: StageProgress = no_stage_progress,
) -> Rejudged:
    """Verdicts of `judges` on every cell, recorded beside those of other judges.

    `assignments` holds the judges' settings: judge -> key -> text.  Stored verdicts stay, unless some case is undecided
    and the judge may decide it now.  Failures are in the outcome; what was made is recorded in spite of them.  Raises
    BenchError for unknown judges and settings, and for a task whose data changed since the run.
    """
    done = Rejudged()
    for spec in [judge_spec(name, assignments.get(name, {})) for name in dict.fromkeys(judges)]:
        stages = {cell.path: _verdict_stage(cell, spec) for cell in cells if cell.path is not None}
        place = RetryStore(root.root, _retries(spec, list(stages.values()), root))
        outcome = execute(plan_cells.in_order(list(stages.values())), place, Machine(progress=progress))
        done.stages += stages.values()
        done.outcome.failed |= outcome.failed
        done.kept += place.kept
        for path, stage in stages.items():
            record = store.read_json(path)
            changed = {**record, "judges": {**record["judges"], spec.name: stage.place}}
            if stage.done(root) and changed != record:
                store.write_json(path, changed)
    return done


def _retries(judge: JudgeSpec, stages: Sequence[Stage], root: store.Store) -> dict[str, int]:
    """Finished stages with undecided cases that a further call may decide: key -> number of those cases."""
    made = load_judge(judge.name, judge.settings)
    if isinstance(made, SaysDeterministic) and made.deterministic:
        return {}
    counts = {stage.key: len(undecided(stored_rows(stage, root))) for stage in stages if stage.done(root)}
    return {key: count for key, count in counts.items() if count}


class RetryStore(store.Store):
    """The same results folder, in which some finished verdict stages are executed once more.

    `retries` maps their keys to the number of undecided cases.  New verdicts that leave more cases undecided are
    dropped: a server that fails now must not remove what was decided before.
    """

    def __init__(self, root: Path, retries: Mapping[str, int]) -> None:
        super().__init__(root)
        self.retries, self.kept = dict(retries), list[str]()

    def complete(self, kind: str, label: str, key: str) -> bool:
        return key not in self.retries and super().complete(kind, label, key)

    @contextmanager
    def writing(self, kind: str, label: str, key: str) -> Iterator[tuple[Path, Path] | None]:
        if key not in self.retries:
            with super().writing(kind, label, key) as place:
                yield place
            return
        from filelock import FileLock

        partial = self.root / ".partial" / f"{kind}-{key[: store.KEY_LENGTH]}"
        work, scratch = partial / "work", partial / "scratch"
        with FileLock(partial.with_suffix(".lock")):
            shutil.rmtree(partial, ignore_errors=True)
            for folder in (work, scratch):
                folder.mkdir(parents=True)
            yield work, scratch
            # removed from `retries` first: from here on the stage is complete, whichever verdicts stay
            self._replace(work, self.folder(kind, label, key), self.retries.pop(key))
            shutil.rmtree(partial, ignore_errors=True)

    def _replace(self, work: Path, target: Path, before: int) -> None:
        left = len(undecided(store.read_rows(work / "verdicts.jsonl")))
        if left > before:
            self.kept.append(f"{target.name}: {left} cases undecided now, {before} before; the earlier verdicts stay")
            return
        new, old = work / "account.json", target / "account.json"
        if new.is_file() and old.is_file():  # the new account then says what all tries cost
            account = store.read_json(old)
            earlier = [*account.pop("earlier", []), account]
            store.write_json(new, {**store.read_json(new), "earlier": earlier})
        # one file at a time, each by an atomic rename, the marker last: a kill leaves whole files of either run
        for file in sorted(work.iterdir(), key=lambda file: file.name == store.MARKER):
            file.replace(target / file.name)


def _verdict_stage(cell: CellFiles, judge: JudgeSpec) -> Stage:
    """The verdict stage of a stored cell, whose inputs are stages on disk."""
    inputs = {}
    for role in ("prompts", "baseline", "generations"):
        record = store.read_json(cell.folder(role) / store.MARKER)
        inputs[role] = StoredStage(record["kind"], record["label"], record["params"], record["key"])
    spec = cell.record["evaluated"]
    task = _open_once(spec["name"], store.canonical(spec["settings"]))
    if task.origin.sha256 != spec["sha256"]:  # else a judge would see other references than the responses answer
        raise BenchError(
            f"The data of {spec['name']!r} changed since the run "
            f"({spec['sha256'][:12]} is now {task.origin.sha256[:12]}).",
            "Judge with the data and version the run was made with.",
        )
    seed = cell.record["seed"]
    label = shared.cell_label(cell.record["task"], cell.record["reward_model"], seed)
    return plan_cells.judge_stage(task, judge, inputs, label, seed)


@lru_cache
def _open_once(name: str, settings: str) -> tasks.TaskPlan:
    """The task of stored cells.  Cells share tasks, and opening one reads its data."""
    return tasks.open_task(name, json.loads(settings), ("test",))[0]


class StoredStage(Stage):
    """A stage on disk, under the key it was made with: the code, and with it the key, may have changed since."""

    def __init__(self, kind: str, label: str, params: Row, key: str) -> None:
        super().__init__(kind, label, "", params)
        self.__dict__["key"] = key  # where cached_property keeps its value
