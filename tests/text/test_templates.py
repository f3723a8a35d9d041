"""Text to tokens and back: nothing is lost, nothing becomes a special token, every character belongs to one token."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import SENTENCES

from rlhf_bench.harness.text.templates import (
    decode,
    encode,
    encode_prompts,
    policy_prompt,
    starts_with_bos,
    token_spans,
)

HARD = [
    "",
    " ",
    "  two  spaces  ",
    "\n\n\ttab\r\n",
    "naïve café — où?",
    "e\u0301 combining, a\u0308\u0327 twice",
    "👩‍👩‍👧‍👦 family, 🇩🇪 flag, 👍🏽 skin",
    "漢字とかな、한국어",
    "العربية עברית",
    "\x00\x01\x7f control \x85\u2028\u2029",
    "literal \ufffd replacement \ufffd\ufffd",
    "\ufeffbom",
    "<|end|> <|pad|> <|endoftext|><s>",
    " don't clean up , these spaces . please !",
]

texts = st.one_of(st.sampled_from(HARD), st.text(max_size=30), st.lists(st.sampled_from(HARD), max_size=3).map("".join))


@given(texts)
def test_any_text_round_trips(tokenizer: Any, text: str) -> None:
    (ids,) = encode(tokenizer, [text])
    assert decode(tokenizer, ids) == text


@given(st.lists(texts, max_size=4))
def test_a_text_is_encoded_the_same_in_company(tokenizer: Any, company: list[str]) -> None:
    assert encode(tokenizer, company) == [encode(tokenizer, [text])[0] for text in company]


@given(st.lists(st.sampled_from(["<|end|>", "<|pad|>", " ", "a", "<|", "|>"]), max_size=6).map("".join))
def test_no_text_becomes_a_special_token(tokenizer: Any, text: str) -> None:
    (ids,) = encode(tokenizer, [text])
    (prompt,) = encode_prompts(tokenizer, [text])
    assert not {*ids, *prompt} & set(tokenizer.all_special_ids)
    assert decode(tokenizer, ids) == text
    assert decode(tokenizer, prompt) == policy_prompt(text)


def test_that_holds_for_a_tokenizer_loaded_from_a_folder(tiny: Any) -> None:
    from rlhf_bench.harness.models.policies import load_tokenizer

    loaded = load_tokenizer(tiny.folder)
    text = "a <|end|> b <|pad|>" + HARD[6]
    assert encode(loaded, [text]) == encode(tiny.tokenizer, [text])
    assert decode(loaded, encode(loaded, [text])[0]) == text
    assert not set(encode(loaded, [text])[0]) & set(loaded.all_special_ids)
    assert loaded.pad_token_id != loaded.eos_token_id


def assert_tiles(tokenizer: Any, ids: list[int]) -> None:
    text, spans = decode(tokenizer, ids), token_spans(tokenizer, ids)
    assert len(spans) == len(ids)
    ends = [0, *(end for _, end in spans)]
    assert [start for start, _ in spans] == ends[:-1]
    assert ends == sorted(ends)
    assert ends[-1] == (len(text) if ids else 0)


@given(texts)
def test_spans_tile_a_text(tokenizer: Any, text: str) -> None:
    ids = [*encode(tokenizer, [text])[0], tokenizer.eos_token_id]
    assert_tiles(tokenizer, ids)
    assert token_spans(tokenizer, ids)[-1] == (len(text), len(text))


@given(st.lists(st.integers(0, 299), max_size=20))
def test_spans_tile_everything_that_a_policy_can_sample(tokenizer: Any, ids: list[int]) -> None:
    """Bytes that are no UTF-8, special tokens in the middle."""
    assert_tiles(tokenizer, ids)


@given(texts.filter(lambda text: text and "\ufffd" not in text))  # an unfinished character decodes to that one
def test_a_character_belongs_to_the_token_that_completes_it(tokenizer: Any, text: str) -> None:
    (ids,) = encode(tokenizer, [text])
    pieces = [tokenizer.convert_ids_to_tokens(i) for i in ids]  # byte-level: one symbol for a byte
    ends = [sum(map(len, pieces[: n + 1])) for n in range(len(pieces))]
    bytes_until = [len(text[:n].encode()) for n in range(len(text) + 1)]
    expected = [max(n for n, size in enumerate(bytes_until) if size <= end) for end in ends]
    assert [end for _, end in token_spans(tokenizer, ids)] == expected


def test_spans_of_plain_words(tokenizer: Any) -> None:
    (ids,) = encode(tokenizer, [SENTENCES[0]])
    pieces = [SENTENCES[0][start:end] for start, end in token_spans(tokenizer, ids)]
    assert pieces == [tokenizer.decode([i]) for i in ids]
    assert len(pieces) < len(SENTENCES[0])


def test_the_end_and_all_after_it_are_left_out(tokenizer: Any) -> None:
    (ids,) = encode(tokenizer, ["abc"])
    assert decode(tokenizer, [*ids, tokenizer.eos_token_id, *ids]) == "abc"
    assert decode(tokenizer, []) == decode(tokenizer, [tokenizer.eos_token_id]) == ""


def test_a_beginning_of_sequence_token_is_kept_where_the_tokenizer_has_one(tokenizer: Any) -> None:
    from copy import deepcopy

    from tokenizers.processors import TemplateProcessing

    assert not starts_with_bos(tokenizer)
    with_bos = deepcopy(tokenizer)
    with_bos.bos_token = "<|end|>"
    assert not starts_with_bos(with_bos), "it has one but does not put it there"
    end = with_bos.bos_token_id
    with_bos.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|end|> $A", special_tokens=[("<|end|>", end)]
    )
    assert starts_with_bos(with_bos)
    assert encode_prompts(with_bos, ["x"]) == [[end, *encode(tokenizer, [policy_prompt("x")])[0]]]
    assert encode(with_bos, ["x"]) == encode(tokenizer, ["x"])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_no_texts_give_no_rows(tokenizer: Any, count: int) -> None:
    assert encode(tokenizer, [""] * count) == [[]] * count
