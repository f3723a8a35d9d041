"""Rewards on another tokenizer's tokens: sums are kept, nothing moves past a common boundary, whatever the text."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tiny import by_hand
from tokenizers_here import KINDS, make

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.models.align import align, align_rows, encode_with_spans, same_tokenizer
from rlhf_bench.harness.text.templates import decode, token_spans
from rlhf_bench.harness.text.tokens import Span

ODD = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
TEXTS = st.one_of(
    ODD, st.text("aé ß🤖שﬁ\u0301\u200d\ufffd.\n", max_size=30), st.sampled_from(["", " ", "Anna and Ben."])
)
NUMBERS = st.floats(-100, 100, allow_subnormal=False)


@st.composite
def tilings(draw: Any, length: int) -> list[Span]:
    """Spans that tile a text of `length` characters, empty ones among them."""
    cuts = sorted(draw(st.lists(st.integers(0, length), max_size=8)))
    return list(zip([0, *cuts], [*cuts, length], strict=True))


@st.composite
def two_tilings(draw: Any) -> tuple[list[float], list[Span], list[Span]]:
    length = draw(st.integers(0, 20))
    theirs, ours = draw(tilings(length)), draw(tilings(length))
    return draw(st.lists(NUMBERS, min_size=len(theirs), max_size=len(theirs))), theirs, ours


@given(two_tilings())
@example(([1.0, 2.0], [(0, 0), (0, 0)], [(0, 0)]))
def test_the_sum_is_kept_and_nothing_passes_a_common_boundary(made: tuple[list[float], list[Span], list[Span]]) -> None:
    rewards, theirs, ours = made
    found = align(rewards, theirs, ours)
    assert len(found) == len(ours)
    assert math.isclose(sum(found), sum(rewards), abs_tol=1e-9)
    boundaries = {end for _, end in theirs} & {end for _, end in ours}
    for at in boundaries - {start for start, end in (*theirs, *ours) if start == end}:  # those have a rule of their own
        before = sum(r for r, (_, end) in zip(rewards, theirs, strict=True) if end <= at)
        assert math.isclose(sum(r for r, (_, end) in zip(found, ours, strict=True) if end <= at), before, abs_tol=1e-9)


@given(st.data())
def test_any_spans_at_all_keep_the_sum(data: st.DataObject) -> None:
    """Overlaps, gaps, disorder, spans past our end: as tokenizers with byte fallback or lossy decoding have them."""
    spans = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)).map(lambda s: (min(s), max(s))), max_size=6)
    theirs, ours = data.draw(spans), data.draw(spans)
    rewards = data.draw(st.lists(NUMBERS, min_size=len(theirs), max_size=len(theirs)))
    found = align(rewards, theirs, ours)
    assert len(found) == len(ours)
    assert not ours or math.isclose(sum(found), sum(rewards), abs_tol=1e-9)


@given(st.data())
def test_equal_spans_change_nothing(data: st.DataObject) -> None:
    length = data.draw(st.integers(1, 20))
    cuts = sorted(data.draw(st.sets(st.integers(1, length))) | {length})
    spans = list(zip([0, *cuts], cuts, strict=False))
    rewards = data.draw(st.lists(NUMBERS, min_size=len(spans), max_size=len(spans)))
    assert align(rewards, spans, spans) == pytest.approx(rewards)


def test_by_hand() -> None:
    assert align([4.0, -2.0], [(0, 4), (4, 6)], [(0, 1), (1, 5), (5, 6)]) == [1.0, 2.0, -1.0]
    # a byte of a character that is completed later goes to the character, an end to the end
    assert align([1.0, 2.0, 8.0], [(1, 1), (0, 2), (2, 2)], [(0, 1), (1, 2), (2, 2)]) == [1.0, 2.0, 8.0]
    assert align([1.0], [(0, 3)], []) == []
    with pytest.raises(ValueError, match="2 rewards for 1 spans"):
        align([1.0, 2.0], [(0, 1)], [(0, 1)])


@pytest.mark.parametrize("theirs", KINDS)
@pytest.mark.parametrize("ours", KINDS)
def test_real_tokenizers_keep_the_sum_on_odd_text(theirs: str, ours: str) -> None:
    """Byte-level BPE, unigram with byte fallback, WordPiece: the policy's text is what its own tokens decode to."""
    policy, reader = make(ours), make(theirs)

    @given(TEXTS, st.randoms(use_true_random=False))
    @example("e\u0301 ﬁ 🤖👩‍👩‍👧 שלום", Random(0))
    def law(text: str, random: Any) -> None:
        ids = [*policy(text, add_special_tokens=False)["input_ids"], policy.eos_token_id]
        written, our_spans = decode(policy, ids), token_spans(policy, ids)
        ((their_ids, spans),) = encode_with_spans(reader, [written])
        rewards = [random.uniform(-1, 1) for _ in their_ids]
        found = align(rewards, spans, our_spans)
        assert len(found) == len(ids)
        assert math.isclose(sum(found), sum(rewards), abs_tol=1e-9)

    law()


def test_rows_are_zero_outside_the_mask(tokenizer: Any) -> None:
    end = tokenizer.eos_token_id
    rollout = by_hand(tokenizer, [[5, 6], [5]], [[7, 8, 9, end], [end]], extra_right=2)
    found = align_rows([[1.0, 2.0], [4.0]], [[(0, 1), (1, 3)], [(0, 0)]], rollout)
    assert found.shape == rollout.mask.shape
    assert found.sum(1).tolist() == [3.0, 4.0]
    assert not (found * ~rollout.mask).any()
    assert found[1, 0] == 4


def test_the_same_tokenizer_is_known_after_saving(tokenizer: Any, tmp_path: Any) -> None:
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    again("x" * 9, padding="max_length", truncation=True, max_length=5)
    assert same_tokenizer(tokenizer, again)
    assert not same_tokenizer(tokenizer, make("unigram"))
    assert not same_tokenizer(tokenizer, object())


def test_a_tokenizer_without_spans_is_refused() -> None:
    with pytest.raises(BenchError, match=r"does not say which characters"):
        encode_with_spans(object(), ["a"])
