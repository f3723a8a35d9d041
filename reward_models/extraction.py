"""From a seq2seq reward model's agreement with a response to a reward per token: pure tensor functions.

Source: seq2seq reward modeling, arXiv 2409.00162, read as follows.  With m_t = 1 where the teacher-forced argmax
equals y_t and t* the first t with m_t = 0:  +1 for t < t*;  -1 for t >= t* with m_t = 0;  0 for t > t* with m_t = 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def divergence(matches: Tensor, mask: Tensor) -> Tensor:
    """t* [B]: index of the first response token that the reward model would have written differently.

    matches, mask: bool [B, T], mask a prefix of each row.  A response without divergence gets its own length.
    """
    return (matches & mask).long().cumprod(1).sum(1)


def token_signs(matches: Tensor, mask: Tensor) -> Tensor:
    """Rewards [B, T] in {+1, 0, -1}, 0 outside the mask (rule above, "PPO-T")."""
    wrong = mask & ~matches  # none of these lies before t*
    return _before(matches, mask).float() - wrong.float()


def graded(matches: Tensor, margins: Tensor, mask: Tensor, floor: float) -> Tensor:
    """Rewards [B, T] in [-1, 1], 0 outside the mask: as `token_signs`, but a divergence costs what the corrector thinks
    of it instead of always 1.

        r_t = +1 for t < t*;   max(margin_t, floor) / |floor| for t >= t*   (margin_t = 0, hence r_t = 0, where m_t = 1)

    margins [B, T]: log p(y_t) - max_v log p(v) in nats, at most 0; floor < 0 in nats.  Dividing by |floor| makes the
    worst divergence cost what every one costs under the sign rule, so that a matched token and an outright error keep
    their proportion; `floor` is the one new constant, and as it goes to 0 the sign rule comes back.
    """
    import torch

    cost = margins.float().clamp(min=floor, max=0.0) / -floor
    return _before(matches, mask).float() + torch.where(mask & ~matches, cost, 0.0)


def _before(matches: Tensor, mask: Tensor) -> Tensor:
    """t < t*, bool [B, T]."""
    return (matches & mask).long().cumprod(1).bool()


def positive_part(rewards: Tensor) -> Tensor:
    """Only the +1 ("PPO-T-Pos")."""
    return rewards.clamp(min=0)


def on_last_token(scores: Tensor, mask: Tensor) -> Tensor:
    """A score per response [B] as rewards [B, T]: all on the last response token (end-of-sequence if there is one).

    A response without any token gets none.
    """
    import torch

    rewards = torch.zeros(mask.shape, dtype=torch.float32, device=mask.device)
    rows = torch.nonzero(mask.any(1)).squeeze(1)
    rewards[rows, mask[rows].sum(1) - 1] = scores[rows].float()
    return rewards


def spread_evenly(scores: Tensor, mask: Tensor) -> Tensor:
    """A score per response [B] as rewards [B, T]: the same on each of its tokens, adding up to the score."""
    return scores.float()[:, None] * mask / mask.sum(1, keepdim=True).clamp(min=1)


def shuffled(rewards: Tensor, mask: Tensor, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
    """The rewards [B, T] of each response in another order among its tokens, drawn by a hash of prompt and response.

    So a response always gets the same rewards and the same sum, and which token earned them is lost.  The mask is a
    prefix of each row.
    """
    import torch

    from rlhf_bench.harness.sampling.rollout import make_generator

    moved = rewards.clone()
    for row, (length, *texts) in enumerate(zip(mask.sum(1).tolist(), prompts, responses, strict=True)):
        order = torch.randperm(length, generator=make_generator("shuffled rewards", *texts))
        moved[row, :length] = rewards[row, order.to(rewards.device)]
    return moved
