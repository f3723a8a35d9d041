"""A reward model that reads the policy's tokens, asked about a policy with other tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rlhf_bench.harness.models.align import align_rows, encode_with_spans, same_tokenizer
from rlhf_bench.harness.nouns import Rollout
from rlhf_bench.harness.sampling.rollout import text_rollout
from rlhf_bench.harness.seams import RewardModel
from rlhf_bench.harness.text.tokens import Span

if TYPE_CHECKING:
    from torch import Tensor


def translate_rewards(model: RewardModel, tokenizer: Any, rollout: Rollout) -> Tensor:
    """Rewards [B, T] of `model`, which reads `tokenizer`'s tokens, on the rollout's own tokens, sums kept.

    Texts are read anew unless both tokenizers are the same; a response that was cut off gets no end-of-sequence.
    """
    if reads_text(model) or same_tokenizer(tokenizer, rollout.tokenizer):
        return model.rewards(rollout)
    read = retokenize(tokenizer, rollout)
    rewards, lengths = model.rewards(read).tolist(), read.mask.sum(1).tolist()
    return align_rows([row[:n] for row, n in zip(rewards, lengths, strict=True)], _spans(tokenizer, read), rollout)


def reads_text(model: RewardModel) -> bool:
    """Whether a reward model says (`reads_text`) that it reads a rollout's texts, and puts its rewards on the rollout's
    tokens itself."""
    return bool(getattr(model, "reads_text", False))


def retokenize(tokenizer: Any, rollout: Rollout) -> Rollout:
    """The same texts in another tokenizer's tokens."""
    read = text_rollout(tokenizer, rollout.prompts, rollout.responses, str(rollout.mask.device))
    mask = read.mask.clone()
    for row in (~rollout.finished).nonzero().flatten().tolist():
        mask[row, int(read.mask[row].sum()) - 1] = False
    ids = read.response_ids.masked_fill(~mask, tokenizer.pad_token_id)
    return replace(read, response_ids=ids, mask=mask, finished=rollout.finished)


def _spans(tokenizer: Any, read: Rollout) -> list[list[Span]]:
    """Characters of every token, end-of-sequence included, in the texts as they were given.

    Not `read.spans`: those are of what the tokenizer writes back, which need not be what it was given.
    """
    rows = zip(encode_with_spans(tokenizer, read.responses), read.responses, read.finished.tolist(), strict=True)
    return [[*spans, (len(text), len(text))] if end else spans for (_, spans), text, end in rows]
