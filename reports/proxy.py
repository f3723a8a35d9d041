"""Gold against the proxy: how far gold rises with the reward, where it falls, and which features the reward paid for.

Tables and figures from the estimates under the judge "proxy" (harness/results/proxy_estimates.py).  The proxy is the
reward model's own reward; gold is the task's true utility, or a scorer's score where the task has none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from rlhf_bench.harness.results.table import Cell, Entry, Table, estimated
from rlhf_bench.reports import charts
from rlhf_bench.reports.charts import Axis, point
from rlhf_bench.reports.descriptions import feature
from rlhf_bench.reports.figures import Look, Series
from rlhf_bench.reports.measures import PROXY, Report, arms_on, curve, mean, own, pick

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject, Row

SUMMARY = (
    ("rank correlation over points", "spearman"),
    ("within prompts", "spearman within prompts"),
    ("gold at its peak", "gold peak"),
    ("fall from the peak", "fall from peak"),
    ("fall from the middle", "fall from the middle"),
    ("Gao's a", "gao a"),
    ("Gao's b", "gao b"),
    ("gain at the curve's maximum", "gao peak"),
    ("its distance", "gao peak at"),
    ("overoptimisation γ", "gamma"),
)
"""Column, statistic."""


def monotonicity(report: Report) -> Table:
    """Whether gold rises with the proxy, an arm a row; arms without a curve are left out.

    Statistics of harness/results/proxy_estimates.py; Gao's a and b are the coefficients of Gao et al. (2210.10760).
    """
    rows = []
    for arm in report["arms"]:
        found = [pick(report, arm["arm"], (PROXY, name)) for _, name in SUMMARY]
        if any(found):
            seeds = Cell(len(arm["seeds"]), format="count")
            rows.append((arm["task"], arm["label"], seeds, *map(estimated, found)))
    note = (
        "Proxy: the reward model's own reward. Points: the SFT baseline and the checkpoints of PPO, or each n of "
        "best-of-n (unbiased over the pool). Rank correlations are over the points without the SFT policy, with "
        "intervals on Fisher's z; within prompts, over the checkpoints of PPO or the pool's samples of best-of-n. The "
        "peak is chosen on one half of the prompts and measured on the other; the middle point was fixed beforehand; "
        "a fall above 0 is a loss. Gao et al. (2210.10760), d = sqrt(KL): the gain in gold is d (a - b log d) for PPO "
        "and d (a - b d) for best-of-n, whose KL is the analytic bound. "
        "γ (Kim et al. 2505.12763): the area between the fitted curves of the gains in proxy and gold, each in "
        "standard deviations over prompts of its first point, as a share of the area under gold's; 0 where gold gains "
        "as the proxy does."
    )
    columns = ("task", "reward model", "seeds", *(name for name, _ in SUMMARY))
    return Table("Does gold rise with the proxy?", columns, rows, note)


def points(report: Report) -> Table:
    """Proxy, KL and gold at every point: the unscaled reward, nats, and the task's unit of gold.

    Points are checkpoints of PPO or the n of best-of-n; they were fixed before the run.
    """
    rows = []
    for arm in report["arms"]:
        proxy, kl = (curve(report, arm["arm"], (PROXY, name)) for name in ("reward", "kl"))
        gold = _gold(report, arm)
        for at, row in proxy.items():
            name = f"n = {at}" if arm.get("optimizer") == "best-of-n" else f"iteration {at}"
            cells = (estimated(row), estimated(kl.get(at)), estimated(gold.get(at)))
            rows.append((arm["task"], arm["label"], name, *cells))
    note = "Iterations of PPO (0: the SFT baseline), or n; unscaled reward, nats, gold utility (or the judge's score)."
    return Table("Proxy and gold, point by point", ("task", "reward model", "at", "proxy", "KL", "gold"), rows, note)


def _gold(report: Report, arm: Row) -> dict[int, Row]:
    """Gold by iteration (or n), a scorer's score where there is no gold, {} where there is neither."""
    return curve(report, arm["arm"], (PROXY, "gold")) or curve(report, arm["arm"], (PROXY, "score"))


TITLES = ("task", "reward model", "figure", "iteration", "mean")
"""The columns of the parts of combinations."""


def features(report: Report) -> Table:
    """Means of each reward feature before and after, and their paired change.

    Features are the diagnostics that a reward model gives (`seams.HasDiagnostics`), all prompts and by slice.
    """
    rows = []
    for arm in report["arms"]:
        by_place = {(e["slice"], e["statistic"]): e for e in own(report, arm["arm"]) if e["judge"] == PROXY}
        for slice_name, statistic in by_place:
            # "NAME change": the last word, because names of features may hold spaces
            name, _, what = statistic.rpartition(" ")
            if what == "change" and name:
                cells = [by_place.get((slice_name, f"{name} {end}")) for end in ("before", "after", "change")]
                rows.append((arm["task"], arm["label"], slice_name, feature(name), *map(estimated, cells)))
    note = (
        "Diagnostics of the reward models that have any, on the sampled responses to the held-out prompts: the SFT "
        "baseline's and the last checkpoint's (or n = the first and the last of best-of-n, unbiased over the pool)."
    )
    columns = ("task", "reward model", "slice", "feature", "before", "after", "change")
    return Table("Reward features before and after training", columns, rows, note)


def parts(report: Report) -> Table:
    """What the members of each combination pay at every checkpoint; means over seeds, without intervals."""
    rows: list[tuple[Entry, ...]] = []
    for arm in report["arms"]:
        runs = [{one["iteration"]: one["figures"] for one in run} for run in arm.get("parts", ())]
        points = sorted({at for run in runs for at in run})
        # in the order of the members
        for name in dict.fromkeys(name for run in runs for figures in run.values() for name in figures):
            for at in points:
                value = mean([run[at].get(name) for run in runs if at in run])
                rows.append((arm["task"], arm["label"], name, str(at), Cell(value)))
    note = (
        "Of combinations of reward models, on the sampled responses to the held-out prompts. part: a member's reward, "
        "summed over the response, in standard deviations of its own on SFT samples and without its weight; iteration "
        "0 is the SFT baseline. disagreement: the variance over members. lowest: how often the member decides min."
    )
    return Table("Parts of combined rewards along training", TITLES, rows, note)


def proxy_charts(report: Report, task: str, looks: Mapping[str, Look]) -> Iterator[JsonObject | None]:
    """Gold against the square root of KL, the distance of Gao's curves, and gold against the proxy.

    Reward models have scales of their own: the proxy is counted from the first point, in standard deviations of the
    SFT policy's rewards.  None for a chart with nothing to draw; `looks`: how each label is drawn.
    """
    by_distance, by_proxy = [], []
    for arm in arms_on(report, task):
        gold, look = _gold(report, arm), looks[arm["label"]]
        kl, proxy = (curve(report, arm["arm"], (PROXY, name)) for name in ("kl", "reward"))
        known = [at for at in gold if at in kl and at in proxy]  # ascending, so that the first is the start
        # an estimate of KL from samples may fall below 0
        far = [point(math.sqrt(max(0.0, kl[at]["value"])), gold[at]) for at in known]
        # averaged over seeds; 1 where the reward does not vary
        spreads = [math.sqrt(v) for one in arm["before"] if (v := one["sft_samples"]["variance"])]
        scale = sum(spreads) / len(spreads) if spreads else 1.0
        near = [point((proxy[at]["value"] - proxy[known[0]]["value"]) / scale, gold[at]) for at in known]
        # against distance a curve, from left to right; against the proxy a path, in the order of the points
        by_distance.append(Series(arm["label"], look, sorted(far, key=lambda p: p.x)))
        by_proxy.append(Series(arm["label"], look, near))
    distance = Axis("square root of KL to the SFT policy", "sqrt(nats)")
    yield charts.chart(by_distance, distance, Axis("gold"), None)
    yield charts.chart(by_proxy, Axis("proxy gained", "in SFT standard deviations"), Axis("gold"), None)
