"""Token rewards that forgive what follows an edit: a response is aligned with its whole correction.

Compared position by position, one inserted token puts everything after it out of step.  Here response y and correction
z are aligned with the fewest edits (insertion, deletion and substitution count 1; Levenshtein 1966), and an edit costs
only itself.  Let a(t) be the place in z of the equal token that y_t is aligned with, undefined where there is none, and
a(-1) = -1:

    r_t = +1  if a(t) is defined and (a(t-1) is undefined or a(t) = a(t-1) + 1)
    r_t = -1  otherwise

So tokens kept earn +1, inserted and substituted ones -1, and where tokens of z are left out and nothing is written in
their place, the next token pays for the gap: the corrector would have written something else there.  Without that,
stopping early would be free, since end-of-sequence would always be kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


def kept_places(response: Sequence[int], correction: Sequence[int], cut: bool = False) -> list[int | None]:
    """a(t) of every response token, None where it is inserted or substituted.

    Of the alignments with the fewest edits one that keeps the most tokens, and of these the one that from left to right
    keeps where it can, else substitutes, else inserts, else deletes: a common beginning is always kept.  `cut`: the
    response was truncated, so what the correction has after it is not counted as deleted.
    """
    edit = len(response) + 1  # an edit outweighs all tokens that may be kept
    costs = _costs(response, correction, edit, 0 if cut else edit)
    places: list[int | None] = [None] * len(response)
    i = j = 0
    while i < len(response):
        inside = j < len(correction)
        if inside and response[i] == correction[j] and costs[i, j] == costs[i + 1, j + 1] - 1:
            places[i] = j
            i, j = i + 1, j + 1
        elif inside and response[i] != correction[j] and costs[i, j] == costs[i + 1, j + 1] + edit:
            i, j = i + 1, j + 1
        elif costs[i, j] == costs[i + 1, j] + edit:
            i += 1
        else:
            j += 1
    return places


def _costs(
    response: Sequence[int], correction: Sequence[int], edit: int, after: int
) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """[n + 1, m + 1]: edits * `edit` - kept of the best alignment of response[i:] with correction[j:].

    `after` is the cost of a correction's token that is left when the response has ended.
    """
    import numpy as np

    written, steps = np.asarray(correction, dtype=np.int64), np.arange(len(correction) + 1)
    costs = np.empty((len(response) + 1, len(correction) + 1), dtype=np.int64)
    costs[-1] = after * steps[::-1]
    for i in range(len(response) - 1, -1, -1):
        best = costs[i + 1] + edit  # insert y_i
        best[:-1] = np.minimum(best[:-1], costs[i + 1, 1:] + np.where(written == response[i], -1, edit))
        # then delete any number of tokens first: min over k >= j of best[k] + edit (k - j), a running minimum
        costs[i] = np.minimum.accumulate((best + edit * steps)[::-1])[::-1] - edit * steps
    return costs


def edit_signs(places: Sequence[int | None]) -> list[int]:
    """r_t in {+1, -1} of the places a(t): the rule above."""
    beginning: list[int | None] = [-1]
    return [
        1 if place is not None and (last is None or place == last + 1) else -1
        for last, place in pairwise(beginning + list(places))
    ]


def aligned_signs(response_ids: Tensor, mask: Tensor, finished: Tensor, written: Tensor) -> Tensor:
    """Rewards [B, T] in {+1, -1}, 0 outside the mask, of responses against their whole corrections.

    response_ids, mask [B, T], the mask a prefix of each row; finished [B]: False for truncated responses;
    written [B, W]: the correction's tokens, negative after its end.
    """
    import torch

    rewards = torch.zeros(mask.shape, dtype=torch.float32)
    rows = zip(response_ids.tolist(), mask.sum(1).tolist(), finished.tolist(), written.tolist(), strict=True)
    for row, (ids, length, ended, correction) in enumerate(rows):
        places = kept_places(ids[:length], [v for v in correction if v >= 0], cut=not ended)
        rewards[row, :length] = torch.tensor(edit_signs(places), dtype=torch.float32)
    return rewards.to(mask.device)
