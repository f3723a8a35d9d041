"""`bench check`: conformance tests of a plugin or a sampling engine, and the files of a results folder.

Exit code 1: a test fails.  Exit code 3: something in the results folder is damaged, missing or unfinished.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_bench.harness import plugins
from rlhf_bench.harness.cli.consoles import complain, consoles
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.results.table import Table
from rlhf_bench.reports import terminal

if TYPE_CHECKING:
    from rlhf_bench.harness.checks.findings import Finding


def check(kind: plugins.Kind, name: str, assignments: Sequence[str]) -> int:
    """bench check task, reward-model or judge

    Raises BenchError for an unknown name or setting, and for a plugin that cannot be imported; all else that a plugin
    does wrong is a row of the table.
    """
    from rlhf_bench.harness.checks.conformance import check as conform
    from rlhf_bench.harness.plan.combination_names import PLUGIN, is_combination
    from rlhf_bench.harness.plan.names import find_named
    from rlhf_bench.harness.plan.tasks import check_data
    from rlhf_bench.harness.presets import factory_settings

    given = {}
    # not `parse_assignments`: there is one plugin, so that KEY=VALUE needs no group
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals:
            raise BenchError(f"--set {text!r} is not of the form key=value.")
        given[key.removeprefix(f"{name}.")] = value  # NAME.KEY, as in bench run, is taken too
    if kind == "task":
        check_data(name, given)
    if kind == "reward-model" and (name == PLUGIN or is_combination(name)):
        raise BenchError(f"{name} is a combination, whose members are checked one by one.", "Name a reward model.")
    settings = factory_settings(name, find_named(kind, name).factory(), given)
    return show_findings(f"{kind} {name}", conform(kind, name, settings))


def check_engine(name: str, policy: str, device: str, assignments: Sequence[str]) -> int:
    """bench check engine

    Raises BenchError without a policy, and for any setting: those of an engine are in `checks.engine.ENGINES`.
    """
    from rlhf_bench.harness.checks.engine import check_sampler
    from rlhf_bench.harness.models.policies import pick_device

    if assignments:
        raise BenchError("An engine has no settings in bench check.", "Leave --set out.")
    if not policy:
        raise BenchError("bench check engine needs a policy.", "Add --policy FOLDER, e.g. RUNS/sft/.../policy.")
    return show_findings(f"engine {name}", check_sampler(name, Path(policy), pick_device(device)))


def check_store(root: Path, full: bool, other_options: bool) -> int:
    """bench check store

    Prints a line on stderr for each problem.  Raises BenchError for options of other kinds, and as `check_results`.
    """
    from rlhf_bench.harness.checks.results import check_results

    if other_options:
        raise BenchError("bench check store takes --full alone.", "Leave --set, --policy and --device out.")
    found = check_results(root, full)
    wrong = complain(found.problems, "")
    what = "sizes and hashes" if full else "sizes (hashes: --full)"
    stdout, _ = consoles(False)
    stdout.print(
        f"{found.stages} stages with {found.files} files, {found.cells} whole cells; {what} compared, "
        f"{len(found.problems) or 'no'} problems.",
        soft_wrap=True,
    )
    if found.unlisted:
        text = "stages were made by a version that stored no hashes: only what a report reads of them was checked."
        stdout.print(f"{found.unlisted} {text}", soft_wrap=True)
    if wrong:
        stdout.print("Damaged stages are made again by their bench run command with --repair.", soft_wrap=True)
    return 3 if wrong else 0


def show_findings(title: str, findings: Sequence[Finding]) -> int:
    """The tests and their outcomes as a table; returns the exit code.

    1 where a test fails, not for a warning: 2 stays for a call that cannot be carried out, so that a script can tell
    them apart.
    """
    stdout, _ = consoles(False)
    rows = [("FAILS" if not f.ok else "warns" if f.warns else "ok", f.checked, f.detail) for f in findings]
    terminal.show(stdout, Table(title, ("", "checked", "detail"), rows))
    return 0 if all(f.ok for f in findings) else 1
