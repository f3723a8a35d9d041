"""Experiments and the ledger of claims as tables and Markdown: what docs/results.md is made of."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlhf_bench.harness.plan import experiments
from rlhf_bench.harness.results.table import Cell, Table, estimated
from rlhf_bench.reports import tables
from rlhf_bench.reports.markdown import escape, fenced, table_lines

Built = Mapping[str, Any]


def claims_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One row per claim: the verdict and the interval it came from."""
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


def verdicts_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The short form, for a terminal: what is claimed, and the verdict."""
    shown = [
        (row["verdict"], row["text"], estimated(row), Cell(len(row["seeds"]), format="count"), row["id"])
        for row in rows
    ]
    return Table("Claims", ("verdict", "claim", "interval", "seeds", "id"), shown)


def texts_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """What the claims say, where, and what the paper reports."""
    shown = [(row["id"], row["text"], row["reported"], row["source"], row["note"]) for row in rows]
    return Table("What the claims say", ("claim", "text", "reported", "source", "note"), shown)


def contrasts_table(built: Built) -> Table:
    """Paired differences of reward models, by run."""
    rows = [
        (
            row["run"],
            row["task"],
            f"{row['a']} - {row['b']}",
            f"{row['judge']}.{row['statistic']}" + ("" if row["slice"] == "all" else f" ({row['slice']})"),
            row["decoding"],
            estimated(row),
            _says(row),
            tuple(map(Cell, row["by_seed"])),
        )
        for row in built["contrasts"]
    ]
    columns = ("run", "task", "difference", "of", "decoding", "interval", "says", "by seed")
    return Table("Contrasts", columns, rows, "Paired on prompts and training seeds.")


def _says(row: Mapping[str, Any]) -> str:
    """Which of the two the whole interval favours; one seed says nothing."""
    if row["low"] is None or len(row["seeds"]) < 2 or row["low"] <= 0 <= row["high"]:
        return "undecided"
    return f"{row['a'] if row['low'] > 0 else row['b']} higher"


def analysis_tables(built: Built) -> Iterator[Table]:
    """Credit, overhead and agreement, one table a run; for agreement what was ranked, too."""
    for run, analysis in built["analyses"].items():
        rows = [
            (
                row["reward_model"] or "all",
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


def standings_table(measured: Sequence[Mapping[str, Any]]) -> Table:
    """What was ranked: every reward model under every measure, those first that PPO gained most with."""
    names = [name for name in measured[0] if name != "reward_model"]
    last = names[-1]
    order = sorted(measured, key=lambda row: math.inf if row[last] is None else -row[last])
    rows = [(row["reward_model"], *(Cell(row[name]) for name in names)) for row in order]
    note = "Pair accuracy on held-out pairs, and gains in gold over the SFT policy; means over seeds."
    return Table("What was ranked", ("reward model", *names), rows, note)


def experiment_tables(built: Built) -> list[Table]:
    """What an experiment shows, in order; empty ones left out.  Its own report has all there is."""
    found = [contrasts_table(built), *analysis_tables(built)]
    if built["report"]:
        found += tables.all_tables(built["report"], experiments.find(built["name"]).shows)
    return [table for table in found if table.rows]


def experiment_markdown(built: Built, level: int = 1) -> str:
    """One experiment as text, its heading `level` deep."""
    return "\n".join(_experiment(built, "#" * level)).rstrip() + "\n"


def _experiment(built: Built, mark: str) -> Iterator[str]:
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
    """The command as anybody may give it: where one machine keeps its results is no part of what was done."""
    if not command.startswith("bench "):
        return command  # a call of the Python API, which names no folder; shlex would remove its quotes
    try:
        words = iter(shlex.split(command))
    except ValueError:  # nobody's command line
        return command
    kept = []
    for word in words:
        if word == "--out":
            next(words, None)
        elif not word.startswith("--out="):
            kept.append(word)
    return shlex.join(kept)


def results_markdown(built: Sequence[Built], ledger: Sequence[Mapping[str, Any]], intro: str = "") -> str:
    """The ledger and every experiment."""
    lines = ["# Results", ""]
    if intro:
        lines += [intro.strip(), ""]
    lines += ["## The claims, and what the intervals say", "", _count(ledger), ""]
    lines += [*table_lines(claims_table(ledger), "###"), *table_lines(texts_table(ledger), "###")]
    for experiment in built:
        lines += _experiment(experiment, "##")
    return "\n".join(lines).rstrip() + "\n"


def _count(ledger: Sequence[Mapping[str, Any]]) -> str:
    verdicts = [row["verdict"] for row in ledger]
    names = ("supported", "contradicted", "inconclusive", "not run")
    counts = ", ".join(f"{verdicts.count(name)} {name}" for name in names)
    return f"Of {len(ledger)} claims: {counts}. Verdicts are not adjusted for the number of claims."
