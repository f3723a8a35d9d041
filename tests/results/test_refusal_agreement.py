"""Agreement with labelled responses: shares by hand, whole prompts resampled, files, and judges that take part."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fault_server import Asked, FaultServer, Reply, completion, verdict

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.results.refusal_agreement import (
    COMPLYING,
    LabelledResponse,
    detect,
    detection,
    detection_table,
    holds_responses,
    read_responses,
)
from rlhf_bench.judges.length import Length
from rlhf_bench.judges.llm.rubrics import COMPLIES_MORE
from rlhf_bench.judges.refusal import Label, Refusal
from rlhf_bench.judges.refusal_phrases import RefusalPhrases


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def rows(*labels: Label, prompts: int = 99) -> list[LabelledResponse]:
    return [LabelledResponse(f"p{i % prompts}", f"r{i}", label) for i, label in enumerate(labels)]


def test_shares_by_hand() -> None:
    labelled = rows("refuses", "refuses", "refuses", "complies", "partially", "deflects", "empty", "complies")
    found = detection(labelled, [True, True, False, True, False, False, False, None], {"why": 1}, rng())
    assert (found.n, found.n_invalid, found.reasons, found.prompts) == (8, 1, {"why": 1}, 7)
    assert (found.refusals, found.called) == (3, 3)
    assert found.precision.value == found.recall.value == pytest.approx(2 / 3)
    # observed 5 / 7; by chance (3 3 + 4 4) / 49
    assert found.kappa.value == pytest.approx((5 / 7 - 25 / 49) / (1 - 25 / 49))
    for interval in (found.precision, found.recall, found.kappa):
        assert interval.low is not None
        assert interval.low < interval.value < interval.high  # type: ignore[operator]


def test_the_interval_resamples_whole_prompts() -> None:
    """Responses to one prompt, all alike, say no more than one does."""
    labels: list[Label] = ["refuses", "complies"] * 20
    called = [i % 40 < 30 for i in range(40)]
    apart = detection(rows(*labels), called, {}, rng()).precision
    copies = detection(rows(*labels * 9, prompts=40), called * 9, {}, rng()).precision
    assert copies.value == apart.value
    assert (copies.low, copies.high) == pytest.approx((apart.low, apart.high))


def test_the_table_names_the_level_of_its_intervals() -> None:
    found = {level: detection(rows("refuses", "complies"), [True, False], {}, rng(), level) for level in (0.9, 0.995)}
    assert [detection_table("j", {"m": found[level]}, level).columns[3] for level in found] == [
        "90% interval",
        "99.5% interval",
    ]


def test_what_cannot_be_said_and_what_a_bootstrap_would_be_certain_of() -> None:
    none = detection(rows("complies", "complies"), [False, False], {}, rng())
    assert none.precision.value is none.recall.value is none.kappa.value is None
    assert none.precision.note
    assert all(text != "" for row in detection_table("j", {"m": none}).rows for text in row[2:3])
    every = detection(rows("refuses", "refuses", "complies"), [True, True, False], {}, rng())
    assert (every.precision.value, every.precision.high) == (1.0, 1.0)
    assert every.precision.low == pytest.approx(0.158, abs=0.001)  # Clopper and Pearson, 2 of 2
    nothing = detection(rows("refuses"), [None], {"HTTP 500": 1}, rng())
    assert nothing.kappa.value is None


def test_judges_of_refusals_take_part_and_no_others() -> None:
    labelled = [
        LabelledResponse("How do I leave?", "I must respectfully decline.", "refuses"),
        LabelledResponse("How do I leave?", "I cannot stress this enough: by the door.", "complies"),
        LabelledResponse("How do I leave?", "By the door.", "complies"),
    ]
    by_sentences = detect(Refusal(), labelled, None, rng())["refusal_rate"]
    assert (by_sentences.precision.value, by_sentences.recall.value) == (1, 1)
    by_phrases = detect(RefusalPhrases(), labelled, None, rng())["refusal_rate"]
    assert (by_phrases.precision.value, by_phrases.recall.value) == (0, 0)
    with pytest.raises(BenchError, match="'length' measures no refusals"):
        detect(Length(), labelled, None, rng(), name="length")
    with pytest.raises(BenchError, match="no labelled response"):
        detect(Refusal(), [], None, rng())


def test_a_language_model_takes_part_with_its_rubric(server: FaultServer, make: Callable[..., Any]) -> None:
    labelled = [
        LabelledResponse("p", "No way.", "refuses"),
        LabelledResponse("p", "Here.", "complies"),
        LabelledResponse("p", "Never.", "refuses"),
    ]

    def answer(asked: Asked) -> Reply:
        if not asked.judging:
            return completion("yes")
        shown = [asked.material[name] for name in ("answer-A", "answer-B")]
        assert COMPLYING in shown
        # sees one of the two refusals
        return verdict("tie" if "No way." not in shown else "B" if shown[0] == "No way." else "A")

    server.answer = answer
    found = detect(make(rubric="refusal"), labelled, None, rng())[COMPLIES_MORE]
    assert (found.called, found.precision.value, found.recall.value) == (1, 1, 0.5)
    asked = server.judged
    with pytest.raises(BenchError, match="rubric=refusal"):
        detect(make(rubric="summary"), labelled, None, rng())
    assert server.judged == asked  # refused before it costs anything


def test_labelled_files(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("prompt,response,label\nq,no,REFUSES\nq,, empty \n")
    assert holds_responses(path)
    assert read_responses(path) == [LabelledResponse("q", "no", "refuses"), LabelledResponse("q", "", "empty")]
    for content, said in (
        ("prompt,response\nq,x\n", "no text in the column 'label'"),
        ("prompt,response,label\nq,x,maybe\n", "the label is 'maybe'"),
    ):
        path.write_text(content)
        with pytest.raises(BenchError, match=said) as caught:
            read_responses(path)
        assert "\n" not in str(caught.value)
    path.write_text("prompt,a,b,label\nq,x,y,a\n")
    assert not holds_responses(path)
