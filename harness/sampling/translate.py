"""Rewards of a model that reads another policy's tokens: the texts are tokenised again, and the rewards are moved to
the tokens of the rollout."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rlhf_bench.harness.models.align import align_rows, encode_with_spans, same_tokenizer
from rlhf_bench.harness.nouns import Rollout
from rlhf_bench.harness.sampling.rollout import text_rollout
from rlhf_bench.harness.seams import RewardModel

if TYPE_CHECKING:
    from torch import Tensor

    from rlhf_bench.harness.text.types import Tokenizer


def translate_rewards(model: RewardModel, tokenizer: Tokenizer, rollout: Rollout) -> Tensor:
    """Rewards [B, T] of `model`, which reads `tokenizer`'s tokens, on the rollout's own tokens; row sums are kept.

    The texts are tokenised again unless both tokenizers are the same or the model reads texts.
    """
    if reads_text(model) or same_tokenizer(tokenizer, rollout.tokenizer):
        return model.rewards(rollout)
    read = retokenize(tokenizer, rollout)
    rewards, lengths = model.rewards(read).tolist(), read.mask.sum(1).tolist()
    # Spans of the texts as they were given.  Not `read.spans`, which are of the text that the tokenizer decodes to:
    # normalisation can make it another one.  End-of-sequence has the empty span at the end.
    rows = zip(encode_with_spans(tokenizer, read.responses), read.responses, read.finished.tolist(), strict=True)
    spans = [[*row, (len(text), len(text))] if ended else row for (_, row), text, ended in rows]
    return align_rows([row[:n] for row, n in zip(rewards, lengths, strict=True)], spans, rollout)


def reads_text(model: RewardModel) -> bool:
    """Whether a reward model declares (attribute `reads_text`) that it reads a rollout's texts and puts its rewards on
    the rollout's tokens itself."""
    return bool(getattr(model, "reads_text", False))


def retokenize(tokenizer: Tokenizer, rollout: Rollout) -> Rollout:
    """The same texts in another tokenizer's tokens.  A response that was cut off gets no end-of-sequence."""
    read = text_rollout(tokenizer, rollout.prompts, rollout.responses, str(rollout.mask.device))
    mask = read.mask.clone()  # text_rollout ends every response
    for row in (~rollout.finished).nonzero().flatten().tolist():
        mask[row, int(read.mask[row].sum()) - 1] = False
    ids = read.response_ids.masked_fill(~mask, tokenizer.pad_token_id)
    return replace(read, response_ids=ids, mask=mask, finished=rollout.finished)
