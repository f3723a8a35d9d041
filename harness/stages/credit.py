"""The stage that scores responses whose flawed characters are known, for credit assignment per token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from rlhf_bench.harness import store
from rlhf_bench.harness.models import policies
from rlhf_bench.harness.nouns import Pair, Rollout
from rlhf_bench.harness.pipeline.context import Context, StageFigures
from rlhf_bench.harness.sampling.rollout import text_rollout
from rlhf_bench.harness.stages.pairs import read_pairs
from rlhf_bench.harness.stages.reward import scorer_of
from rlhf_bench.harness.stages.scale import scorable
from rlhf_bench.harness.stages.spread import METHODS
from rlhf_bench.harness.text.templates import decode
from rlhf_bench.harness.text.tokens import Span

if TYPE_CHECKING:
    from torch import Tensor

    from rlhf_bench.harness.text.types import JsonObject, Tokenizer

BATCH = 64
"""Responses that are scored at once."""


class Marked(NamedTuple):
    """A response whose flaws are known, the first pair and side it is found in, and its prompt."""

    pair: str
    side: str
    prompt: str
    response: str
    flaws: tuple[Span, ...]


def credit(context: Context) -> StageFigures:
    """Compute the token rewards of the held-out responses with known flaws (`statistics.credit` has the estimates).

    Reads: sft (the tokenizer), pairs (pairs.test.jsonl), reward (where the reward model is trained), prompts and
        train_prompts (where it reads examples).
    Writes: credit.jsonl, one row per response: pair, side, cluster (equal for pairs on one prompt), and per token
        spans, rewards, flawed; `end` is the reward on end-of-sequence, which is no token of these, as are none without
        characters.
    Parameters: rm, seed, method (of `spread.METHODS`; without: the rewards as the reward model gives them).

    A response that is in several pairs is scored once.  One whose tokens do not decode to its text has no usable spans:
    it is left out and counted as `misaligned`.
    """
    scorer = scorer_of(context)
    tokenizer = policies.load_tokenizer(context.inputs["sft"])
    found, declined = scorable(scorer, read_pairs(context.inputs["pairs"], "test"))
    # Responses with known flaws, repeated ones included: their number less the distinct ones is reported.
    sides = sum(flaws is not None for pair in found for flaws in (pair.chosen_flaws, pair.rejected_flaws))
    marked = marked_responses(found)
    rows: list[JsonObject] = []

    def rewards_of(rollout: Rollout, part: Sequence[Marked]) -> Tensor:
        if not (method := context.params.get("method")):
            return scorer.rewards(rollout)
        return METHODS[method](scorer, rollout, [f"{one.pair} {one.side}" for one in part], context.params["seed"])

    for start in range(0, len(marked), BATCH):
        part = marked[start : start + BATCH]
        rows += token_rewards(partial(rewards_of, part=part), tokenizer, part, context.device)
        context.progress(min(start + BATCH, len(marked)), len(marked))
    store.write_rows(context.work / "credit.jsonl", rows)
    return {
        "responses": len(rows),
        "tokens": sum(len(row["flawed"]) for row in rows),
        "flawed_tokens": sum(sum(row["flawed"]) for row in rows),
        "repeated": sides - len(marked),
        "misaligned": len(marked) - len(rows),
        **({"declined": declined} if declined else {}),
    }


def marked_responses(pairs: Sequence[Pair]) -> list[Marked]:
    """The responses with known flaws, each once: a response in three pairs is no threefold evidence.

    Equal ones have prompt, response and flaws in common.  An empty response has no token to score and is left out.
    """
    found: dict[tuple[str, str, tuple[Span, ...]], Marked] = {}
    for pair in pairs:
        sides = (
            ("chosen", pair.chosen, pair.chosen_flaws),
            ("rejected", pair.rejected, pair.rejected_flaws),
        )
        for side, response, flaws in sides:
            if flaws is not None and response:
                # With the flaws: two annotations of one text are two pieces of evidence.
                key = (pair.prompt, response, flaws)
                found.setdefault(key, Marked(pair.id, side, pair.prompt, response, flaws))
    return list(found.values())


def token_rewards(
    rewards_of: Callable[[Rollout], Tensor], tokenizer: Tokenizer, marked: Sequence[Marked], device: str
) -> Iterator[JsonObject]:
    """Rows of credit.jsonl, none for a response whose tokens do not decode to its text.

    `rewards_of` gives rewards [B, T] of a rollout.  Raises BenchError where the reward model fails.
    """
    rollout = text_rollout(tokenizer, [m.prompt for m in marked], [m.response for m in marked], device)
    rewards, ids = rewards_of(rollout).tolist(), rollout.response_ids.tolist()
    for row, tokens, spans, one in zip(rewards, ids, rollout.spans, marked, strict=True):
        # Tokenisers that normalise text: spans are of the decoded text, flaws of the original.
        if decode(tokenizer, tokens) != one.response:
            continue
        last = len(spans) - 1  # end-of-sequence
        # Without characters a token is neither right nor wrong: a byte of a character that a later token completes.
        kept = [i for i, (start, end) in enumerate(spans[:last]) if start < end]
        yield {
            "pair": one.pair,
            "side": one.side,
            # A hash, because only equality of prompts matters to the intervals.
            "cluster": store.content_key(one.prompt)[: store.KEY_LENGTH],
            "spans": [spans[i] for i in kept],
            "rewards": [row[i] for i in kept],
            "flawed": [is_flawed(one.response, spans[i], one.flaws) for i in kept],
            "end": row[last],
        }


def is_flawed(text: str, span: Span, flaws: Sequence[Span]) -> bool:
    """Whether a token's characters overlap a flaw; white space at the token's edges does not count, unless it is all.

    Byte-level tokens begin with the space before a word, which would put the word after a flaw inside it.
    """
    start, end = span
    piece = text[start:end]
    if piece.strip():
        start, end = start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())
    return any(max(start, low) < min(end, high) for low, high in flaws)
