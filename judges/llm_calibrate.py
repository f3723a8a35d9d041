"""How far a judge can be trusted: agreement with people, consistency, what it prefers whatever the content.

Human labels are rows of prompt, a, b and label (a, b or tie).  The judge sees each pair in both orders, and some texts
against themselves, where any preference for a position is a defect.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Case, Example, Generation, Verdict
from rlhf_bench.harness.seams import Task
from rlhf_bench.harness.statistics import Interval, exact, nothing, percentile, wilson
from rlhf_bench.judges.llm import WinRateLLM
from rlhf_bench.judges.llm_prompt import Question
from rlhf_bench.judges.llm_rubrics import rubric_of

Label = Literal["a", "b", "tie"]
LABELS: tuple[Label, ...] = ("a", "b", "tie")
COLUMNS = ("prompt", "a", "b", "label")
LABEL_OF: Mapping[float, Label] = {1.0: "a", 0.5: "tie", 0.0: "b"}


class Labelled(NamedTuple):
    """Two responses and which one a person preferred."""

    prompt: str
    a: str
    b: str
    label: Label


@dataclass(frozen=True)
class Agreement:
    """A judge against people on n labelled pairs, all intervals at one level.

    kappa and agreed: over decided pairs, three categories.  consistent: both orders say the same.  first: the verdict
    goes to the answer shown first, of single verdicts that are no tie.  longer and longer_human: the longer response
    (in characters) is preferred, of pairs that differ in length and are no tie.  null_tie and null_first: a text
    against itself is a tie; if not, the first is preferred.
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
    """The labelled pairs of a file of rows; raises BenchError naming the row at fault."""
    from rlhf_bench.tasks.sources import read_rows

    return [_labelled(row.where, row.values) for row in read_rows(path)]


def _labelled(where: str, values: Mapping[str, object]) -> Labelled:
    for name in COLUMNS:
        if not isinstance(values.get(name), str):
            held = ", ".join(map(str, values)) or "nothing"
            raise BenchError(f"{where}: no text in the column {name!r} (it has {held}).", f"Give {', '.join(COLUMNS)}.")
    prompt, a, b, label = (str(values[name]) for name in COLUMNS)
    chosen = next((known for known in LABELS if known == label.strip().lower()), None)
    if chosen is None:
        raise BenchError(f"{where}: the label is {label[:40]!r}.", f"It must be one of {', '.join(LABELS)}.")
    return Labelled(prompt, a, b, chosen)


def calibrate(
    judge: WinRateLLM,
    rows: Sequence[Labelled],
    task: Task | None,
    rng: np.random.Generator,
    level: float = 0.95,
    null: int = 50,
) -> dict[str, Agreement]:
    """The judge's agreement with the labels, by measure of its rubric; at most `null` texts go against themselves."""
    if not rows:
        raise BenchError("There is no labelled pair.", f"Give rows of {', '.join(COLUMNS)}.")
    found = list(judge.measure([_case(i, row) for i, row in enumerate(rows)], task))
    texts = list(dict.fromkeys((row.prompt, row.a) for row in rows))[:null]
    made = {}
    for measure, criterion in rubric_of(judge.rubric, task).criteria.items():
        asked = [Question(prompt, text, text, criterion, order=0) for prompt, text in texts]
        choices = [reading.choice for reading in judge.readings(asked)]
        made[measure] = agreement(rows, found, measure, choices, rng, level)
    return made


def _case(number: int, row: Labelled) -> Case:
    example = Example(str(number), row.prompt)
    a = Generation(example.id, 1, "sample", row.prompt, row.a, 0, True)
    return Case(example, a, Generation(example.id, 0, "sample", row.prompt, row.b, 0, True))


def agreement(
    rows: Sequence[Labelled],
    verdicts: Sequence[Verdict],
    measure: str,
    null: Sequence[str | None],
    rng: np.random.Generator,
    level: float = 0.95,
) -> Agreement:
    """Agreement of verdicts (a as the trained policy's response) with labels, row by row.

    `null` holds the judge's choice (A, B, tie, None) for texts against themselves.
    """
    judged = [_label(verdict.values[measure]) for verdict in verdicts]
    pairs = [(row.label, label) for row, label in zip(rows, judged, strict=True) if label is not None]
    orders = [verdict.notes["orders"][measure] for verdict in verdicts if "orders" in verdict.notes]
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
    return None if value is None else LABEL_OF[value]


def _share(hits: Sequence[bool], level: float) -> Interval:
    return wilson(np.asarray(hits, dtype=float), level)


def _longer(rows: Sequence[Labelled], labels: Sequence[Label | None]) -> list[bool]:
    """Whether the longer one was preferred, of pairs where that can be said."""
    return [
        (len(row.a) > len(row.b)) == (label == "a")
        for row, label in zip(rows, labels, strict=True)
        if label in ("a", "b") and len(row.a) != len(row.b)
    ]


def table(pairs: Sequence[tuple[Label, Label]]) -> npt.NDArray[np.int64]:
    """Counts [3, 3] of (person's label, judge's label)."""
    counts = np.zeros((3, 3), dtype=np.int64)
    for one, other in pairs:
        counts[LABELS.index(one), LABELS.index(other)] += 1
    return counts


def kappa(counts: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Cohen's kappa (1960) of tables [..., k, k]: agreement beyond what the margins alone would give; nan where these
    leave no room for it (both always give the same one label)."""
    cells = np.asarray(counts, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = cells / cells.sum((-2, -1), keepdims=True)
        chance = (shares.sum(-1) * shares.sum(-2)).sum(-1)
        observed = np.trace(shares, axis1=-2, axis2=-1)
        return np.asarray(np.where(chance < 1, (observed - chance) / (1 - chance), np.nan))


def kappa_interval(
    counts: npt.NDArray[np.int64], level: float, rng: np.random.Generator, resamples: int = 10_000
) -> Interval:
    """Percentile bootstrap of kappa over pairs: resampling pairs is one multinomial draw over the table's cells."""
    n = int(counts.sum())
    if n == 0:
        return nothing("no decided pair", "percentile bootstrap")
    value = float(kappa(counts))
    if not np.isfinite(value):
        return nothing("people and judge always give the same one label", "percentile bootstrap")
    draws = kappa(rng.multinomial(n, counts.ravel() / n, size=resamples).reshape(resamples, *counts.shape))
    undefined = float(np.isnan(draws).mean())
    note = f"undefined in {undefined:.1%} of resamples" if undefined else ""
    return percentile(value, draws, level, note)
