"""A request and its plan: which cells `bench run` or `api.run` asks for, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

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
from rlhf_bench.harness.plan.judges import judge_spec
from rlhf_bench.harness.plan.shared import cell_label
from rlhf_bench.harness.presets import make_settings
from rlhf_bench.harness.seeds import Seed, layers_asked
from rlhf_bench.harness.seeds import grid as seed_grid
from rlhf_bench.harness.text.types import JsonObject

if TYPE_CHECKING:
    from rlhf_bench.harness.settings import Settings

DEFAULT_JUDGES = ("winrate", "utility", "length", "empty")


@dataclass(frozen=True)
class Request:
    """The arguments of a run.  `assignments` are the --set texts: group -> key -> value.

    `prompts` names the tasks whose held-out prompts are evaluated (none: the task's own), `train_prompts` the one whose
    training prompts PPO optimises on ("": the task's own).  `n` lists the n of best-of-n (None: the setting).
    `data_seeds` and `reward_seeds` are layers around the seeds: every combination is a run (harness/seeds.py).
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
    data_seeds: Sequence[int] = ()
    reward_seeds: Sequence[int] = ()

    @property
    def grid(self) -> tuple[Seed, ...]:
        """Every run of an arm, data seeds outermost."""
        return seed_grid(self.seeds, self.data_seeds, self.reward_seeds)

    @property
    def tasks(self) -> list[str]:
        """Every task that is named, once each, the home task first."""
        return list(dict.fromkeys(filter(None, [self.task, self.train_prompts, *self.prompts])))


@dataclass(frozen=True)
class Plan:
    """The cells of a request, and the stages of their judges by cell name and judge name."""

    cells: tuple[plan_cells.Cell, ...]
    judged: Mapping[str, Mapping[str, Stage]]
    settings: Settings

    @property
    def order(self) -> list[Stage]:
        """Every stage once, inputs first, those of one cell together: an interrupted run has finished some cells."""
        return plan_cells.in_order(
            [s for cell in self.cells for s in (*cell.stages.values(), *self.judged[cell.name].values())]
        )


def make_plan(request: Request) -> Plan:
    """The plan of a request, with everything checked that can be checked before anything is computed.

    Imports no torch.  Raises BenchError for unknown names, wrong settings, unreadable data and missing models.
    """
    for name in request.optimizers:
        if name not in OPTIMIZERS:
            raise BenchError(f"Unknown optimizer {name!r}.", did_you_mean(name, OPTIMIZERS))
    if request.n is not None and "best-of-n" not in request.optimizers:
        raise BenchError(f"--n {request.n!r} without best-of-n.", "Add --optimizer best-of-n.")
    names = dict.fromkeys([*request.tasks, *request.reward_models, *request.judges])
    wanted: dict[plugins.Kind, Sequence[str]]
    wanted = {"task": request.tasks, "reward-model": request.reward_models, "judge": request.judges}
    for kind, named in wanted.items():
        for name in named:
            plugins.find(kind, name)  # a misspelt name is reported before a setting that belongs to it
    preset = request.preset or ("tiny" if request.policy == "tiny" else "small")
    # plugins by name too: a --set group may be one of them, or a pattern over them
    settings = make_settings(preset, _assigned(request), frozenset(names))
    opened = _opened(request, settings)
    policy = policy_identity(request.policy, settings)
    # built now: a judge's wrong setting must not surface after hours of training
    judges = [judge_spec(name, settings.plugins.get(name, {})) for name in dict.fromkeys(request.judges)]
    cells, judged = [], {}
    conditions = list(
        product(
            dict.fromkeys(request.reward_models),
            dict.fromkeys(request.prompts or [request.task]),
            dict.fromkeys(request.optimizers),
        )
    )
    layered: dict[tuple[str, str, str], str] = {}  # keys of arms by condition, where the seeds have layers
    if request.data_seeds or request.reward_seeds:
        for rm, evaluated, optimizer in conditions:
            own = _used(request, opened[None], evaluated)
            plain = plan_cells.plan_cell(own, rm, request.seeds[0], policy, settings, optimizer)
            layered[rm, evaluated, optimizer] = plan_cells.layered_arm(plain, request.grid[0])
    # seeds outermost: an interrupted run has every arm under its first seeds
    for seed in request.grid:
        for rm, evaluated, optimizer in conditions:
            tasks = _used(request, opened[layers_asked(seed).get("data")], evaluated)
            arm = layered.get((rm, evaluated, optimizer), "")
            cell = plan_cells.plan_cell(tasks, rm, seed, policy, settings, optimizer, arm)
            cell = replace(cell, differing=_differing(request, tasks))  # for labels: the cell's key stays
            cells.append(cell)
            label = cell_label(cell.task, cell.reward_model, cell.seed)
            judged[cell.name] = {
                judge.name: plan_cells.judge_stage(cell.evaluated, judge, cell.stages, label, seed) for judge in judges
            }
    return Plan(tuple(cells), judged, settings)


Opened = Mapping[int | None, Mapping[str, plan_tasks.TaskPlan]]
"""The tasks of a request by name, as each data seed draws them; under None with their own settings."""


def _opened(request: Request, settings: Settings) -> Opened:
    """The tasks of the request, read as far as they are used: only the home task needs demonstrations."""
    # the order matters where --train-prompts names the home task: the later entry, with all splits, stays
    used: dict[str, Sequence[Split]] = dict.fromkeys(request.tasks, ("test",))
    used |= {name: ("train", "test") for name in request.tasks if name == request.train_prompts}
    used |= {request.task: ("sft", "train", "test")}
    own: dict[str, plan_tasks.TaskPlan] = {}
    for name, splits in used.items():
        given = settings.plugins.get(name, {})
        own[name], task = plan_tasks.open_task(name, given, splits)
        if name == request.task and not task.examples("sft"):
            raise BenchError(f"The task {name!r} has no demonstrations.", f"For its prompts alone: --prompts {name}.")
        if request.data_seeds and plan_tasks.is_generated(own[name]) and plan_tasks.DATA_SEED in given:
            seen = f"--data-seeds and --set {name}.{plan_tasks.DATA_SEED} both say which data are drawn."
            raise BenchError(seen, "Leave one out.")
    drawn: dict[int | None, dict[str, plan_tasks.TaskPlan]] = {
        data: {name: plan_tasks.with_data_seed(task, data, used[name]) for name, task in own.items()}
        for data in request.data_seeds
    }
    return {None: own, **drawn}


def _used(request: Request, opened: Mapping[str, plan_tasks.TaskPlan], evaluated: str) -> plan_tasks.Tasks:
    """The tasks of a cell, from those that its data seed draws."""
    return plan_tasks.Tasks(opened[request.task], opened[request.train_prompts or request.task], opened[evaluated])


def _assigned(request: Request) -> dict[str, dict[str, str]]:
    """The --set texts together with --data, --limit and --n, which are short forms of settings."""
    groups = {name: dict(values) for name, values in request.assignments.items()}
    if request.data:
        groups.setdefault(request.task, {})["data"] = request.data
    if request.limit:
        groups.setdefault("data", {})["limit"] = str(request.limit)
    if request.n is not None:
        groups.setdefault("best_of_n", {})["n"] = request.n
    return groups


def _differing(request: Request, tasks: plan_tasks.Tasks) -> dict[str, str]:
    """The settings given by hand, without those of tasks that the cell does not use and of the report's statistics."""
    # the plan of several tasks has the settings of all, and a cell's label must name its own alone
    others = set(request.tasks) - {tasks.home.name, tasks.optimised.name, tasks.evaluated.name}
    groups = {name: keys for name, keys in sorted(_assigned(request).items()) if name not in others | {"stats"}}
    return {f"{group}.{key}": text for group, keys in groups.items() for key, text in keys.items()}


def run(made: Plan, root: store.Store, machine: Machine) -> Outcome:
    """Execute the stages that `root` lacks.  A stage that fails raises nothing: the outcome names it.

    Raises BenchError for an unusable device, an unwritable `root` and a worker process that is killed.
    """
    if not all(stage.done(root) for stage in made.order):
        machine = machine.resolved()  # imports torch: not where every stage is there already
    root.prepare()
    record_cells(made, root)  # first, so that a report can say what an interrupted run lacks
    return execute(made.order, root, machine)


def record_cells(made: Plan, root: store.Store) -> None:
    """Write cells/NAME.json of every cell, from which reports find its folders; judges recorded before stay."""
    (root.root / "cells").mkdir(parents=True, exist_ok=True)
    for cell in made.cells:
        path = root.root / "cells" / f"{cell.name}.json"
        # `bench judge` records judges that no plan names
        found = store.read_json(path) if path.exists() else {}
        judged = found.get("judges") if isinstance(found, dict) else None
        before: JsonObject = judged if isinstance(judged, dict) else {}
        judges = {name: stage.place for name, stage in made.judged[cell.name].items()}
        record = {**cell.record(), "judges": {**before, **judges}}
        if not path.exists() or store.read_json(path) != record:  # the same run again leaves its files untouched
            store.write_json(path, record)


def finished(made: Plan, root: store.Store) -> list[Path]:
    """Records of the cells that were trained; a judge that failed is left out of the report, which says so."""
    return [
        root.root / "cells" / f"{cell.name}.json"
        for cell in made.cells
        if all(stage.done(root) for stage in cell.stages.values())
    ]


def raise_first(outcome: Outcome) -> None:
    """Raises the first failure of a run as a BenchError that names the other failures; returns where there is none.

    What was made is kept; the error counts the stages that were left out because of a failure.
    """
    if not outcome.failed:
        return
    name, error = next(iter(outcome.failed.items()))
    others = [f"{other} ({why.seen})" for other, why in list(outcome.failed.items())[1:]]
    more = f" Failed as well: {'; '.join(others)}." if others else ""
    lost = f" {len(outcome.skipped)} stages that need it were left out." if outcome.skipped else ""
    raise BenchError(f"{name}: {error.seen}{more}", f"{error.fix}{lost}".strip())


def rough_seconds(stages: Sequence[Stage], root: store.Store) -> dict[str, float | None]:
    """About how long each stage takes, by key: its cost at the median rate of stages alike (kind, task, policy).

    Rates come from the finished stages in `root`; without any alike, from measurements with the tiny policy on the
    default synthetic task; None for other policies and tasks.
    """
    rates: dict[tuple[str, str], list[float]] = {}
    for kind in {stage.kind for stage in stages}:
        for path in sorted((root.root / kind).glob(f"*/{store.MARKER}")):
            record = store.read_json(path)
            if record["cost"]:  # 0 for stages that state none, such as verdicts
                rates.setdefault((kind, record["family"]), []).append(record["seconds"] / record["cost"])
    found: dict[str, float | None] = {}
    for stage in stages:
        alike = sorted(rates.get((stage.kind, stage.family), ()))
        # a family begins with the task and the policy (`cells.plan_cell`, `shared.shared_stages`)
        known = stage.family.startswith("dialogsum tiny") and stage.kind in TYPICAL
        rate = alike[len(alike) // 2] if alike else TYPICAL[stage.kind] if known else None
        if rate is None:
            # a verdict stage states no cost: it counts as 0 s, not as unknown
            found[stage.key] = 0.0 if stage.kind == "verdicts" else None
        else:
            found[stage.key] = rate * stage.cost
    return found


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
