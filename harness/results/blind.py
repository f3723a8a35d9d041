"""Blind reading: pairs of responses for a person to compare, and what the labels come to.

The draw depends on the finished cells and a seed alone, so it is repeated to read the labels: no key file lies beside
the pairs, and nothing in them says which arm wrote which side.  Labels are `a`, `b` or `tie`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError, did_you_mean
from rlhf_bench.harness.printable import is_formula
from rlhf_bench.harness.replacing import write_text
from rlhf_bench.harness.results.arms import CellFiles
from rlhf_bench.harness.results.calibration import LABELS, Label
from rlhf_bench.harness.results.refusal_agreement import kappa_by, resampled, tables_by
from rlhf_bench.harness.results.stored import stored_rows
from rlhf_bench.harness.results.table import Cell, Entry, Table
from rlhf_bench.harness.seeds import shown
from rlhf_bench.harness.statistics.intervals import Interval, paired, percentile, undefined

if TYPE_CHECKING:
    import numpy.typing as npt

    from rlhf_bench.harness.text.types import Row

SFT = "SFT"
"""The side that is no arm: the policy before any of them."""
COLUMNS = ("pair", "check", "prompt", "a", "b", "label")
SPECIAL = ("\t", "\r", "'")
"""Besides a formula what an apostrophe stands before in a cell of CSV, where spreadsheets take it for a text's mark."""
Golds = tuple[float | None, float | None]


@dataclass(frozen=True)
class Pair:
    """Responses of two arms to one prompt under one training seed, in the order (first arm, second arm).

    gold: their scores by the judge, None where there is none.
    """

    prompt_id: str
    seed: int | str
    arms: tuple[str, str]
    prompt: str
    responses: tuple[str, str]
    gold: Golds


@dataclass(frozen=True)
class Drawn:
    """A pair as it is shown: with `swapped` the second arm's response is a."""

    number: int
    pair: Pair
    swapped: bool

    @property
    def sides(self) -> tuple[str, str]:
        """The responses a and b."""
        one, other = self.pair.responses
        return (other, one) if self.swapped else (one, other)

    @property
    def check(self) -> str:
        """Ten digits that a row of another draw does not have."""
        return store.content_key([self.number, self.pair.prompt, *self.sides])[:10]

    def first_wins(self, label: Label) -> float:
        """1 where the label is for the first arm's response, 0 for the second's, .5 for a tie."""
        return 0.5 if label == "tie" else float((label == "a") != self.swapped)

    @property
    def gold_label(self) -> Label | None:
        """The side with the higher gold, None where either has none."""
        one, other = self.pair.gold
        if one is None or other is None:
            return None
        return "tie" if one == other else "a" if (one > other) != self.swapped else "b"


def arm_name(cell: CellFiles) -> str:
    """The optimiser and the reward model of a cell."""
    return f"{cell.record.get('optimizer', 'ppo')} {cell.record['reward_model']}".strip()


def pairs_of(cells: Sequence[CellFiles], task: str, against: str = SFT, judge: str = "utility") -> list[Pair]:
    """Every pair of different sampled responses at the end of training: each arm's and that of `against`.

    `against` is SFT or an arm's name.  Raises BenchError where no cell is of the task or of that arm, and for files
    that cannot be read.
    """
    own = [cell for cell in cells if cell.record["task"] == task]
    if not own:
        known = {cell.record["task"] for cell in cells}
        raise BenchError(f"No finished cell of task {task!r}.", did_you_mean(task, known))
    names = {arm_name(cell) for cell in own}
    if len({(arm_name(cell), cell.seed) for cell in own}) < len(own):
        seen = f"Several arms of {task} have one optimiser and one reward model, and differ in settings."
        raise BenchError(seen, "Give the results folder of one experiment, or the records of the cells to read.")
    if against not in (SFT, *names):
        raise BenchError(f"No finished cell of the arm {against!r}.", did_you_mean(against, {SFT, *names}))
    others = {str(shown(cell.seed)): cell for cell in own if arm_name(cell) == against}
    found = []
    for cell in sorted(own, key=lambda cell: (cell.seed, arm_name(cell))):
        other = others.get(str(shown(cell.seed)))
        if arm_name(cell) == against or (against != SFT and other is None):
            continue
        found += _pairs(cell, other, against, judge)
    return found


def _pairs(cell: CellFiles, other: CellFiles | None, against: str, judge: str) -> list[Pair]:
    written = _last(cell.folder("generations") / "generations.jsonl")
    rival = _last((other.folder("generations") if other else cell.folder("baseline")) / "generations.jsonl")
    gold, baseline = _gold(cell, judge)
    rival_gold = _gold(other, judge)[0] if other else baseline
    return [
        Pair(
            name,
            shown(cell.seed),
            (arm_name(cell), against),
            str(row["prompt"]),
            (str(row["response"]), str(rival[name]["response"])),
            (gold.get(name), rival_gold.get(name)),
        )
        for name, row in written.items()
        if name in rival and row["response"] != rival[name]["response"]
    ]


def _last(path: Path) -> dict[str, Row]:
    """The rows of sampled responses at the last checkpoint, by example."""
    rows = [row for row in stored_rows(path) if row["decoding"] == "sample"]
    last = max((row["iteration"] for row in rows), default=0)
    return {row["example_id"]: row for row in rows if row["iteration"] == last}


def _gold(cell: CellFiles, judge: str) -> tuple[dict[str, float], dict[str, float]]:
    """The gold of the arm's responses and of the SFT policy's by example; empty where the judge did not measure."""
    folder = cell.judged().get(judge)
    if folder is None:
        return {}, {}
    measures = store.read_json(folder / "measures.json")
    levels = [(one["name"], one["before"]) for one in measures if one["kind"] == "level" and one.get("before")]
    if not levels:
        return {}, {}
    after, before = levels[0]
    rows = {name: row["values"] for name, row in _last(folder / "verdicts.jsonl").items()}
    found: tuple[dict[str, float], dict[str, float]] = ({}, {})
    for side, name in zip(found, (after, before), strict=True):
        side.update({i: float(row[name]) for i, row in rows.items() if row.get(name) is not None})
    return found


def draw(pairs: Sequence[Pair], count: int, seed: int) -> list[Drawn]:
    """`count` pairs, as many of each pair of arms as there can be, in random order, sides at random.

    Equal pairs and an equal seed give an equal draw, whatever the order of `pairs`.  Raises BenchError without a pair.
    """
    if not pairs:
        raise BenchError("There is no pair of different responses to read.", "Give a finished run of two policies.")
    rng = np.random.default_rng(seed)
    groups: dict[tuple[str, str], list[Pair]] = {}
    for pair in sorted(pairs, key=lambda one: (one.arms, str(one.seed), one.prompt_id)):
        groups.setdefault(pair.arms, []).append(pair)
    shuffled = [[own[at] for at in rng.permutation(len(own))] for own in groups.values()]
    # in turns over the arms: an arm with few pairs leaves its places to the others
    turns = [own[at] for at in range(max(map(len, shuffled))) for own in shuffled if at < len(own)][:count]
    swapped = rng.integers(0, 2, len(turns))
    order = rng.permutation(len(turns))
    return [Drawn(number, turns[at], bool(swapped[at])) for number, at in enumerate(order.tolist(), 1)]


def write_pairs(path: Path, drawn: Sequence[Drawn]) -> None:
    """Write the pairs without a name of an arm: CSV or JSON Lines, by the ending.

    Raises BenchError for another ending, and where the file is there: it may hold labels.
    """
    if path.suffix not in (".csv", ".jsonl"):
        raise BenchError(f"{path} is neither .csv nor .jsonl by its name.", "Choose one of them.")
    if path.exists():
        raise BenchError(f"{path} is there, and may hold labels.", "Give another name, or delete it.")
    rows = [dict(zip(COLUMNS, (one.number, one.check, one.pair.prompt, *one.sides, ""), strict=True)) for one in drawn]
    if path.suffix == ".jsonl":
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        sheet = StringIO()
        writer = csv.DictWriter(sheet, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _plain(value) for name, value in row.items()} for row in rows)
        text = sheet.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)


def _plain(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and (is_formula(value) or value.startswith(SPECIAL)) else value


def read_labels(path: Path, drawn: Sequence[Drawn]) -> dict[int, Label]:
    """The labels by number of pair; rows without a label are left out.

    Raises BenchError for a row that is none of the draw's, twice there, or has another label than a, b and tie, and
    where nothing is labelled.
    """
    from rlhf_bench.tasks.sources import read_rows

    known = {str(one.number): one for one in drawn}
    found: dict[int, Label] = {}
    for row in read_rows(path):
        one = known.get(str(row.values.get("pair", "")).strip())
        if one is None or str(row.values.get("check", "")).strip().lstrip("'") != one.check:
            fix = "Give the runs, --task, --against, --count and --seed of that draw, and its columns pair and check."
            raise BenchError(f"{row.where}: this pair is not of this draw.", fix)
        text = str(row.values.get("label") or "").strip().lower()
        label = next((known_label for known_label in LABELS if known_label == text), None)
        if text and label is None:
            raise BenchError(f"{row.where}: the label is {text[:40]!r}.", f"It must be one of {', '.join(LABELS)}.")
        if one.number in found:
            raise BenchError(f"{row.where}: the pair {one.number} is there twice.", "Keep one of them.")
        if label is not None:
            found[one.number] = label
    if not found:
        raise BenchError(f"{path} has no label.", f"Write {', '.join(LABELS)} into the column label.")
    return found


@dataclass(frozen=True)
class Reading:
    """What the labels come to; intervals resample whole prompts.

    wins: by pair of arms the share won by the first one, a tie counting half.   kappa, agreed: with the gold model, of
    three labels; `firm`: the same label, of the pairs that the reader did not call a tie.   side_a: of these the share
    for a, which is .5 without a preference for a side.   counts: labels; by_gold: pairs that gold decides.
    """

    drawn: int
    read: int
    counts: Mapping[str, int]
    wins: Mapping[tuple[str, str], tuple[int, Interval]]
    by_gold: int
    kappa: Interval
    agreed: Interval
    firm: Interval
    side_a: Interval


def read_out(drawn: Sequence[Drawn], labels: Mapping[int, Label], level: float, seed: int = 0) -> Reading:
    """The reading of the labelled pairs at a confidence level; `seed` starts the bootstraps."""
    own = [(one, labels[one.number]) for one in drawn if one.number in labels]
    rng = np.random.default_rng([seed, 1])
    wins: dict[tuple[str, str], tuple[int, Interval]] = {}
    names = sorted({one.pair.arms for one, _ in own})
    for arms in [*names, *([ALL] if len({first for first, _ in names}) > 1 else [])]:
        part = [(one, label) for one, label in own if arms in (ALL, one.pair.arms)]
        values = [one.first_wins(label) for one, label in part]
        clusters = [one.pair.prompt for one, _ in part]
        wins[arms] = len(part), paired(values, level, rng, clusters).clipped(0.0, 1.0)
    decided = [(one, label, gold) for one, label in own if (gold := one.gold_label) is not None]
    tables = tables_by(
        [LABELS.index(label) for _, label, _ in decided],
        [LABELS.index(gold) for *_, gold in decided],
        len(LABELS),
        [one.pair.prompt for one, *_ in decided],
    )
    draws = resampled(tables, rng)
    firm = [one for one in own if one[1] != "tie"]
    return Reading(
        drawn=len(drawn),
        read=len(own),
        counts={label: sum(found == label for _, found in own) for label in LABELS},
        wins=wins,
        by_gold=len(decided),
        kappa=kappa_by(tables, draws, level),
        agreed=_agreed(tables, draws, level, range(len(LABELS))),
        firm=_agreed(tables, draws, level, [LABELS.index("a"), LABELS.index("b")]),
        side_a=paired([float(label == "a") for _, label in firm], level, rng, [one.pair.prompt for one, _ in firm]),
    )


ALL = ("all arms", "")


def _agreed(tables: npt.NDArray[np.int64], draws: npt.NDArray[np.int64], level: float, rows: Sequence[int]) -> Interval:
    """The share of equal labels among the reader's labels `rows`, from tables [C, k, k] and resamples [R, k, k]."""
    counts = tables.sum(0)
    of = counts[list(rows)].sum()
    if not of:
        return undefined("no decided pair")
    same = sum(draws[:, at, at] for at in rows)
    with np.errstate(invalid="ignore"):
        shares = same / draws[:, list(rows)].sum((1, 2))
    return percentile(float(sum(counts[at, at] for at in rows) / of), shares, level)


def reading_tables(found: Reading, level: float = 0.95) -> list[Table]:
    """The reading as tables: wins by pair of arms, and agreement with the gold model."""
    wins: list[tuple[Entry, ...]] = [
        (first, second or "the other side", Cell(count, format="count"), _cell(share), share.note)
        for (first, second), (count, share) in found.wins.items()
    ]
    share = f"preferred, {100 * level:g}% interval"
    note = (
        f"{found.read} of {found.drawn} drawn pairs were read: "
        + ", ".join(f"{count} {label}" for label, count in found.counts.items())
        + ". A tie counts half; intervals resample whole prompts."
    )
    rows: list[tuple[Entry, ...]] = [
        (f"the same label, of {found.by_gold} pairs (three labels)", _cell(found.agreed), found.agreed.note),
        ("Cohen's kappa (three labels; 1 is perfect, 0 is chance)", _cell(found.kappa), found.kappa.note),
        ("the same side, of the pairs that are no tie to the reader", _cell(found.firm), found.firm.note),
        ("for side a, of the pairs that are no tie (.5: no preference)", _cell(found.side_a), found.side_a.note),
    ]
    return [
        Table("Read blind", ("arm", "against", "pairs", share, "note"), wins, note),
        Table("Reader and gold model", ("of what", f"value, {100 * level:g}% interval", "note"), rows),
    ]


def _cell(found: Interval) -> Cell:
    return Cell(found.value, found.low, found.high)
