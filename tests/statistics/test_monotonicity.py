"""Gold against proxy: ranks against scipy, falls after the peak, and curves with known coefficients."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.statistics.comparisons import spearman
from rlhf_bench.harness.statistics.gao import Curve, fit
from rlhf_bench.harness.statistics.intervals import interval
from rlhf_bench.harness.statistics.monotonicity import agreement, drop_from, fisher, of_means, peak, within_prompts

LEVEL = 0.9


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def refused(call: Any, message: str) -> None:
    with pytest.raises(BenchError, match=message) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1


# ---- ranks ----------------------------------------------------------------------------------------------------------


def test_one_seed_gives_the_result_of_spearman() -> None:
    x, y = rng().normal(size=(2, 12))
    found = agreement([x], [y], LEVEL, rng())
    assert found.by_seed == (spearman(x, y, LEVEL, rng()),)
    assert found.over_seeds == found.by_seed[0].noted("conditional on this training run")
    assert found.over_seeds.value == pytest.approx(stats.spearmanr(x, y).statistic)
    few = agreement([x[:5]], [y[:5]], LEVEL, rng()).over_seeds
    assert "exact two-sided p" in few.note
    assert few.low is None


def test_several_seeds_get_students_t() -> None:
    x, y = rng().normal(size=(2, 4, 12))
    y = y + x
    rhos = [stats.spearmanr(a, b).statistic for a, b in zip(x, y, strict=True)]
    found = agreement(x, y, LEVEL, rng()).over_seeds
    low, high = stats.t.interval(LEVEL, 3, np.mean(rhos), stats.sem(rhos))
    assert (found.value, found.low) == pytest.approx((np.mean(rhos), low))
    assert found.high == pytest.approx(min(1, high))


def test_seeds_without_a_value_are_counted() -> None:
    x = np.array([[1.0, 2, 3, 4], [1, 2, 3, 4], [5, 5, 5, 5]])
    y = np.array([[1.0, 2, 3, 4], [1, 2, 4, 3], [1, 2, 3, 4]])
    found = agreement(x, y, LEVEL, rng())
    assert found.by_seed[2].value is None
    assert found.over_seeds.value == pytest.approx((1 + 0.8) / 2)
    assert "1 of 3 seeds without a value (one of the two does not vary)" in found.over_seeds.note
    none = agreement(x[2:], y[2:], LEVEL, rng()).over_seeds
    assert none.value is None
    assert agreement(x[[2, 2]], y[[2, 2]], LEVEL, rng()).over_seeds.value is None
    alike = agreement(x[[0, 0]], y[[0, 0]], LEVEL, rng()).over_seeds
    assert (alike.value, alike.low) == (pytest.approx(1), None)
    assert "spread is unknown" in alike.note


def rising(noise: float, seeds: int = 3, prompts: int = 40, checkpoints: int = 6) -> Any:
    """Proxy and gold [seeds, checkpoints, prompts] that rise together, with noise per prompt."""
    steps = np.arange(float(checkpoints))[None, :, None]
    return steps + noise * rng().normal(size=(2, seeds, checkpoints, prompts))


def test_correlations_over_checkpoints_have_fishers_interval() -> None:
    proxy, gold = rising(noise=8.0)
    rhos = [stats.spearmanr(x, y).statistic for x, y in zip(proxy.mean(axis=2), gold.mean(axis=2), strict=True)]
    found = of_means(proxy, gold, LEVEL)
    mean = np.mean(rhos)
    # Bonett and Wright (2000): the variance of z is (1 + r^2 / 2) / (n - 3)
    variance = max((1 + mean**2 / 2) / 3, np.arctanh(rhos).var(ddof=1))
    ends = np.tanh(np.arctanh(mean) + np.array([-1, 1]) * stats.t.ppf(0.95, 2) * math.sqrt(variance / 3))
    assert (found.value, found.low, found.high) == pytest.approx((mean, *ends))
    gold[1, 2] = np.nan
    assert of_means(proxy, gold, LEVEL).value is None


def test_one_seed_has_the_interval_of_bonett_and_wright() -> None:
    """Their interval for one sample: tanh(atanh(r) +- z sqrt((1 + r^2 / 2) / (n - 3)))."""
    found = fisher([0.6], 12, 0.95)
    half = 1.959964 * math.sqrt((1 + 0.18) / 9)
    assert (found.low, found.high) == pytest.approx(
        (math.tanh(math.atanh(0.6) - half), math.tanh(math.atanh(0.6) + half))
    )
    assert "conditional on this training run" in found.note


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=6), st.integers(4, 30))
def test_the_interval_is_within_range_and_turns_with_the_sign(rhos: list[float], points: int) -> None:
    found, turned = fisher(rhos, points, LEVEL), fisher([-rho for rho in rhos], points, LEVEL)
    assert found.value is not None
    assert found.low is not None
    assert found.high is not None
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert found.low < found.high
    assert (found.low, found.high) == pytest.approx((-turned.high, -turned.low))  # type: ignore[operator]


def test_seeds_that_agree_everywhere_have_a_width() -> None:
    """A width of 0 would claim that the order of four checkpoints is certain."""
    for checkpoints in (4, 6, 12):
        sharp = of_means(*rising(0.01, checkpoints=checkpoints), LEVEL)
        assert sharp.value == pytest.approx(1)
        assert sharp.low is not None
        assert sharp.low < 0.999
    assert of_means(*rising(0.01, checkpoints=3), LEVEL).low is None
    assert of_means(*rising(0.01, checkpoints=2), LEVEL).value is None
    one, other = rising(1.0)
    other[0] = 1.0
    assert "1 of 3 seeds without a value" in of_means(one, other, LEVEL).note
    assert of_means(one, np.ones_like(one), LEVEL).value is None


@pytest.mark.slow
@pytest.mark.parametrize("points", [6, 8, 12])
@pytest.mark.parametrize("seeds", [1, 3, 5])
@pytest.mark.parametrize("pearson", [0.0, 0.6, 0.9])
@pytest.mark.parametrize("spread", [0.0, 0.4])
def test_coverage_of_fishers_interval(points: int, seeds: int, pearson: float, spread: float) -> None:
    """Checkpoints drawn independently; the truth is the population's correlation, equal for all seeds or not."""
    if seeds == 1 and spread:
        pytest.skip("the interval of one seed is of that seed's own correlation")
    draws, count, held = np.random.default_rng(points), 1000, 0
    others = np.tanh(np.arctanh(pearson) + spread * stats.norm.ppf((np.arange(2000) + 0.5) / 2000))
    truth = np.mean(6 / math.pi * np.arcsin(others / 2))
    for _ in range(count):
        x, noise = draws.normal(size=(2, seeds, points))
        rho = np.tanh(np.arctanh(pearson) + spread * draws.normal(size=(seeds, 1)))
        y = rho * x + np.sqrt(1 - rho**2) * noise
        found = of_means(x[..., None], y[..., None], 0.95)
        assert found.low is not None
        assert found.high is not None
        held += found.low <= truth <= found.high
    assert held / count >= 0.93 - 3 * math.sqrt(0.93 * 0.07 / count)


def dependent(draws: np.random.Generator, seeds: int, points: int, slope: float) -> Any:
    """Proxy and gold [seeds, points] of runs that drift: gold is a trend and a random walk."""
    steps = np.arange(points) / points
    walk = np.cumsum(draws.normal(size=(seeds, points)), axis=1) / math.sqrt(points)
    return 3 * steps + 0.2 * draws.normal(size=(seeds, points)), slope * steps + walk


@pytest.mark.slow
@pytest.mark.parametrize("points", [7, 10])
@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("slope", [0.0, 1.0, 3.0])
def test_coverage_where_checkpoints_depend_on_each_other(points: int, seeds: int, slope: float) -> None:
    """The truth is the mean correlation over seeds.  Student's t on the correlations covers .69 to .93."""
    draws, count = np.random.default_rng(0), 600
    truth = np.mean(
        [stats.spearmanr(x, y).statistic for x, y in zip(*dependent(draws, 4000, points, slope), strict=True)]
    )
    held = np.zeros(2)
    for _ in range(count):
        x, y = dependent(draws, seeds, points, slope)
        t = agreement(x, y, 0.95, draws).over_seeds
        for at, one in enumerate((of_means(x[..., None], y[..., None], 0.95), t)):
            held[at] += one.low is not None and one.high is not None and one.low <= truth <= one.high
    slack = 3 * math.sqrt(0.94 * 0.06 / count)
    assert held[0] / count >= 0.94 - slack
    if slope:
        assert held[1] < held[0]


monotone = st.sampled_from([lambda v: v**3, lambda v: 5 * v - 2, np.arctan])


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), monotone, monotone)
def test_ranks_depend_on_the_order_alone(seed: int, f: Any, g: Any) -> None:
    x, y = np.random.default_rng(seed).normal(size=(2, 3, 9))
    one, other = agreement(x, y, LEVEL, rng()), agreement(f(x), g(y), LEVEL, rng())
    assert one == other
    turned = agreement(x, -y, LEVEL, rng()).over_seeds
    assert turned.value == pytest.approx(-one.over_seeds.value)  # type: ignore[operator]


def test_within_prompts_against_scipy() -> None:
    x, y = rng().integers(0, 4, size=(2, 2, 15, 6)).astype(float)
    x[0, 3], y[1, 5] = 2.0, 1.0  # nothing to rank
    y[0, 7, 2] = np.nan
    x[:, 0] = y[:, 0] = [1, 2, 3, 4, 5, 6]
    cells = np.full((2, 15), np.nan)
    for s, p in np.ndindex(2, 15):
        if np.ptp(x[s, p]) > 0 and np.ptp(y[s, p]) > 0:  # nan > 0 is False
            cells[s, p] = stats.spearmanr(x[s, p], y[s, p]).statistic
    found = within_prompts(x, y, LEVEL, rng())
    expected = interval("level", cells, LEVEL, rng())
    assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))
    assert f"{int(np.isnan(cells).sum())} of 30 prompts left out" in found.note
    nothing = within_prompts(np.ones((1, 4, 3)), y[:1, :4, :3], LEVEL, rng())
    assert nothing.value is None


# ---- peak and fall --------------------------------------------------------------------------------------------------


def gold_cube(seeds: int = 2, checkpoints: int = 5, prompts: int = 40) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(seeds, checkpoints, prompts))


def test_the_drop_from_a_fixed_checkpoint() -> None:
    cube = gold_cube()
    found = drop_from(cube, 1, LEVEL, rng())
    assert found == interval("change", cube[:, 1] - cube[:, 4], LEVEL, rng())
    assert drop_from(cube, 4, LEVEL, rng()).value == 0
    for fixed in (-1, 5):
        refused(lambda fixed=fixed: drop_from(cube, fixed, LEVEL, rng()), f"Checkpoint {fixed} of 5")


def halves(prompts: int) -> np.ndarray:
    """The prompts that choose the peak: those whose gold, changed alone, moves it."""
    chooses = []
    for prompt in range(prompts):
        cube = np.zeros((1, 3, prompts))
        cube[0, 1, prompt] = 1.0
        chooses.append(peak(cube, LEVEL, rng).checkpoints == (1,))
    return np.array(chooses)


def test_the_peak_is_chosen_on_one_half_and_measured_on_the_other() -> None:
    chooses = halves(40)
    assert chooses.sum() == 20
    cube = gold_cube()
    found = peak(cube, LEVEL, rng)
    tops = cube[:, :, chooses].mean(2).argmax(1)
    assert found.checkpoints == tuple(tops)
    measured = np.array([run[at][~chooses] for run, at in zip(cube, tops, strict=True)])
    assert found.height.value == pytest.approx(measured.mean())
    assert found.drop.value == pytest.approx((measured - cube[:, -1, ~chooses]).mean())
    assert "chosen on 20 prompts, measured on the other 20" in found.drop.note
    other = cube.copy()
    other[:, :, ~chooses] = 99 * other[:, ::-1, ~chooses]  # what is measured has no say in what is chosen
    assert peak(other, LEVEL, rng).checkpoints == found.checkpoints


def test_no_fall_is_found_in_noise() -> None:
    """On one set of prompts the fall from the highest checkpoint is above 0 by construction; on the other half its
    mean over many runs is 0."""
    drops, naive = [], []
    for seed in range(150):
        cube = np.random.default_rng(seed).normal(size=(1, 6, 24))
        found = peak(cube, LEVEL, lambda seed=seed: np.random.default_rng(seed)).drop
        drops.append(found.value)
        means = cube[0].mean(1)
        naive.append(means.max() - means[-1])
    error = float(np.std(drops) / math.sqrt(len(drops)))
    assert abs(np.mean(drops)) < 4 * error
    assert np.mean(naive) > 8 * error


def test_prompts_of_one_source_stay_together() -> None:
    clusters = [f"source {i // 4}" for i in range(40)]
    for source in range(10):
        cube = np.zeros((1, 3, 40))
        cube[0, 1, 4 * source : 4 * source + 4] = [1.0, -0.9, 1.0, -0.9]
        whole = peak(cube, LEVEL, rng, clusters)
        alone = np.zeros((1, 3, 40))
        alone[0, 1, 4 * source] = 1.0
        assert whole.checkpoints == peak(alone, LEVEL, rng, clusters).checkpoints


def test_undefined_peaks_have_a_reason() -> None:
    few = peak(gold_cube(prompts=3), LEVEL, rng)
    assert (few.checkpoints, few.drop.value) == ((None, None), None)
    assert "3 prompts (or clusters) cannot be halved" in few.drop.note
    cube = gold_cube()
    cube[0, 2] = np.nan  # a checkpoint of one seed that nobody could judge
    found = peak(cube, LEVEL, rng)
    assert found.checkpoints[0] is None
    assert found.checkpoints[1] is not None
    assert found.drop.value is not None
    refused(lambda: peak(np.zeros((2, 3)), LEVEL, rng), "seeds, checkpoints, prompts")


# ---- curves ---------------------------------------------------------------------------------------------------------

FORMS = {"rl": lambda d, a, b: d * (a - b * np.log(d)), "best-of-n": lambda d, a, b: d * (a - b * d)}


def points(form: str, a: float, b: float, noise: float = 0.0, seeds: int = 3, prompts: int = 30) -> tuple[Any, Any]:
    """KL and gold [S, C, P] of a known curve; the seeds have different distances."""
    made = np.random.default_rng(5)
    d = np.linspace(0.4, 4, 6)[None, :] * (1 + 0.1 * np.arange(seeds))[:, None]
    gold = FORMS[form](d, a, b)[:, :, None] + noise * made.normal(size=(seeds, 6, prompts))
    return np.repeat(d[:, :, None] ** 2, prompts, axis=2), gold


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("a", "b"), [(1.0, 0.4), (0.3, 0.2), (2.0, 0.5)])
def test_a_known_curve_is_recovered(form: Any, a: float, b: float) -> None:
    found = fit(form, *points(form, a, b), LEVEL, rng(), resamples=50)
    assert (found.a.value, found.b.value) == pytest.approx((a, b))
    assert (found.a.low, found.a.high) == pytest.approx((a, a))
    top = optimize.minimize_scalar(lambda d: -FORMS[form](d, a, b), bounds=(1e-3, 60), method="bounded")
    assert found.top_distance.value == pytest.approx(top.x, rel=1e-3)
    assert found.top_gold.value == pytest.approx(-top.fun)
    assert found.residual == pytest.approx(0, abs=1e-9)
    assert found.points == 18


@pytest.mark.parametrize("form", FORMS)
def test_noise_is_fitted_by_least_squares(form: Any) -> None:
    kl, gold = points(form, 1.0, 0.3, noise=1.0)
    kl = kl * np.random.default_rng(1).uniform(0.5, 1.5, size=kl.shape)
    d, y = np.sqrt(kl.mean(2)).ravel(), gold.mean(2).ravel()
    (a, b), _ = optimize.curve_fit(FORMS[form], d, y)
    found = fit(form, kl, gold, LEVEL, rng(), resamples=100)
    assert (found.a.value, found.b.value) == pytest.approx((a, b), rel=1e-5)
    assert found.residual == pytest.approx(np.sqrt(np.mean((y - FORMS[form](d, a, b)) ** 2)), rel=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_the_units_of_gold_and_the_order_of_seeds_and_prompts(form: Any) -> None:
    kl, gold = points(form, 1.0, 0.3, noise=0.5)
    one = fit(form, kl, gold, LEVEL, rng(), resamples=60)
    ten = fit(form, kl, 10 * gold, LEVEL, rng(), resamples=60)
    for a, b, factor in ((one.a, ten.a, 10), (one.b, ten.b, 10), (one.top_distance, ten.top_distance, 1)):
        assert (b.value, b.low, b.high) == pytest.approx((factor * a.value, factor * a.low, factor * a.high))  # type: ignore[operator]
    moved = fit(form, kl[::-1, :, ::-1], gold[::-1, :, ::-1], LEVEL, rng(), resamples=60)
    assert (moved.a.value, moved.b.value) == pytest.approx((one.a.value, one.b.value))


@pytest.mark.parametrize("seeds", [1, 3])
def test_bounds_are_those_of_a_slow_bootstrap(seeds: int) -> None:
    """Prompts are resampled, and training runs where there are several; every resample is fitted again."""
    kl, gold = points("best-of-n", 1.0, 0.2, noise=2.0, seeds=seeds)
    found = fit("best-of-n", kl, gold, LEVEL, rng(), resamples=300)
    drawing = rng()
    prompts = drawing.integers(30, size=(300, 30))
    runs = drawing.integers(seeds, size=(300, seeds)) if seeds > 1 else np.zeros((300, 1), dtype=int)
    slow = []
    for chosen, run in zip(prompts, runs, strict=True):
        d, y = np.sqrt(kl[run, :, 0]).ravel(), gold[run][:, :, chosen].mean(2).ravel()
        slow.append(np.linalg.lstsq(np.stack([d, -d * d], 1), y, rcond=None)[0])
    for bounds, draws in ((found.a, np.array(slow)[:, 0]), (found.b, np.array(slow)[:, 1])):
        assert (bounds.low, bounds.high) == pytest.approx(tuple(np.quantile(draws, [0.05, 0.95])))
    assert ("conditional on this training run" if seeds == 1 else "3 seeds resampled") in found.a.note


def test_a_point_at_distance_zero_has_no_weight() -> None:
    kl, gold = points("rl", 1.0, 0.3, noise=0.2)
    start = np.concatenate([np.zeros_like(kl[:, :1]), kl], axis=1), np.concatenate([gold[:, :1] * 0, gold], axis=1)
    one, other = (fit("rl", *each, LEVEL, rng(), resamples=40) for each in ((kl, gold), start))
    assert one.points == other.points
    for a, b in ((one.a, other.a), (one.b, other.b), (one.top_gold, other.top_gold)):
        assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high))
    below = start[0].copy()
    below[:, 0] = -0.1  # an estimate of a KL of 0 may lie below it
    assert fit("rl", below, start[1], LEVEL, rng(), resamples=40) == other


def test_analytic_kl_and_undecided_gold() -> None:
    kl, gold = points("best-of-n", 1.0, 0.2, seeds=1)
    analytic = kl[0, :, :1]
    assert fit("best-of-n", analytic, gold, LEVEL, rng(), resamples=40) == fit(
        "best-of-n", kl, gold, LEVEL, rng(), resamples=40
    )
    gold[0, 2, :20] = np.nan
    found = fit("best-of-n", kl, gold, LEVEL, rng(), resamples=40)
    assert (found.a.value, found.b.value) == pytest.approx((1.0, 0.2))
    gold[0, 2] = np.nan
    found = fit("best-of-n", kl, gold, LEVEL, rng(), resamples=40)
    assert found.a.value == pytest.approx(1.0)
    assert found.points == 5


def test_whole_clusters_are_drawn() -> None:
    kl, gold = points("rl", 1.0, 0.3, noise=1.0, seeds=1, prompts=20)
    twice = fit("rl", np.tile(kl, 2), np.tile(gold, 2), LEVEL, rng(), [*range(20), *range(20)], resamples=60)
    once = fit("rl", kl, gold, LEVEL, rng(), resamples=60)
    assert (twice.a.low, twice.a.high) == pytest.approx((once.a.low, once.a.high))


def flat(kl: Any, gold: Any, form: Any = "rl") -> Curve:
    return fit(form, kl, gold, LEVEL, rng(), resamples=40)


def test_undefined_curves_have_a_reason() -> None:
    one = flat(np.full((1, 1, 5), 2.0), np.ones((1, 1, 5)))
    assert one.a.value is one.b.value is one.top_gold.value is one.residual is None
    assert "1 points at a distance above 0 do not determine two coefficients" in one.a.note
    assert flat(np.zeros((2, 3, 5)), np.ones((2, 3, 5))).a.value is None
    assert flat(np.full((2, 3, 5), 2.0), np.ones((2, 3, 5))).a.value is None  # all at one distance
    assert flat(*points("rl", 1.0, 0.3) * np.array([1, np.nan])[:, None, None, None]).a.value is None
    rising = flat(*points("best-of-n", 1.0, -0.2), form="best-of-n")
    assert rising.b.value == pytest.approx(-0.2)
    assert rising.top_distance.value is None
    assert "no maximum" in rising.top_distance.note


def test_unknown_forms_and_wrong_shapes_raise() -> None:
    kl, gold = points("rl", 1.0, 0.3)
    refused(lambda: flat(kl, gold, form="ppo"), "form 'ppo' of a curve is unknown")
    refused(lambda: flat(kl[:, :2], gold), "Give one that broadcasts")
    refused(lambda: flat(kl, gold[0]), "seeds, checkpoints, prompts")
    refused(lambda: agreement(np.zeros((2, 3)), np.zeros((2, 4)), LEVEL, rng()), "Give both alike")
    refused(lambda: within_prompts(np.zeros((2, 3)), np.zeros((2, 3)), LEVEL, rng()), "seeds, prompts, points")
