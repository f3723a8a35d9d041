"""The tables of a report as typed cells, for every form it is shown in.

A new column of all judges is added to a table here.  A judge's own column is its `Measure` (title, format, where it is
shown), which measures.py looks up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from rlhf_bench.harness.results.table import DASH, Cell, Table, estimated, restored, text
from rlhf_bench.harness.statistics.entropy_matched import CONTROL
from rlhf_bench.harness.statistics.runs import RULE
from rlhf_bench.reports import kl_tables, proxy
from rlhf_bench.reports.gold import RULES, gold_models, gold_words
from rlhf_bench.reports.layers import layers_table
from rlhf_bench.reports.measures import (
    COLLAPSED,
    RUN,
    Report,
    indexed,
    mean,
    of_report,
    own,
    pick,
    reliability,
    shown_at,
)
from rlhf_bench.reports.sanity import most_rewarded, sanity
from rlhf_bench.reports.setups import samples_of, sampling_text


def headline(report: Report, decoding: str = "sample") -> Table:
    """Every arm at the last checkpoint, with the measures that have a value in some arm.

    `decoding`: "sample" or "greedy".  Pair accuracy is a mean over seeds without an interval.
    """
    report = indexed(report)
    columns = shown_at(report, "headline")
    if decoding == "greedy":
        columns = [c for c in columns if c.judge != RUN]  # KL to the SFT policy is estimated from samples
    rows = [
        (
            arm["task"],
            arm["label"],
            Cell(len(arm["seeds"]), format="count"),
            *(estimated(pick(report, arm["arm"], c.key, decoding=decoding), c.format) for c in columns),
            Cell(mean([before["pair_accuracy"] for before in arm["before"]])),
        )
        for arm in report["arms"]
    ]
    title = "At the last checkpoint, " + (
        f"sampled {sampling_text(report['arms'])}" if decoding == "sample" else "greedy decoding"
    )
    names = ("task", "reward model", "seeds", *(column.title for column in columns), "pair accuracy")
    return Table(title, names, rows, headline_note(report), reliability(columns))


def headline_note(report: Report) -> str:
    """How the numbers are to be read: the intervals' level, the prompts, what is compared with what, the units."""
    several = any(e["statistic"].endswith(COLLAPSED) for e in report["estimates"])
    levels = sorted({e["level"] for e in report["estimates"]})
    prompts = sorted({e["n"] for e in report["estimates"] if e["slice"] == "all"})
    level = f"{levels[0]:.0%}" if levels else ""
    by_rules = "the true utility of a response, by the task's own rules"
    gold = [f" Gold is {by_rules if words == RULES else words}." for words in gold_words(report)]
    samples = samples_of(report["arms"])
    of = f", {samples} sampled responses to each," if samples > 1 else ""
    return (
        f"{level} intervals over {prompts[-1] // samples if prompts else 0} held-out prompts{of or ';'} change and win "
        "rate are against the SFT baseline's responses to the same prompts; KL in nats per response."
        + (" Samples of a prompt are one cluster, each against the baseline's of its number." if samples > 1 else "")
        + (" Responses that are cut off lose." if any(arm.get("cut_off") == "lose" for arm in report["arms"]) else "")
        + "".join(gold)
        + "".join(f" {arm['label']} is at its lowest temperature." for arm in report["arms"] if arm.get("temperatures"))
        + (f" {RUNS_NOTE}" if several else "")
    )


RUNS_NOTE = (
    f"{RULE[0].upper()}{RULE[1:]}; its interval is exact (Clopper and Pearson). The interval of a mean change over "
    "runs is a t interval where none or all of them collapsed: it then holds for runs like these alone. Where some "
    "did, it is one that allows for a collapse."
)


def runs(report: Report) -> Table:
    """Which training runs collapsed, the mean over the others, and the mean over all runs."""
    rows = []
    for arm in report["arms"]:
        last = max((e["iteration"] for e in own(report, arm["arm"])), default=0)
        for e in own(report, arm["arm"]):
            if e["statistic"].endswith(COLLAPSED) and e["iteration"] == last:
                name, place = e["statistic"].removesuffix(COLLAPSED), (e["slice"], e["decoding"])
                keys = (f"{name}_change", f"{name} change of other runs", f"{name} change over all runs")
                found = [pick(report, arm["arm"], (e["judge"], key), *place) for key in keys]
                cells = (estimated(e, "runs"), *map(estimated, found))
                rows.append((arm["task"], arm["label"], e["slice"], e["decoding"], name, *cells, e["note"]))
    columns = (
        "task", "reward model", "slice", "decoding", "of", "collapsed", "mean change", "of the other runs",
        "over all runs, a collapse allowed for", "which",
    )  # fmt: skip
    note = (
        f"{RUNS_NOTE} Over all runs: every mean that the share, both modes and the smallest and largest value seen "
        "allow; it holds whether or not a collapse was seen. Outlying: generalised ESD test (Rosner 1983)."
    )
    return Table("Runs that collapsed", columns, rows, note)


def curves(report: Report) -> Table:
    """Every checkpoint that was fixed beforehand, sampled, over all prompts.

    An arm and an iteration a row; the iteration is n for best-of-n, and a temperature of the tempered SFT policy.
    """
    columns = shown_at(report, "curves")
    rows = []
    for arm in report["arms"]:
        # iterations of PPO, or n of best-of-n, which has no other checkpoints
        sampled = [e for e in own(report, arm["arm"]) if e["decoding"] == "sample" and e["slice"] == "all"]
        found = {(e["iteration"], e["judge"], e["statistic"]): e for e in sampled}
        for iteration in sorted({e["iteration"] for e in sampled}):
            cells = [estimated(found.get((iteration, *c.key)), c.format) for c in columns]
            known = arm.get("temperatures")
            at = f"temperature {known[iteration - 1]:g}" if known else Cell(iteration, format="count")
            rows.append((arm["task"], arm["label"], at, *cells))
    return Table(
        "Along training", ("task", "reward model", "iteration", *(column.title for column in columns)), rows,
        "Checkpoints were fixed beforehand; none was chosen for its result.  Rewards are unscaled.",
    )  # fmt: skip


def slices(report: Report) -> Table:
    """The last checkpoint by slice of the prompts, sampled.

    "prompts" is the decided cases of the slice, as of the first measure that has an estimate there.
    """
    columns = shown_at(report, "slices")
    rows = []
    for arm in report["arms"]:
        # slices are of prompts: the task's own, and thirds by length
        for name in sorted({e["slice"] for e in own(report, arm["arm"])} - {"all"}):
            found = [pick(report, arm["arm"], column.key, name) for column in columns]
            count = Cell(next((e["n"] for e in found if e), 0), format="count")
            cells = [estimated(e, column.format) for e, column in zip(found, columns, strict=True)]
            rows.append((arm["task"], arm["label"], name, count, *cells))
    names = ("task", "reward model", "slice", "prompts", *(column.title for column in columns))
    return Table("By slice of the prompts", names, rows)


MATCHED = {"gold": "gold", "score": "score", "win_rate": "win rate"}
"""What is compared with the SFT policy at equal entropy (harness/results/entropy_matched.py), by the measure's name."""


def entropy_matched(report: Report) -> Table:
    """Every arm against the SFT policy at the temperature that has the arm's entropy."""
    measured = {e["statistic"] for e in report["estimates"] if e["judge"] == CONTROL}
    names = [name for name in MATCHED if f"{name}_difference" in measured]
    rows = []
    for arm in report["arms"]:
        found = {e["statistic"]: e for e in own(report, arm["arm"]) if e["judge"] == CONTROL}
        if not found:
            continue  # the control itself, and arms without log-probabilities
        values = [f(name) for name in names for f in ("sft {}".format, "{}_difference".format)]
        why = "; ".join(dict.fromkeys(e["note"] for e in found.values() if e["value"] is None))
        seeds = Cell(len(next(iter(found.values()))["seeds"]), format="count")
        entropy = estimated(pick(report, arm["arm"], (RUN, "entropy")))
        cells = (entropy, *(estimated(found.get(name)) for name in ("temperature", *values)))
        rows.append((arm["task"], arm["label"], seeds, *cells, why or DASH))
    columns = [c for name in names for c in (f"{MATCHED[name]} of SFT", f"{MATCHED[name]} difference")]
    note = (
        "A gain of sampled responses may only be less sampling noise: an optimised policy is surer. SFT here is the "
        "SFT policy at the temperature at which it has the arm's entropy (per token, in nats: minus the mean log-"
        f"probability of the sampled tokens), interpolated in the entropy between the temperatures of {CONTROL}, under "
        "each seed; nothing is extrapolated. Differences are the arm's minus SFT's; intervals: prompts resampled with "
        "the interpolation, two-way t over seeds."
    )
    names_of = ("task", "reward model", "seeds", "entropy", "temperature of SFT", *columns, "not known because")
    return Table("Against the SFT policy at equal entropy", names_of, rows, note)


COLLAPSE = ("variance ratio", "levene p", "ks", "ks p", "wasserstein", "energy")
"""Statistics of a distribution after against before (statistics/collapse.py), as their estimates are named."""


def collapse(report: Report) -> list[Table]:
    """The distribution after against before, a table for each measure that names the baseline's.

    By arm and slice, all prompts first: a collapse may hide in one slice.
    """
    tables = []
    # not `shown_at`: the distribution is worth a table even where the mean has no column
    for column in (c for c in of_report(report) if c.before):
        rows = []
        for arm in report["arms"]:
            names = sorted({e["slice"] for e in own(report, arm["arm"])}, key=lambda s: (s != "all", s))
            for name in names:
                keys = [(column.judge, f"{column.statistic} {statistic}") for statistic in COLLAPSE]
                found = [pick(report, arm["arm"], key, name) for key in keys]
                # a row of dashes is shown only where a note says why
                if any(e and (e["value"] is not None or e["note"]) for e in found):
                    rows.append((arm["task"], arm["label"], name, *map(estimated, found)))
        tables.append(
            Table(
                f"Distribution of {column.title}, after PPO against the SFT baseline",
                ("task", "reward model", "slice", *COLLAPSE),
                rows,
                "A variance ratio far below 1 with a mean that falls is a collapse; "
                "look at the slices, not only at the whole.",
            )
        )
    return tables


def diagnostics(report: Report) -> Table:
    """The reward models before optimisation against them, and the critic at its end; means over seeds.

    "t*/T" is the diagnostic `agreement_until`, a share of the response, which only some reward models have.
    """
    rows = []
    for arm in report["arms"]:
        samples = [one["sft_samples"] for one in arm["before"]]
        # .get: not every task has gold, not every reward model copies, and only PPO has a critic
        means = (
            mean([one["pair_accuracy"] for one in arm["before"]]),
            mean([one["scale"] for one in arm["before"]]),
            mean([one["within_prompt_variance"] for one in samples]),
            mean([one.get("correlation_with_length") for one in samples]),
            mean([one.get("correlation_with_gold") for one in samples]),
            mean([one["negative_share"] for one in samples]),
            mean([one["rejected"].get("copied") for one in arm["before"]]),
            mean([one.get("agreement_until") for one in samples]),
            mean([one["explained_variance"] for one in arm.get("training", ())]),
        )
        rows.append((arm["task"], arm["label"], *map(Cell, means)))
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


def overlap(report: Report) -> Table:
    """Pair accuracy where chosen and rejected share few or many words.

    By thirds of the held-out pairs (`stages.pairs.thirds`); no intervals.
    """
    names = ("low", "middle", "high")
    rows = []
    for arm in report["arms"]:
        found = [one.get("pair_accuracy_by_overlap", {}) for one in arm["before"]]
        rows.append((arm["task"], arm["label"], *(Cell(mean([one.get(n) for one in found])) for n in names)))
    columns = ("task", "reward model", *(f"{name} overlap" for name in names))
    return Table("Pair accuracy by lexical overlap of chosen and rejected (thirds, means over seeds)", columns, rows)


TABLES: Mapping[str, Callable[[Report], Sequence[Table]]] = {
    "sampled": lambda report: [headline(report)],
    "greedy": lambda report: [headline(report, "greedy")],
    "comparisons": lambda report: [restored(table) for table in report.get("comparisons", ())],
    "kl-matched": lambda report: [kl_tables.contrasts_table(report)],
    "entropy-matched": lambda report: [entropy_matched(report)],
    "runs": lambda report: [runs(report)],
    "layers": lambda report: [layers_table(report)],
    "curves": lambda report: [curves(report)],
    "slices": lambda report: [slices(report)],
    "collapse": collapse,
    "diagnostics": lambda report: [diagnostics(report)],
    "gold": lambda report: [gold_models(report)],
    "sanity": lambda report: [sanity(report)],
    "most-rewarded": lambda report: [most_rewarded(report)],
    "overlap": lambda report: [overlap(report)],
    "monotonicity": lambda report: [proxy.monotonicity(report)],
    "points": lambda report: [proxy.points(report)],
    "features": lambda report: [proxy.features(report)],
    "parts": lambda report: [proxy.parts(report)],
}
"""The tables of a written report, in order; experiments.toml and the files of tables use these names."""


def with_reliability(report: Report, table: Table) -> Table:
    """The table with what judges say of the numbers in it: of the measures that head a column or name a row."""
    names = {name for row in table.rows for name in row[:4] if isinstance(name, str)} | set(table.columns)
    # a row of greedy responses says so after the measure's title
    found = [c for c in of_report(report) if c.reliability and names & {c.title, f"{c.title}, greedy"}]
    return table._replace(reliability=reliability(found))


def all_tables(report: Report, names: Iterable[str] = TABLES) -> Sequence[Table]:
    """The tables called `names`, in the order of TABLES; those without any entry beside their first two columns are
    left out."""
    wanted, report = set(names), indexed(report)
    tables = [with_reliability(report, t) for name, build in TABLES.items() if name in wanted for t in build(report)]
    return [table for table in tables if any(text(entry) != DASH for row in table.rows for entry in row[2:])]
