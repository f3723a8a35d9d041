"""Planning: components of known data, agreement with simulated tests, and laws of the designs."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.statistics import power as p
from rlhf_bench.harness.statistics.intervals import two_way

fast = settings(max_examples=30, deadline=None)
variances = st.sampled_from([0.0, 0.001, 0.02, 0.3, 1.0])
mixes = st.builds(p.Components, variances, variances, st.sampled_from([0.1, 1.0]))


def rng(seed=0):
    return np.random.default_rng(seed)


def drawn(found, seeds, prompts, g):
    """Cells of the two-way random-effects model around 0."""
    cells = math.sqrt(found.seed) * g.normal(size=(seeds, 1)) + math.sqrt(found.prompt) * g.normal(size=prompts)
    return cells + math.sqrt(found.residual) * g.normal(size=(seeds, prompts))


# ---- components -----------------------------------------------------------------------------------------------------


def test_components_by_hand():
    """Rows 0 and 2 apart, columns 0, 1, 2, and no residual."""
    cells = np.array([[0.0, 1.0, 2.0], [2.0, 3.0, 4.0]])
    found = p.components(cells)
    assert (found.seed, found.prompt, found.residual) == pytest.approx((2.0, 1.0, 0.0))


def test_components_are_those_of_the_model_on_average():
    truth, g = p.Components(0.3, 0.8, 1.0), rng(1)
    found = [p.components(drawn(truth, 6, 40, g)) for _ in range(300)]
    for name in ("seed", "prompt", "residual"):
        each = [getattr(one, name) for one in found]
        assert np.mean(each) == pytest.approx(getattr(truth, name), abs=4 * np.std(each) / math.sqrt(300))


def test_a_negative_component_is_zero_with_a_note():
    found = p.components([[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0]])
    assert (found.seed, found.prompt) == (0, 0)
    assert "no spread between seeds and prompts" in found.note


def test_one_seed_gives_no_spread_between_seeds():
    found = p.components([[1.0, 2.0, 4.0]])
    assert (found.seed, found.residual) == (None, 0)
    assert found.prompt == pytest.approx(np.var([1, 2, 4], ddof=1))
    assert "one training run" in found.note
    with pytest.raises(BenchError, match="at least two seeds"):
        p.power(found, 0.1, 2, 100)
    assert {plan.seeds for plan in p.table([[1.0, 2.0, 4.0]], 0.5)} == {1}


@pytest.mark.parametrize("cells", [np.ones((3, 4)), [[math.nan, math.nan]], [[1.0], [2.0]], np.zeros((1, 0))])
def test_a_pilot_without_spread_gives_no_plan(cells):
    assert p.components(cells) is None
    (plan,) = p.table(cells, 0.1)
    assert plan.smallest_detectable is None
    assert "does not vary" in plan.note


@fast
@given(
    hnp.arrays(
        np.float64,
        st.tuples(st.integers(1, 4), st.integers(1, 6)),
        elements=st.floats(-1e6, 1e6) | st.just(math.nan) | st.sampled_from([0.0, 1.0]),
    ),
    st.booleans(),
)
def test_any_pilot_gives_a_plan_or_a_reason(cells, grouped):
    clusters = np.arange(cells.shape[1]) // 2 if grouped else None
    for plan in p.table(cells, 0.1, clusters, seeds=(1, 2, 5), prompts=(10, 200)):
        for number in (plan.smallest_detectable, plan.power):
            assert number is None or (math.isfinite(number) and number >= 0)
        assert plan.power is None or plan.power <= 1 + 1e-12
        assert plan.smallest_detectable is not None or plan.note


# ---- designs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seeds", "prompts", "mix"),
    [(2, 30, (0.01, 0.5, 1.0)), (3, 40, (0.05, 0.3, 1.0)), (5, 25, (0.0, 1.0, 0.5)), (8, 60, (0.2, 0.2, 1.0))],
)
def test_a_simulated_test_finds_the_smallest_detectable_difference_with_that_power(seeds, prompts, mix):
    found = p.Components(*mix)
    effect = p.smallest_detectable(found, seeds, prompts)
    g, count, reached = rng(seeds), 1500, 0
    for _ in range(count):
        one = two_way(drawn(found, seeds, prompts, g) + effect, 0.95)
        reached += not one.low <= 0 <= one.high
    assert reached / count == pytest.approx(0.8, abs=3.5 * math.sqrt(0.8 * 0.2 / count))


def test_one_seed_has_the_power_of_a_t_test():
    found = p.Components(None, 1.0, 0.0)
    for prompts, effect in ((10, 1.0), (50, 0.3), (400, 0.14)):
        quantile, shift = stats.t.ppf(0.975, prompts - 1), effect * math.sqrt(prompts)
        known = stats.nct.sf(quantile, prompts - 1, shift) + stats.nct.cdf(-quantile, prompts - 1, shift)
        assert p.power(found, effect, 1, prompts) == pytest.approx(known, abs=1e-3)


def test_many_seeds_and_prompts_have_the_power_of_a_normal_test():
    found = p.Components(0.5, 0.5, 1.0)
    error = math.sqrt(0.5 / 400 + 0.5 / 5000 + 1 / (400 * 5000))
    known = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * error
    assert p.smallest_detectable(found, 400, 5000) == pytest.approx(known, rel=0.01)


def test_power_at_no_difference_is_at_most_the_level():
    for seeds in (1, 2, 3, 5, 10):
        for mix in ((0.0, 1.0, 1.0), (0.02, 1.0, 1.0), (1.0, 0.1, 1.0)):
            assert p.power(p.Components(*mix), 0.0, seeds, 100) <= 0.065


@fast
@given(mixes, st.integers(2, 6), st.integers(2, 300), st.integers(1, 200))
def test_more_seeds_or_prompts_never_detect_less(found, seeds, prompts, more):
    plain = p.smallest_detectable(found, seeds, prompts)
    for design in ((seeds + 1, prompts), (seeds, prompts + more), (2 * seeds, prompts + more)):
        # .5%: the mean squares are simulated
        assert p.smallest_detectable(found, *design) <= plain * 1.005


@fast
@given(mixes, st.integers(1, 5), st.integers(2, 200), st.floats(0.01, 2))
def test_power_at_the_smallest_detectable_difference_is_the_wanted_one(found, seeds, prompts, wanted):
    wanted = 0.1 + 0.85 * min(wanted / 2, 1)
    effect = p.smallest_detectable(found, seeds, prompts, wanted=wanted)
    assert p.power(found, effect, seeds, prompts) == pytest.approx(wanted, abs=1e-4)


@fast
@given(mixes, st.integers(1, 5), st.sampled_from([0.05, 0.2, 1.0]))
def test_the_prompts_needed_are_the_fewest(found, seeds, difference):
    prompts = p.prompts_needed(found, difference, seeds)
    if prompts is None:
        assert p.power(found, difference, seeds, p.MOST_PROMPTS) < 0.8
    else:
        assert p.power(found, difference, seeds, prompts) >= 0.8
        assert prompts == 2 or p.power(found, difference, seeds, prompts - 1) < 0.8


def test_seeds_that_differ_too_much_need_more_seeds_not_prompts():
    pilot = drawn(p.Components(0.5, 0.5, 1.0), 6, 100, rng(2))
    needed = p.table(pilot, 0.3, seeds=(2, 200), prompts=())
    assert needed[0].prompts is None
    assert "the seeds differ too much" in needed[0].note
    assert needed[1].power >= 0.8


def test_the_table_has_a_row_per_design_and_one_per_number_of_seeds():
    pilot = drawn(p.Components(0.01, 0.5, 1.0), 4, 100, rng(3))
    plans = p.table(pilot, 0.2, seeds=(1, 3), prompts=(50, 100))
    assert [(plan.seeds, plan.prompts) for plan in plans[:4]] == [(1, 50), (1, 100), (3, 50), (3, 100)]
    assert [plan.seeds for plan in plans[4:]] == [1, 3]
    assert all("one training run" in plan.note for plan in plans if plan.seeds == 1)
    assert all(plan.power is None for plan in p.table(pilot))


def test_a_cluster_is_one_prompt_of_a_plan():
    pilot = drawn(p.Components(0.02, 0.5, 1.0), 4, 60, rng(4))
    plain = p.components(pilot)
    thrice = p.components(np.repeat(pilot, 3, axis=1), np.repeat(np.arange(60), 3))
    assert (thrice.seed, thrice.prompt, thrice.residual) == pytest.approx((plain.seed, plain.prompt, plain.residual))


@pytest.mark.parametrize("difference", [0.0, -0.1, math.nan, math.inf])
def test_a_difference_must_be_above_zero(difference):
    with pytest.raises(BenchError, match="above 0"):
        p.table([[1.0, 2.0]], difference)


def test_a_design_needs_a_seed_and_two_prompts():
    with pytest.raises(BenchError):
        p.power(p.Components(0.1, 0.1, 1.0), 0.1, 0, 10)
    with pytest.raises(BenchError):
        p.power(p.Components(0.1, 0.1, 1.0), 0.1, 3, 1)
