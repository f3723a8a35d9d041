"""Experiments as data (experiments.toml): the cells that a question needs, and what is compared among them.

An experiment is a list of runs.  Each run plans what one `bench run` would, so its cells are shared with all others in
the same results folder.  Runs of kind `credit` stop before PPO, `overhead` trains nothing, and `agreement` and `tuning`
are computed from the cells of other runs: rankings of reward models, and the best of several settings.
"""

from __future__ import annotations

import fnmatch
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal, NamedTuple

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError, did_you_mean
from rlhf_bench.harness.pipeline.execute import Outcome, execute
from rlhf_bench.harness.pipeline.machine import Machine
from rlhf_bench.harness.pipeline.stage import Stage
from rlhf_bench.harness.plan import cells, shared
from rlhf_bench.harness.plan.combination_names import all_names
from rlhf_bench.harness.plan.gold import plugins_of
from rlhf_bench.harness.plan.judges import chosen
from rlhf_bench.harness.plan.request import Plan, Request, make_plan, record_cells
from rlhf_bench.harness.presets import parse_seeds, unused_groups
from rlhf_bench.harness.seeds import Seed, shown, training_seed
from rlhf_bench.harness.text.types import JsonObject, Row

Assignments = Mapping[str, Mapping[str, str]]
RunKind = Literal["train", "credit", "overhead", "agreement", "tuning"]


@dataclass(frozen=True)
class ExperimentRun:
    """One `bench run` of an experiment; `judges` as there (+NAME adds to the default ones).

    `needs` names the settings that the caller must give (a data set's path); `seeds` stands in for the experiment's.
    For kind `credit`, `methods` are by reward model the ways to spread its score over tokens (`stages.spread.METHODS`).
    For kind `agreement`, `of` names the runs of PPO and of best-of-n, and `n` lists the n that the latter is read at.
    For kind `tuning`, `of` names the runs that differ in settings alone.
    `gold` and `relabel` are as in a Request, for runs of kind `train`.
    """

    name: str = "main"
    task: str = "dialogsum"
    rms: tuple[str, ...] = ()
    judges: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    set: Row = field(default_factory=dict)
    kind: RunKind = "train"
    needs: tuple[str, ...] = ()
    seeds: str = ""
    optimizers: tuple[str, ...] = ("ppo",)
    of: tuple[str, ...] = ()
    n: tuple[int, ...] = ()
    methods: Mapping[str, Sequence[str]] = field(default_factory=dict)
    gold: str = ""
    relabel: bool = False


@dataclass(frozen=True)
class Contrast:
    """A paired difference of two reward models, computed in every run that has both.

    `statistic` is a measure of the judge; the difference is a - b (`results.contrasts.difference`).
    """

    a: str
    b: str
    judge: str
    statistic: str
    slice: str = "all"
    decoding: str = "sample"


@dataclass(frozen=True)
class Experiment:
    """A question, the runs that answer it, the contrasts, and the names of the tables to show.

    `seeds` is a text for `parse_seeds`, such as "101-105"; `data_seeds` and `reward_seeds` are such texts or "", for
    layers around them.  `pretrained`: it is of a policy that the caller gives, so that it has no claims and no page
    among the packaged results; `preset` is then the preset where the caller names none.  `definition`: what the file
    says of an experiment that is not packaged (own_experiments.py).
    """

    name: str
    question: str
    seeds: str
    runs: tuple[ExperimentRun, ...]
    contrasts: tuple[Contrast, ...] = ()
    shows: tuple[str, ...] = ("sampled", "greedy", "diagnostics")
    data_seeds: str = ""
    reward_seeds: str = ""
    pretrained: bool = False
    preset: str = ""
    definition: Row = field(default_factory=dict)


@dataclass(frozen=True)
class Made:
    """An experiment's plan: the cells of each run, and the stages of analyses without PPO by (reward model, seed)."""

    plans: Mapping[str, Plan]
    analyses: Mapping[str, Mapping[tuple[str, Seed], Stage]]
    left_out: Mapping[str, str]  # run -> the setting it lacks
    unused: tuple[str, ...] = ()  # groups of settings by hand that fit no run, of registered reward models

    @property
    def order(self) -> list[Stage]:
        """Every stage once, inputs first."""
        trained = [stage for made in self.plans.values() for stage in made.order]
        return cells.in_order([*trained, *[s for found in self.analyses.values() for s in found.values()]])


@cache
def load() -> Mapping[str, Experiment]:
    """The packaged experiments by name, in the order of experiments.toml, read once."""
    text = files("rlhf_bench.harness.plan").joinpath("experiments.toml").read_text(encoding="utf-8")
    return {name: replace(made_of(name, values), definition={}) for name, values in tomllib.loads(text).items()}


def made_of(name: str, values: Row) -> Experiment:
    """The experiment of a table of experiments.toml, or of another file in that form that is checked."""
    runs = []
    for given in values["runs"]:
        # TOML has lists, the fields are tuples
        fields: JsonObject = {key: tuple(v) if isinstance(v, list) else v for key, v in given.items()}
        fields["set"] = {**values.get("set", {}), **given.get("set", {})}
        runs.append(ExperimentRun(**fields))
    contrasts = tuple(Contrast(**contrast) for contrast in values.get("contrasts", ()))
    more: JsonObject = {"shows": tuple(values["shows"])} if "shows" in values else {}
    more |= {key: values[key] for key in ("data_seeds", "reward_seeds", "pretrained", "preset") if key in values}
    return Experiment(
        name, values["question"], values["seeds"], tuple(runs), contrasts, definition=dict(values), **more
    )


def packaged() -> list[str]:
    """The names of the experiments that need no policy from elsewhere: those with claims and pages of results."""
    return [name for name, experiment in load().items() if not experiment.pretrained]


def find(name: str) -> Experiment:
    """The experiment called `name`; raises BenchError with a suggestion."""
    known = load()
    if name not in known:
        raise BenchError(f"Unknown experiment {name!r}.", did_you_mean(name, known))
    return known[name]


class Layers(NamedTuple):
    """Seeds of the layers around the seeds; () means those that the experiment names."""

    data: Sequence[int] = ()
    rewards: Sequence[int] = ()


class ByGold(NamedTuple):
    """A gold model for every run that trains; "" means the run's own."""

    gold: str = ""
    relabel: bool = False


def make(
    experiment: Experiment,
    asked: Sequence[int],
    given: Assignments,
    policy: str = "tiny",
    preset: str = "",
    layers: Layers = Layers(),  # noqa: B008  # immutable
    by_gold: ByGold = ByGold(),  # noqa: B008  # immutable
) -> Made:
    """Plan every run on the seeds in `asked`, or on its own seeds where `asked` is empty; `layers` and `by_gold` alike.

    `given` are settings by hand: those of the harness apply to every run, those of a plugin to the runs that use it.  A
    run that needs a setting which is not given is left out and named.  Raises BenchError for a group that fits no run,
    where every run is left out, for an experiment of a pretrained policy without one, and as `make_plan`.
    """
    if experiment.pretrained and policy == "tiny":
        raise BenchError(f"{experiment.name} is of a pretrained policy.", "Add --policy FOLDER_OR_HUB_ID.")
    preset = preset or experiment.preset
    # over all runs: `_request` leaves a group out of the runs that have no such plugin, so here a typo must be found
    runs = [with_gold(run, by_gold) for run in experiment.runs]
    names = set().union(*(_plugins(run) for run in runs))
    unused = unused_groups(given, names)
    named = (experiment.data_seeds, experiment.reward_seeds)
    around = Layers(*(own or (parse_seeds(text) if text else ()) for own, text in zip(layers, named, strict=True)))
    plans: dict[str, Plan] = {}
    analyses: dict[str, dict[tuple[str, Seed], Stage]] = {}
    left_out: dict[str, str] = {}
    for run in runs:
        seeds = asked or parse_seeds(run.seeds or experiment.seeds)
        lacking = _lacking(run, given)
        if run.kind in ("agreement", "tuning"):
            continue  # computed from the cells of the other runs
        if lacking:
            left_out[run.name] = lacking
        elif run.kind == "overhead":
            # of random weights, without a reward model: one seed is enough
            analyses[run.name] = {("", seed): overhead_stage(seed) for seed in seeds[:1]}
        else:
            request = _request(run, seeds, given, policy, preset)
            if run.kind == "train":  # token credit is measured on one data set, under plain seeds
                request = replace(request, data_seeds=around.data, reward_seeds=around.rewards)
            made = make_plan(request)
            if run.kind == "credit":
                analyses[run.name] = {
                    (f"{cell.reward_model}, {method}" if method else cell.reward_model, cell.seed): credit_stage(
                        cell, method
                    )
                    for cell in made.cells
                    for method in run.methods.get(cell.reward_model, ("",))
                }
            else:
                plans[run.name] = made
    if not plans and not analyses:
        missing = sorted(set(left_out.values()))
        raise BenchError(f"{experiment.name} needs {', '.join(missing)}.", f"Add --set {missing[0]}=VALUE.")
    return Made(plans, analyses, left_out, unused)


def _lacking(run: ExperimentRun, given: Assignments) -> str:
    """The first setting that a run needs and the caller did not give; "" for none."""
    for name in run.needs:
        group, _, key = name.rpartition(".")
        if not given.get(group, {}).get(key):
            return name
    return ""


def with_gold(run: ExperimentRun, by_gold: ByGold) -> ExperimentRun:
    """The run with another gold model, where one is asked for and the run trains."""
    if run.kind != "train":
        return run
    return replace(run, gold=by_gold.gold or run.gold, relabel=by_gold.relabel or run.relabel)


def _request(run: ExperimentRun, seeds: Sequence[int], given: Assignments, policy: str, preset: str) -> Request:
    from rlhf_bench.harness.settings import GROUPS

    sets: dict[str, dict[str, str]] = {}
    for name, value in run.set.items():
        group, _, key = name.partition(".")
        # texts, as from the command line: `make_settings` parses both alike
        sets.setdefault(group, {})[key] = str(value)
    names = _plugins(run)
    # a plugin that this run does not use would be an unknown group to it
    for group, keys in given.items():
        if group in GROUPS or fnmatch.filter(names, group):
            sets.setdefault(group, {}).update(keys)  # after the run's own settings, which they override
    return Request(
        run.task,
        run.rms,
        seeds,
        policy,
        run.judges,
        sets,
        preset=preset,
        prompts=run.prompts,
        optimizers=run.optimizers,
        gold=run.gold,
        relabel=run.relabel,
    )


def _plugins(run: ExperimentRun) -> set[str]:
    return {run.task, *all_names(run.rms), *run.prompts, *chosen(run.judges), *plugins_of(run.gold)}


def credit_stage(cell: cells.Cell, method: str = "") -> Stage:
    """The stage that scores the held-out pairs token by token; the places of their flaws are known.

    `method` spreads a score of the whole response over its tokens; "" leaves the rewards as they are.
    It needs no PPO: everything comes from the cell's stages up to `scale`.
    """
    sft, pairs = cell.stages["sft"], cell.stages["pairs"]
    scale = cell.stages["scale"]
    # from the scale's stage, whose prompts have the training split that such a reward model reads
    shown = {"prompts": scale.inputs["prompts"]} if cell.reads_examples else {}
    return Stage(
        "credit",
        shared.cell_label(cell.task, f"{cell.reward_model}-{method}" if method else cell.reward_model, cell.seed),
        "rlhf_bench.harness.stages.credit:credit",
        {"rm": scale.params["rm"], "seed": training_seed(cell.seed), **({"method": method} if method else {})},
        {"sft": sft, "pairs": pairs, **shown, **({"reward": cell.stages["reward"]} if "reward" in cell.stages else {})},
        {"micro_batch": scale.payload["micro_batch"]},
        plugin_code=scale.plugin_code[:1],  # the reward model's; the second is the task's (`arms.scale`)
        cost=1.0,
    )


def overhead_stage(seed: int) -> Stage:
    """The stage that measures the cost of scoring.  It builds reward models by name: `code` adds theirs."""
    code = ("rlhf_bench.harness.statistics.cost", "rlhf_bench.reward_models.seq2seq", "rlhf_bench.reward_models.scalar")
    return Stage("overhead", f"s{seed}", "rlhf_bench.harness.stages.overhead:overhead", {"seed": seed}, code=code)


def run(made: Made, root: store.Store, machine: Machine, *, repair: bool = False) -> Outcome:
    """Execute the stages that `root` lacks.  A stage that fails raises nothing: the outcome names it.

    With `repair` damaged records of cells are written again; `repair.remove_damaged` comes before.
    Raises BenchError for an unusable device, an unwritable `root` and a worker process that is killed.
    """
    if not all(stage.done(root) for stage in made.order):
        machine = machine.resolved()  # imports torch: not where every stage is there already
    root.prepare()
    for planned in made.plans.values():
        record_cells(planned, root, repair)  # first, so that an interrupted experiment can say what it lacks
    # all runs in one call, so that no job waits for the end of a run
    outcome = execute([stage for stage in made.order if stage.kind != "overhead"], root, machine)
    # a timing runs after everything else, alone, on one thread of the CPU
    alone = Machine(progress=machine.progress)
    timed = execute([stage for stage in made.order if stage.kind == "overhead"], root, alone)
    failed, damaged = {**outcome.failed, **timed.failed}, outcome.damaged + timed.damaged
    return Outcome(outcome.made + timed.made, failed, outcome.skipped + timed.skipped, damaged)


def record(experiment: Experiment, made: Made, command: str) -> JsonObject:
    """The content of experiments/NAME.json: the cells and stages that the experiment's results are computed from.

    Cells by the names of their records, stages by their places (kind, label, short key); `command` is what was called.
    """
    # those that were planned: runs may have seeds of their own, and an analysis has no cell
    seeds: set[Seed] = {cell.seed for planned in made.plans.values() for cell in planned.cells}
    seeds |= {seed for found in made.analyses.values() for _, seed in found}
    return {
        "name": experiment.name,
        "question": experiment.question,
        "seeds": [shown(seed) for seed in sorted(seeds)],
        "command": command,
        "runs": {name: [cell.name for cell in planned.cells] for name, planned in made.plans.items()},
        "analyses": {
            name: [{"reward_model": rm, "seed": shown(seed), "place": s.place} for (rm, seed), s in found.items()]
            for name, found in made.analyses.items()
        },
        "left_out": dict(made.left_out),
        **({"definition": dict(experiment.definition)} if experiment.definition else {}),
    }


def record_path(out: Path, name: str) -> Path:
    """The path of an experiment's record below a results folder."""
    return out / "experiments" / f"{name}.json"
