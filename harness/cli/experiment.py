"""`bench experiment` and `bench claims`.  Exit code 3: something is missing or undecided."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_bench.harness import store
from rlhf_bench.harness.api import experiments as api
from rlhf_bench.harness.api.runs import make_machine, planned_stages, remove_damage
from rlhf_bench.harness.cli.consoles import command_line, complain, consoles, watching
from rlhf_bench.harness.cli.run import AGAIN, REPAIRED, check_repair, show_plan
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.plan import experiments, stamps
from rlhf_bench.harness.replacing import write_text
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.harness.results.undecided import complaints
from rlhf_bench.reports import experiments as results
from rlhf_bench.reports import ledger, terminal, verdicts

if TYPE_CHECKING:
    from rich.console import Console


def experiment(
    planned: api.ExperimentPlan,
    *,
    jobs: int | None,
    device: str,
    trackers: Sequence[str],
    repair: bool,
    dry_run: bool,
    quiet: bool,
) -> int:
    """bench experiment

    Returns 3 where a cell is missing or a judge decided too little.  Raises the first failure of a stage, after what
    finished is written and shown.
    """
    check_repair(repair, dry_run)
    stdout, stderr = consoles(quiet)
    # sorted once: the property walks all cells of all runs at every access
    out, order = planned.out, planned.made.order
    if dry_run:
        show_plan(planned_stages(order, out), stdout)
        return 0
    root = store.Store(out)
    if repair:
        complain(remove_damage(order, out), REPAIRED)
    # where every stage is reused, no bar is drawn
    with watching(stderr, quiet or all(stage.done(root) for stage in order)) as progress:
        # as for a small policy: by default one job per core, each on one thread (one job on an accelerator)
        machine = make_machine(True, jobs, 1, device, trackers, progress)
        failure = api.compute_experiment(planned, machine, command_line(), repair=repair)
    # what finished is shown before the failure is raised
    result = api.write_experiment(planned, failure)
    show(stdout, result)
    complain(result.data["missing"], AGAIN)
    if failure:
        raise failure
    judged = [stage for stage in order if stage.kind == "verdicts"]
    undecided = complain(complaints(judged, root), f"To ask again: bench judge {out}, with the same settings.")
    return 3 if undecided or result.data["missing"] else 0


def show(console: Console, result: api.ExperimentResult) -> None:
    """The end table, contrasts, analyses and verdicts of an experiment, then where its files are.

    Tables without rows are left out; experiment.md has the other tables that the experiment chose.
    """
    if result.report:
        terminal.show_headline(console, result.report.data)
    tables = (ledger.contrasts_table(result.data), *ledger.analysis_tables(result.data))
    for table in (*tables, verdicts.verdicts_table(result.claims)):
        if table.rows:
            terminal.show(console, table)
    names = ("report.html", "experiment.md") if result.report else ("experiment.md",)
    for name in names:
        console.print(f"{result.path / name}", markup=False, soft_wrap=True)


def claims(runs: Sequence[Path], out: Path | None, intro: Path | None, level: float, only: Sequence[str] = ()) -> int:
    """bench claims

    Beside the page it writes the page's stamp (`plan.stamps`).

    Returns 3 where something is missing or a claim is not run.  Raises BenchError for an unknown experiment in `only`,
    an `intro` that cannot be read, a path that is no folder, and an `out` that cannot be written.
    """
    for name in only:
        experiments.find(name)  # raises for an unknown name, which would otherwise select nothing
    stdout, _ = consoles(False)
    text = store.read_text(intro) if intro else ""  # before anything is computed: a misspelt path costs no minutes
    built, missing, shown = [], [], []
    # an experiment that cannot be read is named as missing: the ledger still has all others
    for record, root in results.find_records(runs):
        if only and record["name"] not in only:
            continue
        try:
            built.append(results.build_experiment(record, root, Estimator(level)))
            missing += built[-1]["missing"]
            shown.append((record, root))
        except BenchError as error:
            missing.append(str(error))
    rows = results.whole_ledger(built, only)
    terminal.show(stdout, verdicts.verdicts_table(rows))
    for sentence in verdicts.summary(rows):
        stdout.print(sentence, markup=False, soft_wrap=True)
    for sentence in missing:
        stdout.print(f"missing: {sentence}", markup=False, soft_wrap=True)
    if out:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            page = ledger.results_markdown(built, rows, text)
            write_text(out, page)
            write_text(stamps.path_beside(out), json.dumps(stamps.stamped(shown), indent=1) + "\n")
        except OSError as error:
            raise BenchError(f"Cannot write {out}: {error.strerror}.", "Give another --out.") from None
        stdout.print(str(out), markup=False, soft_wrap=True)
    return 3 if missing or any(row["verdict"] == "not run" for row in rows) else 0
