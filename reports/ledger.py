"""Experiments and the ledger of claims as tables and Markdown: the contents of docs/results.md."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rlhf_bench.harness.plan import experiments
from rlhf_bench.harness.results.table import Cell, Table, estimated
from rlhf_bench.reports import tables
from rlhf_bench.reports.answer import VERDICTS
from rlhf_bench.reports.markdown import escape, fenced, table_lines

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import Row


def claims_table(rows: Sequence[Row]) -> Table:
    """One row per claim: the verdict and the interval it came from.

    `rows` are those of `claims.Result.row`; "detectable" is a distance from the claim's threshold, in the measure's
    unit, at power .8.
    """
    shown = [
        (
            row["id"],
            row["verdict"],
            estimated(row),
            Cell(len(row["seeds"]), format="count"),
            "" if row["detectable"] is None else Cell(row["detectable"]),
            row["measured"],
            row["rule"],
        )
        for row in rows
    ]
    columns = ("claim", "verdict", "interval", "seeds", "detectable", "measured", "rule")
    return Table("Claims", columns, shown, "detectable: the effect that an inconclusive design would have found.")


def verdicts_table(rows: Sequence[Row]) -> Table:
    """The short form for a terminal: the claim in words, its verdict and interval; the id comes last."""
    shown = [
        (row["verdict"], row["text"], estimated(row), Cell(len(row["seeds"]), format="count"), row["id"])
        for row in rows
    ]
    return Table("Claims", ("verdict", "claim", "interval", "seeds", "id"), shown)


def texts_table(rows: Sequence[Row]) -> Table:
    """The claims in words, where they are made, and what the paper reports."""
    shown = [(row["id"], row["text"], row["reported"], row["source"], row["note"]) for row in rows]
    return Table("What the claims say", ("claim", "text", "reported", "source", "note"), shown)


def contrasts_table(built: Row) -> Table:
    """Paired differences of reward models, by run; "by seed" shows whether the seeds agree.

    "says" names the reward model with the higher value, which need not be the better one: lengths are contrasted, too.
    """
    rows = []
    for row in built["contrasts"]:
        # an interval over one seed is conditional on its training run, so it decides nothing about reward models
        if row["low"] is None or len(row["seeds"]) < 2 or row["low"] <= 0 <= row["high"]:
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
            )
        )
    columns = ("run", "task", "difference", "of", "decoding", "interval", "says", "by seed")
    return Table("Contrasts", columns, rows, "Paired on prompts and training seeds.")


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
        found += tables.all_tables(built["report"], experiments.find(built["name"]).shows)
    return [table for table in found if table.rows]


def experiment_markdown(built: Row, level: int = 1) -> str:
    """One experiment as Markdown; `level` is the depth of its heading.

    The content of experiment.md; docs/results.md has the same below other headings.
    """
    return "\n".join(experiment_lines(built, "#" * level)).rstrip() + "\n"


def experiment_lines(built: Row, mark: str) -> Iterator[str]:
    """One experiment, its heading marked by `mark` ("#", "##", ...)."""
    yield from (f"{mark} {escape(built['name'])}", "", escape(built["question"]), "")
    yield from fenced(without_folder(built["command"]))
    yield from (f"Seeds: {', '.join(map(str, built['seeds']))}.", "")
    for sentence in built["missing"]:
        yield f"- missing: {escape(sentence)}"
    for run, needed in built["left_out"].items():
        yield f"- the run {escape(run)} was left out: it needs --set {escape(needed)}=..."
    if built["missing"] or built["left_out"]:
        yield ""
    if built["claims"]:
        yield from table_lines(claims_table(built["claims"]), f"{mark}#")
    for table in experiment_tables(built):
        yield from table_lines(table, f"{mark}#")
    if built["report"]:
        yield f"All stages together: {built['report']['manifest']['seconds_total'] / 60:.1f} minutes of one core."
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


def results_markdown(built: Sequence[Row], ledger: Sequence[Row], intro: str = "") -> str:
    """The ledger of claims and every experiment as one Markdown page, `intro` below its heading.

    `built`: contents of experiment.json.  `ledger`: rows of every claim, those without an experiment included
    (`experiments.whole_ledger`).
    """
    verdicts = [row["verdict"] for row in ledger]
    counts = ", ".join(f"{verdicts.count(name)} {name}" for name in VERDICTS)
    said = f"Of {len(ledger)} claims: {counts}. Verdicts are not adjusted for the number of claims."
    lines = ["# Results", ""]
    if intro:
        lines += [intro.strip(), ""]
    lines += ["## The claims, and what the intervals say", "", said, ""]
    lines += [*table_lines(claims_table(ledger), "###"), *table_lines(texts_table(ledger), "###")]
    for experiment in built:
        lines += experiment_lines(experiment, "##")
    return "\n".join(lines).rstrip() + "\n"
