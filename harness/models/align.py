"""Rewards on one tokenizer's tokens moved to another tokenizer's tokens, by the characters of both.

A token's reward is divided evenly among its characters, and each character's share goes to the token of the other
tokenizer that holds the character.  So the sum is kept, and where both tokenizers have a boundary, the sum before it.
A token without characters (end-of-sequence, or a byte of a character that a later token completes) gives its reward to
the token that holds the next character; at the end of the text, to the last token.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Rollout
from rlhf_bench.harness.text.tokens import Span, special_tokens, split_special_tokens

if TYPE_CHECKING:
    from torch import Tensor

    from rlhf_bench.harness.text.types import JsonObject, Tokenizer


def align(rewards: Sequence[float], their_spans: Sequence[Span], our_spans: Sequence[Span]) -> list[float]:
    """Their rewards, one for each of their spans, on our tokens: one for each of our spans, of equal sum.

    Spans are half-open [start, end) in characters; they may be empty, overlap or leave gaps.  A character that several
    of our tokens hold belongs to the first of them, one that none holds to the next token.  Without any token of ours
    the result is empty.  Raises ValueError unless rewards and their spans are equally many.
    """
    if len(rewards) != len(their_spans):
        raise ValueError(f"{len(rewards)} rewards for {len(their_spans)} spans")
    if not our_spans:
        return []
    owners, found = _owners(our_spans), [0.0] * len(our_spans)
    last = len(our_spans) - 1
    for reward, (start, end) in zip(rewards, their_spans, strict=True):
        # an empty span counts as the character after it
        held = Counter(owners[at] if at < len(owners) else last for at in range(start, max(end, start + 1)))
        for token, characters in held.items():
            found[token] += reward * characters / held.total()
    return found


def _owners(spans: Sequence[Span]) -> list[int]:
    """The index of the token that owns each character, up to the last character that any token holds."""
    length = max(end for _, end in spans)
    owners: list[int | None] = [None] * length
    for token, (start, end) in enumerate(spans):
        for at in range(start, end):
            if owners[at] is None:  # byte-level tokens that share a character all report it: the first one keeps it
                owners[at] = token
    # a character that no token holds belongs to the next token
    filled, following = [0] * length, len(spans) - 1
    for at in range(length - 1, -1, -1):  # from the end, so that a gap gets the token after it
        owner = owners[at]
        following = following if owner is None else owner
        filled[at] = following
    return filled


def align_rows(rewards: Sequence[Sequence[float]], their_spans: Sequence[Sequence[Span]], rollout: Rollout) -> Tensor:
    """`align` for every response of a rollout: rewards [B, T] float32 on the policy's tokens, 0 outside the mask.

    `rewards` and `their_spans` have one list per response, of any length: one entry per token of the reward model.
    """
    import torch

    found = torch.zeros(rollout.mask.shape, dtype=torch.float32)  # on the CPU, and moved once: rows are Python lists
    for row, (values, theirs, ours) in enumerate(zip(rewards, their_spans, rollout.spans, strict=True)):
        found[row, : len(ours)] = torch.tensor(align(values, theirs, ours), dtype=torch.float32)
    return found.to(rollout.mask.device)


def encode_with_spans(tokenizer: Tokenizer, texts: Sequence[str]) -> list[tuple[list[int], list[Span]]]:
    """(token ids, character span of each token in the text) of every text, without special tokens.

    The spans are of the text as it was given, also where the tokenizer normalises it.  Special-token strings inside a
    text are read as plain text.  Raises BenchError for a tokenizer that does not report spans.
    """
    if not texts:
        return []
    if not getattr(tokenizer, "is_fast", False):
        seen = f"The tokenizer {type(tokenizer).__name__} does not say which characters its tokens stand for."
        raise BenchError(seen, "Give a tokenizer with a tokenizer.json.")
    rows, special = _encode_with_offsets(tokenizer, texts), special_tokens(tokenizer)
    for at, text in enumerate(texts):
        if special.keys().isdisjoint(rows[at][0]):
            continue
        # as in `tokens.encode`: a unigram model finds its special tokens in plain text, so these are cut inside
        found: list[tuple[int, Span]] = []
        parts, start = split_special_tokens(text, special), 0
        for part, (ids, spans) in zip(parts, _encode_with_offsets(tokenizer, parts), strict=True):
            found += [(i, (start + a, start + b)) for i, (a, b) in zip(ids, spans, strict=True) if i not in special]
            start += len(part)  # the part's offsets count from its own first character
        rows[at] = [i for i, _ in found], [span for _, span in found]
    return rows


def _encode_with_offsets(tokenizer: Tokenizer, texts: Sequence[str]) -> list[tuple[list[int], list[Span]]]:
    made = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
    spans = [[(int(start), int(end)) for start, end in row] for row in made["offset_mapping"]]
    return [(list(ids), row) for ids, row in zip(made["input_ids"], spans, strict=True)]


def same_tokenizer(a: Tokenizer, b: Tokenizer) -> bool:
    """Whether two tokenizers give the same ids for every text, as far as can be told: the pipelines and ends agree.

    False also where it cannot be told (a tokenizer without a tokenizer.json); rewards are then moved by characters.
    """
    if a is b:
        return True
    if not (getattr(a, "is_fast", False) and getattr(b, "is_fast", False)):
        return False
    # not in the pipeline: transformers keeps the roles of tokens in its own configuration
    ends = ("eos_token_id", "pad_token_id", "bos_token_id")
    return all(getattr(a, n) == getattr(b, n) for n in ends) and _pipeline(a) == _pipeline(b)


_pipelines: WeakKeyDictionary[Tokenizer, JsonObject] = WeakKeyDictionary()
"""By tokenizer: serialising a large vocabulary takes a second, and every batch compares."""


def _pipeline(tokenizer: Tokenizer) -> JsonObject:
    """How text becomes ids, without padding and truncation: these are left over from the tokenizer's last call."""
    if tokenizer not in _pipelines:
        made: JsonObject = json.loads(tokenizer.backend_tokenizer.to_str())
        _pipelines[tokenizer] = {name: made[name] for name in made.keys() - {"padding", "truncation"}}
    return _pipelines[tokenizer]
