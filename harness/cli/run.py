"""`bench run`, and what a dry run shows of a plan.

The functions of the commands return exit codes: 0 fine, 3 something is missing or undecided.  Errors are raised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_bench.harness.api import runs
from rlhf_bench.harness.cli.consoles import command_line, complain, consoles
from rlhf_bench.harness.cli.plan_table import check_costs, costs_of, show_costs, show_sums
from rlhf_bench.harness.cli.progress import watching
from rlhf_bench.harness.cli.report import show_end
from rlhf_bench.harness.cli.status import duration
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.pipeline.tracking import check_trackers
from rlhf_bench.harness.plan.lengths import Lengths, lengths_of
from rlhf_bench.harness.plan.request import Plan, Request, raise_first
from rlhf_bench.harness.plan.run_costs import planned_placement
from rlhf_bench.harness.plan.setups import policy_text, rates_text, setups_of
from rlhf_bench.harness.results.table import Table
from rlhf_bench.reports import terminal

if TYPE_CHECKING:
    from rich.console import Console

REPAIRED = "It is made again, with all that depends on it."
AGAIN = "If it is damaged, the same command with --repair makes it again."


def run(
    request: Request,
    out: Path,
    *,
    jobs: int | None,
    threads: int | None,
    device: str,
    track: Sequence[str],
    repair: bool,
    dry_run: bool,
    quiet: bool,
    measure: bool = True,
    plan_on: str = "",
    save: Callable[[], None] | None = None,
) -> int:
    """bench run

    `save` writes the run file, once the plan has shown that the request is right.

    Returns 3 where a cell is unfinished or damaged, and where a judge left too many cases undecided.  Raises the first
    failure of a stage, after the report of the finished cells is shown.
    """
    check_repair(repair, dry_run)
    if plan_on and not dry_run:
        raise BenchError(f"--plan-on {plan_on} is of --dry-run alone.", "Add --dry-run.")
    trackers = check_trackers(track)  # before planning, which may take seconds
    planned = runs.plan_request(request, out)
    if save:  # before anything is computed: an interrupted run has it
        save()
    stdout, stderr = consoles(quiet)
    for note in planned.notes:
        stderr.print(f"note: {note}", markup=False, soft_wrap=True)
    if repair:
        complain(runs.remove_damage(planned.cells.order, out), REPAIRED)
    finished, policy = planned.finished, planned.request.policy
    shown, plain = stdout if dry_run else stderr, runs.make_machine(policy == "tiny", jobs, threads, device)
    if not finished and (dry_run or not quiet):
        show_setup([planned.cells], lengths_of(planned.cells, policy), device, shown, plan_on)
    elif dry_run:
        show_setup([planned.cells], None, device, shown, plan_on)
    costs = None
    if not finished:
        costs = costs_of([planned.cells], policy, plain, out, shown, measure=measure and not quiet, known=plan_on)
    if dry_run:
        if costs:
            show_costs(costs, stdout)
        show_plan(planned.stages, stdout, brief=costs is not None)
        show_grid(request, stdout)
        check_costs(costs)
        return 0
    check_costs(costs)
    if costs and not quiet:
        show_sums(costs, stderr)
    # where every stage is reused, no bar is drawn
    with watching(stderr, quiet or planned.finished, out) as progress:
        machine = runs.make_machine(planned.request.policy == "tiny", jobs, threads, device, trackers, progress)
        ended = runs.compute(planned, machine, command_line(), repair=repair)
    # results before the failure: a failed stage costs only what needs it
    if ended.report:
        show_end(stdout, ended.report)
    elif ended.missing:
        complain(["No cell is finished"], "")
    wrong = complain([*ended.outcome.damaged, *ended.missing], AGAIN)
    if ended.outcome.failed:
        raise_first(ended.outcome)
    wrong |= complain(ended.undecided, f"To ask again: bench judge {out}, with the same settings.")
    return 3 if wrong else 0


def check_repair(repair: bool, dry_run: bool) -> None:
    """Raises BenchError for --repair of a plan that computes nothing."""
    if repair and dry_run:
        raise BenchError("--repair removes what is damaged, and --dry-run changes nothing.", "Give one of them.")


def show_plan(stages: Sequence[runs.PlannedStage], console: Console, *, brief: bool = False) -> None:
    """The stages of a plan, which of them are reused, and a time estimate.

    Time of one core for each stage; the sum leaves out stages whose time is unknown, and counts them.  `brief`: only
    how many are pending, where another table has their time.
    """
    if brief:
        count = sum(not stage.done for stage in stages)
        console.print(f"{count} of {len(stages)} stages pending.", soft_wrap=True)
        return
    rows = [
        (stage.name, "reused" if stage.done else "pending", "" if stage.seconds is None else duration(stage.seconds))
        for stage in stages
    ]
    terminal.show(console, Table("Plan", ("stage", "state", "estimate"), rows))
    pending = [stage for stage in stages if not stage.done]
    seconds, unknown = sum(stage.seconds or 0.0 for stage in pending), sum(stage.seconds is None for stage in pending)
    said = [f"about {duration(seconds)} of one core"] if seconds or not unknown else []
    said += [f"{unknown} of them of unknown time, as none alike has finished here"] if unknown else []
    console.print(f"{len(pending)} of {len(stages)} stages pending, {', and '.join(said)}.", soft_wrap=True)


def show_setup(
    plans: Sequence[Plan], lengths: Lengths | None, device: str, console: Console, plan_on: str = ""
) -> None:
    """What is trained and how, before anything is computed: policy, adapters, precision, template, preset, learning
    rates, and the lengths of the data.  `plan_on` names a device that is not here."""
    template = {"template": lengths.template} if lengths else {}

    def precision(made: Plan) -> dict[str, str]:
        return {"dtype": planned_placement(made, "cuda", True).dtype} if plan_on else resolved_precision(made, device)

    setups = [setup for made in plans for setup in setups_of(made, template | precision(made))]
    lines = list(dict.fromkeys(map(policy_text, setups)))
    lines += list(dict.fromkeys(filter(None, map(rates_text, setups))))
    lines += [lengths.text] if lengths else []
    for line in lines:
        console.print(f"{line[0].upper()}{line[1:]}.", markup=False, soft_wrap=True)


def resolved_precision(made: Plan, device: str) -> dict[str, str]:
    """The precision as `dtype`; {} where it is `auto` on a device that cannot be used, which the run then says."""
    if made.settings.policy.dtype != "auto":
        return {"dtype": made.settings.policy.dtype}
    from rlhf_bench.harness.models.placement import choose_placement
    from rlhf_bench.harness.models.policies import pick_device

    try:
        return {"dtype": choose_placement(made.settings.group("policy"), pick_device(device)).dtype}
    except BenchError:
        return {}


def show_grid(request: Request, console: Console) -> None:
    """The runs of every arm under seeds in layers, in one line; nothing for plain seeds."""
    given = {"data seeds": request.data_seeds, "reward seeds": request.reward_seeds, "seeds": request.seeds}
    if request.data_seeds or request.reward_seeds:
        sizes = " x ".join(f"{len(seeds)} {name}" for name, seeds in given.items() if seeds)
        console.print(f"{sizes}: {len(request.grid)} runs of every arm.", markup=False, soft_wrap=True)
