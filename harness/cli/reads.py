"""The commands that read or clear away what others made: declarations only, as in main.py, which adds them to bench."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from rlhf_bench.harness.cli.options import Finite, Group, load_one_thread, no_cache_option, numbers_kept

reads = Group()


@reads.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Folder for report.html, .md, .json and tables/*.csv.")
@click.option("--terminal", "in_terminal", is_flag=True, help="Show all tables here; plain when piped.")
@click.option("--level", type=Finite(0.5, 0.999), default=0.95, show_default=True, help="Of the intervals.")
@click.option(
    "--figures",
    type=click.Path(path_type=Path),
    help="Folder for every figure as SVG and PDF for a paper (extra figures).",
)
@click.option("--figure-width", type=Finite(1.5, 20.0), default=3.25, show_default=True, help="In inches.")
@click.option("--figure-font", type=Finite(4.0, 24.0), default=8.0, show_default=True, help="Of all text, in points.")
@click.option("--diff", is_flag=True, help="Compare two written reports: RUNS are their folders.")
@click.option("--quiet", "-q", is_flag=True, help="No table.")
@no_cache_option
def report(
    runs: tuple[Path, ...],
    out: Path | None,
    in_terminal: bool,
    level: float,
    quiet: bool,
    diff: bool,
    figures: Path | None,
    figure_width: float,
    figure_font: float,
    no_cache: bool,
) -> None:
    """Compare all finished cells in RUNS, results folders of bench run.  Computes nothing but statistics.

    With --diff: what changed from one written report to another, and whether by more than noise; --out takes diff.md.
    """
    load_one_thread()
    from rlhf_bench.harness.cli.report import Shown, diff_reports, report

    if diff:
        sys.exit(diff_reports(runs, out, quiet))
    shown = Shown(quiet, in_terminal, figures, figure_width, figure_font)
    with numbers_kept(no_cache):
        code = report(runs, out, level, shown)
    sys.exit(code)


@reads.command()
@click.argument("runs", type=click.Path(path_type=Path), default=Path("runs"))
def status(runs: Path) -> None:
    """What is done, running, failed and left in RUNS, the time that is likely left, and the disk used.

    Works while other commands write to RUNS, from another terminal or machine.  Without RUNS: the folder runs.
    """
    from rlhf_bench.harness.cli.status import status

    sys.exit(status(runs))


@reads.command()
@click.argument("runs", type=click.Path(path_type=Path), default=Path("runs"))
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Of 127.0.0.1.  Default: a free one.")
@click.option("--terminal", "in_terminal", is_flag=True, help="Show it here instead; once when piped.")
def watch(runs: Path, port: int, in_terminal: bool) -> None:
    """Show RUNS on a page that follows it: what runs, the time left, and curves of reward, KL, length, entropy, gold.

    Prints the page's address, which only this machine can open, and serves it until Ctrl-C.  Reads what bench status
    reads and writes nothing; works during a run and afterwards.  Without RUNS: the folder runs.
    """
    from rlhf_bench.harness.cli.watch import watch

    sys.exit(watch(runs, port, in_terminal))


@reads.command()
@click.argument("runs", type=click.Path(path_type=Path))
@click.option("--yes", is_flag=True, help="Delete it; without, it is shown.")
def clean(runs: Path, yes: bool) -> None:
    """Show what in RUNS no finished cell needs and no interrupted run waits for; with --yes delete it."""
    from rlhf_bench.harness.cli.status import clean

    sys.exit(clean(runs, yes))


@reads.command()
@click.argument("report", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(["every-eval-ever", "eval-results", "inspect", "model-index"]),
    required=True,
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the files, one for each arm.")
@click.option("--organization", default="", help="Who evaluated; needed by every-eval-ever.")
@click.option("--dataset", default="", metavar="OWNER/NAME", help="A data set of the hub; needed by eval-results.")
def export(report: Path, form: str, out: Path, organization: str, dataset: str) -> None:
    """Convert a written REPORT (its folder or report.json) to a format of other projects.

    every-eval-ever: final numbers that have a range and a better side, as data/TASK/rlhf-bench/MODEL/UUID.json.
    eval-results: MODEL/.eval_results/rlhf-bench.yaml for model repositories of the Hugging Face hub.  inspect: logs of
    Inspect, written by its own library (extra inspect).  model-index: the results of a Hugging Face model card.
    """
    from rlhf_bench.harness.cli.export import export

    sys.exit(export(report, form, out, organization, dataset))


@reads.command()
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Also write pages: FILE.md, FILE/NAME.md, FILE/NAME.json.")
@click.option("--intro", type=click.Path(path_type=Path), help="Text for the page's top.  [default: FILE-intro.md]")
@click.option("--experiment", "only", multiple=True, help="Only the claims of this experiment; repeat.")
@click.option("--replace", is_flag=True, help="Replace stored results also by those of fewer seeds or cells.")
@click.option("--level", type=Finite(0.5, 0.999), default=0.95, show_default=True, help="Of the intervals.")
@click.option("--confirm", "confirming", is_flag=True, help="RUNS are reruns of some seeds: do they write the same?")
@no_cache_option
def claims(confirming: bool, no_cache: bool, **options: Any) -> None:
    """List the papers' claims, each with a verdict from the experiments in RUNS (default: runs).

    With --out also from the results that an earlier call wrote beside the page; without RUNS from these alone.  With
    --confirm stored results of earlier code are no longer stale where today's code wrote the same responses, rewards
    and verdicts on at least one seed of every arm.
    """
    load_one_thread()
    from rlhf_bench.harness.cli.claims import claims, confirm

    if confirming:
        sys.exit(confirm(options["runs"], options["out"], options["intro"], options["only"]))
    with numbers_kept(no_cache):
        code = claims(**options)
    sys.exit(code)


@reads.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--difference", type=Finite(), required=True, help="The difference to find, in the measure's unit.")
@click.option("--judge", default="utility", show_default=True, help="The judge of the measure.")
@click.option("--measure", default="gold_change", show_default=True, help="The measure.")
@click.option("--task", default="", help="Only this task.")
@click.option("--rm", "reward_model", default="", help="Only this reward model.")
@click.option("--versus", default="", help="Plan for the difference of --rm to this reward model, on the same prompts.")
@click.option("--level", type=Finite(0.5, 0.999), default=0.95, show_default=True, help="Of the intervals.")
@click.option(
    "--width", type=Finite(), help="With seeds in layers: how wide the interval may be.  Default: the difference."
)
def power(**options: Any) -> None:
    """Say how many seeds and prompts a difference needs, from the spread in finished runs (a pilot).

    From runs with --data-seeds or --reward-seeds: where the spread comes from, and the fewest runs for an interval.
    """
    from rlhf_bench.harness.cli.power import power

    sys.exit(power(**options))
