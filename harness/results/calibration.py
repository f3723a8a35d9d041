"""Calibration of a pairwise judge: agreement with human labels, consistency, and biases by position and length.

Human labels are rows of prompt, a, b and label (a, b or tie).  The judge compares each pair in both orders, and some
texts with themselves, where any preference for a position is a defect.  The judge needs a measure of kind "win".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Case, Example, Generation, Pair, Split, Verdict
from rlhf_bench.harness.results.table import Table, number
from rlhf_bench.harness.seams import Judge, Task
from rlhf_bench.harness.stages.judge import measure
from rlhf_bench.harness.statistics.intervals import Interval, exact, percentile, undefined, wilson

Label = Literal["a", "b", "tie"]
LABELS: tuple[Label, ...] = ("a", "b", "tie")
COLUMNS = ("prompt", "a", "b", "label")
OUTCOMES: Mapping[Label, str] = {"a": "win", "tie": "tie", "b": "loss"}
OTHER: Mapping[Label, Label] = {"a": "b", "tie": "tie", "b": "a"}
"""The label of the same preference with a and b exchanged."""
CHOICES: Mapping[Label, str] = {"a": "A", "tie": "tie", "b": "B"}


class Labelled(NamedTuple):
    """Two responses to a prompt, and the one that a person preferred: `label` is "a", "b" or "tie"."""

    prompt: str
    a: str
    b: str
    label: Label


@dataclass(frozen=True)
class Agreement:
    """Agreement of a judge with people on n labelled pairs, all intervals at one level.

    Cohen's kappa, else shares from 0 to 1.  kappa, agreed: over decided pairs, three categories.  consistent: share of
    pairs with the same verdict in both orders.  first: share for the response shown first, of single verdicts other
    than ties.  longer, longer_human: share for the longer response (in characters), by the judge and by people, of
    pairs that differ in length and are no tie.  null_tie: share of ties among texts compared with themselves;
    null_first: share for the first of the two, among the others.
    """

    n: int
    n_invalid: int
    reasons: Mapping[str, int]
    kappa: Interval
    agreed: Interval
    consistent: Interval
    first: Interval
    longer: Interval
    longer_human: Interval
    null_tie: Interval
    null_first: Interval


def read_labelled(path: Path) -> list[Labelled]:
    """The labelled pairs of a file of rows (JSON Lines, JSON, CSV or Parquet), with the columns of COLUMNS.

    Labels are read without regard to case.  Raises BenchError with the place of a row that lacks a text or whose label
    is not one of LABELS, and as `tasks.sources.read_rows` for a file that cannot be read.
    """
    from rlhf_bench.tasks.sources import read_rows

    pairs = []
    for where, values in ((row.where, row.values) for row in read_rows(path)):
        for name in COLUMNS:
            if not isinstance(values.get(name), str):
                held = ", ".join(map(str, values)) or "nothing"
                seen = f"{where}: no text in the column {name!r} (it has {held})."
                raise BenchError(seen, f"Give {', '.join(COLUMNS)}.")
        prompt, a, b, label = (str(values[name]) for name in COLUMNS)
        chosen = next((known for known in LABELS if known == label.strip().lower()), None)
        if chosen is None:
            raise BenchError(f"{where}: the label is {label[:40]!r}.", f"It must be one of {', '.join(LABELS)}.")
        pairs.append(Labelled(prompt, a, b, chosen))
    return pairs


@runtime_checkable
class SeesItself(Protocol):
    """A judge with a method of its own for equal texts, because its `measure` calls these a tie without comparing."""

    def against_itself(self, measure: str, texts: Sequence[tuple[str, str]], task: Task | None) -> Sequence[str | None]:
        """A (the first), B, tie or None (undecided) for each (prompt, text), shown twice."""


class NoTask:
    """The task of labelled pairs whose task is not given: it has no examples."""

    max_response_tokens = 2  # the least that a Task may have

    def examples(self, split: Split) -> Sequence[Example]:  # noqa: ARG002
        return []

    def pairs(self, split: Split) -> Sequence[Pair]:  # noqa: ARG002
        return []


def calibrate(
    judge: Judge,
    rows: Sequence[Labelled],
    task: Task | None,
    rng: np.random.Generator,
    level: float = 0.95,
    null: int = 50,
    name: str = "judge",
) -> dict[str, Agreement]:
    """The judge's agreement with the labels, by measure of kind "win".

    At most `null` texts are compared with themselves.  `rng` draws the bootstrap of kappa, measure by measure.  Raises
    BenchError without rows, for a judge without a measure of kind "win", and as `stages.judge.measure` for invalid
    verdicts.
    """
    if not rows:
        raise BenchError("There is no labelled pair.", f"Give rows of {', '.join(COLUMNS)}.")
    task = task or NoTask()
    # `a` stands where the trained policy's response does: a win of the judge is the label "a"
    found = measure(name, judge, [pair_case(i, row.prompt, row.a, row.b) for i, row in enumerate(rows)], task)
    wins = [m.name for m in judge.measures if m.kind == "win"]
    if not wins:
        measured = ", ".join(m.name for m in judge.measures)
        raise BenchError(f"The judge {name!r} compares no responses (it measures {measured}).", "Give a pairwise one.")
    # a judge that compares in both orders itself notes them; for any other one, the second order is measured here
    if not any("orders" in verdict.notes for verdict in found):
        swapped = measure(name, judge, [pair_case(i, row.prompt, row.b, row.a) for i, row in enumerate(rows)], task)
        found = [_with_orders(one, other, wins) for one, other in zip(found, swapped, strict=True)]
    # each text once, though several pairs may share it
    texts = list(dict.fromkeys((row.prompt, row.a) for row in rows))[:null]
    null_choices: dict[str, Sequence[str | None]] = {}
    for win in wins:
        if isinstance(judge, SeesItself):
            null_choices[win] = judge.against_itself(win, texts, task)
        else:
            same = [pair_case(i, prompt, text, text) for i, (prompt, text) in enumerate(texts)]
            labels = [_label(verdict.values[win]) for verdict in measure(name, judge, same, task)]
            null_choices[win] = [CHOICES[label] if label else None for label in labels]
    return {win: agreement(rows, found, win, null_choices[win], rng, level) for win in wins}


def pair_case(number: int, prompt: str, after: str, before: str) -> Case:
    """A pair in the form that judges take: `after` is the trained policy's response, `before` the baseline's."""
    example = Example(str(number), prompt)
    one = Generation(example.id, 1, "sample", prompt, after, 0, True)
    return Case(example, one, replace(one, iteration=0, response=before))


def _with_orders(one: Verdict, swapped: Verdict, wins: Sequence[str]) -> Verdict:
    """A verdict of a judge that sees one order, with the outcomes of both orders, each as shown, in its notes."""
    orders = {}
    for win in wins:
        there, back = _label(one.values[win]), _label(swapped.values[win])
        # outcomes of the first response: `back` is about the pair with a and b exchanged; undecided, the reason stands
        orders[win] = [OUTCOMES[there] if there else one.reason, OUTCOMES[OTHER[back]] if back else swapped.reason]
    return replace(one, notes={**one.notes, "orders": orders})


def agreement(
    rows: Sequence[Labelled],
    verdicts: Sequence[Verdict],
    measure: str,
    null: Sequence[str | None],
    rng: np.random.Generator,
    level: float = 0.95,
) -> Agreement:
    """Agreement of verdicts (a as the trained policy's response) with labels, row by row.

    `null` holds the judge's choices (A, B, tie, None if undecided) for texts compared with themselves.
    """
    judged = [_label(verdict.values[measure]) for verdict in verdicts]
    pairs = [(row.label, label) for row, label in zip(rows, judged, strict=True) if label is not None]
    orders = [verdict.notes["orders"][measure] for verdict in verdicts if "orders" in verdict.notes]
    # consistency needs two outcomes; an undecided order holds a reason instead
    both = [pair for pair in orders if all(outcome in ("win", "tie", "loss") for outcome in pair)]
    # in the first order a win went to the answer shown first, in the second a loss did
    first = [outcome == shown for pair in orders for outcome, shown in zip(pair, ("win", "loss"), strict=True)
             if outcome in ("win", "loss")]  # fmt: skip
    usable = [choice for choice in null if choice is not None]
    uneven = [choice for choice in usable if choice != "tie"]
    return Agreement(
        n=len(rows),
        n_invalid=len(rows) - len(pairs),
        reasons=Counter(v.reason for v in verdicts if v.values[measure] is None),
        kappa=kappa_interval(table(pairs), level, rng),
        agreed=_share([one == other for one, other in pairs], level),
        consistent=_share([pair[0] == pair[1] for pair in both], level),
        first=_share(first, level),
        longer=_share(_longer(rows, judged), level),
        longer_human=_share(_longer(rows, [row.label for row in rows]), level),
        null_tie=_share([choice == "tie" for choice in usable], level),
        null_first=exact(sum(choice == "A" for choice in uneven), len(uneven), level),
    )


def _label(value: float | None) -> Label | None:
    # the value of a measure of kind "win": 1, .5 or 0, or between them where a judge averages
    if value is None:
        return None
    return "tie" if value == 0.5 else "a" if value > 0.5 else "b"


def _share(hits: Sequence[bool], level: float) -> Interval:
    """Wilson's interval of a share: pairs are independent cases without training seeds."""
    return wilson(np.asarray(hits, dtype=float), level)


def _longer(rows: Sequence[Labelled], labels: Sequence[Label | None]) -> list[bool]:
    """Whether the longer response was preferred, of pairs that differ in length and have a label other than tie."""
    return [
        (len(row.a) > len(row.b)) == (label == "a")
        for row, label in zip(rows, labels, strict=True)
        if label in ("a", "b") and len(row.a) != len(row.b)
    ]


def table(pairs: Sequence[tuple[Label, Label]]) -> npt.NDArray[np.int64]:
    """Counts [3, 3] of (person's label, judge's label), both in the order of LABELS."""
    counts = np.zeros((3, 3), dtype=np.int64)
    for one, other in pairs:
        counts[LABELS.index(one), LABELS.index(other)] += 1
    return counts


def kappa(counts: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Cohen's kappa (1960) [...] of tables of counts [..., k, k]: (observed - chance) / (1 - chance) agreement.

    Chance agreement follows from the margins alone.  NaN where it is 1: both always give the same one label.
    """
    cells = np.asarray(counts, dtype=np.float64)
    # Cohen (1960): agreement by chance is the sum over labels of the product of both margins.
    # Resamples may be tables without room for kappa: their NaN is counted by the caller, not warned about
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = cells / cells.sum((-2, -1), keepdims=True)
        chance = (shares.sum(-1) * shares.sum(-2)).sum(-1)
        observed = np.trace(shares, axis1=-2, axis2=-1)
        return np.asarray(np.where(chance < 1, (observed - chance) / (1 - chance), np.nan))


def kappa_interval(
    counts: npt.NDArray[np.int64], level: float, rng: np.random.Generator, resamples: int = 10_000
) -> Interval:
    """Percentile bootstrap of kappa over pairs, from counts [3, 3]; undefined without a pair and where chance is 1.

    Resampling the pairs is one multinomial draw over the table's cells.  Resamples without kappa are left out, and the
    note says how many.
    """
    n = int(counts.sum())
    if n == 0:
        return undefined("no decided pair", "percentile bootstrap")
    value = float(kappa(counts))
    if not np.isfinite(value):
        return undefined("people and judge always give the same one label", "percentile bootstrap")
    draws = kappa(rng.multinomial(n, counts.ravel() / n, size=resamples).reshape(resamples, *counts.shape))
    lost = float(np.isnan(draws).mean())
    note = f"undefined in {lost:.1%} of resamples" if lost else ""
    return percentile(value, draws, level, note)


STATISTICS: Sequence[tuple[str, str]] = (
    ("kappa", "agreement with people beyond chance (Cohen; three categories; 1 is perfect, 0 is chance)"),
    ("agreed", "the same label as people, of decided pairs"),
    ("consistent", "the same verdict in both orders"),
    ("first", "for the response shown first, of single verdicts that are no tie (.5: no preference)"),
    ("longer", "for the longer response, of pairs that differ in length and are no tie"),
    ("longer_human", "people for the longer response, likewise"),
    ("null_tie", "a text against itself is a tie"),
    ("null_first", "a text against itself: for the first, where it is no tie"),
)
"""What a calibration shows, in order: the fields of Agreement that are intervals."""


def agreement_table(name: str, found: Mapping[str, Agreement], level: float = 0.95) -> Table:
    """A judge's agreement with people as a table, for the terminal: one row per measure and statistic (STATISTICS).

    `found` is what `calibrate` returns at this `level`; a statistic without a value is a dash, and its row says why.
    """
    rows = []
    for win, one in found.items():
        # before the statistics: they are of the decided pairs alone
        reasons = ", ".join(f"{reason} ({count})" for reason, count in one.reasons.items())
        rows += [(win, "pairs", str(one.n), "", ""), (win, "undecided", str(one.n_invalid), "", reasons)]
        for statistic, text in STATISTICS:
            interval: Interval = getattr(one, statistic)
            if interval.value is None:
                rows.append((win, statistic, "–", "", f"{text}: {interval.note or 'cannot be said'}"))
                continue
            bounds = "" if interval.low is None else f"{number(interval.low)} to {number(interval.high)}"
            meaning = f"{text}; {interval.note}" if interval.note else text
            rows.append((win, statistic, number(interval.value), bounds, meaning))
    return Table(
        f"{name} against people", ("measure", "statistic", "value", f"{100 * level:g}% interval", "meaning"), rows
    )


class Counted(Protocol):
    """What every kind of agreement counts: rows, undecided ones, and these by reason."""

    @property
    def n(self) -> int: ...
    @property
    def n_invalid(self) -> int: ...
    @property
    def reasons(self) -> Mapping[str, int]: ...


def unusable(name: str, found: Mapping[str, Counted], threshold: float, rows: str = "pairs") -> str:
    """A sentence if a larger share of rows than `threshold` (0 to 1) is undecided, for the worst measure; else "".

    With such a sentence `bench judge --calibrate` exits with 3.
    """
    above = [one for one in found.values() if one.n_invalid > threshold * one.n]
    if not above:
        return ""
    worst = max(above, key=lambda one: one.n_invalid)
    reasons = ", ".join(f"{reason} ({count})" for reason, count in Counter(worst.reasons).most_common())
    count = f"{worst.n_invalid} of {worst.n} {rows} are undecided"
    return f"{name}: {count}, more than its threshold of {threshold:.1%}: {reasons}"
