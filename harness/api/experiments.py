"""Experiments of the papers: `bench experiment` as functions."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rlhf_bench.harness import store
from rlhf_bench.harness.api.arguments import (
    Seeds,
    Settings,
    as_assignments,
    as_layer,
    as_list,
    as_path,
    call_text,
    check_paths,
)
from rlhf_bench.harness.api.reports import Report, as_written
from rlhf_bench.harness.api.runs import make_machine, remove_damage, unused_notes
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.models.gguf_files import as_folder
from rlhf_bench.harness.pipeline import integrity
from rlhf_bench.harness.pipeline.machine import Machine, StageProgress, safe_children, set_library_variables
from rlhf_bench.harness.pipeline.tracking import check_trackers
from rlhf_bench.harness.plan import experiments, own_experiments
from rlhf_bench.harness.plan.prompt_tokens import check_prompt_tokens
from rlhf_bench.harness.plan.request import raise_first
from rlhf_bench.harness.presets import which_policy
from rlhf_bench.harness.replacing import write_text
from rlhf_bench.harness.results import claims
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.reports import build, ledger
from rlhf_bench.reports import experiments as experiment_results

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject


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
        """The papers' claims that the experiment tests, each with a verdict and the interval it follows from.

        Rows of `claims.Result.row`: `verdict` is "supported", "contradicted", "inconclusive" or "not run"; `value`,
        `low` and `high` are None where there is no interval, and `note` says why.
        """
        return list(self.data["claims"])


class ExperimentPlan(NamedTuple):
    """An experiment of experiments.toml with the stages it needs.

    `made`: the planned cells and analyses by run.  `out`: the results folder.
    """

    experiment: experiments.Experiment
    made: experiments.Made
    out: Path

    @property
    def notes(self) -> list[str]:
        """Sentences on presets that are not for what is trained, and on settings that no run of the experiment has."""
        unfit = dict.fromkeys(plan.misfit for plan in self.made.plans.values() if plan.misfit)
        return [*unfit, *unused_notes(self.made.unused)]


@safe_children()
def experiment(
    name: str,
    seeds: Seeds | None = None,
    *,
    settings: Settings | None = None,
    policy: str = "",
    preset: str = "",
    data_seeds: Seeds | None = None,
    reward_seeds: Seeds | None = None,
    gold: str = "",
    relabel: bool = False,
    trust: str | Sequence[str] = (),
    out: str | os.PathLike[str] = "runs",
    jobs: int | None = None,
    device: str = "",
    trackers: str | Sequence[str] = (),
    repair: bool = False,
    progress: StageProgress | None = None,
) -> ExperimentResult:
    """Run an experiment of the papers, or of a file.  `bench experiment` as a function.

    `name` is one of `bench list experiments`, or a file FILE.toml, which may name the code in `trust`.  `seeds`,
    `data_seeds`, `reward_seeds`, `gold` and `relabel` default to the experiment's own; the other parameters are those
    of `run`.  Raises BenchError for wrong arguments and, after writing what can be said, for the first failed stage.
    """
    command = call_text(experiment, locals())  # first: locals() holds the arguments alone
    checked = check_trackers(as_list(trackers))
    asked, assignments = as_layer("seeds", seeds), as_assignments(settings)
    layers = experiments.Layers(as_layer("data_seeds", data_seeds), as_layer("reward_seeds", reward_seeds))
    by_gold = experiments.ByGold(gold, relabel)
    planned = plan_experiment(name, asked, assignments, policy, preset, as_path(out), layers, by_gold, as_list(trust))
    for note in planned.notes:
        warnings.warn(note, stacklevel=2)
    # as for a small policy: by default one job per core, each on one thread (one job on an accelerator)
    machine = make_machine(True, jobs, 1, device, checked, progress)
    if repair:
        remove_damage(planned.made.order, planned.out)
    failure = compute_experiment(planned, machine, command, repair=repair)
    result = write_experiment(planned, failure)
    if failure:
        raise failure  # after the results of what finished are written
    # through JSON, so that the result equals the one that is read from its files: lists instead of tuples
    written = result.report and as_written(result.report)
    return replace(result, data=json.loads(json.dumps(result.data)), report=written)


def plan_experiment(
    name: str,
    seeds: Sequence[int],
    assignments: experiments.Assignments,
    policy: str,
    preset: str,
    out: Path,
    layers: experiments.Layers = experiments.Layers(),  # noqa: B008  # immutable
    by_gold: experiments.ByGold = experiments.ByGold(),  # noqa: B008  # immutable
    trust: Collection[str] = (),
) -> ExperimentPlan:
    """The plan of an experiment, packaged or of a file; no seeds mean its own.  `trust`: code that a file may name.

    Raises BenchError for an unknown experiment, preset, settings group or setting, for a preset without a policy, for a
    text that is no path, and where all runs need a setting that `assignments` lack (a data set's path).
    """
    set_library_variables()
    check_paths(out, *filter(None, (policy,)))
    found = own_experiments.read(Path(name), trust) if own_experiments.is_file(name) else experiments.find(name)
    # a claim that cannot be decided is named before anything is computed
    claims.of_record({"name": found.name, **({"definition": found.definition} if found.definition else {})})
    policy = as_folder(which_policy(policy, preset))
    made = experiments.make(found, seeds, assignments, policy, preset, layers, by_gold)
    check_prompt_tokens(policy, made.plans.values(), store.Store(out))
    return ExperimentPlan(found, made, out)


def compute_experiment(
    planned: ExperimentPlan, machine: Machine, command: str, *, repair: bool = False
) -> BenchError | None:
    """Record the experiment and execute what `planned.out` lacks.

    Returns a failure of the execution instead of raising it, because what finished can be reported all the same.  With
    `repair`, which comes after `remove_damage`, damaged records are written again.
    Raises BenchError where `planned.out` cannot be written.
    """
    root = store.Store(planned.out)
    path = experiments.record_path(planned.out, planned.experiment.name)
    record = integrity.sealed(experiments.record(planned.experiment, planned.made, command), path.name)
    root.prepare()
    # before the stages are executed, so that an interrupted experiment can be reported
    path.parent.mkdir(parents=True, exist_ok=True)
    # a record that differs in the command alone stays: the results that hold it stay as they are too
    if not experiment_results.same_record(path, record):
        store.write_json(path, record)
    try:
        raise_first(experiments.run(planned.made, root, machine, repair=repair))
    except BenchError as error:
        return error
    return None


def write_experiment(planned: ExperimentPlan, failure: BenchError | None) -> ExperimentResult:
    """Write what the recorded experiment shows: experiment.json, experiment.md and the files of its report.

    Raises `failure`, or else BenchError, where nothing is finished, and BenchError for a damaged record.  Without a
    finished cell (an experiment of analyses trains nothing) there is no report.
    """
    path = experiments.record_path(planned.out, planned.experiment.name)
    record = store.read_json(path)
    experiment_results.check_record(record, path)
    record = integrity.unsealed(record)
    folder = experiment_results.folder_of(record, planned.out)
    try:
        found = experiment_results.build_experiment(record, planned.out, Estimator())
    except BenchError as error:
        raise failure or error from None  # why a stage failed says more than that nothing is finished
    folder.mkdir(parents=True, exist_ok=True)
    store.write_json(folder / experiment_results.FILE, integrity.sealed(found, experiment_results.FILE))
    text = ledger.experiment_markdown(found)
    write_text(folder / "experiment.md", text)
    if not found["report"]:
        return ExperimentResult(folder, found, None)
    shown = experiment_results.page_report(found)
    build.write(shown, folder, experiment_results.cells_of(record, planned.out))
    return ExperimentResult(folder, found, Report(folder, shown, tuple(found["missing"])))
