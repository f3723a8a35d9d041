"""From a seq2seq reward model's agreement with a response to a reward per token: pure tensor functions.

Source: seq2seq reward modeling, arXiv 2409.00162, read as follows.  With m_t = 1 where the teacher-forced argmax
equals y_t and t* the first t with m_t = 0:  +1 for t < t*;  -1 for t >= t* with m_t = 0;  0 for t > t* with m_t = 1.
"""

from __future__ import annotations

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
    import torch

    steps = torch.arange(mask.shape[1], device=mask.device)[None]
    before = (steps < divergence(matches, mask)[:, None]) & mask
    wrong = mask & ~matches  # none of these lies before t*
    return before.float() - wrong.float()


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
