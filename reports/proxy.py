"""Gold against the proxy: how far it rises with it, where it falls, and what the proxy was bought with.

Tables and figures from the estimates under the judge "proxy" (harness/results/proxy_estimates.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from rlhf_bench.harness.results.table import Table, interval
from rlhf_bench.reports import answer, charts
from rlhf_bench.reports.figures import Point, Series
from rlhf_bench.reports.tables import Report, Row, pick

JUDGE = answer.PROXY
WORTHS = ("gold", "score")
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
)
"""Column, statistic."""


def monotonicity(report: Report) -> Table:
    """Does gold rise with the proxy, an arm a row."""
    rows = []
    for arm in report["arms"]:
        found = [pick(report, arm["arm"], JUDGE, name) for _, name in SUMMARY]
        if any(found):
            rows.append((arm["task"], arm["label"], str(len(arm["seeds"])), *map(interval, found)))
    note = (
        "Proxy: the reward model's own reward. Points: the SFT baseline and the checkpoints of PPO, or each n of "
        "best-of-n (unbiased over the pool). Within prompts: over the points of PPO, over the pool's samples for "
        "best-of-n. The peak is chosen on one half of the prompts and measured on the other; the middle point was "
        "fixed beforehand; a fall above 0 is a loss. Gao et al. (2210.10760), d = sqrt(KL): the gain in gold is "
        "d (a - b log d) for PPO and d (a - b d) for best-of-n, whose KL is the analytic bound."
    )
    columns = ("task", "reward model", "seeds", *(name for name, _ in SUMMARY))
    return Table("Does gold rise with the proxy?", columns, rows, note)


def points(report: Report) -> Table:
    """Proxy, KL and gold at every point."""
    rows = []
    for arm in report["arms"]:
        proxy, kl = (charts.curve(report, arm["arm"], JUDGE, name) for name in ("reward", "kl"))
        gold = _gold(report, arm)
        for at, row in proxy.items():
            cells = (interval(row), interval(kl.get(at)), interval(gold.get(at)))
            rows.append((arm["task"], arm["label"], _named(arm, at), *cells))
    note = "Iterations of PPO (0: the SFT baseline), or n; unscaled reward, nats, gold utility (or the judge's score)."
    return Table("Proxy and gold, point by point", ("task", "reward model", "at", "proxy", "KL", "gold"), rows, note)


def _named(arm: Row, at: int) -> str:
    return f"n = {at}" if arm.get("optimizer") == "best-of-n" else f"iteration {at}"


def _gold(report: Report, arm: Row) -> dict[int, Row]:
    found = (charts.curve(report, arm["arm"], JUDGE, name) for name in WORTHS)
    return next((one for one in found if one), {})


def features(report: Report) -> Table:
    """What the policy bought its reward with: means of each feature before and after, and their paired change."""
    rows = []
    for arm in report["arms"]:
        own = [e for e in report["estimates"] if (e["arm"], e["judge"]) == (arm["arm"], JUDGE)]
        by_place = {(e["slice"], e["statistic"]): e for e in own}
        for slice_name, statistic in by_place:
            name, _, what = statistic.rpartition(" ")
            if what == "change" and name:
                cells = [by_place.get((slice_name, f"{name} {end}")) for end in ("before", "after", "change")]
                rows.append((arm["task"], arm["label"], slice_name, name, *map(interval, cells)))
    note = (
        "Diagnostics of the reward models that have any, on the sampled responses to the held-out prompts: the SFT "
        "baseline's and the last checkpoint's (or n = the first and the last of best-of-n, unbiased over the pool)."
    )
    columns = ("task", "reward model", "slice", "feature", "before", "after", "change")
    return Table("What the rewards were bought with", columns, rows, note)


# ---- figures --------------------------------------------------------------------------------------------------------


def proxy_charts(report: Report, task: str, slots: Mapping[str, int]) -> Iterator[dict[str, Any] | None]:
    """Gold against the square root of KL, where Gao's curves are drawn; and gold against the proxy in units of its
    first spread, an arm's own scale."""
    by_distance, by_proxy = [], []
    for arm in answer.arms_on(report, task):
        gold, slot = _gold(report, arm), slots[arm["label"]]
        kl, proxy = (charts.curve(report, arm["arm"], JUDGE, name) for name in ("kl", "reward"))
        known = [at for at in gold if at in kl and at in proxy]
        far = [_point(math.sqrt(max(0.0, kl[at]["value"])), gold[at]) for at in known]
        scale = _scale(arm)
        near = [_point((proxy[at]["value"] - proxy[known[0]]["value"]) / scale, gold[at]) for at in known]
        by_distance.append(Series(arm["label"], slot, sorted(far, key=lambda p: p.x)))
        by_proxy.append(Series(arm["label"], slot, near))
    yield charts.chart(by_distance, "square root of KL to the SFT policy, sqrt(nats)", "gold, along the curve", None)
    yield charts.chart(by_proxy, "proxy gained, in SFT standard deviations", "gold, against the proxy", None)


def _scale(arm: Row) -> float:
    """The proxy's standard deviation over SFT samples, averaged over seeds; 1 where it does not vary."""
    spreads = [math.sqrt(one["sft_samples"]["variance"]) for one in arm["before"] if one["sft_samples"]["variance"]]
    return sum(spreads) / len(spreads) if spreads else 1.0


def _point(x: float, row: Row) -> Point:
    return Point(x, row["value"], row["low"], row["high"])
