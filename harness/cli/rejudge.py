"""Working with what a run left: judging its generations again, scoring a text with its reward models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from rlhf_bench.harness import plugins, store
from rlhf_bench.harness.cli.progress import watching
from rlhf_bench.harness.errors import BenchError, did_you_mean
from rlhf_bench.harness.pipeline.execute import Outcome, execute
from rlhf_bench.harness.pipeline.machine import Machine
from rlhf_bench.harness.pipeline.stage import Stage
from rlhf_bench.harness.plan import cells as plan_cells
from rlhf_bench.harness.plan import shared, tasks
from rlhf_bench.harness.presets import factory_settings
from rlhf_bench.harness.results.estimates import CellFiles
from rlhf_bench.harness.stages.judge import JudgeSpec, SaysDeterministic, judge_spec, load_judge, stored_rows, undecided
from rlhf_bench.harness.text.tokens import Span


@dataclass
class Rejudged:
    """The verdict stages that were asked for, what failed, and sentences about those that were kept as they were."""

    stages: list[Stage] = field(default_factory=list)
    outcome: Outcome = field(default_factory=Outcome)
    kept: list[str] = field(default_factory=list)


def judge_cells(
    cells: Sequence[CellFiles],
    root: store.Store,
    judges: Sequence[str],
    assignments: Mapping[str, Mapping[str, str]],
    console: Any,
) -> Rejudged:
    """Verdicts of `judges` (`assignments`: their settings) on every cell, recorded beside the earlier ones.

    Verdicts that are there stay, unless they hold an undecided case and the judge may decide it now.  What fails is in
    the outcome; what was made is recorded all the same.
    """
    done = Rejudged()
    for spec in [judge_spec(name, assignments.get(name, {})) for name in dict.fromkeys(judges)]:
        made = {cell.path: _stage(cell, spec) for cell in cells if cell.path is not None}
        place = Retrying(root.root, _unfinished(spec, list(made.values()), root))
        with watching(console, quiet=False) as watch:
            outcome = execute(plan_cells.in_order(list(made.values())), place, Machine(progress=watch))
        done.stages += made.values()
        done.outcome.failed |= outcome.failed
        done.kept += place.kept
        _record({path: stage for path, stage in made.items() if stage.done(root)}, spec.name)
    return done


def _unfinished(judge: JudgeSpec, stages: Sequence[Stage], root: store.Store) -> dict[str, int]:
    """Finished stages that are worth another try: key -> number of undecided cases."""
    made = load_judge(judge.name, judge.settings)
    if isinstance(made, SaysDeterministic) and made.deterministic:
        return {}
    counts = {stage.key: len(undecided(stored_rows(stage, root))) for stage in stages if stage.done(root)}
    return {key: count for key, count in counts.items() if count}


def _record(made: Mapping[Path, Stage], judge: str) -> None:
    for path, stage in made.items():
        record = store.read_json(path)
        changed = {**record, "judges": {**record["judges"], judge: stage.place}}
        if changed != record:
            store.write_json(path, changed)


class Retrying(store.Store):
    """The same results, of which some verdicts are made once more.

    `unfinished` maps their keys to the number of undecided cases.  They are made aside; the new files then replace the
    old ones one by one, each at once, so that whenever a kill comes the folder holds whole verdicts.  Verdicts that are
    not better are dropped: a server that is down now must not cost what was decided before.
    """

    def __init__(self, root: Path, unfinished: Mapping[str, int]) -> None:
        super().__init__(root)
        self.unfinished, self.kept = dict(unfinished), list[str]()

    def complete(self, kind: str, label: str, key: str) -> bool:
        return key not in self.unfinished and super().complete(kind, label, key)

    @contextmanager
    def writing(self, kind: str, label: str, key: str) -> Iterator[tuple[Path, Path] | None]:
        if key not in self.unfinished:
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
            self._replace(work, self.folder(kind, label, key), self.unfinished.pop(key))
            shutil.rmtree(partial, ignore_errors=True)

    def _replace(self, work: Path, target: Path, before: int) -> None:
        left = len(undecided(store.read_rows(work / "verdicts.jsonl")))
        if left > before:
            self.kept.append(f"{target.name}: {left} cases undecided now, {before} before; the earlier verdicts stay")
            return
        _add_earlier(work / "account.json", target / "account.json")
        for file in sorted(work.iterdir(), key=lambda file: file.name == store.MARKER):
            file.replace(target / file.name)


def _add_earlier(new: Path, old: Path) -> None:
    """Keep what the earlier tries took: an account tells all that its verdicts cost."""
    if new.is_file() and old.is_file():
        before = store.read_json(old)
        earlier = [*before.pop("earlier", []), before]
        store.write_json(new, {**store.read_json(new), "earlier": earlier})


def _stage(cell: CellFiles, judge: JudgeSpec) -> Stage:
    """The verdict stage of a stored cell; its inputs are known by the folders they left."""
    inputs = {}
    for role in ("prompts", "baseline", "generations"):
        record = store.read_json(cell.folder(role) / store.MARKER)
        inputs[role] = Finished(record["kind"], record["label"], "", record["params"], finished_key=record["key"])
    spec = cell.record["evaluated"]
    task = _open(spec["name"], store.canonical(spec["settings"]))
    if task.origin.sha256 != spec["sha256"]:
        raise BenchError(
            f"The data of {spec['name']!r} changed since the run "
            f"({spec['sha256'][:12]} is now {task.origin.sha256[:12]}).",
            "Judge with the data and version the run was made with.",
        )
    seed = cell.record["seed"]
    label = shared.cell_label(cell.record["task"], cell.record["reward_model"], seed)
    return plan_cells.judge_stage(task, judge, inputs, label, seed)


@lru_cache
def _open(name: str, settings: str) -> tasks.TaskPlan:
    """The task of stored cells, opened once for all of them."""
    return tasks.open_task(name, json.loads(settings), ("test",))[0]


class Finished(Stage):
    """A stage that is on disk, under the key it was made with (the code may have changed since)."""

    def __init__(self, kind: str, label: str, function: str, params: Mapping[str, Any], finished_key: str) -> None:
        super().__init__(kind, label, function, params)
        self.__dict__["key"] = finished_key  # what cached_property would keep


def score_text(
    rm: str, prompt: str, response: str, runs: Path, seed: int | None
) -> tuple[tuple[Span, ...], list[float]]:
    """(character spans of the response's tokens, reward of each), end-of-sequence last.

    `rm` is a reward model that some cell of `runs` trained, or one that needs no training (then read with the tokenizer
    of any cell).
    """
    from rlhf_bench.harness.models.policies import load_tokenizer
    from rlhf_bench.harness.pipeline.machine import quiet_libraries, set_threads
    from rlhf_bench.harness.results.found import find_cells
    from rlhf_bench.harness.sampling.rollout import text_rollout
    from rlhf_bench.harness.stages.reward import examples_of, load_reward_model

    found, _ = find_cells([runs])
    cell = _choose(found, rm, seed)
    set_threads(1)
    quiet_libraries()
    made = store.read_json(cell.folder("scale") / store.MARKER)
    params = made["params"]
    own = _is(cell, rm)
    if not own:
        params = {"rm": {"name": rm, "settings": factory_settings(rm, plugins.find("reward-model", rm).factory(), {})}}
    folder = cell.folder("reward") if "reward" in cell.record["stages"] and own else None
    prompts = cell.root / "prompts" / made["inputs"]["prompts"]
    scorer = load_reward_model(params, folder, "cpu", lambda: examples_of({"prompts": prompts}))
    rollout = text_rollout(load_tokenizer(cell.folder("sft")), [prompt], [response], "cpu")
    return rollout.spans[0], scorer.rewards(rollout)[0].tolist()


def _is(cell: CellFiles, rm: str) -> bool:
    """Whether the cell's reward model is called so, in full (`hf:a/long/path`) or as reports call it."""
    name = cell.record["reward_model"]
    return bool(name == rm or (":" in rm and name == plugins.find("reward-model", rm).label))


def _choose(cells: Sequence[CellFiles], rm: str, seed: int | None) -> CellFiles:
    own = [c for c in cells if _is(c, rm) and seed in (None, c.record["seed"])]
    if own:
        return min(own, key=lambda c: c.record["seed"])
    from rlhf_bench.harness.seams import RewardModel

    if rm not in plugins.available("reward-model") and ":" not in rm:
        raise BenchError(f"Unknown reward model {rm!r}.", did_you_mean(rm, plugins.available("reward-model")))
    plugin = plugins.find("reward-model", rm)
    made = plugins.build("reward-model", rm, factory_settings(rm, plugin.factory(), {}))
    if isinstance(made, RewardModel) and cells and seed is None:
        return cells[0]
    trained = sorted({f"{c.record['reward_model']} (seed {c.record['seed']})" for c in cells})
    raise BenchError(f"No finished cell trained {rm!r}" + (f" with seed {seed}." if seed is not None else "."),
                     f"Found: {', '.join(trained) or 'none'}. Train it with bench run.")  # fmt: skip
