"""Prompts to policy tokens, policy tokens to text, and the character span of every sampled token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlhf_bench.harness.text.chat import chat_ids, end_token_ids, prompt_format
from rlhf_bench.harness.text.tokens import Span, encode

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import Tokenizer

__all__ = ["decode", "encode", "encode_prompts", "policy_prompt", "starts_with_bos", "token_spans"]

QUESTION, ANSWER, CORRECTION = "QUESTION: ", "\nANSWER:\n", "\nCORRECTION:\n"
"""The template question / answer / correction, as in the correction models of the seq2seq paper's lab (method.md A)."""

REPLACEMENT = "\ufffd"
"""What an incomplete UTF-8 character decodes to."""


def policy_prompt(prompt: str, system: str = "") -> str:
    """A prompt in the plain template, up to where the response begins, with `system` as a paragraph before it.

    It ends with a line break, which is encoded with the prompt: a response begins with a token of its own.
    """
    return f"{system}\n\n{QUESTION}{prompt}{ANSWER}" if system else f"{QUESTION}{prompt}{ANSWER}"


def encode_prompts(tokenizer: Tokenizer, prompts: Sequence[str]) -> list[list[int]]:
    """Token ids of prompts in the prompt format of the policy's tokenizer (chat.py).

    That is its chat template with the template's own special tokens, or the plain template after a
    beginning-of-sequence token if the tokenizer itself puts one in front of a text.
    """
    form = prompt_format(tokenizer)
    if form.template == "chat":
        return chat_ids(tokenizer, prompts, form)
    bos = tokenizer.bos_token_id
    start = [bos] if bos is not None and starts_with_bos(tokenizer) else []
    return [start + row for row in encode(tokenizer, [policy_prompt(p, form.system) for p in prompts])]


def starts_with_bos(tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer itself puts a beginning-of-sequence token in front of a text.

    Tried, because having such a token does not mean writing it: GPT-2's tokenizer has one and writes none.
    """
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer("a")["input_ids"][:1] == [bos]


def decode(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The text of response tokens before the first one that ends a response, without special tokens.

    `clean_up_tokenization_spaces` is off: it deletes spaces before punctuation, and then the text of the first tokens
    is no longer the beginning of the whole text, on which `token_spans` depends.
    """
    row = list(ids)
    for end in end_token_ids(tokenizer):  # the row shrinks to what is before the earliest of them
        if end in row:
            row = row[: row.index(end)]
    return str(tokenizer.decode(row, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def token_spans(tokenizer: Tokenizer, ids: Sequence[int]) -> tuple[Span, ...]:
    """Character span of each token of a response in its decoded text; the spans tile the text from left to right.

    A character of several byte-level tokens belongs to the token that completes it.  The other tokens get an empty
    span, and so do special tokens.
    """
    text, spans, start = decode(tokenizer, ids), [], 0
    for count in range(1, len(ids) + 1):
        prefix = decode(tokenizer, ids[:count])
        # a prefix that ends inside a character decodes to replacement characters, which are not in the text
        stable = len(prefix.rstrip(REPLACEMENT)) if not text.startswith(prefix) else len(prefix)
        # a longer prefix can decode to fewer characters: spans must not go backwards
        end = max(start, min(stable, len(text)))
        spans.append((start, end))
        start = end
    if spans and start < len(text):  # an incomplete character at the end: its replacement belongs to the last token
        spans[-1] = (spans[-1][0], len(text))
    return tuple(spans)
