"""What a run with a real policy needs, as a table for `bench run --dry-run` and in two lines for a run's beginning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_bench.harness.cli.status import duration
from rlhf_bench.harness.errors import BenchError, one_line
from rlhf_bench.harness.plan.run_costs import RunCosts, gib, run_costs
from rlhf_bench.harness.printable import printable
from rlhf_bench.harness.results.table import Table
from rlhf_bench.reports import terminal

if TYPE_CHECKING:
    from rich.console import Console

    from rlhf_bench.harness.pipeline.machine import Machine
    from rlhf_bench.harness.plan.request import Plan


def costs_of(
    plans: Sequence[Plan], policy: str, machine: Machine, out: Path, console: Console, *, measure: bool, known: str = ""
) -> RunCosts | None:
    """The costs of what is pending; None for the tiny policy, which fits everywhere, and where nothing is pending.

    Where the policy's configuration cannot be read `console` says why, and None is returned: a plan can be shown, and a
    run begun, without.
    """
    if policy == "tiny":
        return None
    device, jobs = "cuda", max(1, machine.jobs)
    if not known:
        here = machine.resolved()
        device, jobs = here.device, here.jobs
    try:
        return run_costs(plans, policy, device, jobs, machine.threads, out, measure=measure, known=known)
    except BenchError as error:
        seen = str(error)
    except Exception as error:  # a model's code of transformers may raise anything on the meta device
        seen = f"The policy cannot be counted: {one_line(error)}."
    console.print(f"Memory and time: unknown. {printable(seen)}", markup=False, soft_wrap=True)
    return None


def show_costs(costs: RunCosts, console: Console) -> None:
    """A row for every kind of stage, then the sums and where the speeds come from."""
    rows = [
        (kind.name, str(kind.count), gib(kind.peak.bytes), duration(kind.seconds / kind.count), duration(kind.seconds))
        for kind in costs.kinds
    ]
    terminal.show(console, Table("Memory and time", ("stage", "count", "memory", "time each", "in all"), rows))
    show_sums(costs, console)


def show_sums(costs: RunCosts, console: Console) -> None:
    """Time and memory of all stages, a line each."""
    for line in cost_lines(costs):
        console.print(line, markup=False, soft_wrap=True)


def cost_lines(costs: RunCosts) -> list[str]:
    """Time and memory of all stages in a sentence each."""
    top, together = costs.largest, ""
    if costs.jobs > 1:
        together = f"; {costs.jobs} side by side up to {gib(costs.together)}"
    count = sum(kind.count for kind in costs.kinds)
    wall = f", {duration(costs.seconds / costs.jobs)} with {costs.jobs} jobs" if costs.jobs > 1 else ""
    read, drawn = costs.speeds.read, costs.speeds.step / 32 + costs.speeds.row
    rates = (
        f"{1 / read:,.0f} tokens/s read, {1 / costs.speeds.trained:,.0f} trained, {1 / drawn:,.0f} sampled in 32 rows"
    )
    counted = "" if costs.lengths.exact else "; lengths estimated from words, as the tokenizer is not here"
    free = f" ({gib(costs.free)} free)" if costs.free < costs.total else ""
    return [
        f"{count} stages, about {duration(costs.seconds)}{wall}: {rates} ({costs.speeds.basis}){counted}.",
        f"Most memory: {top.name}, about {gib(top.peak.bytes)} of {gib(costs.total)}{free}{together}.",
        *([costs.warning] if costs.warning else []),
    ]


def check_costs(costs: RunCosts | None) -> None:
    """Raises BenchError for a plan that does not fit into memory, naming the stage and what to lower."""
    problem = costs.problem() if costs else None
    if problem:
        raise BenchError(*problem)
