"""PPO's arithmetic as pure tensor functions: the KL-penalised reward, the advantage and the two losses.

Shapes: B responses, T tokens; mask bool [B, T] is True on response tokens, end-of-sequence included.
Sources: PPO, arXiv 1707.06347; GAE, arXiv 1506.02438; KL inside the reward, arXiv 1909.08593.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Estimator = Literal["k1", "k3"]
"""Estimators of a KL divergence from one sample (http://joschu.net/blog/kl-approx.html)."""


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` over the True entries of `mask`, both [B, T] (scalar); 0 when there are none.

    Every token has the same weight, in long responses as in short ones.
    """
    return (values * mask).sum() / mask.sum().clamp(min=1)


class Standard(NamedTuple):
    """What puts an arm's rewards on the scale that all arms share.

    A reward is divided by `scale`.  Before that `offset` is subtracted from the last token's reward and `token_offset`
    from every token's; all three are in the units of the reward model.
    """

    scale: float = 1.0
    offset: float = 0.0
    token_offset: float = 0.0


def last_tokens(mask: Tensor) -> Tensor:
    """Bool [B, T]: True on the last token of each response; a row without tokens has none."""
    return mask & (mask.cumsum(1) == mask.sum(1, keepdim=True))


def standardised(rewards: Tensor, mask: Tensor, standard: Standard) -> Tensor:
    """Rewards [B, T] on the common scale, 0 outside the mask."""
    # `where`, because a number times booleans is float32 in whatever precision the rewards are
    shifted = rewards - standard.token_offset
    shifted = torch.where(last_tokens(mask), shifted - standard.offset, shifted)
    return shifted / standard.scale * mask


def kl_reward(
    rewards: Tensor, logprobs: Tensor, reference: Tensor, mask: Tensor, coefficient: float, estimator: Estimator = "k1"
) -> Tensor:
    """The reward of each token with its KL penalty [B, T], 0 outside the mask.

    r_t - coefficient k_t in the units of `rewards`, with k_t = log u for "k1" and 1 / u - 1 + log u for "k3", where
    u = pi(y_t) / pi_ref(y_t) and the log-probabilities are in nats.  Both have the KL as their mean; k3 is never
    negative and varies less, but inside a reward its gradient is not that of the KL (arXiv 2506.09477).
    """
    penalty = logprobs - reference
    if estimator == "k3":
        penalty = (-penalty).exp() - 1 + penalty
    # `where`, not a product: outside the mask exp() may be inf, and inf * 0 is NaN.
    return torch.where(mask, rewards - coefficient * penalty, 0.0)


def adapted_coefficient(coefficient: float, kl: float, target: float) -> float:
    """The KL coefficient of the next iteration, from the KL of this one in nats per response.

    beta (1 + .1 e) with e = clip(kl / target - 1, -.2, .2): arXiv 1909.08593, section 2.2.
    """
    return coefficient * (1 + 0.1 * min(max(kl / target - 1, -0.2), 0.2))


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Tensor:
    """Generalised advantage estimates [B, T], 0 outside the mask (arXiv 1506.02438 eq. 16).

    A_t = sum_k (gamma lam)^k delta_{t+k} with delta_t = r_t + gamma V_{t+1} - V_t.  A response is one episode: V = 0
    after its last token, and a truncated response is not bootstrapped.
    """
    values = values * mask  # so that V_{t+1} of the last response token is 0
    advantage = torch.zeros_like(values[:, 0])
    following = torch.zeros_like(advantage)  # V_{t+1} [B]
    columns = []
    # From the last token to the first: A_t = delta_t + gamma lam A_{t+1}, which is eq. 16 as a recursion.
    for step in reversed(range(values.shape[1])):
        delta = rewards[:, step] * mask[:, step] + gamma * following - values[:, step]
        advantage = (delta + gamma * lam * advantage) * mask[:, step]  # 0 again on padding
        following = values[:, step]
        columns.append(advantage)
    return torch.stack(columns[::-1], 1)


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """Masked entries shifted to mean 0 and divided by their standard deviation [B, T], 0 outside the mask.

    The variance is the unbiased one, with N - 1 (TRL's `masked_whiten`), and 1e-8 is added to it.  A single entry
    becomes 0.
    """
    mean = masked_mean(values, mask)
    variance = (((values - mean) ** 2) * mask).sum() / (mask.sum() - 1).clamp(min=1)
    return (values - mean) * (variance + 1e-8).rsqrt() * mask


def policy_loss(logprobs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """The negative clipped surrogate (arXiv 1707.06347 eq. 7), and the number of tokens where clipping is active.

    -min(ratio A, clip(ratio, 1 - clip, 1 + clip) A) with ratio = pi(y_t) / pi_old(y_t).  Both are sums over masked
    tokens (scalars), so that micro-batches add up exactly; the caller divides by the minibatch's tokens.
    """
    ratio = (logprobs - old).exp()
    plain = -advantages * ratio
    # The larger of the two negatives is the smaller of the surrogates: a step gains nothing from leaving the interval.
    clipped = -advantages * ratio.clamp(1 - clip, 1 + clip)
    # `where`, not a product with the mask: outside it a ratio can be inf, and inf * 0 is NaN.
    loss = torch.where(mask, torch.maximum(plain, clipped), 0.0).sum()
    return loss, ((clipped > plain) & mask).sum()


def value_loss(values: Tensor, old: Tensor, returns: Tensor, mask: Tensor, clip: float) -> Tensor:
    """Half the squared error of the values, summed over masked tokens (scalar).

    Of each token the larger error counts: that of V, or that of V kept within `clip` of the old V.
    """
    # As the ratio in the policy's loss: the critic gains nothing from moving further than `clip`.
    near = old + (values - old).clamp(-clip, clip)
    loss = torch.maximum((values - returns) ** 2, (near - returns) ** 2)
    return 0.5 * torch.where(mask, loss, 0.0).sum()


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """1 - Var(returns - values) / Var(returns) over masked tokens; 0 where the returns do not vary."""
    target, predicted = returns[mask], values[mask]
    if target.numel() < 2 or float(target.var()) < 1e-12:  # var() of one number is NaN
        return 0.0
    return float(1 - (target - predicted).var() / target.var())


def reward_scale(sums: Tensor) -> float:
    """The divisor that puts every arm's rewards on one scale.

    The standard deviation of the sequence sums of the reward on SFT samples [N]; 1 where the sums do not vary or there
    is a single sample, because such a reward has no scale to set.
    """
    deviation = float(sums.float().std(correction=0)) if sums.numel() > 1 else 0.0
    return deviation if deviation > 1e-8 else 1.0  # below it the sums differ by rounding alone
