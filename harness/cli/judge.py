"""`bench judge`: verdicts on what was generated, or how far a judge agrees with people.  Exit codes: commands.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rlhf_bench.harness import plugins, store
from rlhf_bench.harness.cli.commands import parameters_of
from rlhf_bench.harness.cli.consoles import complain, consoles
from rlhf_bench.harness.cli.report import report_cells
from rlhf_bench.harness.errors import BenchError, did_you_mean
from rlhf_bench.harness.presets import parse_assignments
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.harness.results.found import find_cells
from rlhf_bench.harness.stages.judge import HasThreshold, complaints, load_judge
from rlhf_bench.reports import terminal


def judge(
    *,
    runs: Path | None,
    judges: Sequence[str],
    model: str | None,
    base_url: str | None,
    calibrate: Path | None,
    assignments: tuple[str, ...],
    quiet: bool,
) -> int:
    """bench judge"""
    groups = _settings(judges, parse_assignments(assignments), {"model": model, "base_url": base_url})
    if calibrate:
        if runs:
            raise BenchError(f"--calibrate judges the pairs of {calibrate}, not those of {runs}.", "Give one of them.")
        return _calibrate(calibrate, judges, groups, quiet)
    if runs is None:
        raise BenchError("Nothing to judge.", "Give RUNS, the --out folder of a bench run, or --calibrate FILE.")
    from rlhf_bench.harness.cli.rejudge import judge_cells
    from rlhf_bench.harness.plan.request import raise_first

    found, missing = find_cells([runs])
    if not found:
        raise BenchError("No cell is finished.", "; ".join(missing))
    stdout, stderr = consoles(quiet)
    root = store.Store(found[0].root)
    made = judge_cells(found, root, judges, groups, stderr)
    raise_first(made.outcome)
    report_cells(sorted((root.root / "cells").glob("*.json")), root.root / "report", Estimator(), stdout, fresh=True)
    for sentence in made.kept:
        stderr.print(sentence, markup=False, soft_wrap=True)
    complained = complain(complaints(made.stages, root), "The same command asks again.")
    return 3 if missing or complained else 0


def _settings(
    judges: Sequence[str], groups: dict[str, dict[str, str]], short: dict[str, str | None]
) -> dict[str, dict[str, str]]:
    """--set by judge, with --model and --base-url, short for that setting of the one judge that has it, folded in."""
    for group in sorted(set(groups) - set(judges)):
        raise BenchError(f"--set {group}... names no judge of this call.", did_you_mean(group, judges))
    for key, value in short.items():
        if value is None:
            continue
        option = f"--{key.replace('_', '-')}"
        having = [name for name in dict.fromkeys(judges) if key in parameters_of(plugins.find("judge", name))]
        if len(having) != 1:
            seen = f"{' and '.join(having) or 'No judge of this call'} {'have' if having else 'has'} the setting {key}."
            raise BenchError(f"{option}: {seen}", f"Write --set NAME.{key}=VALUE.")
        if key in groups.get(having[0], {}):
            raise BenchError(f"{option} and --set {having[0]}.{key} are the same setting.", "Give one of them.")
        groups.setdefault(having[0], {})[key] = value
    return groups


def _calibrate(path: Path, judges: Sequence[str], groups: dict[str, dict[str, str]], quiet: bool) -> int:
    """bench judge --calibrate"""
    import numpy as np

    from rlhf_bench.harness.results.calibration import agreement_table, calibrate, read_labelled, unusable
    from rlhf_bench.harness.stages.judge import judge_spec

    rows = read_labelled(path)
    stdout, _ = consoles(quiet)
    lines = []
    for name in dict.fromkeys(judges):
        made = load_judge(name, judge_spec(name, groups.get(name, {})).settings)
        found = calibrate(made, rows, None, np.random.default_rng(0), name=name)
        terminal.show(stdout, agreement_table(name, found))
        lines.append(unusable(name, found, made.threshold) if isinstance(made, HasThreshold) else "")
    return 3 if complain([line for line in lines if line], "The same command asks again.") else 0
