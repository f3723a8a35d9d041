"""Agreement of a judge of refusals with labelled responses: precision, recall and kappa.

Labelled responses are rows of prompt, response and label (`judges.refusal.Label`; docs/refusals.md).  A judge takes
part with each rate whose name holds "refus".  A language model that compares pairs takes part with its rubric
`refusal`: it compares every response with a text that complies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.results.calibration import NoTask, kappa, pair_case
from rlhf_bench.harness.results.table import Table, number
from rlhf_bench.harness.seams import Judge, Task
from rlhf_bench.harness.stages.judge import measure
from rlhf_bench.harness.statistics.intervals import Interval, exact, percentile, undefined
from rlhf_bench.judges.llm.rubrics import COMPLIES_MORE
from rlhf_bench.judges.refusal import Label

LABELS: tuple[Label, ...] = get_args(Label)
COLUMNS = ("prompt", "response", "label")
COMPLYING = "Certainly. Here is all that you asked for."
"""The text that a pairwise judge compares each response with: it refuses nothing."""
RESAMPLES = 2000


class LabelledResponse(NamedTuple):
    """A response to a prompt, and what a person says that it does."""

    prompt: str
    response: str
    label: Label


@dataclass(frozen=True)
class Detection:
    """Agreement of a measure with n labelled responses; intervals resample whole prompts.

    refusals: responses labelled as such; called: responses that the measure calls so; both of the decided ones.
    precision: labelled refusals among those called; recall: called ones among the labelled; kappa: Cohen's, of two
    categories, refusal and other.
    """

    n: int
    n_invalid: int
    reasons: Mapping[str, int]
    prompts: int
    refusals: int
    called: int
    precision: Interval
    recall: Interval
    kappa: Interval


def holds_responses(path: Path) -> bool:
    """Whether a file of labels holds single responses: its first row has `response` and neither `a` nor `b`.

    Raises BenchError as `tasks.sources.read_rows`.
    """
    from rlhf_bench.tasks.sources import read_rows

    first = next(iter(read_rows(path)), None)
    return first is not None and "response" in first.values and not {"a", "b"} & set(first.values)


def read_responses(path: Path) -> list[LabelledResponse]:
    """The labelled responses of a file of rows (JSON Lines, JSON, CSV or Parquet), with the columns of COLUMNS.

    Labels are read without regard to case.  Raises BenchError with the place of a row that lacks a text or whose label
    is not one of LABELS, and as `tasks.sources.read_rows` for a file that cannot be read.
    """
    from rlhf_bench.tasks.sources import read_rows

    found = []
    for where, values in ((row.where, row.values) for row in read_rows(path)):
        for name in COLUMNS:
            if not isinstance(values.get(name), str):
                held = ", ".join(map(str, values)) or "nothing"
                raise BenchError(f"{where}: no text in the column {name!r} (it has {held}).", f"Give {COLUMNS}.")
        label = next((known for known in LABELS if known == str(values["label"]).strip().lower()), None)
        if label is None:
            seen = f"{where}: the label is {str(values['label'])[:40]!r}."
            raise BenchError(seen, f"It must be one of {', '.join(LABELS)}.")
        found.append(LabelledResponse(str(values["prompt"]), str(values["response"]), label))
    return found


def detect(
    judge: Judge,
    rows: Sequence[LabelledResponse],
    task: Task | None,
    rng: np.random.Generator,
    level: float = 0.95,
    name: str = "judge",
) -> dict[str, Detection]:
    """The judge's agreement with the labels, by measure of refusals.

    `rng` draws the bootstrap, measure by measure.  Raises BenchError without rows, for a judge without a measure of
    refusals, and as `stages.judge.measure` for invalid verdicts.
    """
    if not rows:
        raise BenchError("There is no labelled response.", f"Give rows of {', '.join(COLUMNS)}.")
    # before anything is measured: a language model costs money
    if not refusal_measures(judge):
        seen = f"The judge {name!r} measures no refusals (it measures {', '.join(m.name for m in judge.measures)})."
        raise BenchError(seen, "Give one with a rate called ..refus.., or winrate-llm with rubric=refusal.")
    cases = [pair_case(i, row.prompt, row.response, COMPLYING) for i, row in enumerate(rows)]
    found = measure(name, judge, cases, task or NoTask())
    detections = {}
    for one in refusal_measures(judge):
        values = [verdict.values[one] for verdict in found]
        # a pairwise judge says that a response complies less than the text that complies
        called = [None if value is None else value < 0.5 if one == COMPLIES_MORE else value >= 0.5 for value in values]
        reasons = Counter(verdict.reason for verdict in found if verdict.values[one] is None)
        detections[one] = detection(rows, called, reasons, rng, level)
    return detections


def refusal_measures(judge: Judge) -> list[str]:
    """The names of the judge's measures that say whether a response refuses."""
    return [m.name for m in judge.measures if (m.kind == "rate" and "refus" in m.name) or m.name == COMPLIES_MORE]


def detection(
    rows: Sequence[LabelledResponse],
    called: Sequence[bool | None],
    reasons: Mapping[str, int],
    rng: np.random.Generator,
    level: float = 0.95,
) -> Detection:
    """Agreement of calls with labels, row by row; None is undecided and left out."""
    decided = [(row, bool(one)) for row, one in zip(rows, called, strict=True) if one is not None]
    labels = [int(row.label == "refuses") for row, _ in decided]
    calls = [int(one) for _, one in decided]
    tables = tables_by(labels, calls, 2, [row.prompt for row, _ in decided])
    counts = tables.sum(0)
    draws = resampled(tables, rng)
    return Detection(
        n=len(rows),
        n_invalid=len(rows) - len(decided),
        reasons=dict(reasons),
        prompts=len(tables),
        refusals=sum(labels),
        called=sum(calls),
        precision=_share(counts[:, 1], draws[:, :, 1], level, "no response is called a refusal"),
        recall=_share(counts[1], draws[:, 1], level, "no response is labelled a refusal"),
        kappa=kappa_by(tables, draws, level),
    )


def tables_by(one: Sequence[int], other: Sequence[int], size: int, clusters: Sequence[str]) -> npt.NDArray[np.int64]:
    """Counts [C, size, size] of (category of one, category of the other), a table for each of the C clusters."""
    names = {name: k for k, name in enumerate(dict.fromkeys(clusters))}
    counts = np.zeros((len(names), size, size), dtype=np.int64)
    np.add.at(counts, ([names[name] for name in clusters], list(one), list(other)), 1)
    return counts


def resampled(tables: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Sums [R, k, k] of tables [C, k, k] over R resamples of the clusters, drawn with replacement."""
    count = len(tables)
    if not count:
        return np.zeros((0, *tables.shape[1:]), dtype=np.int64)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    return np.asarray(np.tensordot(drawn, tables, axes=1))


def kappa_by(tables: npt.NDArray[np.int64], draws: npt.NDArray[np.int64], level: float) -> Interval:
    """Cohen's kappa of tables [C, k, k] by cluster, with the percentile bootstrap over their resamples [R, k, k]."""
    if not tables.sum():
        return undefined("no decided response", "percentile bootstrap")
    value = float(kappa(tables.sum(0)))
    if not np.isfinite(value):
        return undefined("both always give the same one label", "percentile bootstrap")
    return percentile(value, kappa(draws), level)


def _share(counts: npt.NDArray[np.int64], draws: npt.NDArray[np.int64], level: float, empty: str) -> Interval:
    """The share counts[1] / counts.sum(), with the bootstrap over draws [R, 2]."""
    right, of = int(counts[1]), int(counts.sum())
    if not of:
        return undefined(empty)
    # every resample has the same share: the bootstrap would be certain
    if right in (0, of):
        return exact(right, of, level)
    with np.errstate(invalid="ignore"):
        shares = draws[:, 1] / draws.sum(1)
    return percentile(right / of, shares, level)


STATISTICS: Sequence[tuple[str, str]] = (
    ("precision", "labelled as refusals, of those called refusals"),
    ("recall", "called refusals, of those labelled so"),
    ("kappa", "agreement beyond chance (Cohen; refusal or not; 1 is perfect, 0 is chance)"),
)
"""What the table shows, in order: the fields of Detection that are intervals."""


def detection_table(name: str, found: Mapping[str, Detection], level: float = 0.95) -> Table:
    """A judge's agreement with labelled responses as a table, for the terminal; `level` is that of `found`."""
    rows = []
    for one, detected in found.items():
        reasons = ", ".join(f"{reason} ({count})" for reason, count in detected.reasons.items())
        rows += [
            (one, "responses", str(detected.n), "", f"to {detected.prompts} prompts; {detected.refusals} refusals"),
            (one, "undecided", str(detected.n_invalid), "", reasons),
            (one, "called", str(detected.called), "", "called refusals"),
        ]
        for statistic, meaning in STATISTICS:
            interval: Interval = getattr(detected, statistic)
            if interval.value is None:
                rows.append((one, statistic, "–", "", f"{meaning}: {interval.note}"))
                continue
            bounds = "" if interval.low is None else f"{number(interval.low)} to {number(interval.high)}"
            rows.append((one, statistic, number(interval.value), bounds, meaning))
    return Table(
        f"{name} against labelled responses",
        ("measure", "statistic", "value", f"{100 * level:g}% interval", "meaning"),
        rows,
    )
