"""Text to token ids, so that no text can produce a special token."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlhf_bench.harness.errors import BenchError

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import Tokenizer

Span = tuple[int, int]
"""Half-open character range [start, end) in a text."""

BLANKS = " \u2581\u0120"
"""A space, and how unigram and byte-level tokenizers write it."""


def special_tokens(tokenizer: Tokenizer) -> dict[int, str]:
    """The special tokens' strings by id, except the unknown token: it stands for text.

    Both those that have a role (end-of-sequence, pad) and those that were only added (a chat template's marks).
    """
    found = {int(i): str(token) for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    found |= dict(zip(tokenizer.all_special_ids, map(str, tokenizer.all_special_tokens), strict=True))
    if tokenizer.unk_token_id not in (tokenizer.eos_token_id, tokenizer.bos_token_id):  # GPT-2 has one for all three
        found.pop(tokenizer.unk_token_id, None)  # type: ignore[arg-type]
    return found


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, without special tokens; a special token's string inside a text is read as plain text.

    So a prompt or a response from a data set can neither end a text nor open a turn of a chat.
    """
    if not texts:
        return []
    # split_special_tokens works for byte-level and WordPiece models; unigram models need the cut below
    ids = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True, return_attention_mask=False)
    rows, special = [list(row) for row in ids["input_ids"]], special_tokens(tokenizer)
    for at, text in enumerate(texts):
        # unigram models (sentencepiece's, T5's) have their special tokens among the pieces of plain text
        if not special.keys().isdisjoint(rows[at]):
            parts = split_special_tokens(text, special)
            cut = tokenizer(parts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            # a special token of one character cannot be cut: it is dropped
            rows[at] = [i for row in cut for i in row if i not in special]
    return rows


def split_special_tokens(text: str, special: dict[int, str]) -> list[str]:
    """The text in parts, none empty, cut after the first character of every special token's string.

    `special`: the strings by id.  The parts joined are the text.
    """
    # a lookahead, so that the rest of the string stays for the next part and overlapping strings are cut, too
    pattern = "|".join(re.escape(token[0]) + f"(?={re.escape(token[1:])})" for token in special.values() if token)
    pieces = re.split(f"({pattern})", text)  # text, first character, text, first character, ...
    return [part for a, b in zip(pieces[::2], [*pieces[1::2], ""], strict=True) if (part := a + b)]


def check_has_vocabulary(tokenizer: Tokenizer, source: object) -> None:
    """Raise BenchError for a tokenizer without a token of text.

    transformers creates such a tokenizer, without a warning, for a folder with a model but no tokenizer's files.
    """
    special = set(tokenizer.all_special_tokens)
    if not any(token.strip(BLANKS) for token in tokenizer.get_vocab() if token not in special):
        raise BenchError(f"The tokenizer of {source} reads nothing.", "Put its files beside the model.")
