"""Text to policy tokens and back: the templates, and the character span of every sampled token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlhf_bench.harness.text.chat import chat_ids, end_token_ids, prompt_format
from rlhf_bench.harness.text.tokens import Span, encode

__all__ = ["decode", "encode", "encode_prompts", "policy_prompt", "starts_with_bos", "token_spans"]

QUESTION, ANSWER, CORRECTION = "QUESTION: ", "\nANSWER:\n", "\nCORRECTION:\n"
"""A question / answer / correction form, as in the correction models of the seq2seq paper's lab (method.md A)."""

REPLACEMENT = "�"


def policy_prompt(prompt: str, system: str = "") -> str:
    """What the policy reads before it answers, in the plain form."""
    return f"{system}\n\n{QUESTION}{prompt}{ANSWER}" if system else f"{QUESTION}{prompt}{ANSWER}"


def encode_prompts(tokenizer: Any, prompts: Sequence[str]) -> list[list[int]]:
    """Prompts in the form that the policy's tokenizer keeps (chat.py): its chat template, which brings its own special
    tokens, or the plain form after a beginning-of-sequence token where the tokenizer itself puts one."""
    form = prompt_format(tokenizer)
    if form.template == "chat":
        return chat_ids(tokenizer, prompts, form)
    start = [tokenizer.bos_token_id] if starts_with_bos(tokenizer) else []
    return [start + row for row in encode(tokenizer, [policy_prompt(p, form.system) for p in prompts])]


def starts_with_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer itself puts a beginning-of-sequence token in front of a text."""
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer("a")["input_ids"][:1] == [bos]


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of response tokens; the first token that ends a response and all after it are left out."""
    row = list(ids)
    for end in end_token_ids(tokenizer):
        if end in row:
            row = row[: row.index(end)]
    return str(tokenizer.decode(row, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def token_spans(tokenizer: Any, ids: Sequence[int]) -> tuple[Span, ...]:
    """Character span of each token of a response in its decoded text; spans tile the text from left to right.

    A character made of several byte-level tokens belongs to the token that completes it; the others, like
    special tokens, get an empty span.
    """
    text, spans, start = decode(tokenizer, ids), [], 0
    for count in range(1, len(ids) + 1):
        prefix = decode(tokenizer, ids[:count])
        stable = len(prefix.rstrip(REPLACEMENT)) if not text.startswith(prefix) else len(prefix)
        end = max(start, min(stable, len(text)))
        spans.append((start, end))
        start = end
    if spans and start < len(text):
        spans[-1] = (spans[-1][0], len(text))
    return tuple(spans)
