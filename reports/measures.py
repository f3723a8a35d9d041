"""The measures of a report, and the look-ups of their estimates that tables, figures and sentences share.

A judge declares with its measures what they are called and where they are shown (`nouns.Measure`), the judge stage
stores it in measures.json, and a report carries it as `measures`, complete and in the order of columns.  Tables,
figures, the comparison of reward models, the page and the exports read it from there and name no judge.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

from rlhf_bench.harness import store
from rlhf_bench.harness.nouns import Measure, MeasureKind, ReportPlace
from rlhf_bench.harness.results.arms import Arm
from rlhf_bench.harness.results.table import CellFormat
from rlhf_bench.harness.statistics.runs import RULE

Report = Mapping[str, Any]
Row = Mapping[str, Any]

RUN = "run"
"""The judge of what the run itself logs: KL and reward."""
PROXY = "proxy"
"""The judge of an arm's curve of gold against reward (harness/results/proxy_estimates.py), which has its own tables."""

COLLAPSED = " runs collapsed"
"""Ends the statistic that counts collapsed runs (harness/statistics/runs.py)."""

KIND_REFERENCE: Mapping[str, float | None] = {"win": 0.5, "change": 0.0, "rate": None, "level": None}
EVERYWHERE: tuple[ReportPlace, ...] = get_args(ReportPlace)
UNITS = {"share": "share", "percent": "share", "tokens": "tokens", "nats": "nats"}
"""The unit on the axis of a figure, by format."""


@dataclass(frozen=True, slots=True)
class Column:
    """One measure of one judge, complete: nothing is left to be derived.

    `reference` is None for a measure without a value that means no effect; see `nouns.Measure` for the other fields.
    """

    judge: str
    statistic: str
    kind: MeasureKind
    title: str
    description: str = ""
    before: str = ""
    limit: float | None = None
    reference: float | None = None
    format: CellFormat = "number"
    better: str = ""
    shown: tuple[str, ...] = EVERYWHERE

    @property
    def key(self) -> tuple[str, str]:
        """Judge and statistic, which name an estimate's measure."""
        return self.judge, self.statistic

    @property
    def answers(self) -> bool:
        """Whether its interval says better or worse than the SFT baseline."""
        return self.reference is not None and bool(self.better)

    @property
    def unit(self) -> str:
        """What an axis adds to the title, "" for a plain number."""
        return UNITS.get(self.format, "")


def _known(name: str, kind: MeasureKind, title: str, **fields: Any) -> tuple[tuple[str, str], Measure]:
    judge, _, statistic = name.partition(".")
    return (judge, statistic), Measure(statistic, kind, title=title, **fields)


KNOWN: Mapping[tuple[str, str], Measure] = dict(
    (
        _known("utility.gold", "level", "gold", before="gold_baseline", better="higher",
               shown=("headline", "curves", "figures", "pairs")),
        _known("utility.gold_change", "change", "gold change", better="higher", shown=("headline", "slices", "pairs")),
        _known("winrate.win_rate", "win", "win rate"),
        _known("length.length_change", "change", "length change", format="tokens"),
        _known("empty.empty_rate", "rate", "empty", format="share", better="lower"),
        _known("refusal.refusal_rate", "rate", "refusals", format="share"),
        _known("winrate-llm.win_rate", "win", "win rate by a language model"),
        _known("winrate-llm.win_rate_helpful", "win", "more helpful"),
        _known("winrate-llm.win_rate_harmless", "win", "more harmless"),
        _known("winrate-rm.win_rate", "win", "win rate by a reward model"),
        _known("utility.score_change", "change", "score change"),
        _known("run.kl", "level", "KL", format="nats", shown=("headline", "curves", "figures")),
        _known("run.reward", "level", "reward", shown=("curves",)),
        _known("utility.gold_baseline", "level", "gold of the SFT baseline", shown=()),
        _known("utility.score", "level", "score", before="score_baseline", shown=()),
        _known("utility.score_baseline", "level", "score of the SFT baseline", shown=()),
        _known("length.length", "level", "length", format="tokens", shown=()),
        _known("length.truncated_rate", "rate", "cut off", format="share", better="lower", shown=()),
        _known("refusal.refusal_change", "change", "refusal change", limit=1.0, format="share", shown=()),
    )
)  # fmt: skip
"""The measures that come with the package, in the order of their columns; those of other judges follow.

Results of versions before measures declared how they are shown are read with these declarations; new results bring
their own, which a test keeps equal to these.
"""


def described(arms: Sequence[Arm]) -> list[Column]:
    """The measures of all judges of the arms, and the run's own, from measures.json; in the order of columns."""
    # the run's own come first, so that no plugin called "run" replaces them
    rows = {(RUN, name): asdict(KNOWN[RUN, name]) for name in ("kl", "reward")}
    for arm in arms:
        for judge, folder in arm.cells[0].judged().items():  # all seeds of an arm have the same judges
            for row in store.read_json(folder / "measures.json"):
                rows.setdefault((judge, row["name"]), row)
    return list(_with_collapse(complete(rows)))


def _with_collapse(columns: Sequence[Column]) -> Iterator[Column]:
    """The columns, and after each change to a measured baseline the share of runs in which it is a collapse."""
    levels = {(column.judge, f"{column.statistic}_change"): column for column in columns if column.before}
    taken = {column.title for column in columns}
    for column in columns:
        yield column
        level = levels.get(column.key)
        if level is not None and column.kind == "change":
            title = "collapsed" if "collapsed" not in taken else f"collapsed ({level.title})"
            taken.add(title)
            name, shown = f"{level.statistic}{COLLAPSED}", ("headline", "slices")
            kept = tuple(place for place in shown if place in column.shown)
            yield Column(column.judge, name, "rate", title, RULE, format="runs", shown=kept)


def complete(rows: Mapping[tuple[str, str], Row]) -> list[Column]:
    """Columns of rows of measures.json by judge and name: in order, with defaults, and no title twice."""
    places = {key: place for place, key in enumerate(KNOWN)}
    listed = {key: place for place, key in enumerate(rows)}
    # the level of the baseline that another measure is compared with says nothing about the policy
    baselines = {(judge, row.get("before")) for (judge, _), row in rows.items()}
    columns: list[Column] = []
    taken: set[str] = set()
    for key in sorted(rows, key=lambda key: (places.get(key, len(places)), key[0], listed[key])):
        row = rows[key]
        if "title" not in row and key in KNOWN:  # of a version before measures said how they are shown
            declared = asdict(KNOWN[key])
            row = {**row, **{name: declared[name] for name in ("title", "reference", "format", "better", "shown")}}
        title = row.get("title") or f"{key[1].replace('_', ' ')} ({key[0]})"
        title = f"{title} ({key[0]})" if title in taken else title  # two judges may choose one title
        taken.add(title)
        columns.append(_column(key[0], row, title, everywhere=key not in baselines))
    return columns


def _column(judge: str, row: Row, title: str, everywhere: bool) -> Column:
    """`everywhere` is where a measure is shown that does not say where."""
    shown, reference = row.get("shown"), row.get("reference")
    return Column(
        judge=judge,
        statistic=row["name"],
        kind=row["kind"],
        title=title,
        description=row.get("description", ""),
        before=row.get("before", ""),
        limit=row.get("limit"),
        reference=KIND_REFERENCE.get(row["kind"]) if reference is None else reference,
        format=row.get("format", "number"),
        better=row.get("better") or ("higher" if row["kind"] == "win" else ""),
        shown=tuple(shown) if shown is not None else EVERYWHERE if everywhere else (),
    )


# ---- of a report ----------------------------------------------------------------------------------------------------


def of_report(report: Report) -> list[Column]:
    """The report's measures, in the order of columns.

    A report of an older version carries none: the package's own statistics are known by their names, and those of other
    judges are shown everywhere.
    """
    if "measures" in report:
        return [Column(**{**row, "shown": tuple(row["shown"])}) for row in report["measures"]]
    known = {judge for judge, _ in KNOWN} | {PROXY}
    rows: dict[tuple[str, str], Row] = {}
    for estimate in report["estimates"]:
        key = (estimate["judge"], estimate["statistic"])
        if key in KNOWN:
            rows[key] = asdict(KNOWN[key])
        elif key[0] not in known:
            rows[key] = {"name": key[1], "kind": "level"}
    return complete(rows)


def shown_at(report: Report, place: ReportPlace, task: str = "") -> list[Column]:
    """The measures shown at a place that have a value, on any task or on one."""
    found = {
        (row["judge"], row["statistic"])
        for row in report["estimates"]
        if row["value"] is not None and task in ("", row["task"])
    }
    return [column for column in of_report(report) if place in column.shown and column.key in found]


def tasks(report: Report) -> list[str]:
    """The tasks of the report's arms, in order."""
    return list(dict.fromkeys(arm["task"] for arm in report["arms"]))


def arms_on(report: Report, task: str) -> list[Row]:
    """The arms of one task, in the report's order."""
    return [arm for arm in report["arms"] if arm["task"] == task]


def indexed(report: Report) -> Report:
    """The report with its estimates by arm, and by arm, judge and statistic: a large report has many thousands."""
    if "by_arm" in report:
        return report
    by_arm: dict[str, list[Row]] = {}
    by_name: dict[tuple[str, str, str], list[Row]] = {}
    for row in report["estimates"]:
        by_arm.setdefault(row["arm"], []).append(row)
        by_name.setdefault((row["arm"], row["judge"], row["statistic"]), []).append(row)
    return {**report, "by_arm": by_arm, "by_name": by_name}


def own(report: Report, arm: str) -> Sequence[Row]:
    """The estimates of one arm."""
    found: Mapping[str, Sequence[Row]] = indexed(report)["by_arm"]
    return found.get(arm, ())


def named(report: Report, arm: str, key: tuple[str, str]) -> Sequence[Row]:
    """The estimates of one arm for one judge and statistic: all slices, decodings and checkpoints."""
    found: Mapping[tuple[str, str, str], Sequence[Row]] = indexed(report)["by_name"]
    return found.get((arm, *key), ())


def pick(
    report: Report, arm: str, key: tuple[str, str], slice_name: str = "all", decoding: str = "sample"
) -> Row | None:
    """The estimate at the last checkpoint, None where there is none."""
    found = [e for e in named(report, arm, key) if (e["slice"], e["decoding"]) == (slice_name, decoding)]
    return max(found, key=lambda e: e["iteration"], default=None)


def curve(report: Report, arm: str, key: tuple[str, str]) -> dict[int, Row]:
    """The estimates over all prompts, sampled, by iteration; those that have a value."""
    found = [e for e in named(report, arm, key) if (e["slice"], e["decoding"]) == ("all", "sample")]
    return {e["iteration"]: e for e in sorted(found, key=lambda e: e["iteration"]) if e["value"] is not None}
