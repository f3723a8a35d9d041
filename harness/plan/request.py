"""`bench run` without its command line: plan the cells, make what is missing, judge, and say where the report is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from rlhf_bench.harness import plugins, store
from rlhf_bench.harness.errors import BenchError, did_you_mean
from rlhf_bench.harness.models.identity import policy_identity
from rlhf_bench.harness.nouns import Split
from rlhf_bench.harness.pipeline.execute import Outcome, execute
from rlhf_bench.harness.pipeline.machine import Machine
from rlhf_bench.harness.pipeline.stage import Stage
from rlhf_bench.harness.plan import cells as plan_cells
from rlhf_bench.harness.plan import tasks as plan_tasks
from rlhf_bench.harness.plan.arms import OPTIMIZERS
from rlhf_bench.harness.plan.judges import JudgeSpec, judge_spec
from rlhf_bench.harness.plan.shared import cell_label
from rlhf_bench.harness.presets import make_settings
from rlhf_bench.harness.settings import Settings

DEFAULT_JUDGES = ("winrate", "utility", "length", "empty")


@dataclass(frozen=True)
class Request:
    """What was asked for.  `assignments` are the --set texts: group -> key -> value.

    `prompts` names the tasks whose held-out prompts are evaluated (none: the task's own), `train_prompts` the one whose
    training prompts PPO optimises on ("": the task's own).  `n`: what best-of-n takes (None: as set).
    """

    task: str
    reward_models: Sequence[str]
    seeds: Sequence[int]
    policy: str
    judges: Sequence[str]
    assignments: Mapping[str, Mapping[str, str]]
    data: str = ""
    limit: int = 0
    preset: str = ""
    prompts: Sequence[str] = ()
    train_prompts: str = ""
    optimizers: Sequence[str] = ("ppo",)
    n: str | None = None

    @property
    def tasks(self) -> list[str]:
        """Every task named, once, the home task first."""
        return list(dict.fromkeys(filter(None, [self.task, self.train_prompts, *self.prompts])))


@dataclass(frozen=True)
class Plan:
    """The cells of a request with their judges' stages, inputs first in `order`."""

    cells: tuple[plan_cells.Cell, ...]
    judged: Mapping[str, Mapping[str, Stage]]  # cell name -> judge name -> stage
    settings: Settings

    @property
    def order(self) -> list[Stage]:
        """Every stage once, inputs first; those of one reward model together, so that interrupted runs finish some."""
        return plan_cells.in_order(
            [s for cell in self.cells for s in (*cell.stages.values(), *self.judged[cell.name].values())]
        )


def make_plan(request: Request) -> Plan:
    """Check everything that can be checked before anything is computed.  Raises BenchError."""
    for name in request.optimizers:
        if name not in OPTIMIZERS:
            raise BenchError(f"Unknown optimizer {name!r}.", did_you_mean(name, OPTIMIZERS))
    if request.n is not None and "best-of-n" not in request.optimizers:
        raise BenchError(f"--n {request.n!r} without best-of-n.", "Add --optimizer best-of-n.")
    names = dict.fromkeys([*request.tasks, *request.reward_models, *request.judges])
    for kind, wanted in (
        ("task", request.tasks),
        ("reward-model", request.reward_models),
        ("judge", request.judges),
    ):
        for name in wanted:
            plugins.find(kind, name)  # type: ignore[arg-type]
    settings = make_settings(_preset(request), _assigned(request), frozenset(names))
    opened = {name: _open(name, request, settings) for name in request.tasks}
    policy = policy_identity(request.policy, settings)
    home, optimised = opened[request.task], opened[request.train_prompts or request.task]
    # made here, because a wrong setting must not show only after hours of training
    judges = [judge_spec(name, settings.plugins.get(name, {})) for name in dict.fromkeys(request.judges)]
    cells, judged = [], {}
    for seed in request.seeds:
        for rm, evaluated, optimizer in product(
            dict.fromkeys(request.reward_models),
            dict.fromkeys(request.prompts or [request.task]),
            dict.fromkeys(request.optimizers),
        ):
            tasks = plan_tasks.Tasks(home, optimised, opened[evaluated])
            cell = plan_cells.plan_cell(tasks, rm, seed, policy, settings, optimizer)
            cell = replace(cell, differing=_differing(request, tasks))
            cells.append(cell)
            judged[cell.name] = {judge.name: _judge(judge, cell) for judge in judges}
    return Plan(tuple(cells), judged, settings)


def _open(name: str, request: Request, settings: Settings) -> plan_tasks.TaskPlan:
    """A task of the request, looked at as far as it is used: another one's demonstrations are nobody's business."""
    used: dict[str, Sequence[Split]] = {
        request.train_prompts: ("train", "test"),
        request.task: ("sft", "train", "test"),
    }
    opened, task = plan_tasks.open_task(name, settings.plugins.get(name, {}), used.get(name, ("test",)))
    if name == request.task and not task.examples("sft"):
        raise BenchError(f"The task {name!r} has no demonstrations.", f"For its prompts alone: --prompts {name}.")
    return opened


def _preset(request: Request) -> str:
    return request.preset or ("tiny" if request.policy == "tiny" else "small")


def _assigned(request: Request) -> dict[str, dict[str, str]]:
    """--set with --data, --limit and --n, which are short for settings, folded in."""
    groups = {name: dict(values) for name, values in request.assignments.items()}
    if request.data:
        groups.setdefault(request.task, {})["data"] = request.data
    if request.limit:
        groups.setdefault("data", {})["limit"] = str(request.limit)
    if request.n is not None:
        groups.setdefault("best_of_n", {})["n"] = request.n
    return groups


def _differing(request: Request, tasks: plan_tasks.Tasks) -> dict[str, str]:
    """Settings by hand, without those of other prompts than the cell's."""
    others = set(request.tasks) - {tasks.home.name, tasks.optimised.name, tasks.evaluated.name}
    groups = {name: keys for name, keys in sorted(_assigned(request).items()) if name not in others | {"stats"}}
    return {f"{group}.{key}": text for group, keys in groups.items() for key, text in keys.items()}


def _judge(judge: JudgeSpec, cell: plan_cells.Cell) -> Stage:
    label = cell_label(cell.task, cell.reward_model, cell.seed)
    return plan_cells.judge_stage(cell.evaluated, judge, cell.stages, label, cell.seed)


def run(made: Plan, root: store.Store, machine: Machine) -> Outcome:
    """Execute the stages that `root` lacks.  Raises BenchError where `root` cannot be written."""
    root.prepare()
    record_cells(made, root)  # first, so that a report can say what an interrupted run lacks
    return execute(made.order, root, machine)


def record_cells(made: Plan, root: store.Store) -> None:
    """cells/NAME.json of every cell; judges that were recorded before stay."""
    (root.root / "cells").mkdir(parents=True, exist_ok=True)
    for cell in made.cells:
        path = root.root / "cells" / f"{cell.name}.json"
        before: dict[str, Any] = store.read_json(path).get("judges", {}) if path.exists() else {}
        judges = {name: stage.place for name, stage in made.judged[cell.name].items()}
        record = {**cell.record(), "judges": {**before, **judges}}
        if not path.exists() or store.read_json(path) != record:
            store.write_json(path, record)


def finished(made: Plan, root: store.Store) -> list[Path]:
    """Records of the cells that were trained; a judge that failed is left out of the report, which says so."""
    return [
        root.root / "cells" / f"{cell.name}.json"
        for cell in made.cells
        if all(stage.done(root) for stage in cell.stages.values())
    ]


def raise_first(outcome: Outcome) -> None:
    """The failure of a run as one error; what was made is kept and named."""
    if not outcome.failed:
        return
    name, error = next(iter(outcome.failed.items()))
    others = [f"{other} ({why.seen})" for other, why in list(outcome.failed.items())[1:]]
    more = f" Failed as well: {'; '.join(others)}." if others else ""
    lost = f" {len(outcome.skipped)} stages that need it were left out." if outcome.skipped else ""
    raise BenchError(f"{name}: {error.seen}{more}", f"{error.fix}{lost}".strip())


def rough_seconds(stage: Stage, root: store.Store) -> float | None:
    """How long a stage may take: its cost at the median rate of stages alike (kind, task, policy) in this store.

    Without any, figures measured with the tiny policy on the controlled world; for other policies None.
    """
    rates: list[float] = []
    for path in sorted((root.root / stage.kind).glob(f"*/{store.MARKER}")):
        record = store.read_json(path)
        if record["cost"] and record["family"] == stage.family:
            rates.append(record["seconds"] / record["cost"])
    if rates:
        return sorted(rates)[len(rates) // 2] * stage.cost
    if stage.kind == "verdicts":
        return 0.0
    known = stage.family.startswith("dialogsum tiny") and stage.kind in TYPICAL
    return stage.cost * TYPICAL[stage.kind] if known else None


TYPICAL = {
    "sft": 0.006,
    "prompts": 0.5,
    "transfer": 0.015,
    "pairs": 1.5,
    "reward": 20.0,
    "scale": 0.02,
    "baseline": 0.012,
    "ppo": 0.024,
    "pool": 0.003,
    "best_of_n": 0.001,
    "proxy": 0.002,
}
"""Seconds per unit of cost, measured on one core with the default task and policy."""
