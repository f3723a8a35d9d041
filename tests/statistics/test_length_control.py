"""Win rates at equal length: the regression's maximum, laws, and data without variation in length."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import optimize, special

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.statistics import intervals as s
from rlhf_bench.harness.statistics import length_control as lc

fast = settings(max_examples=40, deadline=None)
shapes = st.tuples(st.integers(1, 3), st.integers(1, 14))
VERDICTS = st.sampled_from([0.0, 0.5, 1.0, math.nan])


def rng(seed=0):
    return np.random.default_rng(seed)


def simulated(seeds, prompts, log_odds=0.4, slope=1.5, seed=0):
    """Verdicts and length differences that follow the model."""
    g = rng(seed)
    lengths = g.normal(5, 20, size=(seeds, prompts))
    chance = special.expit(log_odds + slope * np.tanh(lengths / lengths.std()))
    return (g.random((seeds, prompts)) < chance).astype(float), lengths


def maximum(x, y, weights, ridge):
    def loss(at):
        chance = special.expit(at[0] + at[1] * x)
        return -(weights * (y * np.log(chance) + (1 - y) * np.log1p(-chance))).sum() + ridge * at[1] ** 2 / 2

    return optimize.minimize(loss, np.zeros(2), method="BFGS", options={"gtol": 1e-9}).x


@pytest.mark.parametrize("ridge", [0.0, lc.RIDGE, 3.0])
def test_the_fit_is_the_likelihoods_maximum(ridge):
    x, weights = rng(1).normal(size=(6, 60)), rng(2).integers(0, 4, size=(6, 60)).astype(float)
    y = rng(3).choice([0.0, 0.5, 1.0], size=(6, 60))
    found = lc.fit(x, y, weights, ridge).coefficients
    for row in range(6):
        assert found[row] == pytest.approx(maximum(x[row], y[row], weights[row], ridge), abs=1e-5)


def test_the_value_is_the_prediction_at_zero_on_all_cases():
    y, lengths = simulated(2, 80)
    y[0, :6], lengths[1, 3] = math.nan, math.nan
    kept = ~np.isnan(y) & ~np.isnan(lengths)
    x = np.tanh(lengths[kept] / lengths[kept].std())
    known = special.expit(maximum(x, y[kept], np.ones(x.size), lc.RIDGE)[0])
    assert lc.length_controlled(y, lengths, 0.95, rng()).value == pytest.approx(known, abs=1e-6)


def test_agrees_with_statsmodels():
    api = pytest.importorskip("statsmodels.api", reason="statsmodels is not installed")
    y, lengths = simulated(1, 200)
    x = np.tanh(lengths[0] / lengths[0].std())
    known = api.GLM(y[0], api.add_constant(x), family=api.families.Binomial()).fit().params
    assert lc.fit(x[None], y, np.ones((1, 200)), 0.0).coefficients[0] == pytest.approx(known, abs=1e-6)


@fast
@given(
    hnp.arrays(np.float64, shapes, elements=VERDICTS),
    st.integers(0, 2**31),
    st.sampled_from([0.0, 1e-300, 1.0, 1e300]),
    st.booleans(),
)
def test_any_input_gives_a_rate_or_a_reason(y, seed, scale, grouped):
    lengths = scale * np.round(rng(seed).normal(size=y.shape), 1)
    clusters = np.arange(y.shape[1]) // 2 if grouped else None
    found = lc.length_controlled(y, lengths, 0.95, rng(), clusters, resamples=60)
    for number in (found.value, found.low, found.high):
        assert number is None or (math.isfinite(number) and 0 <= number <= 1)
    assert (found.low is None) == (found.high is None)
    assert found.low is not None or found.note
    assert found.low is None or found.low <= found.value <= found.high


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_opponents_rate_is_the_mirror_image(seeds):
    y, lengths = simulated(seeds, 100)
    ours, theirs = lc.length_controlled(y, lengths, 0.9, rng()), lc.length_controlled(1 - y, -lengths, 0.9, rng())
    assert (ours.value, ours.low, ours.high) == pytest.approx(
        (1 - theirs.value, 1 - theirs.high, 1 - theirs.low), abs=1e-6
    )


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_unit_of_length_does_not_matter(seeds):
    y, lengths = simulated(seeds, 60)
    plain, scaled = (lc.length_controlled(y, unit * lengths, 0.9, rng(), resamples=300) for unit in (1.0, 8.0))
    assert (plain.value, plain.low, plain.high) == pytest.approx((scaled.value, scaled.low, scaled.high), abs=1e-9)


def test_the_model_is_recovered():
    """20,000 verdicts: the rate at equal length is that of the model, not the raw one."""
    y, lengths = simulated(1, 20_000, log_odds=-0.5, slope=2.0)
    found = lc.length_controlled(y, lengths, 0.999, rng(), resamples=200)
    assert found.low < special.expit(-0.5) < found.high
    assert y.mean() > found.high


def test_one_seeds_interval_refits_in_every_resample():
    y, lengths = simulated(1, 60)
    x, g, draws = np.tanh(lengths[0] / lengths[0].std()), rng(7), []
    for _ in range(800):
        chosen = g.integers(60, size=60)
        draws.append(special.expit(maximum(x[chosen], y[0][chosen], np.ones(60), lc.RIDGE)[0]))
    found = lc.length_controlled(y, lengths, 0.9, rng(), resamples=4000)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(draws, [0.05, 0.95])), abs=0.02)


def test_whole_clusters_are_resampled():
    y, lengths = simulated(1, 50)
    once = lc.length_controlled(y, lengths, 0.9, rng(), resamples=300)
    names = np.repeat(np.arange(50), 3)
    thrice = lc.length_controlled(np.repeat(y, 3, 1), np.repeat(lengths, 3, 1), 0.9, rng(), names, resamples=300)
    assert (once.low, once.high) == pytest.approx((thrice.low, thrice.high), abs=0.01)  # the ridge weighs a third


def test_length_that_decides_everything_is_finite():
    lengths = np.linspace(-10, 10, 40)[None]
    found = lc.length_controlled((lengths > 0).astype(float), lengths, 0.95, rng(), resamples=200)
    assert found.value == pytest.approx(0.5, abs=0.01)
    assert 0 < found.low < 0.5 < found.high < 1


def test_without_variation_it_is_the_raw_rate():
    y = rng(1).choice([0.0, 0.5, 1.0], size=(1, 30))
    for verdicts, lengths, reason in (
        (y, np.zeros((1, 30)), "no length differs"),
        (np.ones((1, 30)), rng(2).normal(size=(1, 30)), "all verdicts are equal"),
    ):
        found, raw = lc.length_controlled(verdicts, lengths, 0.95, rng()), s.interval("win", verdicts, 0.95, rng())
        assert (found.value, found.low, found.high) == (raw.value, raw.low, raw.high)
        assert reason in found.note


@pytest.mark.parametrize("lengths", [np.full(30, 7.0), np.arange(1.0, 31.0), np.r_[-1.0, np.arange(1.0, 30.0)]])
def test_one_sided_lengths_are_not_extrapolated(lengths):
    y = rng(1).integers(0, 2, size=30).astype(float)
    found = lc.length_controlled(y, lengths, 0.95, rng())
    assert found.value is None
    assert "equal length needs 5 of each" in found.note


def test_no_case_and_shapes():
    assert lc.length_controlled([math.nan], [1.0], 0.95, rng()).note == "no case with a verdict and a length"
    assert lc.length_controlled([1.0], [math.inf], 0.95, rng()).value is None
    with pytest.raises(BenchError, match="on the same ones"):
        lc.length_controlled([1.0, 0.0], [1.0], 0.95, rng())
    with pytest.raises(BenchError):
        lc.length_controlled([2.0, 0.0], [1.0, 2.0], 0.95, rng())


def test_predicted_is_a_mean_of_logistic_functions():
    mean, error = lc.predicted(0.0, 1.0, [0.0, math.log(3)])
    assert mean == pytest.approx((0.5 + 0.75) / 2)
    assert error == pytest.approx(np.std([0.5, 0.75], ddof=1) / math.sqrt(2))
