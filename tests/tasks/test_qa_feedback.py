"""The task `qa-feedback`: what the source's form means, what is refused, and the real file where it lies."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_bench.harness.checks.task import task_probes
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Pair
from rlhf_bench.harness.seams import GoldTask, HasOrigin, Task
from rlhf_bench.tasks.qa_feedback import COMPARISONS, QAFeedback, first_words, fits, qa_feedback

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "finegrained_rlhf"


def row(number: int, **more: Any) -> dict[str, Any]:
    return {
        "question": f"What is thing {number}?",
        "passages": [["Thing", f"Thing\n\nThing {number} is  a thing.", "It is old."], ["Other", "No heading here."]],
        "gold": f"Thing {number} is old. ",
        **{f"prediction {k}": f"Sample {k} of {number} is wrong." for k in (1, 2, 3, 4)},
        "feedback": {"errors": [{"error type": "Irrelevant", "explanation": "", "start": 0, "end": 6}]},
        "preference": [1, 2, 0, 1, 2, 0],
        **more,
    }


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    content = json.dumps(rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "dev_feedback.json.gz", [row(number) for number in range(40)])


def every_pair(task: QAFeedback) -> list[Pair]:
    return [*task.pairs("train"), *task.pairs("test")]


def test_it_is_a_task_of_real_data(file: Path) -> None:
    task = qa_feedback(data=str(file))
    assert isinstance(task, Task)
    assert isinstance(task, HasOrigin)
    assert not isinstance(task, GoldTask)
    for _, probe in task_probes(task, lambda: qa_feedback(data=str(file))):
        probe()
    assert task.origin.kind == "real"
    assert "40 questions" in task.origin.description
    assert "160 choices between samples and 80 ties" in task.origin.description
    assert "40 error spans; 0 do not fit" in task.origin.description


def test_the_six_comparisons() -> None:
    assert COMPARISONS == ((1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4))  # 1vs2, 1vs3, 1vs4, ... of the README


def test_choices_become_pairs_and_the_first_samples_errors_its_flaws(file: Path) -> None:
    task = qa_feedback(data=str(file))
    expected = {
        "1v2": ("Sample 1", "Sample 2", ((0, 6),), None),
        "1v3": ("Sample 3", "Sample 1", None, ((0, 6),)),
        "2v3": ("Sample 2", "Sample 3", None, None),
        "2v4": ("Sample 4", "Sample 2", None, None),
    }
    pairs = every_pair(task)
    sft = len(task.examples("sft"))
    assert len(pairs) == 4 * (40 - sft)
    for pair in pairs:
        chosen, rejected, *flaws = expected[pair.id.rpartition("-")[2]]
        assert pair.chosen.startswith(chosen)
        assert (pair.rejected or "").startswith(rejected)
        assert [pair.chosen_flaws, pair.rejected_flaws] == flaws


def test_no_error_marked_is_known_to_be_clean_and_an_unfit_span_is_unknown(tmp_path: Path) -> None:
    clean = {"errors": []}
    unfit = {"errors": [{"start": 0, "end": 6}, {"start": 0, "end": 999}]}
    rows = [row(n, feedback=clean if n % 2 else unfit) for n in range(60)]
    task = qa_feedback(data=str(write(tmp_path / "a.json", rows)))
    found = {int(pair.id.split("-")[1]) % 2: pair.chosen_flaws for pair in every_pair(task) if pair.id.endswith("1v2")}
    assert found == {1: (), 0: None}
    assert "60 error spans; 30 do not fit" in task.origin.description
    assert task.origin.license == "unknown"  # no file of the source by its name


def test_equal_samples_make_no_pair(tmp_path: Path) -> None:
    rows = [row(n, **{"prediction 2": f"Sample 1 of {n} is wrong. "}) for n in range(40)]
    task = qa_feedback(data=str(write(tmp_path / "a.json", rows)))
    assert {pair.id.rpartition("-")[2] for pair in every_pair(task)} == {"1v3", "2v3", "2v4"}


def test_rows_of_one_question_stay_together_and_share_their_source(tmp_path: Path) -> None:
    rows = [row(n, question=f"What is  thing {n // 3}{'?' * (n % 2)}") for n in range(90)]
    task = qa_feedback(data=str(write(tmp_path / "a.json", rows)))
    sources = {split: [e.source for e in task.examples(split)] for split in ("sft", "train", "test")}  # type: ignore[arg-type]
    assert sum(map(len, sources.values())) == 90
    assert sum(len(set(found)) for found in sources.values()) == 30
    assert all(found.count(source) == 3 for found in sources.values() for source in found)


def test_more_held_out_questions_leave_the_held_out_ones_held_out(file: Path) -> None:
    few, many = (qa_feedback(data=str(file), test_share=share) for share in (0.2, 0.5))
    assert {e.id for e in few.examples("test")} < {e.id for e in many.examples("test")}


def test_the_prompt(tmp_path: Path) -> None:
    rows = [row(7, question=f"What is thing {n}?") for n in range(40)] + [row(7, passages=[], question="Who?" * 2)]
    path = write(tmp_path / "a.json", rows)
    prompts = {e.prompt for split in ("sft", "train", "test") for e in qa_feedback(data=str(path)).examples(split)}  # type: ignore[arg-type]
    passages = "Thing: Thing 7 is a thing. It is old.\nOther: No heading here."
    assert f"{passages}\n\nAnswer the question from the passages above.\nWhat is thing 0?" in prompts
    assert "Who?Who?" in prompts
    cut = qa_feedback(data=str(path), passage_words=5)
    assert cut.examples("test")[0].prompt.startswith("Thing: Thing 7 is a\n\nAnswer")
    assert "in 40 questions" in cut.origin.description


@given(st.text(alphabet="ab \n\t", max_size=30), st.integers(0, 12))
def test_first_words(passages: str, count: int) -> None:
    cut = first_words(passages, count)
    assert passages.startswith(cut)
    assert cut.split() == (passages.split()[:count] if count else passages.split())


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        ((0, 3), True),
        ((4, 8), True),
        ((0, 9), True),
        ((8, 9), True),
        ((0, 2), False),
        ((5, 8), False),
        ((0, 10), False),
        ((-1, 3), False),
        ((3, 3), False),
        ((8, 4), False),
    ],
)
def test_fitting_spans(span: tuple[int, int], expected: bool) -> None:
    assert fits("Two eggs.", span) is expected


@pytest.mark.parametrize(
    ("more", "seen"),
    [
        ({"question": " "}, "'question' is empty"),
        ({"gold": None}, "'gold' holds None"),
        ({"prediction 3": 3}, "'prediction 3' holds 3"),
        ({"feedback": None}, "'feedback' is missing"),
        ({"feedback": []}, "'feedback' is a list"),
        ({"feedback": {}}, "no list of 'errors'"),
        ({"feedback": {"errors": [{"start": 0}]}}, "edges [0, None]"),
        ({"feedback": {"errors": ["0-6"]}}, "edges [None, None]"),
        ({"feedback": {"errors": [{"start": True, "end": 6}]}}, "edges [True, 6]"),
        ({"preference": [1, 2]}, "'preference' holds [1, 2]"),
        ({"preference": [1, 2, 0, 1, 2, 3]}, "'preference' holds"),
        ({"preference": "112012"}, "'preference' is a str"),
        ({"passages": "text"}, "'passages' is a str"),
        ({"passages": ["text"]}, "'passages' are not lists of texts"),
        ({"passages": [["a", 1]]}, "'passages' are not lists of texts"),
    ],
)
def test_other_forms_are_one_clear_line(tmp_path: Path, more: dict[str, Any], seen: str) -> None:
    task = qa_feedback(data=str(write(tmp_path / "a.json", [row(0), row(1, **more)])))
    with pytest.raises(BenchError) as caught:
        task.examples("test")
    assert seen in caught.value.seen
    assert "row 1" in caught.value.seen
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", ["", "hub", "no/such/file.json"])
def test_data_are_required(data: str) -> None:
    with pytest.raises(BenchError) as caught:
        qa_feedback(data=data)
    assert "data=" in caught.value.seen
    assert caught.value.fix


def test_missing_data_name_the_source() -> None:
    with pytest.raises(BenchError, match=r"github\.com/allenai/FineGrainedRLHF"):
        qa_feedback()


def test_folders(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="holds no feedback file, only nothing"):
        qa_feedback(data=str(tmp_path)).examples("test")
    write(tmp_path / "dev_feedback.json", [row(n) for n in range(20)])
    write(tmp_path / "train_feedback.json.gz", [row(n) for n in range(20, 50)])
    task = qa_feedback(data=str(tmp_path))
    ids = {e.id for split in ("sft", "train", "test") for e in task.examples(split)}  # type: ignore[arg-type]
    assert len(ids) == 50
    assert task.origin.license.startswith("Apache-2.0")
    write(tmp_path / "dev_feedback.json.gz", [row(0)])
    with pytest.raises(BenchError, match="holds dev_feedback twice"):
        qa_feedback(data=str(tmp_path)).examples("test")


@pytest.mark.parametrize(
    "wrong",
    [
        {"test_share": 0.0},
        {"sft_share": 1.0},
        {"test_share": 0.5, "sft_share": 0.5},
        {"passage_words": -1},
        {"response_tokens": 1},
    ],
)
def test_wrong_settings(file: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(BenchError):
        qa_feedback(data=str(file), **wrong)


def test_too_few_rows_are_refused(tmp_path: Path) -> None:
    task = qa_feedback(data=str(write(tmp_path / "a.json", [row(0)])))
    with pytest.raises(BenchError, match=r"No question of .* falls in split"):
        [task.examples(split) for split in ("sft", "train", "test")]  # type: ignore[arg-type]


@pytest.mark.skipif(not REAL.is_dir(), reason="the fine-grained RLHF file is not beside the repository")
def test_the_real_file() -> None:
    task = qa_feedback(data=str(REAL))
    assert "500 questions" in task.origin.description
    assert "2616 choices between samples and 384 ties" in task.origin.description
    assert "1373 error spans; 0 do not fit" in task.origin.description
    for _, probe in task_probes(task, lambda: qa_feedback(data=str(REAL))):
        probe()
    first = {}
    for pair in every_pair(task):
        for text, flaws in ((pair.chosen, pair.chosen_flaws), (pair.rejected or "", pair.rejected_flaws)):
            if flaws is not None:
                first[pair.prompt] = (text, flaws)
                assert pair.id.rpartition("-")[2].startswith("1v")
    pieces = [text[start:end] for text, flaws in first.values() for start, end in flaws]
    assert len(pieces) > 800
    assert not any(piece[0].isspace() or piece[-1].isspace() for piece in pieces)
