"""The stage that asks a reward model for its token rewards where the flawed characters of a response are known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rlhf_bench.harness import store
from rlhf_bench.harness.models import policies
from rlhf_bench.harness.nouns import Pair
from rlhf_bench.harness.pipeline.context import Context
from rlhf_bench.harness.ppo.scoring import NamedRewardModel
from rlhf_bench.harness.sampling.rollout import text_rollout
from rlhf_bench.harness.stages.pairs import read_pairs
from rlhf_bench.harness.stages.reward import scorer_of
from rlhf_bench.harness.stages.scale import scorable
from rlhf_bench.harness.text.templates import decode
from rlhf_bench.harness.text.tokens import Span

BATCH = 64


class Marked(NamedTuple):
    """One response whose flaws are known, the first pair and side it stands in, and the prompt it answers."""

    pair: str
    side: str
    prompt: str
    response: str
    flaws: tuple[Span, ...]


def credit(context: Context) -> Mapping[str, Any]:
    """credit.jsonl: one row per held-out response with known flaws, for `credit.credit_estimates`.

    pair, side, cluster (equal for pairs on one prompt), and per token: spans, rewards, flawed.  End-of-sequence and
    tokens without characters are left out; `end` is the reward on the former.  A response that stands in several pairs
    is scored once.  One whose tokens do not decode to its text has no usable spans: left out and counted.
    """
    scorer = scorer_of(context)
    tokenizer = policies.load_tokenizer(context.inputs["sft"])
    found, declined = scorable(scorer, read_pairs(context.inputs["pairs"], "test"))
    sides = sum(flaws is not None for pair in found for flaws in (pair.chosen_flaws, pair.rejected_flaws))
    marked = marked_responses(found)
    rows: list[dict[str, Any]] = []
    for start in range(0, len(marked), BATCH):
        rows += _score(scorer, tokenizer, marked[start : start + BATCH], context.device)
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
    """The responses with known flaws, each once: a response in three pairs is no threefold evidence."""
    found: dict[tuple[str, str, tuple[Span, ...]], Marked] = {}
    for pair in pairs:
        sides = (
            ("chosen", pair.chosen, pair.chosen_flaws),
            ("rejected", pair.rejected, pair.rejected_flaws),
        )
        for side, response, flaws in sides:
            if flaws is not None and response:
                key = (pair.prompt, response, flaws)
                found.setdefault(key, Marked(pair.id, side, pair.prompt, response, flaws))
    return list(found.values())


def _score(scorer: NamedRewardModel, tokenizer: Any, marked: Sequence[Marked], device: str) -> Iterator[dict[str, Any]]:
    rollout = text_rollout(tokenizer, [m.prompt for m in marked], [m.response for m in marked], device)
    rewards, ids = scorer.rewards(rollout).tolist(), rollout.response_ids.tolist()
    for row, tokens, spans, one in zip(rewards, ids, rollout.spans, marked, strict=True):
        if decode(tokenizer, tokens) != one.response:
            continue
        last = len(spans) - 1  # end-of-sequence
        kept = [i for i, (start, end) in enumerate(spans[:last]) if start < end]
        yield {
            "pair": one.pair,
            "side": one.side,
            "cluster": store.content_key(one.prompt)[: store.KEY_LENGTH],
            "spans": [spans[i] for i in kept],
            "rewards": [row[i] for i in kept],
            "flawed": [is_flawed(one.response, spans[i], one.flaws) for i in kept],
            "end": row[last],
        }


def is_flawed(text: str, span: Span, flaws: Sequence[Span]) -> bool:
    """Whether a token's characters overlap a flaw.

    White space at the token's edges does not count (unless there is nothing else): byte-level tokens begin with the
    space before a word, which would put the word after a flaw inside it.
    """
    start, end = span
    piece = text[start:end]
    if piece.strip():
        start, end = start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())
    return any(max(start, low) < min(end, high) for low, high in flaws)
