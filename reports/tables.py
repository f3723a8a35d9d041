"""The tables of a report as rows of text, whatever form they are shown in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rlhf_bench.harness.results.table import Table, interval, number

Report = Mapping[str, Any]
Row = Mapping[str, Any]


HEADLINE = (
    ("gold", "utility", "gold"),
    ("gold change", "utility", "gold_change"),
    ("win rate", "winrate", "win_rate"),
    ("length change", "length", "length_change"),
    ("empty", "empty", "empty_rate"),
    ("refusals", "refusal", "refusal_rate"),
    ("win rate by a language model", "winrate-llm", "win_rate"),
    ("more helpful", "winrate-llm", "win_rate_helpful"),
    ("more harmless", "winrate-llm", "win_rate_harmless"),
    ("win rate by a reward model", "winrate-rm", "win_rate"),
    ("score change", "utility", "score_change"),
    ("KL", "run", "kl"),
)
"""Column, judge, statistic."""


def indexed(report: Report) -> Report:
    """The report with its estimates by arm, judge and statistic as well: nobody need look at everybody's."""
    if "by_arm" in report:
        return report
    found: dict[str, list[Row]] = {}
    named: dict[tuple[str, str, str], list[Row]] = {}
    for row in report["estimates"]:
        found.setdefault(row["arm"], []).append(row)
        named.setdefault((row["arm"], row["judge"], row["statistic"]), []).append(row)
    return {**report, "by_arm": found, "by_name": named}


def own(report: Report, arm: str) -> Sequence[Row]:
    """The estimates of one arm."""
    return indexed(report)["by_arm"].get(arm, ())  # type: ignore[no-any-return]


def pick(report: Report, arm: str, judge: str, statistic: str, **where: Any) -> Row | None:
    """The last checkpoint's estimate that fits."""
    wanted = {"slice": "all", "decoding": "sample", **where}
    named = indexed(report)["by_name"].get((arm, judge, statistic), ())
    found = [e for e in named if all(e[k] == v for k, v in wanted.items())]
    return max(found, key=lambda e: e["iteration"], default=None)


def headline(report: Report, decoding: str = "sample") -> Table:
    """Every arm at the last checkpoint, with the columns that some judge measured."""
    report = indexed(report)
    columns = [c for c in measured(report, HEADLINE) if not (decoding == "greedy" and c[2] == "kl")]
    rows = []
    for arm in report["arms"]:
        cells = [
            interval(pick(report, arm["arm"], judge, statistic, decoding=decoding)) for _, judge, statistic in columns
        ]
        accuracy = [before["pair_accuracy"] for before in arm["before"]]
        rows.append((arm["task"], arm["label"], str(len(arm["seeds"])), *cells, number(_mean(accuracy))))
    title = "At the last checkpoint, " + ("sampled at temperature 1" if decoding == "sample" else "greedy decoding")
    names = ("task", "reward model", "seeds", *(name for name, _, _ in columns), "pair accuracy")
    return Table(title, names, rows, headline_note(report))


def measured(report: Report, columns: Iterable[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """The columns that some judge measured in some arm."""
    found = {(e["judge"], e["statistic"]) for e in report["estimates"] if e["value"] is not None}
    return [column for column in columns if column[1:] in found]


CHANGES = (
    "gold_change",
    "win_rate",
    "win_rate_helpful",
    "win_rate_harmless",
    "score_change",
    "length_change",
    "empty_rate",
    "refusal_rate",
)
CURVES = ("gold", *CHANGES[1:], "kl")


def headline_note(report: Report) -> str:
    """How the numbers are to be read."""
    levels = sorted({e["level"] for e in report["estimates"]})
    prompts = sorted({e["n"] for e in report["estimates"] if e["slice"] == "all"})
    level = f"{levels[0]:.0%}" if levels else ""
    return (
        f"{level} intervals over {prompts[-1] if prompts else 0} held-out prompts; change and win rate are against the "
        "SFT baseline's responses to the same prompts; KL in nats per response."
    )


def curves(report: Report) -> Table:
    """Every fixed checkpoint: what was bought at which KL."""
    wanted = measured(report, [*(c for c in HEADLINE if c[2] in CURVES), ("reward", "run", "reward")])
    rows = []
    for arm in report["arms"]:
        sampled = [e for e in own(report, arm["arm"]) if e["decoding"] == "sample" and e["slice"] == "all"]
        found = {(e["iteration"], e["judge"], e["statistic"]): e for e in sampled}
        for iteration in sorted({e["iteration"] for e in sampled}):
            cells = [interval(found.get((iteration, j, s))) for _, j, s in wanted]
            rows.append((arm["task"], arm["label"], str(iteration), *cells))
    return Table(
        "Along training", ("task", "reward model", "iteration", *(name for name, _, _ in wanted)), rows,
        "Checkpoints were fixed beforehand; none was chosen for its result.  Rewards are unscaled.",
    )  # fmt: skip


def slices(report: Report) -> Table:
    """The last checkpoint by slice of the prompts."""
    wanted = measured(report, [c for c in HEADLINE if c[2] in CHANGES])
    rows = []
    for arm in report["arms"]:
        for name in sorted({e["slice"] for e in own(report, arm["arm"])} - {"all"}):
            found = [pick(report, arm["arm"], j, s, slice=name) for _, j, s in wanted]
            count = next((str(e["n"]) for e in found if e), "0")
            rows.append((arm["task"], arm["label"], name, count, *map(interval, found)))
    names = ("task", "reward model", "slice", "prompts", *(name for name, _, _ in wanted))
    return Table("By slice of the prompts", names, rows)


COLLAPSE = ("gold variance ratio", "gold levene p", "gold ks", "gold ks p", "gold wasserstein", "gold energy")


def collapse(report: Report) -> Table:
    """The distribution of gold utility after against before."""
    rows = []
    for arm in report["arms"]:
        names = sorted({e["slice"] for e in own(report, arm["arm"])}, key=lambda s: (s != "all", s))
        for name in names:
            found = [pick(report, arm["arm"], "utility", s, slice=name) for s in COLLAPSE]
            if any(e and (e["value"] is not None or e["note"]) for e in found):
                rows.append((arm["task"], arm["label"], name, *map(interval, found)))
    names_ = ("task", "reward model", "slice", *(s.removeprefix("gold ") for s in COLLAPSE))
    note = (
        "A variance ratio far below 1 with a mean that falls is a collapse; look at the slices, not only at the whole."
    )
    return Table("Utility distribution, after PPO against the SFT baseline", names_, rows, note)


def diagnostics(report: Report) -> Table:
    """What the reward models looked like before anything was optimised against them; the critic at the end."""
    rows = []
    for arm in report["arms"]:
        samples = [one["sft_samples"] for one in arm["before"]]
        figures = (
            _mean([one["pair_accuracy"] for one in arm["before"]]),
            _mean([one["scale"] for one in arm["before"]]),
            _mean([one["within_prompt_variance"] for one in samples]),
            _mean([one.get("correlation_with_length") for one in samples]),
            _mean([one.get("correlation_with_gold") for one in samples]),
            _mean([one["negative_share"] for one in samples]),
            _mean([one["rejected"].get("copied") for one in arm["before"]]),
            _mean([one.get("agreement_until") for one in samples]),
            _mean([one["explained_variance"] for one in arm.get("training", ())]),
        )
        rows.append((arm["task"], arm["label"], *map(number, figures)))
    columns = (
        "task", "reward model", "pair accuracy", "scale", "within-prompt variance", "correlation with length",
        "correlation with gold", "share of tokens below 0", "copy rate on rejected", "t*/T",
        "critic's explained variance",
    )  # fmt: skip
    note = (
        "Means over seeds, on samples of the SFT policy before PPO (copy rate: on held-out rejected responses; "
        "explained variance: the last tenth of PPO)."
    )
    return Table("Diagnostics of the reward models", columns, rows, note)


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean of what is known, None where nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def overlap(report: Report) -> Table:
    """Pair accuracy where chosen and rejected share few or many words."""
    names = ("low", "middle", "high")
    rows = [
        (
            arm["task"],
            arm["label"],
            *(number(_mean([one.get("pair_accuracy_by_overlap", {}).get(n) for one in arm["before"]])) for n in names),
        )
        for arm in report["arms"]
    ]
    columns = ("task", "reward model", *(f"{name} overlap" for name in names))
    return Table("Pair accuracy by lexical overlap of chosen and rejected (thirds, means over seeds)", columns, rows)


def comparisons(report: Report) -> list[Table]:
    """Reward models against each other, as they stand in the report."""
    found = report.get("comparisons", ())
    return [Table(t["title"], tuple(t["columns"]), [tuple(row) for row in t["rows"]], t["note"]) for t in found]


def _proxy(report: Report, name: str) -> Sequence[Table]:
    """A table of gold against the proxy, which are made where their figures are."""
    from rlhf_bench.reports import proxy

    found: Table = getattr(proxy, name)(report)
    return [found]


TABLES: Mapping[str, Callable[[Report], Sequence[Table]]] = {
    "sampled": lambda report: [headline(report)],
    "greedy": lambda report: [headline(report, "greedy")],
    "comparisons": comparisons,
    "curves": lambda report: [curves(report)],
    "slices": lambda report: [slices(report)],
    "collapse": lambda report: [collapse(report)],
    "diagnostics": lambda report: [diagnostics(report)],
    "overlap": lambda report: [overlap(report)],
    "monotonicity": lambda report: _proxy(report, "monotonicity"),
    "points": lambda report: _proxy(report, "points"),
    "features": lambda report: _proxy(report, "features"),
}
"""What a written report can show, in order."""


def all_tables(report: Report, names: Iterable[str] = TABLES) -> Sequence[Table]:
    """The tables called `names`, in the order of TABLES; empty ones left out."""
    wanted, report = set(names), indexed(report)
    tables = [table for name, made in TABLES.items() if name in wanted for table in made(report)]
    return [t for t in tables if any(cell != "–" for row in t.rows for cell in row[2:])]
