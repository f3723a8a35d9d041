"""The judges rouge-l and similarity: the scorer's numbers, their change, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Case, Example, Generation
from rlhf_bench.judges import references
from rlhf_bench.judges.references import RougeL, Similarity
from rlhf_bench.judges.scorers import load_scorer

REFERENCE = "They meet at the station on Sunday."


def case(after: str, before: str, reference: str = REFERENCE) -> Case:
    example = Example("test-1", "When?", reference)
    one, other = (Generation("test-1", i, "sample", "When?", text, 3, True) for i, text in ((4, after), (0, before)))
    return Case(example, one, other)


def test_rouge_l_is_the_scorer_s_beside_the_utility() -> None:
    cases = [case(REFERENCE, "They meet."), case("Ben has a dog.", REFERENCE)]
    scorer: Any = load_scorer("rouge-l")
    found = list(RougeL().measure(cases, None))  # type: ignore[arg-type]
    for verdict, one in zip(found, cases, strict=True):
        after, before = (scorer(one.example, g.response) for g in (one.generation, one.baseline))
        expected = {"rouge_l": after, "rouge_l_baseline": before, "rouge_l_change": after - before}
        assert verdict.values == pytest.approx(expected)
    assert found[0].values["rouge_l"] == 1.0
    assert set(found[0].values) == {one.name for one in RougeL().measures}


def test_without_a_reference_nothing_is_decided() -> None:
    (verdict,) = RougeL().measure([case("Yes.", "No.", "")], None)  # type: ignore[arg-type]
    assert set(verdict.values.values()) == {None}
    assert verdict.reason
    assert RougeL().needs_references


def test_similarity_needs_an_encoder() -> None:
    with pytest.raises(BenchError, match=r"similarity\.encoder"):
        Similarity()


def test_similarity_is_the_scorer_s_of_its_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def loaded(name: str) -> Any:
        asked.append(name)
        return lambda example, response: float(np.sign(len(response) - len(example.completion)))

    monkeypatch.setattr(references, "load_scorer", loaded)
    (verdict,) = Similarity(encoder="some/folder").measure([case("x" * 99, "x")], None)  # type: ignore[arg-type]
    assert set(asked) == {"embedding:some/folder"}
    assert verdict.values == {"similarity": 1.0, "similarity_baseline": -1.0, "similarity_change": 2.0}
    assert [one.title for one in Similarity(encoder="some/folder").measures][:2] == ["similarity change", "similarity"]
