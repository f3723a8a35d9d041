"""Rewards per token from a corrector's agreement with a response: pure tensor functions.

The first-divergence rule (seq2seq reward modeling, arXiv 2409.00162) compares position by position.  With m_t = 1 where
the corrector's argmax equals y_t, and t* the first t with m_t = 0:

    r_t = +1 for t < t*;   -1 for t >= t* with m_t = 0;   0 for t > t* with m_t = 1

The alignment rule compares a response y with its whole correction z, because position by position one inserted token
shifts everything after it.  y and z are aligned with the fewest edits (insertion, deletion and substitution cost 1;
Levenshtein 1966), and an edit costs only itself.  Let a(t) be the position in z of the equal token that y_t is aligned
with, undefined where there is none, and a(-1) = -1:

    r_t = +1 if a(t) is defined and (a(t-1) is undefined or a(t) = a(t-1) + 1);   -1 otherwise

So a kept token earns +1, an inserted or substituted one -1.  Where tokens of z are deleted without a replacement, the
next token gets -1: the corrector would have written something else there.  Otherwise stopping early would cost nothing,
because end-of-sequence would always be kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# ---- the first-divergence rule ---------------------------------------------------------------------------------------


def divergence(matches: Tensor, mask: Tensor) -> Tensor:
    """t* [B]: index of the first response token that the corrector would have written differently.

    matches, mask: bool [B, T], mask a prefix of each row.  A response without divergence gets its own length.
    """
    return _before_divergence(matches, mask).sum(1)


def token_signs(matches: Tensor, mask: Tensor) -> Tensor:
    """Rewards [B, T] in {+1, 0, -1}, 0 outside the mask: the first-divergence rule (the paper's "PPO-T").

    matches, mask: bool [B, T], the mask a prefix of each row.
    """
    wrong = mask & ~matches  # none of these is before t*
    return _before_divergence(matches, mask).float() - wrong.float()


def graded(matches: Tensor, margins: Tensor, mask: Tensor, floor: float) -> Tensor:
    """Rewards [B, T] in [-1, 1], 0 outside the mask: as `token_signs`, but the cost of a divergence is its margin.

        r_t = +1 for t < t*;   max(margin_t, floor) / |floor| for t >= t*   (margin_t = 0, hence r_t = 0, where m_t = 1)

    margins [B, T]: log p(y_t) - max_v log p(v) in nats, at most 0; floor < 0 in nats.  Dividing by |floor| gives the
    worst divergence the cost that every divergence has under the sign rule, so the proportion between a match and a
    clear error stays.  As `floor` goes to 0 the rule becomes the sign rule.
    """
    import torch

    cost = margins.float().clamp(min=floor, max=0.0) / -floor
    return _before_divergence(matches, mask).float() + torch.where(mask & ~matches, cost, 0.0)


def _before_divergence(matches: Tensor, mask: Tensor) -> Tensor:
    """1 where t < t*, else 0, int64 [B, T]."""
    # the product of a prefix is 1 until the first mismatch and 0 from there on
    return (matches & mask).long().cumprod(1)


def positive_part(rewards: Tensor) -> Tensor:
    """The positive rewards [B, T] alone, others 0 (the paper's "PPO-T-Pos")."""
    return rewards.clamp(min=0)


# ---- the alignment rule ----------------------------------------------------------------------------------------------


def aligned_signs(response_ids: Tensor, mask: Tensor, finished: Tensor, corrections: Tensor) -> Tensor:
    """Rewards [B, T] in {+1, -1}, 0 outside the mask, of responses against their whole corrections.

    response_ids, mask [B, T], the mask a prefix of each row; finished [B]: False for truncated responses;
    corrections [B, W]: token ids, negative after the end of a correction.
    """
    import torch

    # on the CPU: an alignment is a loop over the tokens of one pair of texts
    rewards = torch.zeros(mask.shape, dtype=torch.float32)
    rows = zip(response_ids.tolist(), mask.sum(1).tolist(), finished.tolist(), corrections.tolist(), strict=True)
    for row, (ids, length, ended, correction) in enumerate(rows):
        positions = aligned_positions(ids[:length], [v for v in correction if v >= 0], truncated=not ended)
        rewards[row, :length] = torch.tensor(edit_signs(positions), dtype=torch.float32)
    return rewards.to(mask.device)


def edit_signs(positions: Sequence[int | None]) -> list[int]:
    """r_t in {+1, -1} of the aligned positions a(t) from `aligned_positions`: the alignment rule above."""
    start: list[int | None] = [-1]  # a(-1): deleting the beginning of z costs the first token too
    return [
        1 if position is not None and (last is None or position == last + 1) else -1
        for last, position in pairwise(start + list(positions))
    ]


def aligned_positions(response: Sequence[int], correction: Sequence[int], truncated: bool = False) -> list[int | None]:
    """a(t) of every response token, None where it is inserted or substituted.

    Among the alignments with the fewest edits, one that keeps the most tokens.  Among these, the one that at each step
    from left to right prefers keeping, then substituting, inserting, deleting: a common prefix is always kept.
    `truncated`: the response was cut off, so the rest of the correction does not count as deleted.
    """
    import numpy as np

    edit = len(response) + 1  # one edit costs more than all tokens that may be kept can gain
    tokens, steps = np.asarray(correction, dtype=np.int64), np.arange(len(correction) + 1)
    # [n + 1, m + 1]: edits * `edit` - kept tokens, of the best alignment of response[i:] with correction[j:].
    costs = np.empty((len(response) + 1, len(correction) + 1), dtype=np.int64)
    # the response has ended: what is left of the correction is deleted
    costs[-1] = (0 if truncated else edit) * steps[::-1]
    for i in range(len(response) - 1, -1, -1):
        best = costs[i + 1] + edit  # insert y_i
        best[:-1] = np.minimum(best[:-1], costs[i + 1, 1:] + np.where(tokens == response[i], -1, edit))
        # then delete any number of tokens first: min over k >= j of best[k] + edit (k - j), a running minimum
        costs[i] = np.minimum.accumulate((best + edit * steps)[::-1])[::-1] - edit * steps
    positions: list[int | None] = [None] * len(response)
    i = j = 0
    # Walk from the start: a step is on a best alignment where its own cost (-1 for a kept token, `edit` for an edit)
    # is the difference between the two places.
    while i < len(response):
        inside = j < len(correction)
        if inside and response[i] == correction[j] and costs[i, j] == costs[i + 1, j + 1] - 1:
            positions[i] = j
            i, j = i + 1, j + 1
        elif inside and response[i] != correction[j] and costs[i, j] == costs[i + 1, j + 1] + edit:
            i, j = i + 1, j + 1
        elif costs[i, j] == costs[i + 1, j] + edit:
            i += 1
        else:
            j += 1
    return positions


# ---- placing rewards -------------------------------------------------------------------------------------------------


def on_last_token(scores: Tensor, mask: Tensor) -> Tensor:
    """A score per response [B] as rewards [B, T]: all on the last response token (end-of-sequence if there is one).

    A response without tokens gets no reward.
    """
    import torch

    rewards = torch.zeros(mask.shape, dtype=torch.float32, device=mask.device)
    # an empty row's last index would be -1: the last column of the batch
    rows = torch.nonzero(mask.any(1)).squeeze(1)
    rewards[rows, mask[rows].sum(1) - 1] = scores[rows].float()
    return rewards


def spread_evenly(scores: Tensor, mask: Tensor) -> Tensor:
    """A score per response [B] as rewards [B, T]: an equal share on each of its tokens, which sum to the score.

    A response without tokens gets no reward.
    """
    # clamp: an empty row is 0 / 1 instead of 0 / 0
    return scores.float()[:, None] * mask / mask.sum(1, keepdim=True).clamp(min=1)


def shuffled(rewards: Tensor, mask: Tensor, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
    """The rewards [B, T] of each response permuted among its tokens; the mask is a prefix of each row.

    The permutation is drawn from a hash of prompt and response: a response always gets the same rewards and the same
    sum, but which token earned them is lost.
    """
    import torch

    from rlhf_bench.harness.sampling.rollout import make_generator

    permuted = rewards.clone()
    for row, (length, *texts) in enumerate(zip(mask.sum(1).tolist(), prompts, responses, strict=True)):
        # drawn on the CPU, so that every device gets the same order
        order = torch.randperm(length, generator=make_generator("shuffled rewards", *texts))
        permuted[row, :length] = rewards[row, order.to(rewards.device)]
    return permuted
