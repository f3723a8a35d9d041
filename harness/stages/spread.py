"""Credit per token from a reward model that gives one score per response: Shapley values, and attention.

Two published ways to turn such a score into dense rewards, for comparison with rewards that are per token from the
start: SCAR (arXiv 2505.20417) and ABC (arXiv 2402.00782).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.forward.passes import pack, scatter_to_mask
from rlhf_bench.harness.models.micro_batch import limit_of
from rlhf_bench.harness.nouns import Rollout
from rlhf_bench.harness.ppo.scoring import NamedRewardModel
from rlhf_bench.harness.sampling.rollout import map_batches
from rlhf_bench.harness.statistics import shapley
from rlhf_bench.harness.text.templates import decode
from rlhf_bench.harness.text.tokens import Span

if TYPE_CHECKING:
    from torch import Tensor

EXACT = 8
"""Up to this number of segments all coalitions are scored (256)."""
PERMUTATIONS = 32
"""Orders that are sampled for a response of more segments."""
SEGMENTS = 24
"""The most segments of a response: more words than this are joined to runs of words of nearly equal number."""
ATTENTION_ROWS = 16
"""Responses whose attention is in memory at once: the maps of all layers are."""


def by_shapley(scorer: NamedRewardModel, rollout: Rollout, names: Sequence[str], seed: int) -> Tensor:
    """Credit [B, T] by Shapley values, where the players are a response's segments (SCAR, arXiv 2505.20417).

    A coalition is worth the sum of the rewards of its segments in their order, ended as the response is; those that are
    absent are left out of the text.  Values are exact up to EXACT segments, else over PERMUTATIONS random orders, drawn
    by `seed` and the response's entry of `names` [B].  A segment's value is shared evenly by its tokens; the last
    token, end-of-sequence, has the score of the empty response, so that a row sums to the score of the response.
    """
    import torch

    rewards = torch.zeros(rollout.mask.shape, dtype=torch.float32, device=rollout.mask.device)
    for row, (text, spans, name) in enumerate(zip(rollout.responses, rollout.spans, names, strict=True)):
        parts = segments(text, spans[:-1])
        count = len(parts)
        if count <= EXACT:
            masks = list(range(2**count))
            orders = None
        else:
            rng = np.random.default_rng(int(store.content_key([seed, name])[:15], 16))
            orders = shapley.sampled_orders(count, PERMUTATIONS, rng)
            masks = sorted(set(shapley.prefixes(orders).ravel().tolist()))
        scored = scorer.rewards(coalitions(rollout, row, parts, masks)).double().sum(1).tolist()
        values = dict(zip(masks, scored, strict=True))
        found = shapley.exact(scored) if orders is None else shapley.over_orders(orders, values)
        for part, value in zip(parts, found.tolist(), strict=True):
            rewards[row, part] = value / len(part)
        rewards[row, len(spans) - 1] = values[0]
    return rewards


def segments(text: str, spans: Sequence[Span]) -> list[list[int]]:
    """The tokens of each segment of a response: its words, or SEGMENTS runs of them where it has more.

    A word begins with the token that has the white space before it, or that comes after it.  A token without
    characters belongs to the word before it.
    """
    words: list[list[int]] = []
    first = 0  # the character at which the last word begins
    for place, (start, end) in enumerate(spans):
        apart = start < end and (text[start].isspace() or text[max(start - 1, 0)].isspace())
        # white space alone is no word: where it is a token of its own, the word follows
        if not words or (apart and text[first:start].strip()):
            words.append([])
            first = start
        words[-1].append(place)
    if len(words) <= SEGMENTS:
        return words
    bounds = np.linspace(0, len(words), SEGMENTS + 1).round().astype(int).tolist()
    return [[token for word in words[a:b] for token in word] for a, b in itertools.pairwise(bounds)]


def coalitions(rollout: Rollout, row: int, parts: Sequence[Sequence[int]], masks: Sequence[int]) -> Rollout:
    """Responses to the prompt of `row` that hold the tokens of some of its segments and its last token, one a mask."""
    import torch

    ids, pad, device = rollout.response_ids[row].tolist(), rollout.tokenizer.pad_token_id, rollout.mask.device
    end = ids[int(rollout.mask[row].sum()) - 1]
    kept = [[ids[t] for i, part in enumerate(parts) if mask >> i & 1 for t in part] for mask in masks]
    width, count = 1 + max(map(len, kept)), len(masks)
    lengths = torch.tensor([len(tokens) + 1 for tokens in kept], device=device)
    return Rollout(
        (rollout.prompts[row],) * count,
        tuple(decode(rollout.tokenizer, tokens) for tokens in kept),
        rollout.prompt_ids[row].repeat(count, 1),
        rollout.prompt_mask[row].repeat(count, 1),
        torch.tensor([[*tokens, end] + [pad] * (width - 1 - len(tokens)) for tokens in kept], device=device),
        torch.arange(width, device=device)[None] < lengths[:, None],
        torch.ones(count, dtype=torch.bool, device=device),
        rollout.tokenizer,
    )


def by_attention(scorer: NamedRewardModel, rollout: Rollout, names: Sequence[str], seed: int) -> Tensor:  # noqa: ARG001
    """Credit [B, T]: the score, shared by the attention of the last token to the response's tokens (ABC, 2402.00782).

    Attention of the last layer, the mean over its heads, put to the sum 1 over the response.  A row sums to the score
    of the response, and all of its tokens have the score's sign.  Raises BenchError for any reward model but `scalar`.
    """
    import torch

    from rlhf_bench.reward_models.scalar import ScalarScorer

    if not isinstance(scorer.model, ScalarScorer):
        raise BenchError(f"The reward model {scorer.name!r} has no attention credit.", "Only `scalar` has.")
    model = scorer.model.model
    # the only implementation that returns attention maps; in place, since this stage alone uses this model
    model.set_attn_implementation("eager")

    def credit(part: Rollout) -> Tensor:
        packed = pack(part, model)  # rows from the left, padded at the end, where causal attention does not look
        last = torch.arange(len(packed.ids), device=packed.ids.device), packed.lengths - 1
        with torch.no_grad():
            found = model.base_model(input_ids=packed.ids, use_cache=False, output_attentions=True)
            scores: Tensor = model.score(found.last_hidden_state[last]).squeeze(-1).float()
        attention = found.attentions[-1].float().mean(1)[last]  # [B, C] from each row's last token
        # `before` marks the place before each response token
        own = scatter_to_mask(attention[:, 1:][packed.before[:, :-1]], part.mask)
        return own / own.sum(1, keepdim=True) * scores[:, None]

    doing = "reading attention"
    return map_batches(credit, rollout, ATTENTION_ROWS, 0, limit_of(model, doing), doing)


METHODS: Mapping[str, Callable[[NamedRewardModel, Rollout, Sequence[str], int], Tensor]] = {
    "shapley": by_shapley,
    "attention": by_attention,
}
