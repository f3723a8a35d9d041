"""`bench experiment`.  Exit code 3: something is missing or undecided."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlhf_bench.harness import store
from rlhf_bench.harness.api import experiments as api
from rlhf_bench.harness.api.runs import make_machine, planned_stages, remove_damage
from rlhf_bench.harness.cli.consoles import command_line, complain, consoles
from rlhf_bench.harness.cli.plan_table import check_costs, costs_of, show_costs, show_sums
from rlhf_bench.harness.cli.progress import watching
from rlhf_bench.harness.cli.run import AGAIN, REPAIRED, check_repair, show_plan, show_setup
from rlhf_bench.harness.results.undecided import complaints
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
    for note in planned.notes:
        stderr.print(f"note: {note}", markup=False, soft_wrap=True)
    # as for a small policy: by default one job per core, each on one thread (one job on an accelerator)
    plain, plans = make_machine(True, jobs, 1, device), list(planned.made.plans.values())
    shown = stdout if dry_run else stderr
    costs = None
    if plans:  # else it trains nothing
        policy = plans[0].cells[0].stages["sft"].params["policy"]["source"]
        costs = costs_of(plans, policy, plain, out, shown, measure=not quiet)
    if dry_run:
        show_setup(plans, None, device, stdout)
        if costs:
            show_costs(costs, stdout)
        show_plan(planned_stages(order, out), stdout, brief=costs is not None)
        check_costs(costs)
        return 0
    check_costs(costs)
    if costs and not quiet:
        show_sums(costs, stderr)
    root = store.Store(out)
    if repair:
        complain(remove_damage(order, out), REPAIRED)
    # where every stage is reused, no bar is drawn
    with watching(stderr, quiet or all(stage.done(root) for stage in order), out) as progress:
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
