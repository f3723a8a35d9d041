"""Judges stored generations again: only verdicts are computed, nothing is trained or sampled.

Verdicts are stages like those of a run.  Their inputs are on disk, under the keys that the run gave them.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_bench.harness import store, trust
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.pipeline import integrity
from rlhf_bench.harness.pipeline.execute import Outcome, execute
from rlhf_bench.harness.pipeline.machine import Machine, StageProgress, no_stage_progress
from rlhf_bench.harness.pipeline.stage import Stage
from rlhf_bench.harness.plan import cells as plan_cells
from rlhf_bench.harness.plan import shared, tasks
from rlhf_bench.harness.plan.judges import JudgeSpec, judge_spec
from rlhf_bench.harness.results.arms import CellFiles
from rlhf_bench.harness.results.found import verdict_problems
from rlhf_bench.harness.results.undecided import stored_rows
from rlhf_bench.harness.seams import SaysDeterministic
from rlhf_bench.harness.stages.judge import KEEP, load_judge, undecided

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import Row


WHOLE = "whole"
"""A file beside an unfinished try whose files are complete, and of which some may have been moved already."""


@dataclass
class Rejudged:
    """The verdict stages of a call, their outcome, and a sentence for each stage that kept its earlier verdicts."""

    stages: list[Stage] = field(default_factory=list)
    outcome: Outcome = field(default_factory=Outcome)
    kept: list[str] = field(default_factory=list)


def judge_cells(
    cells: Sequence[CellFiles],
    root: store.Store,
    judges: Sequence[str],
    assignments: Mapping[str, Mapping[str, str]],
    progress: StageProgress = no_stage_progress,
    named: Collection[str] = (),
) -> Rejudged:
    """Verdicts of `judges` on every cell, recorded beside those of other judges.

    `assignments` holds the judges' settings: judge -> key -> text.  Stored verdicts stay, unless they are damaged, or
    some case is undecided and the judge may decide it now.  A failure does not stop the other verdicts: it is part of
    the outcome, and every finished verdict is recorded.  `named` are the names of code and the paths that records may
    use (trust.py).  Raises BenchError for unknown judges and settings, for a record that names what it may not, and for
    a task whose data changed since the run.
    """
    root.check_own_folders()
    for cell in cells:
        trust.check_recorded("task", cell.record.get("evaluated"), cell.path or root.root, named)
    done = Rejudged()
    for spec in [judge_spec(name, assignments.get(name, {})) for name in dict.fromkeys(judges)]:
        stages = {cell.path: _verdict_stage(cell, spec) for cell in cells if cell.path is not None}
        # finished stages with undecided cases are run once more, but not for a judge that would decide the same again
        judge = load_judge(spec.name, spec.settings)
        finished = [stage for stage in stages.values() if stage.done(root)]
        # any verdicts are better than damaged ones
        retries = {stage.key: sys.maxsize for stage in finished if any(verdict_problems(stage.folder(root)))}
        if not (isinstance(judge, SaysDeterministic) and judge.deterministic):
            sound = [stage for stage in finished if stage.key not in retries]
            counts = {stage.key: len(undecided(stored_rows(stage, root))) for stage in sound}
            retries |= {key: count for key, count in counts.items() if count}
        place = RetryStore(root.root, retries)
        # the defaults of a Machine, one process on the CPU: a judge needs no accelerator (stages/judge.py)
        outcome = execute(plan_cells.in_order(list(stages.values())), place, Machine(progress=progress))
        done.stages += stages.values()
        done.outcome.failed |= outcome.failed
        done.outcome.damaged += [one for one in outcome.damaged if one not in done.outcome.damaged]
        done.kept += place.kept
        for path, stage in stages.items():
            # read again: the record of a cell may have changed while its verdicts were computed
            record = store.read_json(path)
            changed = {**record, "judges": {**record["judges"], spec.name: stage.place}}
            changed = integrity.sealed(changed, path.name)
            if stage.done(root) and changed != record:
                store.write_json(path, changed)
    return done


class RetryStore(store.Store):
    """A results folder in which some finished verdict stages are executed once more.

    `retries` maps the keys of these stages to their numbers of undecided cases.  New verdicts that leave more cases
    undecided are dropped: a server that fails now must not remove earlier decisions.  `kept` names such stages.
    """

    def __init__(self, root: Path, retries: Mapping[str, int]) -> None:
        super().__init__(root)
        # a copy: `writing` removes each stage from it once it has been executed again
        self.retries, self.kept = dict(retries), list[str]()

    def complete(self, kind: str, label: str, key: str) -> bool:
        """False for a stage to execute once more, although its folder is finished."""
        return key not in self.retries and super().complete(kind, label, key)

    @contextmanager
    def writing(self, kind: str, label: str, key: str) -> Iterator[tuple[Path, Path] | None]:
        """As `Store.writing`; a stage that is executed once more replaces its files unless the new ones are worse."""
        if key not in self.retries:
            with super().writing(kind, label, key) as place:
                yield place
            return
        from filelock import FileLock  # imported here: most calls retry nothing

        # the same lock as `Store.writing`: a run may be computing this stage in another process
        partial = self.root / ".partial" / f"{kind}-{key[: store.KEY_LENGTH]}"
        work, scratch = partial / "work", partial / "scratch"
        self.check_unfinished(partial)
        target, whole = self.folder(kind, label, key), partial / WHOLE
        with FileLock(partial.with_suffix(".lock")):
            if whole.is_file():  # a kill came while files were replaced: what that try cost stands in the rest of them
                _replace(work, target)
                self.retries[key] = len(undecided(store.read_rows(target / "verdicts.jsonl")))
                whole.unlink()
            shutil.rmtree(partial, ignore_errors=True)
            for folder in (work, scratch):
                folder.mkdir(parents=True)
            yield work, scratch
            # removed from `retries` first: from here on the stage is complete, with the old or the new verdicts
            if self._prepared(work, target, self.retries.pop(key)):
                whole.touch()
                _replace(work, target)
                whole.unlink()
            shutil.rmtree(partial, ignore_errors=True)

    def _prepared(self, work: Path, target: Path, before: int) -> bool:
        """Whether new verdicts are to replace those of `target`; their account then holds the earlier tries."""
        left = len(undecided(store.read_rows(work / "verdicts.jsonl")))
        if left > before:
            self.kept.append(f"{target.name}: {left} cases undecided now, {before} before; the earlier verdicts stay")
            return False
        new, old = work / "account.json", target / "account.json"
        if old.is_file() and not any(integrity.damage(target, integrity.no_weights)):
            if new.is_file():  # so that the new account shows what all tries cost
                account = store.read_json(old)
                earlier = [*account.pop("earlier", []), account]
                store.write_json(new, {**store.read_json(new), "earlier": earlier})
            else:
                shutil.copy2(old, new)
        record = {**store.read_json(work / store.MARKER), integrity.FILES: integrity.listed(work)}
        store.write_json(work / store.MARKER, integrity.sealed(record, integrity.stage_place(record)))
        return True


def _replace(work: Path, target: Path) -> None:
    """Move a try's files to the stage's folder.

    One at a time, each by an atomic rename, the marker last: after a kill every file is whole, old or new.
    """
    for file in sorted(work.glob("*"), key=lambda file: file.name == store.MARKER):
        file.replace(target / file.name)


def _verdict_stage(cell: CellFiles, judge: JudgeSpec) -> Stage:
    """The verdict stage of a stored cell, with stages on disk as its inputs."""
    inputs = {}
    gold = cell.record.get("gold", {}).get("name", "")
    for role in ("prompts", "baseline", "generations", *(("gold_baseline", "gold_generations") if gold else ())):
        # the marker has the whole key, a cell's record the short one of the folder: keys of verdicts hash the whole one
        record = store.read_json(cell.folder(role) / store.MARKER)
        place = [record["kind"], record["label"], str(record["key"])[: store.KEY_LENGTH]]
        if place != cell.record["stages"][role]:
            seen = f"{cell.folder(role) / store.MARKER} is of another stage."
            raise BenchError(seen, "Copy the results folder again.")
        inputs[role] = StoredStage(record["kind"], record["label"], record["params"], record["key"])
    spec = cell.record["evaluated"]
    task = _open_task(spec["name"], store.canonical(spec["settings"]))
    if task.origin.sha256 != spec.get("sha256"):  # its prompts and references may no longer belong to the responses
        raise BenchError(
            f"The data of {spec['name']!r} changed since the run "
            f"({str(spec.get('sha256'))[:12]} is now {task.origin.sha256[:12]}).",
            "Judge with the data and version the run was made with.",
        )
    label = shared.cell_label(cell.record["task"], cell.record["reward_model"], cell.seed)
    cut_off = cell.record.get("cut_off", KEEP)
    return plan_cells.judge_stage(task, judge, inputs, label, cell.seed, cut_off, gold)


@lru_cache  # many cells have one task, and opening it reads its data
def _open_task(name: str, settings: str) -> tasks.TaskPlan:
    """The task `name` with settings in canonical JSON (a string, because the cache needs a hashable argument)."""
    return tasks.open_task(name, json.loads(settings), ("test",))


class StoredStage(Stage):
    """A stage on disk, under the key it was made with: the code, and with it the key, may have changed since.

    It is an input only.  Its result exists, so `execute` never calls its function, which has no name.
    """

    def __init__(self, kind: str, label: str, params: Row, key: str) -> None:
        super().__init__(kind, label, "", params)
        self.__dict__["key"] = key  # `Stage.key` is a cached_property, which reads its value here and computes none
