"""Judging stored generations again, and scoring texts: `bench judge` and `bench score` as functions."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlhf_bench.harness import store
from rlhf_bench.harness.api.arguments import Settings, as_assignments, as_list, as_path, call_text
from rlhf_bench.harness.api.reports import Report, existing, make_report
from rlhf_bench.harness.errors import BenchError, did_you_mean
from rlhf_bench.harness.pipeline.machine import StageProgress, no_stage_progress, safe_children
from rlhf_bench.harness.plan.judges import plain_names
from rlhf_bench.harness.plan.request import raise_first
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.harness.results.found import find_cells
from rlhf_bench.harness.results.rejudge import Rejudged, judge_cells
from rlhf_bench.harness.results.text_rewards import TextRewards, score_texts


@safe_children()
def judge(
    runs: str | os.PathLike[str],
    judges: str | Sequence[str],
    *,
    settings: Settings | None = None,
    trust: str | Sequence[str] = (),
    progress: StageProgress | None = None,
) -> Report:
    """Judge the generations in the results folder `runs` again, train nothing, and write its report anew.

    Verdicts that are there stay, so "+NAME" means NAME; undecided cases are judged again.  `settings`: the judges' own,
    by "judge.key".
    `trust`: names of code (module:attribute), paths and hub ids that records in `runs` may use; without it, records use
    registered plugins and open nothing outside of `runs`.
    Raises BenchError when no cell is finished, for an unknown judge or setting, for a record that names what it may
    not, for a task whose data changed since the run, and when a judge fails; verdicts of the others are kept.
    """
    command = call_text(judge, locals())  # first: locals() holds the arguments alone
    names = plain_names(as_list(judges))
    groups = as_assignments(settings)
    # refused here: `judge_cells` looks up the settings of its judges, and a misspelt group would have no effect
    unknown = sorted(set(groups) - set(names))
    if unknown:
        raise BenchError(f"The settings name {unknown[0]!r}, no judge of this call.", did_you_mean(unknown[0], names))
    watched = progress or no_stage_progress
    _, made, missing = rejudge(as_path(runs), names, groups, watched, command, as_list(trust))
    return existing(made, missing)


def rejudge(
    runs: Path,
    judges: Sequence[str],
    assignments: Mapping[str, Mapping[str, str]],
    progress: StageProgress,
    command: str,
    trust: Sequence[str] = (),
) -> tuple[Rejudged, Report | None, list[str]]:
    """Judge again and write RUNS/report.  For `judge` and for `bench judge`, which shows more of what was done.

    Returns (verdict stages and their outcome, the report, sentences about cells that cannot be reported).  Raises
    BenchError as `judge`; a failed stage is raised before the report is written.
    """
    found, missing = find_cells([runs])
    if not found:
        raise BenchError("No cell is finished.", "; ".join(missing))
    root = store.Store(found[0].root)
    done = judge_cells(found, root, judges, assignments, progress, trust)
    raise_first(done.outcome)
    # written anew in any case: a key does not tell that undecided cases were judged again
    # from the records on disk, which name the new verdicts; those in `found` were read before judging
    records = sorted((root.root / "cells").glob("*.json"))
    made, _ = make_report(records, root.root / "report", Estimator(), command)
    return done, made, missing


@safe_children()
def score(
    rm: str,
    prompts: str | Sequence[str],
    responses: str | Sequence[str],
    *,
    runs: str | os.PathLike[str] = "runs",
    seed: int | None = None,
    settings: Settings | None = None,
    trust: str | Sequence[str] = (),
) -> list[TextRewards]:
    """Rewards per token of each response to the prompt in the same place.

    `rm` is a reward model that a cell in `runs` trained (with this training seed; default: the lowest), or one that
    needs no training, for which `runs` need not be there.  `settings`: its own, by "rm.key".  Those of a trained one
    choose the cell that was trained with them; those of another one override the run's, or its defaults.
    Rewards are not scaled; the last one is that of end-of-sequence.  `trust` is that of `judge`.
    Raises BenchError where there is no such reward model, for settings of another one, for a record that names what it
    may not, and for different numbers of prompts and responses.
    """
    asked, answers = as_list(prompts), as_list(responses)
    if len(asked) != len(answers):
        raise BenchError(f"{len(asked)} prompts and {len(answers)} responses.", "Give one response for each prompt.")
    given: dict[str, str] = {}
    for group, keys in as_assignments(settings).items():
        if not fnmatch.fnmatchcase(rm, group):
            raise BenchError(f"The settings name {group!r}, not the reward model {rm!r}.", "Leave them out.")
        given.update(keys)
    return score_texts(rm, asked, answers, as_path(runs), seed, as_list(trust), given)
