"""A request and its plan: which cells `bench run` or `api.run` asks for, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_bench.harness import plugins, store
from rlhf_bench.harness.errors import BenchError, DamagedError, did_you_mean
from rlhf_bench.harness.models.identity import WHOLE, policy_identity
from rlhf_bench.harness.nouns import Split
from rlhf_bench.harness.pipeline import integrity
from rlhf_bench.harness.pipeline.execute import Outcome, execute
from rlhf_bench.harness.pipeline.machine import Machine
from rlhf_bench.harness.pipeline.stage import Stage
from rlhf_bench.harness.plan import cells as plan_cells
from rlhf_bench.harness.plan import gold as gold_plan
from rlhf_bench.harness.plan import tasks as plan_tasks
from rlhf_bench.harness.plan.arms import CONTROLS, OPTIMIZERS
from rlhf_bench.harness.plan.combination_names import all_names
from rlhf_bench.harness.plan.judges import check_references, chosen, judge_spec, left_out
from rlhf_bench.harness.plan.named import check_named, texts_of
from rlhf_bench.harness.plan.names import find_named
from rlhf_bench.harness.plan.preset_choice import choose_preset, misfit
from rlhf_bench.harness.plan.shared import cell_label
from rlhf_bench.harness.presets import make_settings, unused_groups
from rlhf_bench.harness.seeds import Seed, layers_asked
from rlhf_bench.harness.seeds import grid as seed_grid
from rlhf_bench.harness.stages.judge import FLUENCY, KEEP
from rlhf_bench.harness.text.types import JsonObject

if TYPE_CHECKING:
    from rlhf_bench.harness.settings import Settings


@dataclass(frozen=True)
class Request:
    """The arguments of a run.  `assignments` are the --set texts: group -> key -> value.

    Without `judges`, those of DEFAULT_JUDGES and the task's own measure (`seams.HasOwnJudges`); +NAME adds a judge to
    them (`judges.chosen`).

    `prompts` names the tasks whose held-out prompts are evaluated (none: the task's own), `train_prompts` the one whose
    training prompts PPO optimises on ("": the task's own).  `n` lists the n of best-of-n (None: the setting).
    `reward_models` may be empty where every optimiser is a control (`arms.CONTROLS`).  `data_seeds` and `reward_seeds`
    are layers around the seeds: every combination is a run (harness/seeds.py).  `gold` names the gold model
    (plan/gold.py; "": the task's true utility, where it has one); with `relabel` the proxies learn from its labels.
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
    gold: str = ""
    relabel: bool = False

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
    """The cells of a request, and the stages of their judges by cell name and judge name.

    `left_out`: the default judges that the request's list leaves out.  `unused`: the groups of --set that are of
    reward models which the request does not have.  `misfit`: a sentence on a preset that is not for what is trained.
    """

    cells: tuple[plan_cells.Cell, ...]
    judged: Mapping[str, Mapping[str, Stage]]
    settings: Settings
    left_out: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    preset: str = ""
    misfit: str = ""

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
        if name not in (*OPTIMIZERS, *CONTROLS):
            raise BenchError(f"Unknown optimizer {name!r}.", did_you_mean(name, (*OPTIMIZERS, *CONTROLS)))
    if not request.reward_models and any(name in OPTIMIZERS for name in request.optimizers):
        raise BenchError("No reward model was given.", f"Add --rm NAME; only {', '.join(CONTROLS)} does without.")
    if request.n is not None and "best-of-n" not in request.optimizers:
        raise BenchError(f"--n {request.n!r} without best-of-n.", "Add --optimizer best-of-n.")
    if request.reward_seeds and all(name in CONTROLS for name in request.optimizers):
        seen = f"--reward-seeds with {', '.join(request.optimizers)} alone, which trains no reward model."
        raise BenchError(seen, "Leave --reward-seeds out, or add the arms that it is a control of.")
    judge_names = chosen(request.judges)
    # of the gold model as well: its settings are those of its recipe
    members = all_names(request.reward_models)  # of combinations; else the reward models themselves
    used = [*members, *gold_plan.plugins_of(request.gold)]
    names = dict.fromkeys([*request.tasks, *used, *judge_names])
    wanted: dict[plugins.Kind, Sequence[str]]
    wanted = {"task": request.tasks, "reward-model": members, "judge": judge_names}
    for kind, named in wanted.items():
        for name in named:
            find_named(kind, name)  # a misspelt name is reported before a setting that belongs to it
    for name, given in request.assignments.items():
        plan_tasks.check_data(name, given)
    preset = request.preset or choose_preset(request.policy, _assigned(request))
    # plugins by name too: a --set group may be one of them, or a pattern over them
    settings = make_settings(preset, _assigned(request), frozenset(names))
    unused = unused_groups(_assigned(request), names)
    texts = [text for group in settings.plugins.values() for text in texts_of(group)]
    check_named([request.policy, *members, request.gold, *texts])
    gold = gold_plan.open_gold(request.gold, request.relabel, settings)
    opened = _opened(request, settings)
    check_sources([request.policy, *members, *filter(None, [request.gold])])
    policy = policy_identity(request.policy, settings)
    own_judges = opened[None][request.task].judges
    # built now: a judge's wrong setting must not surface after hours of training
    judges = [judge_spec(name, settings.plugins.get(name, {})) for name in chosen(request.judges, own_judges)]
    for name in dict.fromkeys(request.prompts or [request.task]):
        check_references(judges, opened[None][name])
    gold_plan.check_judges(gold, {judge.name: judge.settings for judge in judges})
    if gold and gold.trained:
        gold_plan.check_halves(gold, opened[None][request.task], settings.data.limit)
    cells, judged = [], {}
    conditions = list(
        product(
            dict.fromkeys(request.reward_models or [""]),  # none: controls alone, which have none
            dict.fromkeys(request.prompts or [request.task]),
            dict.fromkeys(request.optimizers),
        )
    )
    layered: dict[tuple[str, str, str], str] = {}  # keys of arms by condition, where the seeds have layers
    if request.data_seeds or request.reward_seeds:
        for rm, evaluated, optimizer in conditions:
            own = _used(request, opened[None], evaluated)
            plain = plan_cells.plan_cell(own, rm, request.seeds[0], policy, settings, optimizer, gold=gold)
            layered[rm, evaluated, optimizer] = plan_cells.layered_arm(plain, request.grid[0])
    by = gold.name if gold else ""
    # seeds outermost: an interrupted run has every arm under its first seeds
    for seed in request.grid:
        for rm, evaluated, optimizer in conditions:
            tasks = _used(request, opened[layers_asked(seed).get("data")], evaluated)
            arm = layered.get((rm, evaluated, optimizer), "")
            cell = plan_cells.plan_cell(tasks, rm, seed, policy, settings, optimizer, arm, gold)
            if cell.name in judged:
                continue  # a control is one arm, whatever the reward models beside it
            differing = _differing(request, tasks, unused) | _by_gold(gold)
            cell = replace(cell, differing=differing, preset=preset)  # for labels: the cell's key stays
            cells.append(cell)
            label = cell_label(cell.task, cell.reward_model, cell.seed)
            judged[cell.name] = {
                judge.name: plan_cells.judge_stage(
                    cell.evaluated, judge, cell.stages, label, seed, settings.eval.cut_off, by
                )
                for judge in judges
            }
            # a judge of that name, which a plugin may have, stays
            judged[cell.name].setdefault(FLUENCY, plan_cells.fluency_stage(cell))
    unfit = misfit(preset, request.policy, settings, _assigned(request))
    return Plan(tuple(cells), judged, settings, left_out(request.judges, own_judges), unused, preset, unfit)


def check_sources(names: Sequence[str]) -> None:
    """Raises DamagedError for a damaged policy or reward model (`path:FOLDER`) that a stage made, or a copy of one.

    A policy may be a folder in that of its stage.
    """
    for name in names:
        path = Path(name if store.is_folder(Path(name)) else name.partition(":")[2] or name).expanduser()
        for folder in (path, path.parent):
            if store.is_folder(path) and (folder / store.MARKER).is_file():
                # as much as the identity of such a folder hashes (`folder_hash`): hashing many gigabytes takes minutes
                for sentence in integrity.damage(folder, lambda _, size: size <= WHOLE, moved=True):
                    raise DamagedError(f"{sentence}.", "Take another copy, or repair the run that made it.")


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
        given = _given(name, settings)
        own[name] = plan_tasks.open_task(name, given, splits)
        if name == request.task and not own[name].demonstrations:
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


def _given(name: str, settings: Settings) -> dict[str, object]:
    """The settings of a task by hand."""
    given = dict(settings.plugins.get(name, {}))
    if settings.data.bad_rows == "skip":
        # every task of the run is asked; one that generates its data has no bad rows
        if "bad_rows" in plugins.parameters(plugins.find("task", name).factory()):
            given.setdefault("bad_rows", settings.data.bad_rows)
        elif given.get("data"):
            raise BenchError(f"The task {name!r} cannot leave bad rows out.", "Leave data.bad_rows=skip away.")
    return given


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


def _differing(request: Request, tasks: plan_tasks.Tasks, unused: Sequence[str]) -> dict[str, str]:
    """The settings given by hand, without those of tasks that the cell does not use, of reward models that the request
    does not have (`unused`) and of the report's statistics."""
    # the plan of several tasks has the settings of all, and a cell's label must name its own alone
    others = set(request.tasks) - {tasks.home.name, tasks.optimised.name, tasks.evaluated.name} | {"stats", *unused}
    groups = {name: keys for name, keys in sorted(_assigned(request).items()) if name not in others}
    return {f"{group}.{key}": text for group, keys in groups.items() for key, text in keys.items()}


def _by_gold(gold: gold_plan.Gold | None) -> dict[str, str]:
    """What a label says of the gold model, by which arms differ as by settings; {} without one."""
    return {"gold": gold.name, **({"relabel": "true"} if gold.relabel else {})} if gold else {}


def run(made: Plan, root: store.Store, machine: Machine, *, repair: bool = False) -> Outcome:
    """Execute the stages that `root` lacks.  A stage that fails raises nothing: the outcome names it.

    With `repair` damaged records of cells are written again; `repair.remove_damaged` comes before.
    Raises BenchError for an unusable device, an unwritable `root` and a worker process that is killed.
    """
    if not all(stage.done(root) for stage in made.order):
        machine = machine.resolved()  # imports torch: not where every stage is there already
    root.prepare()
    record_cells(made, root, repair)  # first, so that a report can say what an interrupted run lacks
    return execute(made.order, root, machine)


def record_cells(made: Plan, root: store.Store, repair: bool = False) -> None:
    """Write cells/NAME.json of every cell, from which reports find its folders; judges recorded before stay.

    A damaged record stays as it is, for reports to name, unless `repair` says to write it again.  The judges of one
    that is written again, or that was deleted, are those whose verdicts on the cell's generations are there.
    """
    (root.root / "cells").mkdir(parents=True, exist_ok=True)
    on_disk: dict[str, JsonObject] | None = None
    for cell in made.cells:
        path = root.root / "cells" / f"{cell.name}.json"
        before: object = None
        if path.exists():
            try:
                before = store.read_json(path)
            except BenchError:
                before = ""
            sound = isinstance(before, dict) and not integrity.seal_problem(before, path.name)
            if not sound and not repair:
                continue
            before = before if sound else None
        generations = cell.stages["generations"]
        if isinstance(before, dict):
            # `bench judge` records judges that no plan names
            judged = before["judges"] if isinstance(before.get("judges"), dict) else {}
        elif not generations.folder(root).exists():
            judged = {}  # a new cell
        else:
            on_disk = _judged_on_disk(root) if on_disk is None else on_disk  # once: there may be many cells
            judged = on_disk.get(generations.folder(root).name, {})
        judges = {name: stage.place for name, stage in made.judged[cell.name].items()}
        cut_off = made.settings.eval.cut_off
        ruled = {"cut_off": cut_off} if cut_off != KEEP else {}
        record = integrity.sealed({**cell.record(), **ruled, "judges": {**judged, **judges}}, path.name)
        if before != record:  # the same run again leaves its files untouched
            store.write_json(path, record)


def _judged_on_disk(root: store.Store) -> dict[str, JsonObject]:
    """The places of finished verdicts in the store: name of the generations' folder -> judge -> place."""
    found: dict[str, JsonObject] = {}
    markers = [(path.stat().st_mtime_ns, path) for path in (root.root / "verdicts").glob(f"*/{store.MARKER}")]
    for _, path in sorted(markers):  # of a judge with several settings the last verdicts count
        try:
            record = store.read_json(path)
            place = [record["kind"], record["label"], record["key"][: store.KEY_LENGTH]]
            if not any(integrity.damage(path.parent, integrity.no_file, record)):
                found.setdefault(record["inputs"]["generations"], {})[record["params"]["judge"]["name"]] = place
        except (BenchError, LookupError, TypeError):  # damaged, or of another version: these verdicts stay unrecorded
            continue
    return found


def finished(made: Plan, root: store.Store) -> list[Path]:
    """Records of the cells that were trained; a judge that failed is left out of the report, which says so."""
    return [
        root.root / "cells" / f"{cell.name}.json"
        for cell in made.cells
        if all(stage.done(root) for stage in cell.stages.values())
    ]


def raise_first(outcome: Outcome) -> None:
    """Raises the first failure of a run as a BenchError that names the other failures; returns where there is none.

    What was made is kept; the error counts the stages that were left out because of a failure.  Raises DamagedError
    where stages are damaged and none failed.
    """
    if outcome.damaged and not outcome.failed:
        lost = f"{len(outcome.skipped)} stages that need it were left out."
        raise DamagedError(f"{'; '.join(outcome.damaged)}.", f"{integrity.REPAIR} {lost}")
    if not outcome.failed:
        return
    name, error = next(iter(outcome.failed.items()))
    others = [f"{other} ({why.seen})" for other, why in list(outcome.failed.items())[1:]]
    more = f" Failed as well: {'; '.join(others)}." if others else ""
    more += f" Damaged: {'; '.join(outcome.damaged)}." if outcome.damaged else ""
    lost = f" {len(outcome.skipped)} stages that need it were left out." if outcome.skipped else ""
    seen = error.seen.removeprefix(f"{name}: ")  # a fault of the machine names its stage itself
    raise BenchError(f"{name}: {seen}{more}", f"{error.fix}{lost}".strip()) from error
