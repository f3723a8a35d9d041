"""Bradley-Terry strengths: the likelihood's maximum, laws, and data without a maximum."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import optimize, special

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.statistics import ranking as r

fast = settings(max_examples=40, deadline=None)
values = hnp.arrays(
    np.float64,
    st.tuples(st.integers(2, 4), st.integers(1, 3), st.integers(1, 7)),
    elements=st.sampled_from([0.0, 0.5, 1.0, 2.0, math.nan]),
)
counts = st.integers(2, 5).flatmap(lambda k: hnp.arrays(np.float64, (k, k), elements=st.integers(1, 30)))


def rng(seed=0):
    return np.random.default_rng(seed)


def noisy(*shape, spread=1.0):
    """Values of reward models that differ on average; each wins some comparisons against every other."""
    means = np.linspace(0, spread, shape[0])
    return rng(3).normal(size=shape) + means[:, None, None]


def win_counts(cells):
    """By loop: wins of the row over the column, a tie half each."""
    found = np.zeros((len(cells), len(cells)))
    for i in range(len(cells)):
        for j in range(len(cells)):
            for a, b in zip(cells[i].ravel(), cells[j].ravel(), strict=True):
                if i != j and not (math.isnan(a) or math.isnan(b)):
                    found[i, j] += 1 if a > b else 0.5 if a == b else 0
    return found


def maximum(wins):
    """The likelihood's maximum by a general optimiser."""

    def loss(at):
        return -(wins * np.log(special.expit(at[:, None] - at[None]))).sum()

    found = optimize.minimize(loss, np.zeros(len(wins)), method="BFGS", options={"gtol": 1e-8}).x
    return found - found.mean()


@fast
@given(counts)
def test_strengths_are_the_likelihoods_maximum(wins):
    np.fill_diagonal(wins, 0)
    found = r.strengths(wins)
    chance = special.expit(found[:, None] - found[None])
    assert (wins - (wins + wins.T) * chance).sum(axis=1) == pytest.approx(0, abs=1e-6)
    assert found.sum() == pytest.approx(0, abs=1e-9)


def test_strengths_agree_with_a_general_optimiser_one_by_one_and_at_once():
    wins = rng(1).integers(1, 40, size=(5, 4, 4)) * (1 - np.eye(4))
    together = r.strengths(wins)
    for one, found in zip(wins, together, strict=True):
        assert found == pytest.approx(maximum(one), abs=1e-5)
        assert found == pytest.approx(r.strengths(one), abs=1e-9)


def test_two_reward_models_by_hand():
    """30 wins of 40: log odds log 3 apart."""
    wins = np.array([[0, 30], [10, 0.0]])
    assert r.strengths(wins) == pytest.approx([math.log(3) / 2, -math.log(3) / 2])


def test_agrees_with_evalica():
    evalica = pytest.importorskip("evalica", reason="evalica is not installed")
    wins = rng(2).integers(2, 20, size=(4, 4)) * (1 - np.eye(4, dtype=int))
    games = [(i, j) for i in range(4) for j in range(4) for _ in range(wins[i, j])]
    xs, ys = zip(*games, strict=True)
    scores = evalica.bradley_terry(xs, ys, [evalica.Winner.X] * len(games), tolerance=1e-10, limit=10000).scores
    known = np.log(np.array([scores[i] for i in range(4)]))
    assert r.strengths(wins.astype(float)) == pytest.approx(known - known.mean(), abs=1e-4)


def test_agrees_with_choix():
    choix = pytest.importorskip("choix", reason="choix is not installed")
    wins = rng(2).integers(2, 20, size=(4, 4)) * (1 - np.eye(4, dtype=int))
    games = [(i, j) for i in range(4) for j in range(4) for _ in range(wins[i, j])]
    assert r.strengths(wins.astype(float)) == pytest.approx(choix.ilsr_pairwise(4, games), abs=1e-5)


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_rank_is_the_maximum_over_all_cases_a_tie_for_half(seeds):
    cells = np.round(noisy(4, seeds, 60) * 2)
    cells[0, 0, :5] = math.nan
    found = r.rank(cells, 0.95, rng(), resamples=99)
    assert [one.value for one in found.strengths] == pytest.approx(maximum(win_counts(cells)), abs=1e-5)


@fast
@given(values, st.booleans())
def test_any_values_give_a_ranking_or_a_reason(cells, grouped):
    clusters = np.arange(cells.shape[2]) // 2 if grouped else None
    found = r.rank(cells, 0.95, rng(), clusters, resamples=60)
    assert len(found.strengths) == len(found.first) == len(cells)
    for one in found.strengths:
        assert all(x is None or math.isfinite(x) for x in (one.value, one.low, one.high))
        assert (one.low is None) == (one.high is None)
        assert one.low is not None or one.note
        assert one.low is None or one.low <= one.value <= one.high
    known = [one.value for one in found.strengths if one.value is not None]
    assert not known or sum(known) == pytest.approx(0, abs=1e-6)
    shares = [share for share in found.first if share is not None]
    assert not shares or sum(shares) == pytest.approx(1)


@fast
@given(values, st.randoms(use_true_random=False))
def test_reordered_reward_models_give_the_same_strengths_reordered(cells, random):
    order = random.sample(range(len(cells)), len(cells))
    plain, moved = (r.rank(part, 0.95, rng(), resamples=40) for part in (cells, cells[order]))
    for place, one in zip(order, moved.strengths, strict=True):
        other = plain.strengths[place]
        assert (one.value is None) == (other.value is None)
        assert one.value is None or one.value == pytest.approx(other.value, abs=1e-6)


def test_strengths_depend_on_the_sign_of_a_difference_not_its_size():
    cells = noisy(3, 1, 40)
    plain, stretched = (r.rank(part, 0.95, rng(), resamples=99) for part in (cells, np.exp(3 * cells)))
    assert plain == stretched


def test_a_model_that_always_wins_has_a_finite_strength_without_bounds():
    cells = np.stack([np.full((1, 10), 2.0), np.eye(1, 10), 1 - np.eye(1, 10)])
    found = r.rank(cells, 0.95, rng(), resamples=99)
    wins = win_counts(cells) + r.TIE * (1 - np.eye(3))
    assert [one.value for one in found.strengths] == pytest.approx(maximum(wins), abs=1e-5)
    assert {one.low for one in found.strengths} == {None}
    assert "wins all its comparisons" in found.strengths[0].note
    assert found.first[0] == 1


def test_groups_without_common_cases_are_not_ranked():
    nan = math.nan
    cells = np.array([[[1.0, 0, nan, nan]], [[0.0, 1, nan, nan]], [[nan, nan, 1, 0]], [[nan, nan, 0, 1]]])
    found = r.rank(cells, 0.95, rng())
    assert {one.value for one in found.strengths} == {None}
    assert "not all are compared" in found.strengths[0].note
    assert found.first == (None,) * 4


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ([[[1.0, 2.0]]], "cannot be ranked"),
        ([[[math.nan]], [[1.0]]], "no decided case"),
        ([[[1.0]], [[2.0]]], "one prompt"),
        ([[[1.0, 2.0]], [[1.0, 2.0]]], "nothing but ties"),
    ],
)
def test_undefined_rankings_have_a_reason(cells, reason):
    for one in r.rank(cells, 0.95, rng(), resamples=20).strengths:
        assert one.low is None
        assert reason in one.note


def test_shapes_that_differ_are_refused():
    with pytest.raises(BenchError, match="same seeds and prompts"):
        r.rank([[[1.0]], [[1.0, 2.0]]], 0.95, rng())


def test_the_interval_of_one_seed_equals_a_slow_bootstrap_over_prompts():
    cells = noisy(3, 1, 50)
    g = rng(5)
    draws = [r.strengths(win_counts(cells[:, :, g.integers(50, size=50)])) for _ in range(1500)]
    found = r.rank(cells, 0.9, rng(), resamples=4000).strengths
    for one, drawn in zip(found, np.array(draws).T, strict=True):
        assert (one.low, one.high) == pytest.approx(tuple(np.quantile(drawn, [0.05, 0.95])), abs=0.05)


def test_linearised_cells_have_the_strengths_as_mean_and_their_error_as_spread():
    """To first order leaving out a prompt moves a strength by its linearised mean over the other prompts."""
    cells = noisy(3, 2, 400)
    wins = win_counts(cells)
    value = r.strengths(wins)
    linear = r.linearised(cells, wins, value)
    assert linear.mean(axis=(1, 2)) == pytest.approx(value, abs=1e-8)
    for gone in (0, 7):
        without = r.strengths(win_counts(np.delete(cells, gone, axis=2)))
        assert np.delete(linear, gone, axis=2).mean(axis=(1, 2)) == pytest.approx(without, abs=2e-4)


def test_clusters_widen_as_repeated_prompts_would():
    cells = noisy(3, 1, 40)
    once = r.rank(cells, 0.95, rng(), resamples=400)
    thrice = r.rank(np.repeat(cells, 3, axis=2), 0.95, rng(), np.repeat(np.arange(40), 3), resamples=400)
    for one, other in zip(once.strengths, thrice.strengths, strict=True):
        assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high), abs=1e-7)
