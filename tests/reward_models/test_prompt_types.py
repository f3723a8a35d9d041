"""Types of prompts, open-ended and closed-ended: the rule, where a type comes from, and one type for each prompt."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Example
from rlhf_bench.harness.slices import declared_type, rule_accuracy, type_by_rule
from rlhf_bench.reward_models import whitebox
from rlhf_bench.reward_models.whitebox import Whitebox

texts = st.text(st.sampled_from(list("abé ñ好.,!?\n\t_-7½🤖\u200d\ud800")), max_size=60)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Summarize the text.\n\nOnce upon a time there was a lamp.", "closed"),
        ("Once upon a time.\n\nTranslate this into French.", "closed"),
        ("Who wrote Hamlet?", "closed"),
        ("Rewrite this sentence politely.", "closed"),
        ("Explain how a lamp works.", "closed"),
        ("Anna: hello.\n\nWrite a short summary of the dialogue.", "closed"),
        ("Write about when we met.", "open"),
        ("When we met.\n\nMake up a tale of it.", "open"),
        ("Give me some names for a dog.", "open"),
        ("What do you think of rain?", "open"),
        ("TELL ME of the sea", "open"),
        ("Do tell me of the sea", "closed"),  # asked at the start of a line only
        ("Correct this.\n\nI has ideas.\n\nThanks.", "closed"),  # in the middle: part of the material
        ("", "closed"),
        ("   \n ", "closed"),
    ],
)
def test_the_rule_of_types(prompt: str, expected: str) -> None:
    assert type_by_rule(prompt) == expected


@given(texts)
def test_the_rule_reads_any_text(text: str) -> None:
    assert type_by_rule(text) in ("open", "closed")


def test_the_rule_reads_a_very_long_line_at_once() -> None:
    start = time.perf_counter()
    assert type_by_rule("give argument ways what do you " * 20_000) == "closed"
    assert time.perf_counter() - start < 20


def test_the_rules_accuracy_is_a_count() -> None:
    examples = [
        Example("1", "Write a poem.", slices=("open",)),
        Example("2", "Who?", slices=("open-ended", "x")),
        Example("3", "Who?", slices=("closed",)),
        Example("4", "Who?", slices=("benign",)),
    ]
    found = rule_accuracy(examples)
    assert (found.right_open, found.total_open, found.right_closed, found.total_closed) == (1, 2, 1, 1)
    assert found.accuracy == pytest.approx(2 / 3)
    assert rule_accuracy([]).accuracy is None


@pytest.mark.parametrize(
    ("types", "expected"),
    [("auto", ["open", "open"]), ("rule", ["closed", "open"]), ("open", ["open"] * 2), ("closed", ["closed"] * 2)],
)
def test_where_types_come_from(types: str, expected: list[str]) -> None:
    examples = [Example("1", "Who?", "x", slices=("open",)), Example("2", "Write.", "x")]
    scorer = Whitebox(types=types).with_examples({"train": examples})
    assert [scorer.type_of(e.prompt) for e in examples] == expected


def test_a_prompt_has_one_type_and_all_its_references() -> None:
    known = whitebox.prompt_facts(
        [Example("1", "p", "a", ("b",)), Example("2", "p", "c", ("a", " "), slices=("closed",))]
    )
    assert known == {"p": ("closed", ("a", "b", "c"))}
    for order in ((0, 1), (1, 0)):
        both = [Example("1", "p", slices=("open",)), Example("2", "p", "b")]
        assert whitebox.prompt_facts([both[i] for i in order]) == {"p": ("open", ("b",))}
    with pytest.raises(BenchError, match=r"one prompt are open-ended and closed-ended, e\.g\. '2'"):
        whitebox.prompt_facts([Example("1", "p", slices=("open",)), Example("2", "p", slices=("closed",))])
    with pytest.raises(BenchError, match="'1' is open-ended and closed-ended"):
        declared_type(Example("1", "p", slices=("open", "closed")))
