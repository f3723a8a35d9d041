"""The measures of a report, and the look-ups of their estimates that tables, figures and sentences share.

A judge declares with its measures what they are called and where they are shown (`nouns.Measure`), the judge stage
stores it in measures.json, and a report carries it as `measures`, complete and in the order of columns.  Tables,
figures, the comparison of reward models, the page and the exports read it from there and name no judge.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import get_args

from rlhf_bench.harness import store
from rlhf_bench.harness.nouns import Measure, MeasureKind, ReportPlace
from rlhf_bench.harness.results.arms import Arm
from rlhf_bench.harness.results.table import CellFormat
from rlhf_bench.harness.statistics.entropy_matched import CONTROL
from rlhf_bench.harness.statistics.runs import RULE
from rlhf_bench.harness.text.types import Row

Report = Row
"""The content of report.json (schema.json), or one that is still being built; `indexed` adds look-ups to it."""

RUN = "run"
"""The judge of what the run itself logs: KL and reward."""
PROXY = "proxy"
"""The judge of an arm's curve of gold against reward (harness/results/proxy_estimates.py), which has its own tables."""
CEILING = ("ceiling", "gold_share")
"""The share of the ceiling, which no judge measures (harness/results/ceiling.py)."""

COLLAPSED = " runs collapsed"
"""Ends the statistic that counts collapsed runs (harness/statistics/runs.py)."""

KIND_REFERENCE: Mapping[str, float | None] = {"win": 0.5, "change": 0.0, "rate": None, "level": None}
"""The value that means no effect, by kind; rates and levels have none of their own."""
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
    reliability: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """Judge and statistic, which name an estimate's measure.

        The statistic alone does not: two judges may have one of the same name.
        """
        return self.judge, self.statistic

    @property
    def answers(self) -> bool:
        """Whether its interval says better or worse than the SFT baseline.

        It needs a value that means no effect, and a better side of it (`answer.side`).
        """
        return self.reference is not None and bool(self.better)

    @property
    def unit(self) -> str:
        """What an axis adds to the title, "" for a plain number."""
        return UNITS.get(self.format, "")


KNOWN: Mapping[tuple[str, str], Measure] = {
    (judge, measure.name): measure
    for judge, measure in (
        ("utility", Measure("gold", "level", title="gold", before="gold_baseline", better="higher",
                            shown=("headline", "curves", "figures", "pairs"))),
        ("utility", Measure("gold_change", "change", title="gold change", better="higher",
                            shown=("headline", "slices", "pairs"))),
        ("ceiling", Measure("gold_share", "level", title="share of the ceiling", format="percent",
                            shown=("headline", "slices"),
                            description="gold gained, as a share of what the arm gold gains: PPO against the true "
                                        "utility itself")),
        *(
            (CONTROL, Measure(f"{name}_difference", "level", title=f"{name} above SFT at equal entropy",
                              shown=("headline",),
                              description=f"{name} minus that of the SFT policy at the temperature at which its "
                                          "entropy per token is the policy's: what being surer does not explain"))
            for name in ("gold", "score")
        ),
        ("winrate", Measure("win_rate", "win", title="win rate")),
        ("length", Measure("length_change", "change", title="length change", format="tokens")),
        ("empty", Measure("empty_rate", "rate", title="empty", format="share", better="lower")),
        *(("fluency", Measure(f"log_perplexity{name}", "level", title=f"log-perplexity under {of}", format="nats",
                              shown=("headline", "curves"))) for name, of in (("", "base"), ("_sft", "SFT"))),
        ("fluency", Measure("repetition", "level", title="repetition", format="share", shown=("headline", "curves"))),
        ("refusal", Measure("refusal_rate", "rate", title="refusals", format="share")),
        ("refusal-phrases", Measure("refusal_rate", "rate", title="refusals by phrase", format="share")),
        *(("stance", Measure(name, "rate", title=name, format="share", shown=("headline", "slices")))
          for name in ("complies", "offers", "refuses", "deflects", "harms")),
        ("winrate-llm", Measure("win_rate", "win", title="win rate by a language model")),
        ("winrate-llm", Measure("win_rate_helpful", "win", title="more helpful")),
        ("winrate-llm", Measure("win_rate_harmless", "win", title="more harmless")),
        ("winrate-llm", Measure("win_rate_complies", "win", title="refuses less")),
        ("winrate-rm", Measure("win_rate", "win", title="win rate by a reward model")),
        ("utility", Measure("score_change", "change", title="score change")),
        (RUN, Measure("kl", "level", title="KL", format="nats", shown=("headline", "curves", "figures"))),
        (RUN, Measure("reward", "level", title="reward", shown=("curves",))),
        (RUN, Measure("entropy", "level", title="entropy", format="nats", shown=("curves",),
                      description="per token, in nats: minus the mean log-probability of the sampled tokens")),
        ("utility", Measure("gold_baseline", "level", title="gold of the SFT baseline", shown=())),
        ("utility", Measure("score", "level", title="score", before="score_baseline", shown=())),
        ("utility", Measure("score_baseline", "level", title="score of the SFT baseline", shown=())),
        ("length", Measure("length", "level", title="length", format="tokens", shown=())),
        ("length", Measure("truncated_rate", "rate", title="cut off", format="share", better="lower",
                           shown=("headline",))),
        ("refusal", Measure("refusal_change", "change", title="refusal change", limit=1.0, format="share", shown=())),
        ("refusal-phrases", Measure("refusal_change", "change", title="refusals by phrase, change", limit=1.0,
                                    format="share", shown=())),
    )
}  # fmt: skip
"""The measures that come with the package, in the order of their columns; those of other judges follow.

Results of versions before measures declared how they are shown are read with these declarations; new results bring
their own, which a test keeps equal to these.
"""


def described(arms: Sequence[Arm]) -> list[Column]:
    """The measures of all judges of the arms, and the run's own, from measures.json; in the order of columns.

    Where an arm has a ceiling, the share of it is one more; where the tempered SFT policy is an arm, the differences to
    it at equal entropy.  Raises BenchError where a measures.json cannot be read.
    """
    # Here: pages and exports of a finished report do without the statistics that this imports.
    from rlhf_bench.harness.results.ceiling import GOLD, ceiling_of
    from rlhf_bench.harness.results.entropy_matched import is_control

    # the run's own come first, so that no plugin called "run" replaces them
    rows = {(RUN, name): asdict(KNOWN[RUN, name]) for name in ("kl", "reward", "entropy")}
    said: dict[tuple[str, str], dict[str, str]] = {}
    for arm in arms:
        for judge, folder in arm.cells[0].judged().items():  # all seeds of an arm have the same judges
            for row in store.read_json(folder / "measures.json"):
                rows.setdefault((judge, row["name"]), row)
                said.setdefault((judge, row["name"]), {})[arm.task] = str(row.get("reliability") or "")
    # a judge may be exact on one task and not on another
    rows |= {key: {**rows[key], "reliability": _on_tasks(by_task)} for key, by_task in said.items()}
    if any(ceiling_of(arm, arms) for arm in arms if arm.reward_model != GOLD):
        rows[CEILING] = asdict(KNOWN[CEILING])
    if any(is_control(arm) for arm in arms):
        rows |= {key: asdict(measure) for key, measure in KNOWN.items() if key[0] == CONTROL}
    columns = complete(rows)
    found = []
    # after each change to a measured baseline comes the share of runs in which it is a collapse
    levels = {(column.judge, f"{column.statistic}_change"): column for column in columns if column.before}
    taken = {column.title for column in columns}
    for column in columns:
        found.append(column)
        level = levels.get(column.key)
        if level is not None and column.kind == "change":
            title = "collapsed" if "collapsed" not in taken else f"collapsed ({level.title})"
            taken.add(title)
            name, shown = f"{level.statistic}{COLLAPSED}", ("headline", "slices")
            kept = tuple(place for place in shown if place in column.shown)
            found.append(Column(column.judge, name, "rate", title, RULE, format="runs", shown=kept))
    return found


def _on_tasks(said: Mapping[str, str]) -> str:
    """What a judge says of its numbers, by task: once where it is the same on all of them."""
    texts = dict.fromkeys(said.values())
    if len(texts) < 2:
        return next(iter(texts), "")
    return "; ".join(
        f"on {', '.join(task for task, one in said.items() if one == text)}: {text}" for text in texts if text
    )


def reliability(columns: Iterable[Column]) -> str:
    """What the judges of the columns say of their own numbers, as sentences; "" where none says anything."""
    return " ".join(f"{column.title}: {column.reliability.rstrip('.')}." for column in columns if column.reliability)


def complete(rows: Mapping[tuple[str, str], Row]) -> list[Column]:
    """Columns of rows of measures.json by judge and name: in order, with defaults, and no title twice.

    The package's measures come first, in the order of KNOWN; those of other judges follow by judge, each in the judge's
    own order.
    """
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
        reference, shown = row.get("reference"), row.get("shown")
        if shown is None:  # (): nowhere, None: the judge does not say
            shown = () if key in baselines else EVERYWHERE
        columns.append(
            Column(
                judge=key[0],
                statistic=row["name"],
                kind=row["kind"],
                title=title,
                description=row.get("description", ""),
                before=row.get("before", ""),
                limit=row.get("limit"),
                reference=KIND_REFERENCE.get(row["kind"]) if reference is None else reference,
                format=row.get("format", "number"),
                better=row.get("better") or ("higher" if row["kind"] == "win" else ""),
                shown=tuple(shown),
                reliability=str(row.get("reliability") or ""),
            )
        )
    return columns


# ---- of a report ----------------------------------------------------------------------------------------------------


def of_report(report: Report) -> list[Column]:
    """The report's measures, in the order of columns.

    A report of an older version carries none: the package's own statistics are known by their names, and those of other
    judges are shown everywhere.
    """
    if "measures" in report:
        # not all names of a row: a later version may add optional ones (schema.py)
        known = {field.name for field in fields(Column)}
        rows_of = ({name: value for name, value in row.items() if name in known} for row in report["measures"])
        return [Column(**{**row, "shown": tuple(row["shown"])}) for row in rows_of]
    # other statistics of these judges, such as a distribution's, have tables of their own and no column
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
    """The measures shown at a place that have a value, on any task or on one.

    A column without any value is left out: a judge may measure some tasks alone.
    """
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
    """The report with its estimates by arm, and by arm, judge and statistic: a large report has many thousands.

    The look-ups below index a report that is not; a caller of many of them does it once.  The two keys `by_arm` and
    `by_name` are never written.
    """
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
    """The estimates of one arm for one judge and statistic: all slices, decodings and checkpoints.

    `key` is (judge, statistic), as `Column.key`; () for an unknown one.
    """
    found: Mapping[tuple[str, str, str], Sequence[Row]] = indexed(report)["by_name"]
    return found.get((arm, *key), ())


def pick(
    report: Report, arm: str, key: tuple[str, str], slice_name: str = "all", decoding: str = "sample"
) -> Row | None:
    """The estimate at the last checkpoint, None where there is none.

    Its `value` may be None all the same: an estimate of which nothing can be said, with the reason in `note`.
    """
    found = [e for e in named(report, arm, key) if (e["slice"], e["decoding"]) == (slice_name, decoding)]
    return max(found, key=lambda e: e["iteration"], default=None)


def curve(report: Report, arm: str, key: tuple[str, str]) -> dict[int, Row]:
    """The estimates over all prompts, sampled, by iteration; those that have a value.

    Iterations ascend: 0 for the SFT baseline, checkpoints of PPO, or n for best-of-n.
    """
    found = [e for e in named(report, arm, key) if (e["slice"], e["decoding"]) == ("all", "sample")]
    return {e["iteration"]: e for e in sorted(found, key=lambda e: e["iteration"]) if e["value"] is not None}


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of the known values, None where there is none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
