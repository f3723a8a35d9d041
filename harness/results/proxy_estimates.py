"""Estimates of an arm under the judge "proxy": whether gold rises with the proxy, and which features the proxy rewards.

Checkpoints and n are fixed before a run.  So is the point from which the fall of gold is measured: the middle one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from rlhf_bench.harness.nouns import Estimate, MeasureKind
from rlhf_bench.harness.results.arms import Arm
from rlhf_bench.harness.results.estimates import ALL, Estimator
from rlhf_bench.harness.results.proxy_curves import Curves, curves_of
from rlhf_bench.harness.statistics import gao, layers, monotonicity
from rlhf_bench.harness.statistics.cells import Array
from rlhf_bench.harness.statistics.intervals import Interval
from rlhf_bench.harness.statistics.layers import outer_means

JUDGE = "proxy"
RESAMPLES = 1000
"""Resamples of the fit of Gao's curve."""


def proxy_estimates(arm: Arm, estimator: Estimator) -> Iterator[Estimate]:
    """All estimates of an arm's curve; none for an arm without one.

    At every point (`iteration`: 0 for the baseline, a checkpoint, or n): reward, kl, and gold (or score).  At the last:
    "spearman" of mean proxy and mean gold over the points without the SFT policy, "spearman within prompts", "gold
    peak", "fall from peak" (chosen on one half of the prompts, measured on the other), "fall from the middle", Gao's
    curve ("gao a", "gao b", "gao peak", "gao peak at"), "gamma" (the degree of overoptimisation), and by slice "NAME
    before", "NAME after", "NAME change" of every feature.
    """
    curves = curves_of(arm)
    if curves is None or not curves.proxy.size:  # no cells: seeds without a common prompt
        return
    cubes = {"reward": curves.proxy, "kl": curves.kl}  # [S, C, P] each
    cubes |= {} if curves.gold is None else {curves.worth: curves.gold}
    for at, point in enumerate(curves.points):
        for name, cube in cubes.items():
            rng = estimator.generator(*_place(arm), name, str(point))
            found = layers.interval("level", cube[:, at], estimator.level, rng, curves.clusters, curves.layers)
            yield _estimate(arm, curves, estimator, name, found, cube[:, at], iteration=point)
    if curves.gold is not None:
        yield from _monotonicity(arm, _of_outer(curves), estimator)
    # the cells before and after must both be there: a change is paired by seed and prompt
    names = [name for name in curves.features.before if name in curves.features.after]
    slices = sorted({name for own in curves.slices for name in own})
    for slice_name in [ALL, *slices]:
        kept = np.array([slice_name == ALL or slice_name in own for own in curves.slices], dtype=bool)
        clusters = [c for c, own in zip(curves.clusters, kept.tolist(), strict=True) if own]
        for name in names:
            before, after = curves.features.before[name][:, kept], curves.features.after[name][:, kept]
            for what, cells in (("before", before), ("after", after), ("change", after - before)):
                rng = estimator.generator(*_place(arm), name, what, slice_name)
                kind: MeasureKind = "change" if what == "change" else "level"
                found = layers.interval(kind, cells, estimator.level, rng, clusters, curves.layers)
                yield _estimate(arm, curves, estimator, f"{name} {what}", found, cells, slice_name)


def _of_outer(curves: Curves) -> Curves:
    """The curves of runs in layers as mean curves of the outermost layer, which are independent as seeds are.

    Without the samples of a pool: those of several runs have no order in common.
    """
    if curves.layers is None:
        return curves
    proxy, kl = (outer_means(cells, curves.layers) for cells in (curves.proxy, curves.kl))
    gold = None if curves.gold is None else outer_means(curves.gold, curves.layers)
    samples = None
    if curves.samples is not None and curves.form == "rl":
        first, second = (outer_means(cells, curves.layers) for cells in curves.samples)
        samples = first, second
    return replace(curves, proxy=proxy, kl=kl, gold=gold, samples=samples)


def _monotonicity(arm: Arm, curves: Curves, estimator: Estimator) -> Iterator[Estimate]:
    level, clusters, gold = estimator.level, curves.clusters, curves.gold
    assert gold is not None  # the caller asks for arms that were judged
    last = gold[:, -1]

    # each statistic starts its generator anew, so that adding one does not change the others
    def rng() -> np.random.Generator:
        return estimator.generator(*_place(arm), "monotonicity")

    # the SFT policy itself, one sample of it for best-of-n, is no point of training
    trained = slice(1, None) if curves.points[0] == (1 if curves.form == "best-of-n" else 0) else slice(None)
    ranked = monotonicity.of_means(curves.proxy[:, trained], gold[:, trained], level)
    found: dict[str, Interval] = {"spearman": ranked}
    if curves.samples is not None:
        found["spearman within prompts"] = monotonicity.within_prompts(*curves.samples, level, rng(), clusters)
    # the function, not a generator: the peak's height and the fall from it each start it anew
    top = monotonicity.peak(gold, level, rng, clusters)
    found[f"{curves.worth} peak"], found["fall from peak"] = top.height, top.drop
    # a point chosen by the data would make the fall from it too large: this one is fixed before the run
    middle = (len(curves.points) - 1) // 2
    fall = monotonicity.drop_from(gold, middle, level, rng(), clusters)
    found["fall from the middle"] = fall.noted(f"from {curves.points[middle]}, fixed beforehand")
    form: gao.Form = "best-of-n" if curves.form == "best-of-n" else "rl"
    gain = gold - gold[:, :1]  # against the first point: the SFT policy, or one sample of it
    # Gao et al. (2210.10760): gain in gold as a function of d = sqrt(KL)
    curve = gao.fit(form, curves.kl, gain, level, rng(), clusters, RESAMPLES)
    found |= {"gao a": curve.a, "gao b": curve.b, "gao peak": curve.top_gold, "gao peak at": curve.top_distance}
    # Kim et al. (2505.12763): how far the proxy's gain is from gold's
    found["gamma"] = gao.overoptimisation(form, curves.kl, gold, curves.proxy, level, rng(), clusters, RESAMPLES)
    for name, interval in found.items():
        yield _estimate(arm, curves, estimator, name, interval, last)


def _place(arm: Arm) -> tuple[str, ...]:
    return (arm.task, arm.reward_model, arm.key, JUDGE)


def _estimate(
    arm: Arm,
    curves: Curves,
    estimator: Estimator,
    statistic: str,
    interval: Interval,
    cells: Array,
    slice_name: str = ALL,
    iteration: int | None = None,
) -> Estimate:
    at = curves.points[-1] if iteration is None else iteration
    # cells of other data are NaN too: none of those that the runs of a data seed could have decided
    known = int(np.isnan(cells).sum()) if curves.absent else 0
    return estimator.estimate(arm, JUDGE, statistic, slice_name, "sample", at, interval, cells, known)
