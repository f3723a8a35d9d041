"""The built-in judges: the values of a row, and that an undecided case never gets a score."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Case, Example, Generation, Pair, Split, Utility
from rlhf_bench.judges.empty import Empty
from rlhf_bench.judges.length import Length
from rlhf_bench.judges.scorers import load_scorer
from rlhf_bench.judges.utility import UtilityChange
from rlhf_bench.judges.winrate import WinRate

EXAMPLE = Example("e", "Say abc.", "the cat sat", references=("a dog ran",))


class Letters:
    """Gold: how many letters are an `a`."""

    max_response_tokens = 8

    def examples(self, split: Split) -> list[Example]:  # noqa: ARG002
        return [EXAMPLE]

    def pairs(self, split: Split) -> list[Pair]:  # noqa: ARG002
        return []


class Gold(Letters):
    def utility(self, example: Example, response: str) -> Utility:  # noqa: ARG002
        return Utility(float(response.count("a")), {"letters": float(len(response))})


def case(after: str, before: str, tokens: tuple[int, int] = (3, 5), finished: bool = True) -> Case:
    one = Generation("e", 4, "sample", EXAMPLE.prompt, after, tokens[0], finished)
    return Case(EXAMPLE, one, replace(one, iteration=0, response=before, tokens=tokens[1]))


@given(st.text(), st.text())
def test_a_win_is_the_others_loss(one: str, other: str) -> None:
    there, back = (next(iter(WinRate().measure([c], Gold()))) for c in (case(one, other), case(other, one)))
    assert there.values["win_rate"] == 1 - back.values["win_rate"]  # type: ignore[operator]
    assert there.notes["score"] == back.notes["baseline"]
    assert (there.values["win_rate"] == 0.5) == (one.count("a") == other.count("a"))


def test_without_gold_nothing_is_made_up() -> None:
    for judge in (WinRate(), UtilityChange()):
        (verdict,) = judge.measure([case("a", "b")], Letters())
        assert set(verdict.values.values()) == {None}
        assert "no gold" in verdict.reason


def test_rouge_takes_the_best_reference_and_needs_one() -> None:
    score = load_scorer("rouge-l")
    assert score(EXAMPLE, "A dog ran") == score(EXAMPLE, "the cat sat") == 1.0
    assert score(EXAMPLE, "the cat") == pytest.approx(0.8)  # precision 1, recall 2/3
    assert score(EXAMPLE, "") == 0.0
    assert score(replace(EXAMPLE, completion="", references=()), "the cat") is None
    judge = WinRate(scorer="rouge-l")
    (verdict,) = judge.measure([case("the cat sat", "the")], Letters())
    assert verdict.values == {"win_rate": 1.0}
    assert "rouge-l" in judge.measures[0].description


def test_a_scorer_by_reference_and_wrong_ones() -> None:
    assert load_scorer("builtins:len") is len
    for name, said in (("rogue-l", "rouge-l"), ("builtins:nothing", "nothing"), ("math:pi", "not callable")):
        with pytest.raises(BenchError, match=said):
            load_scorer(name)


def test_a_scorer_that_cannot_decide_leaves_it_so() -> None:
    nobody = replace(EXAMPLE, completion="", references=())
    blank = case("a", "b")
    (verdict,) = WinRate(scorer="rouge-l").measure([replace(blank, example=nobody)], Letters())
    assert verdict.values == {"win_rate": None}
    assert verdict.reason


@pytest.mark.parametrize("text", ["\u200b", "\ufeff \u2060", "\u200f\u00ad", "\x00\x1b", "\u3000\n"])
def test_a_response_without_a_visible_character_is_empty(text: str) -> None:
    def measured(response: str) -> float | None:
        return next(iter(Empty().measure([case(response, "x")], Letters()))).values["empty_rate"]

    assert measured(text) == 1.0
    assert [measured(text + shown) for shown in (".", "好", "ก", "🙂", "\ue000")] == [0.0] * 5


def test_length_and_empty() -> None:
    (cut,) = Length().measure([case("a b c", "a b c d e", finished=False)], Letters())
    assert cut.values == {"length_change": -2, "length": 3, "truncated_rate": 1.0}
    found = [
        next(iter(Empty().measure([case(text, "x")], Letters()))).values["empty_rate"] for text in ("", " \n", ".")
    ]
    assert found == [1.0, 1.0, 0.0]


def test_utility_before_and_after() -> None:
    (verdict,) = UtilityChange().measure([case("aab", "a")], Gold())
    assert verdict.values == {"gold_change": 1.0, "gold": 2.0, "gold_baseline": 1.0}
    assert verdict.notes["parts"] == {"letters": 3.0}
    assert UtilityChange().measures[1].before == "gold_baseline"


def test_a_score_that_is_no_number_is_undecided_never_a_loss() -> None:
    for bad in (float("nan"), float("inf"), -float("inf")):

        class Odd(Letters):
            def utility(self, example: Example, response: str) -> Utility:  # noqa: ARG002
                return Utility(bad if response == "odd" else 0.0)  # noqa: B023

        for pair in (("odd", "b"), ("b", "odd"), ("odd", "odd")):
            (verdict,) = WinRate().measure([case(*pair)], Odd())
            assert verdict.values == {"win_rate": None}
            assert verdict.reason == "the score is not finite"


def test_a_scorer_of_utility_is_never_called_gold() -> None:
    for task in (Letters(), Gold()):
        judge = UtilityChange(scorer=f"{__name__}:vowels")
        found = list(judge.measure([case("aab", "a"), case("", "a")], task))
        assert found[0].values == {"score_change": 1.0, "score": 2.0, "score_baseline": 1.0}
        assert found[1].values == {"score_change": None, "score": None, "score_baseline": 1.0}
        assert found[1].reason == "the scorer could not decide"
        assert [m.name for m in judge.measures] == list(found[0].values)


def vowels(example: Example, response: str) -> float | None:  # noqa: ARG001
    """A user's scorer: how many letters are an `a`; it does not decide on nothing."""
    return float(response.count("a")) if response else None


def test_a_wrong_scorer_is_refused_at_once() -> None:
    for name, said in (("rogue-l", "rouge-l"), ("rm:no/such/folder", "no reward model"), ("nowhere:x", "The scorer"),
                       (":x", "The scorer"), ("math:", "The scorer"), ("rm:", "no reward model")):  # fmt: skip
        for judge in (WinRate, UtilityChange):
            with pytest.raises(BenchError, match=said) as caught:
                judge(scorer=name)
            assert "\n" not in str(caught.value)


def test_judges_whose_answer_cannot_change_say_so() -> None:
    assert WinRate().deterministic
    assert WinRate(scorer="rouge-l").deterministic
    assert not WinRate(scorer="builtins:len").deterministic
    assert UtilityChange().deterministic
