"""The Python API: what the commands do, as functions that return their results.

    from rlhf_bench.harness import api

    report = api.run("dialogsum", ["seq2seq-token", "scalar"], seeds=3)
    report.to_pandas()

The commands call the functions of this module, so both give the same numbers and reuse each other's results folder.

Every error that a user can cause is a BenchError.  Nothing is printed; functions that compute take `progress`, a
function that is called with (event, stage name, done, total), where the event is start, step or end:
`progress=api.print_progress` writes one line for each finished stage.

Stages run side by side in processes of their own when `jobs` is 2 or more, or by default where the policy is small.
A script needs no `if __name__ == "__main__":` for that, and notebooks can do it too.  A function that computes in this
process sets its number of CPU threads to `threads`, for torch and for all else in the process.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError, did_you_mean
from rlhf_bench.harness.pipeline.execute import Outcome
from rlhf_bench.harness.pipeline.machine import Machine, StageProgress, no_stage_progress, usable_cores
from rlhf_bench.harness.pipeline.stage import Stage
from rlhf_bench.harness.pipeline.trackers import check_trackers
from rlhf_bench.harness.plan import experiments
from rlhf_bench.harness.plan import request as requests
from rlhf_bench.harness.plan.request import DEFAULT_JUDGES, Plan, Request, raise_first
from rlhf_bench.harness.presets import parse_assignments, parse_seeds, which_policy
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.harness.results.found import find_cells
from rlhf_bench.harness.results.rejudge import Rejudged, judge_cells
from rlhf_bench.harness.results.text_rewards import TextRewards, score_texts
from rlhf_bench.harness.results.undecided import complaints
from rlhf_bench.reports import build, ledger
from rlhf_bench.reports import experiments as experiment_results

if TYPE_CHECKING:
    import pandas

    from rlhf_bench.harness.text.types import JsonObject

__all__ = [
    "ExperimentResult",
    "Report",
    "RunPlan",
    "TextRewards",
    "experiment",
    "judge",
    "load_report",
    "plan",
    "print_progress",
    "report",
    "run",
    "score",
]

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
Seeds = int | str | Sequence[int]
Setting = str | int | float | bool | os.PathLike[str] | Sequence[int]
Settings = Mapping[str, Setting]
"""By "group.key", as in `--set group.key=value`."""


# -- reports -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """A report of finished cells.

    `path`: the folder of report.html, report.md, report.json and tables/*.csv; None when the report was not written.
    `data`: the content of report.json, documented in reports/schema.json.
    `missing`: sentences about what could not be reported, as found when the report was made.
    """

    path: Path | None
    data: JsonObject = field(repr=False)
    missing: tuple[str, ...] = ()

    @property
    def warnings(self) -> list[str]:
        """What to know before believing the numbers: missing cells, single seeds, undecided cases, odd training."""
        return list(self.data["warnings"])

    def to_pandas(self) -> pandas.DataFrame:
        """All estimates as a data frame, one row each, with the columns of tables/estimates.csv and two more.

        Columns: task, reward_model, label (of the arm: the reward model and what tells it from other arms), policy,
        optimizer, judge, statistic, slice, decoding, iteration, value, low, high (nan where nothing can be said; the
        note says why), level, n (decided cases, per seed on average), n_invalid (undecided ones), seeds (a tuple),
        method, note, arm (a hash that identifies the arm).  Raises BenchError where pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise BenchError("Report.to_pandas needs the package pandas.", "pip install pandas") from None
        arms = {arm["arm"]: arm for arm in self.data["arms"]}
        rows = []
        for estimate in self.data["estimates"]:
            arm = arms.get(estimate["arm"], {})
            described = {name: arm.get(name, "") for name in ("label", "policy")}
            described["optimizer"] = arm.get("optimizer", "ppo")
            rows.append({**estimate, **described, "seeds": tuple(estimate["seeds"])})
        return pandas.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


COLUMNS = {
    **dict.fromkeys(("task", "reward_model", "label", "policy", "optimizer"), "string"),
    **dict.fromkeys(("judge", "statistic", "slice", "decoding"), "string"),
    "iteration": "int64",
    "value": "float64",
    "low": "float64",
    "high": "float64",
    "level": "float64",
    "n": "int64",
    "n_invalid": "int64",
    "seeds": "object",
    "method": "string",
    "note": "string",
    "arm": "string",
}
"""Columns of `Report.to_pandas` and their types."""


def load_report(path: str | os.PathLike[str]) -> Report:
    """A report that was written: its folder, or its report.json.

    Raises BenchError for anything else, and for a report of another version of this program.
    """
    place = Path(path)
    file = place / "report.json" if place.is_dir() else place
    found: Any = store.read_json(file)
    if not isinstance(found, dict) or found.get("schema") != build.SCHEMA:
        raise BenchError(f"{path} is no report of bench report.", "Give the folder that --out named.")
    if found.get("schema_version") != build.SCHEMA_VERSION:
        raise BenchError(f"{path} was written by another version of this program.", "Write it again: bench report.")
    return Report(file.parent, found)


def report(runs: Paths, out: str | os.PathLike[str] | None = None, *, level: float = 0.95) -> Report:
    """Compare all finished cells in `runs`, one or several results folders.

    `out`: the folder to write the report to; without one nothing is written.  `level`: of the intervals.  Raises
    BenchError when no cell is finished.
    """
    command = _call(report, locals())
    if not 0.5 <= level <= 0.999:
        raise BenchError(f"level is {level}.", "It must lie between 0.5 and 0.999.")
    made, missing = make_report(_paths(runs), Path(out) if out is not None else None, Estimator(level), command)
    return _existing(made, missing)


def make_report(
    places: Sequence[Path], out: Path | None, estimator: Estimator, command: str, *, reuse: bool = False
) -> tuple[Report | None, list[str]]:
    """The report of the cells in `places` (results folders or records), None where none is finished; what is missing.

    It is written to `out`, with `command` in its manifest.  `reuse`: unless the same report is there already.
    """
    found, missing = find_cells(places)
    if not found:
        return None, missing
    if reuse and out is not None:
        stored = _stored(out)
        if stored is not None and stored.get("key") == build.report_key(found, missing, estimator):
            return Report(out, stored, tuple(missing)), missing
    made = build.build(found, missing, estimator, command)
    if out is not None:
        build.write(made, out, found)
    return Report(out, made, tuple(missing)), missing


def _stored(out: Path) -> JsonObject | None:
    """The report in `out`; None where there is none of this version, or where one of its main files is missing."""
    if not all((out / name).is_file() for name in ("report.html", "report.md")):
        return None
    try:
        return load_report(out).data
    except BenchError:
        return None


def _existing(made: Report | None, missing: Sequence[str]) -> Report:
    if made is None:
        raise BenchError("No cell is finished.", "; ".join(missing))
    return _as_written(made)


def _as_written(made: Report) -> Report:
    """The report as `load_report` reads it: one that was just built has tuples where JSON has lists."""
    return replace(made, data=json.loads(json.dumps(made.data)))


# -- runs --------------------------------------------------------------------------------------------------------------


class PlannedStage(NamedTuple):
    """A stage of a plan: whether its result is there, else about how long it takes (None where that is unknown)."""

    name: str
    done: bool
    seconds: float | None


@dataclass(frozen=True)
class RunPlan:
    """What `run` would do.  `stages` shows it; `cells` holds the planned cells, `request` what was asked for."""

    request: Request
    cells: Plan = field(repr=False)
    out: Path

    @property
    def finished(self) -> bool:
        """Whether the results of all stages are there, so that `run` computes nothing."""
        return all(stage.done(store.Store(self.out)) for stage in self.cells.order)

    @property
    def stages(self) -> list[PlannedStage]:
        """Every stage once, in the order of execution."""
        return planned_stages(self.cells.order, self.out)


def planned_stages(order: Sequence[Stage], out: Path) -> list[PlannedStage]:
    """The state of every stage in a results folder."""
    root = store.Store(out)
    done = [stage.done(root) for stage in order]
    rough = requests.rough_seconds([stage for stage, there in zip(order, done, strict=True) if not there], root)
    return [
        PlannedStage(stage.name, there, None if there else rough[stage.key])
        for stage, there in zip(order, done, strict=True)
    ]


def plan(
    task: str,
    rms: str | Sequence[str],
    seeds: Seeds = 1,
    *,
    judges: str | Sequence[str] | None = None,
    optimizers: str | Sequence[str] = ("ppo",),
    n: Sequence[int] | None = None,
    settings: Settings | None = None,
    policy: str = "",
    preset: str = "",
    data: str = "",
    prompts: str | Sequence[str] = (),
    train_prompts: str = "",
    limit: int = 0,
    out: str | os.PathLike[str] = "runs",
) -> RunPlan:
    """Plan a run as `run` does, check all that can be checked, and compute nothing.

    Takes the parameters of `run` that say what is computed.  Raises BenchError.
    """
    return plan_request(
        Request(
            task=task,
            reward_models=_names(rms),
            seeds=_seeds(seeds),
            policy=policy,
            judges=_names(judges or ()),
            assignments=_assignments(settings),
            data=data,
            limit=limit,
            preset=preset,
            prompts=_names(prompts),
            train_prompts=train_prompts,
            optimizers=_names(optimizers),
            n=None if n is None else _text(n),
        ),
        Path(out),
    )


def plan_request(request: Request, out: Path) -> RunPlan:
    """`plan` for a Request; an empty policy means the preset's own, no judges mean the default ones."""
    request = replace(
        request, policy=which_policy(request.policy, request.preset), judges=request.judges or DEFAULT_JUDGES
    )
    return RunPlan(request, requests.make_plan(request), out)


def run(
    task: str,
    rms: str | Sequence[str],
    seeds: Seeds = 1,
    *,
    judges: str | Sequence[str] | None = None,
    optimizers: str | Sequence[str] = ("ppo",),
    n: Sequence[int] | None = None,
    settings: Settings | None = None,
    policy: str = "",
    preset: str = "",
    data: str = "",
    prompts: str | Sequence[str] = (),
    train_prompts: str = "",
    limit: int = 0,
    out: str | os.PathLike[str] = "runs",
    jobs: int | None = None,
    threads: int | None = None,
    device: str = "",
    trackers: str | Sequence[str] = (),
    progress: StageProgress | None = None,
) -> Report:
    """Train, judge and report: a cell for every reward model, optimizer and seed.  `bench run` as a function.

    Stages whose results are in `out` are reused, so the same call again returns at once.

    Parameters
    ----------
    task
        Name of a task, or "module:attribute".
    rms
        One reward model or several, by name or "module:attribute".
    seeds
        A number of seeds (3: seeds 0, 1, 2), a list of seeds, or a text like "11-14".
    judges
        Default: winrate, utility, length, empty.
    optimizers
        "ppo", "best-of-n" (trains nothing), or without the reward model "dpo" and "sft-chosen".
    n
        What best-of-n takes, e.g. [1, 4, 16].
    settings
        Values by "group.key", e.g. {"ppo.kl": 0.1}.  See `bench list settings`.
    policy
        "tiny", a model folder, or a hub id (ID@REVISION).  Default: the preset's.
    preset
        Name of a settings preset.  Default: by the kind of policy.
    data
        The task's real data: a path, "hub" or a hub id.
    prompts
        Other tasks whose held-out prompts are evaluated.  Default: the task's own.
    train_prompts
        Another task whose prompts PPO optimises on.
    limit
        At most this many examples of every split; 0 for all.
    out
        Results folder.  The report is written to its folder `report`.
    jobs
        Stages side by side.  Default: one per core with the tiny policy, else one.
    threads
        CPU threads of each job.  Default: 1 with the tiny policy, else one per core.
    device
        "cpu", "cuda" or "mps".  Default: the accelerator where there is one.
    trackers
        "tensorboard", "wandb", "trackio": where PPO's scalars are logged while training.
    progress
        Called with (event, stage name, done, total).

    Raises
    ------
    BenchError
        Before anything is computed, for whatever is wrong with the arguments; afterwards for the first stage that
        failed.  Finished stages are kept, and the report of the finished cells is written all the same.
    """
    command = _call(run, locals())
    checked = check_trackers(_names(trackers))
    planned = plan(
        task, rms, seeds, judges=judges, optimizers=optimizers, n=n, settings=settings, policy=policy, preset=preset,
        data=data, prompts=prompts, train_prompts=train_prompts, limit=limit, out=out,
    )  # fmt: skip
    small = planned.request.policy == "tiny"
    computed = compute(planned, make_machine(small, jobs, threads, device, checked, progress), command)
    raise_first(computed.outcome)
    return _existing(computed.report, computed.missing)


def make_machine(
    small: bool,
    jobs: int | None,
    threads: int | None,
    device: str,
    trackers: Sequence[str] = (),
    progress: StageProgress | None = None,
) -> Machine:
    """The machine for a policy that is `small` or not: a small one gains more from jobs than from threads."""
    threads = threads or (1 if small else usable_cores())
    return Machine(jobs or (0 if small else 1), threads, device, progress or no_stage_progress, trackers)


@dataclass(frozen=True)
class Computed:
    """How computing a plan ended: the report of the finished cells, what it lacks, and judges that decided too little.

    `report` is None where no cell is finished.
    """

    outcome: Outcome
    report: Report | None
    missing: list[str]
    undecided: list[str]


def compute(planned: RunPlan, machine: Machine, command: str) -> Computed:
    """Execute what `planned.out` lacks and write the report.  Failed stages are in the outcome, not raised."""
    root = store.Store(planned.out)
    outcome = requests.run(planned.cells, root, machine)
    cells = requests.finished(planned.cells, root)
    made, missing = None, list[str]()
    if cells:
        stats = planned.cells.settings.stats
        estimator = Estimator(stats.level, stats.seed)
        made, missing = make_report(cells, planned.out / "report", estimator, command, reuse=True)
    judged = [stage for by_judge in planned.cells.judged.values() for stage in by_judge.values()]
    return Computed(outcome, made, missing, complaints(judged, root))


# -- experiments -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ExperimentResult:
    """The result of an experiment.

    `path`: its folder, with experiment.json, experiment.md and the files of the report.  `data`: the content of
    experiment.json, with contrasts and analyses.  `report`: None where the experiment trains nothing.
    """

    path: Path
    data: JsonObject = field(repr=False)
    report: Report | None

    @property
    def claims(self) -> list[JsonObject]:
        """The papers' claims that the experiment tests, each with a verdict and the interval it follows from."""
        return list(self.data["claims"])


class ExperimentPlan(NamedTuple):
    """An experiment of experiments.toml with the stages it needs."""

    experiment: experiments.Experiment
    made: experiments.Made
    out: Path


def experiment(
    name: str,
    seeds: Seeds | None = None,
    *,
    settings: Settings | None = None,
    policy: str = "",
    preset: str = "",
    out: str | os.PathLike[str] = "runs",
    jobs: int | None = None,
    device: str = "",
    trackers: str | Sequence[str] = (),
    progress: StageProgress | None = None,
) -> ExperimentResult:
    """Run an experiment of the papers.  `bench experiment` as a function.

    `name` is one of `bench list experiments`; `seeds` default to the experiment's own; the other parameters are those
    of `run`.  Raises BenchError for wrong arguments and, after writing what can be said, for the first failed stage.
    """
    command = _call(experiment, locals())
    checked = check_trackers(_names(trackers))
    planned = plan_experiment(
        name, () if seeds is None else _seeds(seeds), _assignments(settings), policy, preset, Path(out)
    )
    machine = make_machine(True, jobs, 1, device, checked, progress)
    failure = compute_experiment(planned, machine, command)
    result = write_experiment(planned, failure)
    if failure:
        raise failure
    written = result.report and _as_written(result.report)
    return replace(result, data=json.loads(json.dumps(result.data)), report=written)


def plan_experiment(
    name: str,
    seeds: Sequence[int],
    assignments: experiments.Assignments,
    policy: str,
    preset: str,
    out: Path,
) -> ExperimentPlan:
    """The plan of an experiment; no seeds mean its own.  Raises BenchError."""
    found = experiments.find(name)
    return ExperimentPlan(found, experiments.make(found, seeds, assignments, which_policy(policy, preset), preset), out)


def compute_experiment(planned: ExperimentPlan, machine: Machine, command: str) -> BenchError | None:
    """Record the experiment and execute what `planned.out` lacks.  A failure is returned, not raised."""
    root = store.Store(planned.out)
    path = experiments.record_path(planned.out, planned.experiment.name)
    record = experiments.record(planned.experiment, planned.made, command)
    root.prepare()
    path.parent.mkdir(parents=True, exist_ok=True)
    # a record that differs in the command alone stays: the results that hold it stay as they are too
    if not path.exists() or {**store.read_json(path), "command": ""} != {**record, "command": ""}:
        store.write_json(path, record)
    try:
        raise_first(experiments.run(planned.made, root, machine))
    except BenchError as error:
        return error
    return None


def write_experiment(planned: ExperimentPlan, failure: BenchError | None) -> ExperimentResult:
    """Write what the recorded experiment shows.  Raises `failure`, or else BenchError, where nothing is finished."""
    record = store.read_json(experiments.record_path(planned.out, planned.experiment.name))
    folder = experiment_results.folder_of(record, planned.out)
    try:
        found = experiment_results.build_experiment(record, planned.out, Estimator())
    except BenchError as error:
        raise failure or error from None
    folder.mkdir(parents=True, exist_ok=True)
    store.write_json(folder / experiment_results.FILE, found)
    text = ledger.experiment_markdown(found)
    (folder / "experiment.md").write_text(text, encoding="utf-8", errors="backslashreplace")
    if not found["report"]:
        return ExperimentResult(folder, found, None)
    shown = experiment_results.page_report(found)
    build.write(shown, folder, experiment_results.cells_of(record, planned.out))
    return ExperimentResult(folder, found, Report(folder, shown, tuple(found["missing"])))


# -- judging and scoring -----------------------------------------------------------------------------------------------


def judge(
    runs: str | os.PathLike[str],
    judges: str | Sequence[str],
    *,
    settings: Settings | None = None,
    progress: StageProgress | None = None,
) -> Report:
    """Judge the generations in the results folder `runs` again, train nothing, and write its report anew.

    Verdicts that are there stay; undecided cases are judged again.  `settings`: the judges' own, by "judge.key".
    Raises BenchError when no cell is finished, and when a judge fails; verdicts of the others are kept.
    """
    command = _call(judge, locals())
    names = _names(judges)
    groups = _assignments(settings)
    unknown = sorted(set(groups) - set(names))
    if unknown:
        raise BenchError(f"The settings name {unknown[0]!r}, no judge of this call.", did_you_mean(unknown[0], names))
    _, made, missing = rejudge(Path(runs), names, groups, progress or no_stage_progress, command)
    return _existing(made, missing)


def rejudge(
    runs: Path,
    judges: Sequence[str],
    assignments: Mapping[str, Mapping[str, str]],
    progress: StageProgress,
    command: str,
) -> tuple[Rejudged, Report | None, list[str]]:
    """Judge again and write RUNS/report: what was done, the report, what it lacks.  Raises the first failure before."""
    found, missing = find_cells([runs])
    if not found:
        raise BenchError("No cell is finished.", "; ".join(missing))
    root = store.Store(found[0].root)
    done = judge_cells(found, root, judges, assignments, progress)
    raise_first(done.outcome)
    # written anew in any case: a key does not tell that undecided cases were judged again
    records = sorted((root.root / "cells").glob("*.json"))
    made, _ = make_report(records, root.root / "report", Estimator(), command)
    return done, made, missing


def score(
    rm: str,
    prompts: str | Sequence[str],
    responses: str | Sequence[str],
    *,
    runs: str | os.PathLike[str] = "runs",
    seed: int | None = None,
) -> list[TextRewards]:
    """Rewards per token of each response to the prompt in the same place.

    `rm` is a reward model that a cell in `runs` trained (with this training seed; default: the lowest), or one that
    needs no training.  Raises BenchError where there is none.
    """
    asked, answers = _names(prompts), _names(responses)
    if len(asked) != len(answers):
        raise BenchError(f"{len(asked)} prompts and {len(answers)} responses.", "Give one response for each prompt.")
    return score_texts(rm, asked, answers, Path(runs), seed)


# -- progress and arguments --------------------------------------------------------------------------------------------


def print_progress(event: str, name: str, done: int, total: int) -> None:  # noqa: ARG001
    """For `progress`: write one line to stderr when a stage starts, and one when it ends."""
    if event in ("start", "end"):
        print(f"{name} {'...' if event == 'start' else 'ended'}", file=sys.stderr, flush=True)


def _call(function: Callable[..., Any], given: Mapping[str, object]) -> str:
    """The call as Python text, for a manifest: its arguments that differ from their defaults.

    Without `out` and `progress`: a folder of this machine is no part of what was done.
    """
    parameters = inspect.signature(function).parameters
    shown = {
        name: os.fspath(value) if isinstance(value, os.PathLike) else value
        for name, value in given.items()
        if name not in ("out", "progress") and repr(value) != repr(parameters[name].default)
    }
    return f"api.{function.__name__}({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


def _names(given: str | Sequence[str]) -> list[str]:
    return [given] if isinstance(given, str) else list(given)


def _paths(given: Paths) -> list[Path]:
    return [Path(given)] if isinstance(given, str | os.PathLike) else [Path(path) for path in given]


def _seeds(given: Seeds) -> tuple[int, ...]:
    """Seeds of a number, a list, or a text as --seeds takes it."""
    if isinstance(given, int | str):
        text = str(given)
    else:
        numbers = [str(seed) for seed in given]
        text = ",".join(numbers) if len(numbers) != 1 else f"{numbers[0]}-{numbers[0]}"
    try:
        return parse_seeds(text)
    except ValueError:
        raise BenchError(
            f"seeds is {given!r}.", "Give a number of seeds, a list of different seeds, or a text like '11-14'."
        ) from None


def _assignments(settings: Settings | None) -> dict[str, dict[str, str]]:
    """Settings as --set gives them: group -> key -> text."""
    return parse_assignments(tuple(f"{name}={_text(value)}" for name, value in (settings or {}).items()))


def _text(value: Setting) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(map(str, value))
    return os.fspath(value) if isinstance(value, os.PathLike) else str(value)
