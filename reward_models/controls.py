"""Control reward models that read no text and learn nothing: an arm must beat them before its reward means anything.

Length alone reproduces most of the reward gain of common set-ups (arXiv 2310.03716).  A corrector that changes nothing
pays +1 per token, which is a length reward too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhf_bench.harness.nouns import Rollout

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class LengthOnly:
    """Control: the length of the response in tokens, on its last token.

    End-of-sequence is not counted.  `per_token` puts 1 on each counted token instead; the sum is the same.
    """

    per_token: bool = False

    def rewards(self, rollout: Rollout) -> Tensor:
        """Rewards [B, T] float32; both forms have the same sum.

        A truncated response has no end-of-sequence token, so all of its tokens count.
        """
        import torch

        from rlhf_bench.reward_models.extraction import on_last_token

        lengths = rollout.mask.sum(1) - rollout.finished.long()
        if not self.per_token:
            return on_last_token(lengths, rollout.mask)
        return (torch.arange(rollout.mask.shape[1], device=rollout.mask.device)[None] < lengths[:, None]).float()


@dataclass(frozen=True)
class Copier:
    """Control: +1 on every token, as the seq2seq rule pays when the corrector changes nothing.

    End-of-sequence gets +1 too.
    """

    def rewards(self, rollout: Rollout) -> Tensor:
        """Rewards [B, T] float32: the mask."""
        return rollout.mask.float()
