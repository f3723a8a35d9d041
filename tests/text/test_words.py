"""Words in scripts with and without spaces, and what counts them: ROUGE, white-box features, overlap, prompts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Case, Example, Generation, Pair
from rlhf_bench.harness.slices import LONGEST, SHORTEST, length_slices
from rlhf_bench.harness.stages.pairs import overlap
from rlhf_bench.harness.text.words import content_words, cut_unspaced, spaced_words
from rlhf_bench.judges.refusal_phrases import RefusalPhrases
from rlhf_bench.judges.scorers import RougeL
from rlhf_bench.judges.utility import UtilityChange
from rlhf_bench.judges.winrate import WinRate
from rlhf_bench.reward_models.embeddings import TfIdf
from rlhf_bench.reward_models.features import repetition_penalty, words
from rlhf_bench.reward_models.whitebox import Whitebox
from rlhf_bench.tasks.real import split_key, text_key

# the same short sentence, about the weather, and how many words it has
SENTENCES = {
    "Chinese": ("今天天气很好。", 6),
    "Japanese": ("今日は天気がいいですね。", 11),
    "Thai": ("วันนี้อากาศดีมาก", 12),
    "Khmer": ("ថ្ងៃនេះអាកាសធាតុល្អ", 8),
    "Arabic": ("الطقس جميل اليوم", 3),
    "Hindi": ("आज मौसम अच्छा है", 4),
    "Korean": ("오늘 날씨가 좋네요", 3),
    "Russian": ("Сегодня хорошая погода", 3),
    "Greek": ("Ο καιρός είναι καλός", 4),
    "mixed": ("今天 weather 很好", 5),
    "emoji": ("😀 👩‍👩‍👧", 2),
}


@pytest.mark.parametrize(("text", "count"), SENTENCES.values(), ids=SENTENCES)
def test_words_of_every_script(text: str, count: int) -> None:
    assert len(content_words(text)) == count
    assert "".join(content_words(text)) == "".join(c for c in text if c not in " 。")


@given(st.text())
def test_parts_joined_are_the_text(text: str) -> None:
    assert "".join(cut_unspaced(text)) == text
    assert "".join(spaced_words(text)).split() == [] or not any(c.isspace() for c in "".join(spaced_words(text)))


@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_has_the_words_it_had(text: str) -> None:
    from rouge_score.tokenizers import DefaultTokenizer

    assert RougeL().tokenize(text) == DefaultTokenizer(use_stemmer=True).tokenize(text)
    assert spaced_words(text) == text.split()


@pytest.mark.parametrize(("text", "count"), SENTENCES.values(), ids=SENTENCES)
def test_rouge_reads_every_script(text: str, count: int) -> None:
    scorer, half = RougeL(), text[: len(text) // 2]
    example = Example("e", "p", text)
    assert scorer(example, text) == 1.0
    if count > 2:
        assert 0 < (scorer(example, half) or 0) < 1
    assert scorer(example, "unrelated") == 0.0


def case(reference: str, after: str, before: str) -> Case:
    one = Generation("e", 1, "sample", "p", after, 3, True)
    return Case(Example("e", "p", reference), one, replace(one, iteration=0, response=before))


def test_rouge_is_undecided_where_a_score_would_mean_nothing() -> None:
    (found,) = WinRate(scorer="rouge-l").measure([case("?!", "今天", "?!")], None)  # type: ignore[arg-type]
    assert found.values == {"win_rate": None}
    assert found.reason == "no reference has a word that ROUGE reads"
    for judge in (WinRate(scorer="rouge-l"), UtilityChange(scorer="rouge-l")):
        assert any("characters in scripts without spaces" in m.description for m in judge.measures)


@pytest.mark.parametrize(
    ("one", "other"),
    [("resume", "résumé"), ("की", "का"), ("ดี", "ดู"), ("5 €", "5 ¥"), ("🙂", "🙁"), ("حَرب", "حُرب"), ("ä", "a")],
)
def test_texts_that_differ_in_marks_or_symbols_are_two(one: str, other: str) -> None:
    assert text_key(one) != text_key(other)
    assert (RougeL()(Example("e", "p", one), other) or 0) < 1


@pytest.mark.parametrize(
    ("one", "other"), [("C++", "C#"), ("2+2?", "2-2?"), ("3.5", "35"), ("50%", "50"), ("x < y", "x > y"), ("-5", "5")]
)
def test_prompts_that_differ_in_symbols_are_two(one: str, other: str) -> None:
    assert text_key(f"What is {one}") != text_key(f"What is {other}")


@given(
    st.text(), st.sampled_from([str.upper, lambda t: f" {t}\n", lambda t: f"“{t}”!", lambda t: t.replace(" ", "  ")])
)
def test_case_spaces_and_marks_of_sentences_make_no_second_text(text: str, change: object) -> None:
    ascii_text = "a" + "".join(c for c in text if c.isascii())
    assert text_key(change(ascii_text)) == text_key(ascii_text)  # type: ignore[operator]


@given(st.text(), st.text())
def test_texts_that_count_as_one_share_a_split(one: str, other: str) -> None:
    if text_key(one) == text_key(other):
        assert split_key(one) == split_key(other)


def test_an_accent_in_either_spelling_is_one() -> None:
    assert text_key("caf\u00e9") == text_key("cafe\u0301")
    assert TfIdf(["caf\u00e9"]).dots(["caf\u00e9"], ["cafe\u0301"]) == [1.0]
    assert overlap(Pair("p", "?", "caf\u00e9", "cafe\u0301")) == 1.0


def test_whitebox_features_of_text_without_spaces() -> None:
    assert len(words("今天天气很好。")) == 7
    assert words("It is, well.") == ["It", "is", ",", "well", "."]
    assert repetition_penalty(words("好的" * 20)) < 0.2  # one word without a repetition before
    relevance = TfIdf(["今天天气怎么样？", "猫在哪里？"])
    near, far = relevance.dots(["今天天气怎么样？"] * 2, ["今天天气很好。", "不知道。"])
    assert near > 0.4 > far


def test_the_rule_of_types_reads_no_other_script() -> None:
    scorer = Whitebox(types="rule").with_examples({"train": [Example("e", "Write a poem.", "x")]})
    with pytest.raises(BenchError, match=r"reads English.*set types to open or closed"):
        scorer.features(["写一首诗"], ["好"])
    with pytest.raises(BenchError, match="1 of 1 prompts: the rule for a prompt's type"):
        Whitebox().with_examples({"train": [Example("e", "写一首诗", "x")]})
    Whitebox(types="open").with_examples({"train": [Example("e", "写一首诗", "x")]})


def test_overlap_is_a_share_of_characters_without_spaces() -> None:
    assert overlap(Pair("p", "?", "今天天气好", "今天天气坏")) == pytest.approx(3 / 5)
    assert overlap(Pair("p", "?", "a b", "b c")) == pytest.approx(1 / 3)


def test_slices_by_length_count_characters_without_spaces() -> None:
    rows = [{"id": str(n), "prompt": "字" * (n + 1)} for n in range(30)]
    found = length_slices(rows)
    assert [n for n in range(30) if found.get(str(n)) == SHORTEST] == list(range(10))
    assert [n for n in range(30) if found.get(str(n)) == LONGEST] == list(range(20, 30))


def test_phrases_of_refusal_in_other_scripts(tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "phrases.txt").write_text("我不能\nमैं नहीं\n", encoding="utf-8")
    judge = RefusalPhrases(phrases=str(tmp_path / "phrases.txt"))
    assert judge.opens("我不能回答这个问题。")
    assert judge.opens("मैं नहीं बता सकता")
    assert not judge.opens("मैं नहा रहा हूँ")
    assert not judge.opens("我能回答。")
