"""Against the SFT policy at equal entropy: exact on lines, never extrapolated, intervals that cover."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.statistics.entropy_matched import (
    OUTSIDE,
    Sampled,
    at_equal_entropy,
    entropies,
    entropy,
    parse_temperatures,
)

LEVEL = 0.95
PROMPTS = 40


def rng(seed: int = 7) -> np.random.Generator:
    return np.random.default_rng(seed)


def line(of: Any, a: float = 0.9, b: float = -0.3, noise: float = 0.0, seed: int = 0) -> Sampled:
    """Responses of entropy per token `of` [S, C] exactly and of value a + b of it, both plus noise of mean 0 over the
    prompts; lengths differ."""
    of = np.asarray(of, dtype=np.float64)
    shape = (*of.shape, PROMPTS)
    tokens = np.broadcast_to(np.arange(PROMPTS) % 7 + 3.0, shape)
    extra = noise * rng(seed).normal(size=(2, *shape))
    extra -= extra.mean(axis=-1, keepdims=True)
    return Sampled(-of[..., None] * tokens + extra[0], tokens, a + b * of[..., None] + extra[1])


def found(policy: Sampled, tempered: Sampled, **more: Any) -> Any:
    return at_equal_entropy(policy, tempered, LEVEL, rng(), resamples=300, **more)


# ---- layers of seeds ------------------------------------------------------------------------------------------------


def test_runs_of_one_data_seed_count_as_one_and_prompts_of_other_data_as_none() -> None:
    """Two data seeds with two runs and half of the prompts each: the values of their mean runs decide."""
    own = np.array([[1.0], [1.0], [0.6], [0.6]])
    parts = [line(own, a=1.4, noise=0.3, seed=1), line(np.tile([2.0, 1.2, 0.2], (4, 1)), noise=0.3)]
    elsewhere = np.arange(PROMPTS) // (PROMPTS // 2) != (np.arange(4) // 2)[:, None]  # [S, P]
    layers = {"data seed": [0, 0, 1, 1], "seed": [0, 1, 0, 1]}
    policy, tempered = (
        Sampled(*(np.where(elsewhere[:, None], fill, part) for part, fill in zip(one, (0.0, 0.0, np.nan), strict=True)))
        for one in parts
    )
    each = [
        found(*(Sampled(*(part[run : run + 1][:, :, ~elsewhere[run]] for part in one)) for one in (policy, tempered)))
        for run in range(4)
    ]
    made = found(policy, tempered, layers=layers)
    for name in ("sft", "difference"):
        assert getattr(made, name).value == pytest.approx(np.mean([getattr(one, name).value for one in each]))
    # independent units are two data seeds, not four runs
    assert "two-way t" in made.difference.method
    assert made.sft.high - made.sft.low > 2 * (found(policy, tempered).sft.high - found(policy, tempered).sft.low)
    sums = policy.logprob[:, 0], policy.tokens[:, 0]
    assert entropy(*sums, LEVEL, rng(), layers=layers).value == pytest.approx(entropies(policy).mean())


# ---- laws -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_line_in_the_entropy_is_read_exactly(seeds: int) -> None:
    """Each seed has its own entropies, and one its temperatures in another order."""
    tempered = line(np.array([[2.0, 1.5, 0.8, 0.1], [0.2, 2.2, 1.1, 0.6], [1.9, 1.2, 0.7, 0.0]])[:seeds], noise=1.0)
    own = np.array([[1.0], [0.5], [1.5]])[:seeds]
    policy = line(own, a=1.4, noise=1.0, seed=1)
    assert entropies(policy) == pytest.approx(own)
    sft, difference = found(policy, tempered)
    assert sft.value == pytest.approx(float((0.9 - 0.3 * own).mean()))
    assert difference.value == pytest.approx(0.5)
    assert difference.low < 0.5 < difference.high
    assert ("conditional on this training run" in difference.note) == (seeds == 1)


def test_a_bend_is_read_between_its_neighbours() -> None:
    tempered = line([[2.0, 1.0, 0.5]], noise=0.0)
    value = np.broadcast_to(np.array([0.1, 0.5, 0.9])[None, :, None], tempered.value.shape)
    for own, expected in ((2.0, 0.1), (1.75, 0.2), (1.0, 0.5), (0.6, 0.82), (0.5, 0.9)):
        sft, difference = found(line([[own]], a=0.0, b=0.0), tempered._replace(value=value))
        assert sft.value == pytest.approx(expected)
        assert difference.value == pytest.approx(-expected)


def test_the_sft_policy_differs_from_itself_by_nothing() -> None:
    tempered = line([[2.0, 1.5, 0.8]] * 2, noise=1.0)
    middle = Sampled(*(part[:, 1:2] for part in tempered))
    difference = found(middle, tempered).difference
    assert difference.value == pytest.approx(0, abs=1e-12)
    assert "nothing varied" in difference.note


def test_nothing_is_extrapolated() -> None:
    tempered = line([[2.0, 0.5], [2.0, 0.7]], noise=0.3)
    for own in ([[2.01], [1.0]], [[1.0], [0.69]]):
        for one in found(line(own, noise=0.3), tempered):
            assert one.value is None
            assert one.note == OUTSIDE


def test_an_entropy_at_the_noisy_end_is_refused() -> None:
    """In half of the resamples the policy is less sure than at the highest temperature."""
    tempered, near = line([[2.0, 0.5]] * 2, noise=2.0), line([[1.999]] * 2, noise=2.0, seed=1)
    for one in found(near, tempered):
        assert one.value is None
        assert "every seed's policy lies between the temperatures" in one.note
    assert found(line([[1.4]] * 2, noise=2.0, seed=1), tempered).difference.value is not None


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 7.0), (-3.0, 0.2)])
def test_affine_changes_of_the_measure(shift: float, scale: float) -> None:
    tempered, policy = line([[2.0, 1.0, 0.2]] * 2, noise=1.0), line([[1.2], [0.9]], a=1.1, noise=1.0, seed=1)
    moved = (one._replace(value=shift + scale * one.value) for one in (policy, tempered))
    for k, (one, other) in enumerate(zip(found(policy, tempered), found(*moved), strict=True)):
        zero = shift if k == 0 else 0.0
        ends = tuple(zero + scale * x for x in (one.value, one.low, one.high))
        assert (other.value, other.low, other.high) == pytest.approx(ends, abs=1e-6)


def test_undecided_values_are_left_out_and_their_entropy_is_not() -> None:
    tempered, policy = line([[2.0, 1.0]], noise=1.0), line([[1.5]], noise=1.0, seed=1)
    value = policy.value.copy()
    value[0, 0, :10] = np.nan
    whole, part = found(policy, tempered), found(policy._replace(value=value), tempered)
    assert part.sft.value == whole.sft.value
    assert part.difference.value == pytest.approx(float(np.nanmean(value)) - whole.sft.value)


def test_whole_clusters_are_drawn() -> None:
    tempered, policy = line([[2.0, 1.0]] * 2, noise=1.0), line([[1.5]] * 2, noise=1.0, seed=1)
    twice = (Sampled(*(np.tile(part, 2) for part in one)) for one in (policy, tempered))
    names = [str(k) for k in [*range(PROMPTS), *range(PROMPTS)]]
    for one, other in zip(found(policy, tempered), found(*twice, clusters=names), strict=True):
        assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high))
    alone = found(policy, tempered, clusters=["one"] * PROMPTS).difference
    assert alone.value is not None
    assert alone.low is None


def test_entropy_is_the_sum_over_the_tokens() -> None:
    policy = line([[1.5], [1.1]], noise=1.0)
    one = entropy(policy.logprob[:, 0], policy.tokens[:, 0], LEVEL, rng())
    assert one.value == pytest.approx(1.3)
    assert one.low < 1.3 < one.high
    holes = policy.logprob[:, 0].copy()
    holes[1, 3] = np.nan
    assert "no log-probability" in entropy(holes, policy.tokens[:, 0], LEVEL, rng()).note
    assert entropy(holes[:, :0], holes[:, :0], LEVEL, rng()).value is None


def test_shapes_that_differ_are_refused() -> None:
    tempered, policy = line([[2.0, 1.0]] * 2), line([[1.5]] * 2)
    for wrong in (policy._replace(value=policy.value[:, :, :9]), tempered, line([[1.5]])):
        with pytest.raises(BenchError, match="Samples of shapes"):
            found(wrong, tempered)
    nothing = Sampled(*(part[:, :, :0] for part in policy)), Sampled(*(part[:, :, :0] for part in tempered))
    assert found(*nothing).sft.value is None


# ---- coverage -------------------------------------------------------------------------------------------------------


def simulated(made: np.random.Generator, seeds: int, gain: float) -> tuple[Sampled, Sampled, float]:
    """Runs whose entropy and gain spread by seed, and the true difference: of this run where there is one seed.

    SFT's curve is bent in the entropy, and a prompt is as hard to both.
    """
    temperatures = np.array([1.0, 0.8, 0.6, 0.4, 0.2])
    start = 1.6 + 0.1 * made.normal(size=(seeds, 1))
    of_control = start * temperatures**1.5
    of_policy = start * np.exp(-0.6 + 0.15 * made.normal(size=(seeds, 1)))

    def true_value(entropy: Any) -> Any:
        return 0.7 - 0.3 * (entropy / start) ** 1.3

    hard, own = 0.3 * made.normal(size=100), 0.1 * made.normal(size=(seeds, 1))

    def sampled(of: Any, value: Any) -> Sampled:
        shape = (*of.shape, 100)
        tokens = 8.0 + made.poisson(6.0, size=shape)
        logprob = -tokens * (of[..., None] + 0.4 * made.normal(size=shape) * of[..., None])
        return Sampled(logprob, tokens, value[..., None] + hard + 0.4 * made.normal(size=shape))

    truth = gain + float(own[0, 0]) if seeds == 1 else gain
    return sampled(of_policy, true_value(of_policy) + gain + own), sampled(of_control, true_value(of_control)), truth


def coverage(seeds: int, repetitions: int) -> tuple[float, float]:
    """(share of intervals that hold the true difference, share of repetitions without one)."""
    made = np.random.default_rng(seeds)
    held = count = 0
    for _ in range(repetitions):
        policy, tempered, truth = simulated(made, seeds, 0.1)
        one = at_equal_entropy(policy, tempered, LEVEL, made, resamples=300).difference
        if one.low is not None and one.high is not None:
            held, count = held + (one.low <= truth <= one.high), count + 1
    return held / count, 1 - count / repetitions


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_the_true_difference_at_equal_entropy_is_covered(seeds: int) -> None:
    """Interpolation's own error included: the true curve is bent between the temperatures."""
    held, refused = coverage(seeds, 150)
    assert held >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 150)
    assert refused < 0.05


# ---- temperatures ---------------------------------------------------------------------------------------------------


def test_temperatures_fall_whatever_their_order() -> None:
    assert parse_temperatures("0.2, 1,0.50") == (1.0, 0.5, 0.2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no list of numbers"),
        ("1,,0.5", "no list of numbers"),
        ("1;0.5", "no list of numbers"),
        ("1,nan", "with nan"),
        ("inf,1", "with inf"),
        ("1.2,1", r"with 1\.2\. Each is a part of the SFT baseline.s temperature, from 0\.01 to 1"),
        ("1,0", "with 0"),
        ("1,-0.5", r"with -0\.5"),
        ("1", "a single one"),
        ("1,0.5,.50", "names one temperature twice"),
    ],
)
def test_temperatures_that_cannot_be_used(text: str, said: str) -> None:
    with pytest.raises(BenchError, match=said) as caught:
        parse_temperatures(text)
    assert len(str(caught.value).splitlines()) == 1
