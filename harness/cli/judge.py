"""`bench judge`: verdicts on stored generations, or a judge's agreement with people.

Exit code 3: a cell is missing, or a judge left more cases undecided than its threshold allows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rlhf_bench.harness import store
from rlhf_bench.harness.api.judging import rejudge
from rlhf_bench.harness.cli.consoles import command_line, complain, consoles
from rlhf_bench.harness.cli.listing import parameters_of
from rlhf_bench.harness.cli.progress import watching
from rlhf_bench.harness.cli.report import show_end
from rlhf_bench.harness.errors import BenchError, did_you_mean
from rlhf_bench.harness.plan.names import find_named
from rlhf_bench.harness.results.undecided import complaints
from rlhf_bench.harness.seams import HasThreshold
from rlhf_bench.reports import terminal

Groups = dict[str, dict[str, str]]
"""Settings by judge: judge -> key -> text."""


def judge(
    runs: Path | None,
    judges: Sequence[str],
    groups: Groups,
    calibrate: Path | None,
    trust: Sequence[str],
    quiet: bool,
) -> int:
    """bench judge

    `runs` or `calibrate`, not both: a results folder to judge again, or a file of labelled pairs or responses.
    Returns 3 where a cell is missing or too much stays undecided.  Raises BenchError for both or neither, and as
    `api.judge`.
    """
    if calibrate:
        if runs:
            raise BenchError(f"--calibrate judges the pairs of {calibrate}, not those of {runs}.", "Give one of them.")
        return _calibrate(calibrate, judges, groups, quiet)
    if runs is None:
        raise BenchError("Nothing to judge.", "Give RUNS, the --out folder of a bench run, or --calibrate FILE.")
    stdout, stderr = consoles(quiet)
    with watching(stderr, quiet, runs) as progress:
        done, made, missing = rejudge(runs, judges, groups, progress, command_line(), trust)
    if made:
        show_end(stdout, made)
    # on stderr: new verdicts that decide less were dropped, which a user would otherwise take for new results
    for sentence in done.kept:
        stderr.print(sentence, markup=False, soft_wrap=True)
    complain(missing, "")
    undecided = complain(complaints(done.stages, store.Store(runs)), "The same command asks again.")
    return 3 if missing or undecided else 0


def judge_settings(judges: Sequence[str], groups: Groups, short: Mapping[str, str | None]) -> Groups:
    """--set by judge, together with `short`: --model and --base-url, for the one judge that has that setting.

    Raises BenchError for a group that is no judge of the call, and for a short form that fits none or several, or that
    is given in full, too.  Changes and returns `groups`.
    """
    for group in sorted(set(groups) - set(judges)):
        raise BenchError(f"--set {group}... names no judge of this call.", did_you_mean(group, judges))
    for key, value in short.items():
        if value is None:
            continue
        option = f"--{key.replace('_', '-')}"
        # the one judge of the call that has a setting of that name
        having = [name for name in dict.fromkeys(judges) if key in parameters_of(find_named("judge", name))]
        if len(having) != 1:
            seen = f"{' and '.join(having) or 'No judge of this call'} {'have' if having else 'has'} the setting {key}."
            raise BenchError(f"{option}: {seen}", f"Write --set NAME.{key}=VALUE.")
        if key in groups.get(having[0], {}):
            raise BenchError(f"{option} and --set {having[0]}.{key} are the same setting.", "Give one of them.")
        groups.setdefault(having[0], {})[key] = value
    return groups


def _calibrate(path: Path, judges: Sequence[str], groups: Groups, quiet: bool) -> int:
    """bench judge --calibrate"""
    import numpy as np

    from rlhf_bench.harness.plan.judges import judge_spec
    from rlhf_bench.harness.results.calibration import agreement_table, calibrate, read_labelled, unusable
    from rlhf_bench.harness.results.refusal_agreement import detect, detection_table, holds_responses, read_responses
    from rlhf_bench.harness.stages.judge import load_judge

    # single responses are labelled by what they do, pairs by which of the two is better
    single = holds_responses(path)
    responses, pairs = (read_responses(path), []) if single else ([], read_labelled(path))
    stdout, _ = consoles(quiet)
    lines = []
    for name in dict.fromkeys(judges):
        # the settings and defaults of a run, so that what is calibrated is what judges there;
        # no task is involved: a calibration judges texts alone
        made = load_judge(name, judge_spec(name, groups.get(name, {})).settings)
        # one seed for every judge: their numbers come back when they are calibrated alone
        rng = np.random.default_rng(0)
        threshold = made.threshold if isinstance(made, HasThreshold) else 1.0
        if single:
            detected = detect(made, responses, None, rng, name=name)
            terminal.show(stdout, detection_table(name, detected))
            lines.append(unusable(name, detected, threshold, "responses"))
        else:
            agreed = calibrate(made, pairs, None, rng, name=name)
            terminal.show(stdout, agreement_table(name, agreed))
            lines.append(unusable(name, agreed, threshold))
    return 3 if complain([line for line in lines if line], "The same command asks again.") else 0
