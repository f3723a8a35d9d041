"""Reward models that read nothing and learn nothing: what an arm must beat before its reward means anything.

Length alone reproduces most of the reward gain of common set-ups (arXiv 2310.03716), and a corrector that changes
nothing pays +1 a token, which is a length reward too (method.md A, risks).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhf_bench.harness.nouns import Rollout

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class LengthOnly:
    """The number of response tokens without end-of-sequence, on the last token (`per_token`: 1 on each of them)."""

    per_token: bool = False

    def rewards(self, rollout: Rollout) -> Tensor:
        """Rewards [B, T]; both forms have the same sum."""
        import torch

        from rlhf_bench.reward_models.extraction import on_last_token

        lengths = rollout.mask.sum(1) - rollout.finished.long()
        if not self.per_token:
            return on_last_token(lengths, rollout.mask)
        return (torch.arange(rollout.mask.shape[1], device=rollout.mask.device)[None] < lengths[:, None]).float()


@dataclass(frozen=True)
class Copier:
    """+1 on every token, end-of-sequence included: what the seq2seq rule pays if the corrector changes nothing."""

    def rewards(self, rollout: Rollout) -> Tensor:
        """Rewards [B, T]: the mask."""
        return rollout.mask.float()
