"""The verdicts on claims as tables and sentences, for every form of a report.

Rows are those of a report's `claims` (harness/results/claims.py).  Those of older versions have a direction alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlhf_bench.harness.results.table import Cell, Table, estimated, number
from rlhf_bench.reports.answer import VERDICTS

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import Row

SIZES = ("inside", "outside", "not known")
NOTE = (
    "Direction: the side of the threshold on which the whole interval lies. p: two-sided, of the threshold, by the "
    "method of the interval; p (Holm) is adjusted over the claims of this table, and so is the direction beside it. "
    "Size: the reported figure inside the interval or outside; inside an interval that is wide says little. "
    "Same verdict in: of the other decoding, and equal KL in both. "
    "Detectable: the effect that an inconclusive design would have found."
)
CHECKS_NOTE = (
    "The claim's rule, applied to other intervals. Other arm: whether the same holds of it. Equal KL: at the largest "
    "KL of a fixed ladder that the compared arms reach, between checkpoints; of one arm, that every arm of the run "
    "reaches; a share of prompts won is there replaced by the difference of means. Not adjusted for their number."
)


def claims_table(rows: Sequence[Row]) -> Table:
    """One row per claim: the verdicts on its direction and size, and the interval they came from.

    `rows` are those of `claims.adjusted`; "detectable" is a distance from the claim's threshold, in the measure's unit,
    at power .8.
    """
    shown = [
        (
            row["id"],
            row["verdict"],
            estimated(row),
            Cell(row.get("p"), format="p"),
            Cell(row.get("p_holm"), format="p"),
            row.get("verdict_holm", ""),
            figure(row),
            size(row),
            agreeing(row, "other decoding", "equal KL"),
            Cell(len(row["seeds"]), format="count"),
            "" if row["detectable"] is None else Cell(row["detectable"]),
            row["measured"],
            row["rule"],
        )
        for row in rows
    ]
    columns = (
        "claim", "direction", "interval", "p", "p (Holm)", "direction (Holm)", "reported figure", "size",
        "same verdict in", "seeds", "detectable", "measured", "rule",
    )  # fmt: skip
    return Table("Claims", columns, shown, NOTE)


def verdicts_table(rows: Sequence[Row]) -> Table:
    """The short form for a terminal: the claim's verdicts, its words and interval; the id comes last."""
    shown = [
        (
            row["verdict"],
            row.get("verdict_holm", ""),
            size(row),
            row["text"],
            estimated(row),
            Cell(len(row["seeds"]), format="count"),
            row["id"],
        )
        for row in rows
    ]
    return Table("Claims", ("direction", "(Holm)", "size", "claim", "interval", "seeds", "id"), shown)


def checks_table(rows: Sequence[Row]) -> Table:
    """One row per check of a claim: its interval, and the claim's rule applied to it."""
    shown = [
        (row["id"], one["check"], one["verdict"], estimated(one), Cell(len(one["seeds"]), format="count"),
         " ".join(filter(None, [one["measured"], one.get("note", "")])))
        for row in rows
        for one in row.get("checks", ())
    ]  # fmt: skip
    columns = ("claim", "check", "direction", "interval", "seeds", "measured")
    return Table("The claims in the other decoding, of other arms, at equal KL", columns, shown, CHECKS_NOTE)


def agreeing(row: Row, *kinds: str) -> str:
    """How many of a claim's checks of these kinds come to its own verdict: "2 of 3", "" without any."""
    found = [one["verdict"] == row["verdict"] for one in row.get("checks", ()) if one["check"] in kinds]
    return f"{sum(found)} of {len(found)}" if found else ""


def texts_table(rows: Sequence[Row]) -> Table:
    """The claims in words, where they are made, and what the paper reports."""
    shown = [(row["id"], row["text"], *(row.get(name, "") for name in ("reported", "source", "note"))) for row in rows]
    return Table("What the claims say", ("claim", "text", "reported", "source", "note"), shown)


def figure(row: Row) -> str:
    """The paper's figure in words, "" where it gives none."""
    return " to ".join(map(number, row.get("figure", ())))


def size(row: Row) -> str:
    """The verdict on the size, "" where the paper gives no figure."""
    found: str = row.get("size", "no figure")
    return "" if found == "no figure" else found


def summary(rows: Sequence[Row]) -> list[str]:
    """Sentences that count the verdicts: direction, direction after Holm's adjustment, size; [] without claims."""
    if not rows:
        return []
    counts = ", ".join(f"{_count(rows, 'verdict', name)} {name}" for name in VERDICTS)
    said = [f"Of {len(rows)} claims: {counts}."]
    tested = sum(row.get("p") is not None for row in rows)
    if tested:
        after = ", ".join(f"{_count(rows, 'verdict_holm', name)} {name}" for name in VERDICTS[:2])
        said.append(f"After Holm's adjustment over the {tested} direction tests: {after}.")
    figures = sum(bool(row.get("figure")) for row in rows)
    if figures:
        sizes = ", ".join(f"{_count(rows, 'size', name)} {name}" for name in SIZES)
        said.append(f"The reported figure, which {figures} claims have, lies inside the interval or outside: {sizes}.")
    return said


def _count(rows: Sequence[Row], key: str, name: str) -> int:
    return sum(row.get(key) == name for row in rows)
