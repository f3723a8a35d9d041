"""An experiment as tables and Markdown: the content of experiment.md and of its page of results."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rlhf_bench.harness.plan import own_experiments
from rlhf_bench.harness.results.table import Cell, Table, cell_value, estimated
from rlhf_bench.reports import tables
from rlhf_bench.reports.costs import duration
from rlhf_bench.reports.markdown import escape, fenced, table_lines
from rlhf_bench.reports.measures import COLLAPSED
from rlhf_bench.reports.verdicts import checks_table, claims_table

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import Row


def contrasts_table(built: Row) -> Table:
    """Paired differences of reward models, by run; "by seed" shows whether the seeds agree.

    "says" names the reward model with the higher value, which need not be the better one: lengths are contrasted, too.
    """
    rows = []
    for row in built["contrasts"]:
        # an interval over one seed is conditional on its training run, so it decides nothing about reward models
        if row["value"] is None:
            says = row["note"]
        elif row["low"] is None or len(row["seeds"]) < 2 or row["low"] <= 0 <= row["high"]:
            says = "undecided"
        else:
            says = f"{row['a'] if row['low'] > 0 else row['b']} higher"
        rows.append(
            (
                row["run"],
                row["task"],
                f"{row['a']} - {row['b']}",
                f"{row['judge']}.{row['statistic']}" + ("" if row["slice"] == "all" else f" ({row['slice']})"),
                row["decoding"],
                estimated(row),
                says,
                tuple(map(Cell, row["by_seed"])),
                collapsed_runs(built, row),
            )
        )
    columns = ("run", "task", "difference", "of", "decoding", "interval", "says", "by seed", "collapsed")
    note = (
        "Paired on prompts and training seeds. Collapsed: runs of the first and of the second; where some did, seeds "
        "have two modes and the interval may be too short (docs/statistics.md)."
    )
    return Table("Contrasts", columns, rows, note)


def collapsed_runs(built: Row, row: Row) -> str:
    """How many runs of either side of a contrast collapsed, "" where that was not measured."""
    arms = set(built.get("runs", {}).get(row["run"], ()))
    statistic = row["statistic"].removesuffix("_change") + COLLAPSED
    wanted = (row["task"], row["judge"], statistic, row["slice"], row["decoding"])
    sides = []
    for name in (row["a"], row["b"]):
        found = [
            e
            for e in (built["report"] or {}).get("estimates", ())
            if e["arm"] in arms
            and e["reward_model"] == name
            and (e["task"], e["judge"], e["statistic"], e["slice"], e["decoding"]) == wanted
        ]
        if not found:
            return ""
        sides.append(cell_value(estimated(max(found, key=lambda e: e["iteration"]), "runs")))
    return ", ".join(sides)


def analysis_tables(built: Row) -> Iterator[Table]:
    """Credit, overhead and agreement, one table a run; for agreement also the numbers that were ranked.

    `built` is the content of experiment.json.
    """
    for run, analysis in built["analyses"].items():
        rows = [
            (
                row["reward_model"] or "all",  # overhead and agreement are not of one reward model
                row["statistic"],
                Cell(len(row["seeds"]), format="count"),
                estimated(row),
                row["note"],
            )
            for row in analysis["rows"]
        ]
        yield Table(f"{analysis['kind']}: {run}", ("reward model", "statistic", "seeds", "interval", "note"), rows)
        if analysis["kind"] == "agreement":
            yield standings_table(analysis["measured"])


def standings_table(measured: Sequence[Row]) -> Table:
    """The ranked numbers: every reward model under every measure, the largest gain by PPO first."""
    names = [name for name in measured[0] if name != "reward_model"]
    last = names[-1]  # PPO's gain (`agreement.standings` puts it last)
    order = sorted(measured, key=lambda row: math.inf if row[last] is None else -row[last])
    rows = [(row["reward_model"], *(Cell(row[name]) for name in names)) for row in order]
    note = "Pair accuracy on held-out pairs, and gains in gold over the SFT policy; means over seeds."
    return Table("What was ranked", ("reward model", *names), rows, note)


def experiment_tables(built: Row) -> list[Table]:
    """The tables that an experiment chose to show, in order, without empty ones.  Its own report has all tables.

    Contrasts and analyses first, then those of `tables.TABLES` that experiments.toml names in `shows`.
    """
    found = [contrasts_table(built), *analysis_tables(built)]
    if built["report"]:
        found += tables.all_tables(built["report"], own_experiments.of_record(built).shows)
    return [table for table in found if table.rows]


def experiment_markdown(built: Row) -> str:
    """One experiment as Markdown: the content of experiment.md."""
    return "\n".join(experiment_lines(built)).rstrip() + "\n"


def experiment_lines(built: Row) -> Iterator[str]:
    """One experiment line by line: question, command, seeds, what is missing, claims and tables."""
    yield from (f"# {escape(built['name'])}", "", escape(built["question"]), "")
    yield from fenced(without_folder(built["command"]))
    yield from (f"Seeds: {', '.join(map(str, built['seeds']))}.", "")
    for sentence in built["missing"]:
        yield f"- missing: {escape(sentence)}"
    for run, needed in built["left_out"].items():
        yield f"- the run {escape(run)} was left out: it needs --set {escape(needed)}=..."
    if built["missing"] or built["left_out"]:
        yield ""
    if built["claims"]:
        yield from table_lines(claims_table(built["claims"]))
        checked = checks_table(built["claims"])
        yield from table_lines(checked) if checked.rows else ()
    for table in experiment_tables(built):
        yield from table_lines(table)
    if built["report"]:
        yield f"All stages together: {duration(built['report']['manifest']['seconds_total'])} of one core."
        yield ""


def without_folder(command: str) -> str:
    """The command without --out: the folder of one machine is no part of the experiment.

    What is no command line of `bench` comes back unchanged.
    """
    if not command.startswith("bench "):
        return command  # a call of the Python API, which names no folder; shlex would remove its quotes
    try:
        words = iter(shlex.split(command))
    except ValueError:  # not a command line, such as one with an open quote
        return command
    kept = []
    for word in words:
        if word == "--out":
            next(words, None)  # its value
        elif not word.startswith("--out="):
            kept.append(word)
    return shlex.join(kept)
