"""Working with what a run left: judging its generations again, scoring a text with its reward models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from rlhf_bench.harness import plan, plugins, store
from rlhf_bench.harness.errors import BenchError, did_you_mean
from rlhf_bench.harness.estimates import CellFiles
from rlhf_bench.harness.execute import execute
from rlhf_bench.harness.nouns import Span
from rlhf_bench.harness.progress import watching
from rlhf_bench.harness.run import raise_first
from rlhf_bench.harness.settings import factory_settings
from rlhf_bench.harness.stage import Stage


def judge_cells(
    cells: Sequence[CellFiles],
    root: store.Store,
    judges: Sequence[str],
    assignments: Mapping[str, Mapping[str, str]],
    console: Any,
) -> None:
    """Verdicts of `judges` on every cell, recorded beside the earlier ones.  Nothing is trained."""
    unknown = set(assignments) - set(judges)
    if unknown:
        name = sorted(unknown)[0]
        raise BenchError(f"--set {name}... names no judge of this call.", did_you_mean(name, judges))
    for name in judges:
        given = factory_settings(name, plugins.find("judge", name).factory(), assignments.get(name, {}))
        made = {cell.path: _stage(cell, name, given) for cell in cells if cell.path is not None}
        with watching(console, quiet=False) as watch:
            outcome = execute(plan.in_order(list(made.values())), root, jobs=1, threads=1, device="cpu", watch=watch)
        raise_first(outcome)
        for path, stage in made.items():
            record = store.read_json(path)
            store.write_json(path, {**record, "judges": {**record["judges"], name: stage.place}})


def _stage(cell: CellFiles, judge: str, given: Mapping[str, Any]) -> Stage:
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
    label = plan.cell_label(cell.record["task"], cell.record["reward_model"], seed)
    return plan.judge_stage(task, judge, given, inputs, label, seed)


@lru_cache
def _open(name: str, settings: str) -> plan.TaskPlan:
    """The task of stored cells, opened once for all of them."""
    return plan.open_task(name, json.loads(settings))[0]


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
    from rlhf_bench.harness.execute import quiet_libraries, set_threads
    from rlhf_bench.harness.policies import load_tokenizer
    from rlhf_bench.harness.rollout import text_rollout
    from rlhf_bench.harness.stage_reward import load_reward_model
    from rlhf_bench.reports.build import find_cells

    found, _ = find_cells([runs])
    cell = _choose(found, rm, seed)
    set_threads(1)
    quiet_libraries()
    params = store.read_json(cell.folder("scale") / store.MARKER)["params"]
    if cell.record["reward_model"] != rm:
        params = {"rm": {"name": rm, "settings": factory_settings(rm, plugins.find("reward-model", rm).factory(), {})}}
    folder = cell.folder("reward") if "reward" in cell.record["stages"] and cell.record["reward_model"] == rm else None
    scorer = load_reward_model(params, folder, "cpu")
    rollout = text_rollout(load_tokenizer(cell.folder("sft")), [prompt], [response], "cpu")
    return rollout.spans[0], scorer.rewards(rollout)[0].tolist()


def _choose(cells: Sequence[CellFiles], rm: str, seed: int | None) -> CellFiles:
    own = [c for c in cells if c.record["reward_model"] == rm and seed in (None, c.record["seed"])]
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
