"""Texts to token ids in which nothing that a text says can become a special token."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from rlhf_bench.harness.errors import BenchError


def special_tokens(tokenizer: Any) -> dict[int, str]:
    """The special tokens by id, without the unknown one, which stands for text."""
    found = {int(i): str(token) for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    found |= dict(zip(tokenizer.all_special_ids, map(str, tokenizer.all_special_tokens), strict=True))
    if tokenizer.unk_token_id not in (tokenizer.eos_token_id, tokenizer.bos_token_id):  # GPT-2 has one for all three
        found.pop(tokenizer.unk_token_id, None)
    return found


def encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, without special tokens; special-token strings inside a text are read as plain text."""
    if not texts:
        return []
    ids = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True, return_attention_mask=False)
    rows, special = [list(row) for row in ids["input_ids"]], special_tokens(tokenizer)
    return [
        row if special.keys().isdisjoint(row) else _cut(tokenizer, text, special)
        for row, text in zip(rows, texts, strict=True)
    ]


def _cut(tokenizer: Any, text: str, special: dict[int, str]) -> list[int]:
    """Ids of a text whose special-token strings are cut after their first letter.

    Unigram models (sentencepiece's, T5's) have their special tokens among the pieces of plain text.
    """
    rows = tokenizer(split_special_tokens(text, special), add_special_tokens=False, split_special_tokens=True)[
        "input_ids"
    ]
    return [i for row in rows for i in row if i not in special]


def split_special_tokens(text: str, special: dict[int, str]) -> list[str]:
    """The text in parts, none empty, cut after the first letter of every special token's string."""
    pattern = "|".join(re.escape(token[0]) + f"(?={re.escape(token[1:])})" for token in special.values() if token)
    pieces = re.split(f"({pattern})", text)
    return [part for a, b in zip(pieces[::2], [*pieces[1::2], ""], strict=True) if (part := a + b)]


BLANKS = " \u2581\u0120"
"""A space, and how unigram and byte-level tokenizers write it."""


def check_has_vocabulary(tokenizer: Any, source: object) -> None:
    """Raise BenchError for a tokenizer without a token of text.

    transformers makes such a one up, without a word, where a folder has a model but no tokenizer's files.
    """
    special = set(tokenizer.all_special_tokens)
    if not any(token.strip(BLANKS) for token in tokenizer.get_vocab() if token not in special):
        raise BenchError(f"The tokenizer of {source} reads nothing.", "Put its files beside the model.")


Span = tuple[int, int]
"""Half-open character range [start, end) in a text."""
