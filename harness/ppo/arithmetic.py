"""PPO's arithmetic as pure tensor functions.

Shapes: B responses, T tokens; mask bool [B, T] is True on response tokens, end-of-sequence included.
Sources: PPO, arXiv 1707.06347; GAE, arXiv 1506.02438; KL inside the reward, arXiv 1909.08593.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the masked entries (scalar); 0 when there are none."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def kl_reward(rewards: Tensor, logprobs: Tensor, reference: Tensor, mask: Tensor, coefficient: float) -> Tensor:
    """r_t - coefficient (log pi(y_t) - log pi_ref(y_t)) [B, T], 0 outside the mask."""
    return (rewards - coefficient * (logprobs - reference)) * mask


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Tensor:
    """Generalised advantage estimates [B, T]: sum_k (gamma lam)^k delta_{t+k}.

    delta_t = r_t + gamma V_{t+1} - V_t, with V = 0 after the last response token: a response is one episode, and a
    truncated one is not bootstrapped.
    """
    import torch

    values = values * mask
    advantage = torch.zeros_like(values[:, 0])
    following = torch.zeros_like(advantage)
    columns = []
    for step in reversed(range(values.shape[1])):
        delta = rewards[:, step] * mask[:, step] + gamma * following - values[:, step]
        advantage = (delta + gamma * lam * advantage) * mask[:, step]
        following = values[:, step]
        columns.append(advantage)
    return torch.stack(columns[::-1], 1)


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """Masked entries shifted to mean 0 and divided by their standard deviation (population; epsilon 1e-8 in it)."""
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean) ** 2, mask)
    return (values - mean) * (variance + 1e-8).rsqrt() * mask


def policy_loss(logprobs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """(sum over masked tokens of the clipped surrogate, number of clipped tokens): -min(ratio A, clip(ratio) A).

    A sum, so that micro-batches add up exactly; the caller divides by the minibatch's tokens.
    """
    import torch

    ratio = (logprobs - old).exp()
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip, 1 + clip)
    loss = torch.where(mask, torch.maximum(plain, clipped), 0.0).sum()
    return loss, ((clipped > plain) & mask).sum()


def value_loss(values: Tensor, old: Tensor, returns: Tensor, mask: Tensor, clip: float) -> Tensor:
    """Sum over masked tokens of half the larger squared error, of V and of V kept within `clip` of the old V."""
    import torch

    near = old + (values - old).clamp(-clip, clip)
    loss = torch.maximum((values - returns) ** 2, (near - returns) ** 2)
    return 0.5 * torch.where(mask, loss, 0.0).sum()


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """1 - Var(returns - values) / Var(returns) over masked tokens; 0 where the returns do not vary."""
    truth, guess = returns[mask], values[mask]
    if truth.numel() < 2 or float(truth.var()) < 1e-12:
        return 0.0
    return float(1 - (truth - guess).var() / truth.var())


def reward_scale(sums: Tensor) -> float:
    """The divisor that puts every arm on one scale: the standard deviation of the sequence sum on SFT samples [N].

    Sums that do not vary (or a single sample) give 1: such a reward has no scale to set.
    """
    deviation = float(sums.float().std(correction=0)) if sums.numel() > 1 else 0.0
    return deviation if deviation > 1e-8 else 1.0
