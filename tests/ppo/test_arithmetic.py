"""PPO's arithmetic against loops over scalars that spell out the definitions."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlhf_bench.harness.ppo import arithmetic

CLIPS = st.floats(0.05, 0.5)
FRACTIONS = st.floats(0, 1)


class Batch(NamedTuple):
    """Random [B, T] tensors in float64 and a mask that is a prefix of each row."""

    lengths: list[int]
    mask: Tensor
    a: Tensor
    b: Tensor
    c: Tensor
    d: Tensor

    def entries(self) -> list[tuple[int, int]]:
        return [(row, t) for row, length in enumerate(self.lengths) for t in range(length)]


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    width = max(lengths) + draw(st.integers(0, 2))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    a, b, c, d = torch.randn(4, len(lengths), width, generator=generator, dtype=torch.float64)
    mask = torch.arange(width)[None] < torch.tensor(lengths)[:, None]
    return Batch(lengths, mask, a, b, c, d)


def close(actual: Tensor, expected: Tensor | list[list[float]] | float) -> None:
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype), rtol=1e-9, atol=1e-9)


def scattered(batch: Batch, values: list[float]) -> Tensor:
    """[B, T] with `values` on the entries, 0 elsewhere."""
    table = torch.zeros_like(batch.a)
    for (row, t), value in zip(batch.entries(), values, strict=True):
        table[row, t] = value
    return table


@given(batches(), FRACTIONS, FRACTIONS)
def test_gae_is_the_double_sum(batch: Batch, gamma: float, lam: float) -> None:
    r, v = batch.a.tolist(), batch.b.tolist()

    def delta(row: int, t: int) -> float:
        following = v[row][t + 1] if t + 1 < batch.lengths[row] else 0.0
        return float(r[row][t] + gamma * following - v[row][t])

    sums = [
        math.fsum((gamma * lam) ** k * delta(row, t + k) for k in range(batch.lengths[row] - t))
        for row, t in batch.entries()
    ]
    close(arithmetic.gae(batch.a, batch.b, batch.mask, gamma, lam), scattered(batch, sums))


@given(batches())
def test_undiscounted_returns_are_the_reward_to_go(batch: Batch) -> None:
    advantages = arithmetic.gae(batch.a, batch.b, batch.mask, 1.0, 1.0)
    to_go = [sum(batch.a[row, t : batch.lengths[row]].tolist()) for row, t in batch.entries()]
    close((advantages + batch.b) * batch.mask, scattered(batch, to_go))


@given(batches(), st.floats(0, 2))
def test_kl_reward(batch: Batch, beta: float) -> None:
    expected = [float(batch.a[e] - beta * (batch.b[e] - batch.c[e])) for e in batch.entries()]
    close(arithmetic.kl_reward(batch.a, batch.b, batch.c, batch.mask, beta), scattered(batch, expected))


@given(batches(), st.floats(0, 2))
def test_kl_reward_k3(batch: Batch, beta: float) -> None:
    def penalty(e: tuple[int, int]) -> float:
        log_ratio = float(batch.b[e] - batch.c[e])
        return math.exp(-log_ratio) - 1 + log_ratio

    found = arithmetic.kl_reward(batch.a, batch.b, batch.c, batch.mask, beta, "k3")
    close(found, scattered(batch, [float(batch.a[e]) - beta * penalty(e) for e in batch.entries()]))
    assert all(penalty(e) >= 0 for e in batch.entries())


def test_an_estimate_outside_the_mask_does_not_count() -> None:
    mask = torch.tensor([[True, False]])
    far = torch.tensor([[0.0, -1e4]])  # exp(1e4) is inf
    assert arithmetic.kl_reward(torch.zeros(1, 2), far, torch.zeros(1, 2), mask, 0.1, "k3").tolist() == [[0, 0]]


@given(st.integers(0, 2**32), st.floats(-1, 1))
def test_both_estimators_have_the_kl_as_their_mean(seed: int, sharper: float) -> None:
    """Over all outcomes of a distribution, weighted by their probabilities."""
    logits = torch.randn(2, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    policy, reference = (logits * torch.tensor([[1 + sharper], [1.0]])).log_softmax(1)
    kl = (policy.exp() * (policy - reference)).sum()
    rows = (policy[:, None], reference[:, None], torch.ones(7, 1, dtype=torch.bool))
    for name in ("k1", "k3"):
        penalties = -arithmetic.kl_reward(torch.zeros(7, 1, dtype=torch.float64), *rows, 1.0, name)
        close((policy.exp() * penalties[:, 0]).sum(), kl)


@pytest.mark.parametrize(("kl", "factor"), [(6.0, 1.0), (60.0, 1.02), (0.0, 0.98), (-5.0, 0.98), (6.6, 1.01)])
def test_the_coefficient_moves_by_two_per_cent_at_most(kl: float, factor: float) -> None:
    assert arithmetic.adapted_coefficient(0.5, kl, 6.0) == pytest.approx(0.5 * factor)


@given(batches(), st.floats(-3, 3), st.floats(-3, 3), st.floats(0.1, 10))
def test_standardised_rewards(batch: Batch, offset: float, per_token: float, scale: float) -> None:
    found = arithmetic.standardised(batch.a, batch.mask, arithmetic.Standard(scale, offset, per_token))
    assert found.dtype == batch.a.dtype
    lasts = {(row, length - 1) for row, length in enumerate(batch.lengths)}
    assert {(row, t) for row, t in arithmetic.last_tokens(batch.mask).nonzero().tolist()} == lasts
    expected = [(float(batch.a[e]) - per_token - offset * (e in lasts)) / scale for e in batch.entries()]
    close(found, scattered(batch, expected))


def test_a_row_without_tokens_has_no_last_one() -> None:
    assert arithmetic.last_tokens(torch.zeros(2, 3, dtype=torch.bool)).sum() == 0


@given(batches())
def test_whitening(batch: Batch) -> None:
    values = [float(batch.a[e]) for e in batch.entries()]
    mean = math.fsum(values) / len(values)
    variance = math.fsum((v - mean) ** 2 for v in values) / max(len(values) - 1, 1)
    expected = [(v - mean) / math.sqrt(variance + 1e-8) for v in values]
    white = arithmetic.whiten(batch.a, batch.mask)
    close(white, scattered(batch, expected))
    assert abs(float(arithmetic.masked_mean(white, batch.mask))) < 1e-9


@given(batches(), CLIPS)
def test_policy_loss(batch: Batch, clip: float) -> None:
    total, clipped = 0.0, 0
    for e in batch.entries():
        ratio, advantage = math.exp(float(batch.a[e] - batch.b[e])), float(batch.c[e])
        kept = min(max(ratio, 1 - clip), 1 + clip)
        total -= min(ratio * advantage, kept * advantage)
        clipped += kept * advantage < ratio * advantage
    loss, count = arithmetic.policy_loss(batch.a, batch.b, batch.c, batch.mask, clip)
    close(loss, total)
    assert int(count) == clipped


@given(batches(), CLIPS)
def test_value_loss(batch: Batch, clip: float) -> None:
    total = 0.0
    for e in batch.entries():
        value, old, target = float(batch.a[e]), float(batch.b[e]), float(batch.c[e])
        near = old + min(max(value - old, -clip), clip)
        total += 0.5 * max((value - target) ** 2, (near - target) ** 2)
    close(arithmetic.value_loss(batch.a, batch.b, batch.c, batch.mask, clip), total)


@given(batches())
def test_explained_variance(batch: Batch) -> None:
    guess, truth = ([float(table[e]) for e in batch.entries()] for table in (batch.a, batch.b))

    def variance(values: list[float]) -> float:
        mean = math.fsum(values) / len(values)
        return math.fsum((v - mean) ** 2 for v in values)

    residual = variance([t - g for t, g in zip(truth, guess, strict=True)])
    expected = 1 - residual / variance(truth) if len(truth) > 1 else 0.0
    assert arithmetic.explained_variance(batch.a, batch.b, batch.mask) == pytest.approx(expected, rel=1e-6)
    if len(truth) > 1:
        assert arithmetic.explained_variance(batch.b, batch.b, batch.mask) == 1.0


def test_explained_variance_of_constant_returns_is_zero() -> None:
    ones = torch.ones(2, 3)
    assert arithmetic.explained_variance(torch.randn(2, 3), ones, ones.bool()) == 0.0


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=20), st.floats(0.5, 5))
def test_reward_scale_is_the_population_deviation_and_scales(sums: list[float], factor: float) -> None:
    mean = math.fsum(sums) / len(sums)
    deviation = math.sqrt(math.fsum((s - mean) ** 2 for s in sums) / len(sums))
    scale = arithmetic.reward_scale(torch.tensor(sums, dtype=torch.float64))
    if deviation > 1e-3:  # float32 inside
        assert scale == pytest.approx(deviation, rel=1e-3)
        assert arithmetic.reward_scale(torch.tensor(sums) * factor) == pytest.approx(scale * factor, rel=1e-3)


@pytest.mark.parametrize("sums", [[], [3.0], [2.5, 2.5, 2.5], [0.0, 0.0]])
def test_rewards_that_do_not_vary_are_not_scaled(sums: list[float]) -> None:
    assert arithmetic.reward_scale(torch.tensor(sums)) == 1.0


@given(batches(), CLIPS, st.integers(1, 3))
def test_micro_batches_add_up_to_the_whole(batch: Batch, clip: float, size: int) -> None:
    """Losses and gradients, with each micro-batch trimmed to its own width as the loop does."""

    def losses(rows: Tensor) -> Tensor:
        width = int(batch.mask[rows].sum(1).max())
        a, b, c, mask = (x[rows][:, :width] for x in (parameter, batch.b, batch.c, batch.mask))
        return arithmetic.policy_loss(a, b, c, mask, clip)[0] + arithmetic.value_loss(a, b, c, mask, clip)

    parameter = batch.a.clone().requires_grad_()
    rows = torch.arange(len(batch.lengths))
    whole = losses(rows)
    (gradient,) = torch.autograd.grad(whole, parameter)
    parts = torch.stack([losses(part) for part in rows.split(size)]).sum()
    close(parts, whole.detach())
    close(torch.autograd.grad(parts, parameter)[0], gradient)


@given(batches(), st.floats(-1e4, 1e4))
def test_nothing_outside_the_mask_matters(batch: Batch, noise: float) -> None:
    a, b, c, d = (torch.where(batch.mask, x, x + noise) for x in (batch.a, batch.b, batch.c, batch.d))
    mask = batch.mask
    for clean, dirty in [
        (arithmetic.masked_mean(batch.a, mask), arithmetic.masked_mean(a, mask)),
        (arithmetic.kl_reward(batch.a, batch.b, batch.c, mask, 0.1), arithmetic.kl_reward(a, b, c, mask, 0.1)),
        (arithmetic.gae(batch.a, batch.b, mask, 0.9, 0.9), arithmetic.gae(a, b, mask, 0.9, 0.9)),
        (arithmetic.whiten(batch.a, mask), arithmetic.whiten(a, mask)),
        (arithmetic.policy_loss(batch.a, batch.b, batch.c, mask, 0.2), arithmetic.policy_loss(a, b, c, mask, 0.2)),
        (arithmetic.value_loss(batch.b, batch.c, batch.d, mask, 0.2), arithmetic.value_loss(b, c, d, mask, 0.2)),
    ]:
        torch.testing.assert_close(dirty, clean, rtol=1e-9, atol=1e-9)
    assert arithmetic.explained_variance(a, b, mask) == arithmetic.explained_variance(batch.a, batch.b, mask)
    for table in (
        arithmetic.kl_reward(a, b, c, mask, 0.1),
        arithmetic.gae(a, b, mask, 0.9, 0.9),
        arithmetic.whiten(a, mask),
    ):
        assert not table[~mask].any()


@given(batches(), CLIPS)
def test_no_gradient_flows_from_outside_the_mask(batch: Batch, clip: float) -> None:
    parameter = batch.a.clone().requires_grad_()
    loss = arithmetic.policy_loss(parameter, batch.b, batch.c, batch.mask, clip)[0]
    loss = loss + arithmetic.value_loss(parameter, batch.b, batch.c, batch.mask, clip)
    (gradient,) = torch.autograd.grad(loss, parameter)
    assert not gradient[~batch.mask].any()


def test_a_mask_without_tokens_gives_zero() -> None:
    empty = torch.zeros(2, 3, dtype=torch.bool)
    assert float(arithmetic.masked_mean(torch.ones(2, 3), empty)) == 0.0
    assert not arithmetic.whiten(torch.ones(2, 3), empty).any()
