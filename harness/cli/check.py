"""`bench check`: conformance tests of a plugin or a sampling engine.  Exit code 1: a test fails."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_bench.harness import plugins
from rlhf_bench.harness.cli.consoles import consoles
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
    from rlhf_bench.harness.presets import factory_settings

    given = {}
    # not `parse_assignments`: there is one plugin, so that KEY=VALUE needs no group
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals:
            raise BenchError(f"--set {text!r} is not of the form key=value.")
        given[key.removeprefix(f"{name}.")] = value  # NAME.KEY, as in bench run, is taken too
    settings = factory_settings(name, plugins.find(kind, name).factory(), given)
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


def show_findings(title: str, findings: Sequence[Finding]) -> int:
    """The tests and their outcomes as a table; returns the exit code.

    1 where a test fails: 2 stays for a call that cannot be carried out, so that a script can tell them apart.
    """
    stdout, _ = consoles(False)
    rows = [("ok" if f.ok else "FAILS", f.checked, f.detail) for f in findings]
    terminal.show(stdout, Table(title, ("", "checked", "detail"), rows))
    return 0 if all(f.ok for f in findings) else 1
