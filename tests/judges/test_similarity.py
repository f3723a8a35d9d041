"""The scorer embedding:FOLDER: cosines by hand, references, what is refused, and runs of tasks without references."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small import bench, command
from tiny import Tiny

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Answer, Case, Example, Generation
from rlhf_bench.judges.scorers import load_scorer, scorer_content
from rlhf_bench.judges.similarity import Similarity, cosine
from rlhf_bench.judges.utility import UtilityChange
from rlhf_bench.judges.winrate import WinRate

REFERENCES = ("the old house by the sea", "a boat")
EXAMPLE = Example("1", "what is there?", "", REFERENCES)


def by_hand(tiny: Tiny, text: str) -> np.ndarray:  # type: ignore[type-arg]
    """The mean of the last layer, computed with transformers alone."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny.folder)
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    with torch.no_grad():
        found: np.ndarray = AutoModel.from_pretrained(tiny.folder)(ids).last_hidden_state[0].mean(0).double().numpy()  # type: ignore[type-arg]
    return found


def test_the_score_is_the_cosine_to_the_closest_reference(tiny_gpt2: Tiny) -> None:
    score = load_scorer(f"embedding:{tiny_gpt2.folder}")
    vectors = [by_hand(tiny_gpt2, text) for text in ("a small boat", *REFERENCES)]
    unit = [vector / np.linalg.norm(vector) for vector in vectors]
    assert score(EXAMPLE, "a small boat") == pytest.approx(max(unit[0] @ unit[1], unit[0] @ unit[2]), abs=1e-5)
    assert score(EXAMPLE, REFERENCES[0]) == pytest.approx(1)
    assert score(EXAMPLE, "") == 0
    # a demonstration is a reference, too
    assert score(Example("1", "q", REFERENCES[0]), REFERENCES[0]) == pytest.approx(1)


def test_a_vector_s_length_does_not_count() -> None:
    a = np.array([3.0, 4.0])
    assert cosine(a, 10 * a) == pytest.approx(1)
    assert cosine(a, -a) == pytest.approx(-1)
    assert cosine(a, np.zeros(2)) == 0


def test_without_a_reference_it_does_not_decide(tiny_gpt2: Tiny) -> None:
    similar = Similarity(str(tiny_gpt2.folder))
    (found,) = similar.scores([Answer(Example("1", "q", " ", ("",)), "text")])
    assert (found.value, found.reason) == (None, "no reference to compare with")


def test_judges_measure_by_it(tiny_gpt2: Tiny) -> None:
    name = f"embedding:{tiny_gpt2.folder}"
    before, after = (Generation("1", 0, "sample", "q", text, 2, True) for text in ("", REFERENCES[1]))
    (verdict,) = UtilityChange(scorer=name).measure([Case(EXAMPLE, after, before)], object())  # type: ignore[arg-type]
    assert verdict.values["score_change"] == pytest.approx(1)
    (win,) = WinRate(scorer=name).measure([Case(EXAMPLE, after, before)], object())  # type: ignore[arg-type]
    assert win.values == {"win_rate": 1.0}
    assert UtilityChange(scorer=name).deterministic
    assert "cosine similarity" in UtilityChange(scorer=name).measures[0].description


def test_the_content_of_the_folder_is_in_the_key(tiny_gpt2: Tiny, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "encoder"
    shutil.copytree(tiny_gpt2.folder, copy)
    before = scorer_content(f"embedding:{copy}")
    assert before
    assert before == scorer_content(f"embedding:{tiny_gpt2.folder}")
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    assert scorer_content(f"embedding:{copy}") != before


def test_what_is_no_encoder_is_refused(tmp_path: Path) -> None:
    for source, said in (
        ("", "names no sentence encoder"),
        ("tfidf", "names no sentence encoder"),
        (str(tmp_path), "no config.json"),
        ("/nowhere/at/all", "There is no folder"),
    ):
        with pytest.raises(BenchError, match=said):
            WinRate(scorer=f"embedding:{source}")


def test_a_task_without_references_is_refused_before_anything_is_made(tiny_gpt2: Tiny, tmp_path: Path) -> None:
    scorer = ("--set", f"utility.scorer=embedding:{tiny_gpt2.folder}")
    data = ("--task", "dialogsum", "--rm", "length-only", "--prompts", "bare:Bare")
    (tmp_path / "bare.py").write_text(
        "from rlhf_bench.harness.nouns import Example\n"
        "class Bare:\n"
        "    max_response_tokens = 8\n"
        "    def examples(self, split): return [Example(f'{split}-0', f'say {split}')]\n"
        "    def pairs(self, split): return []\n"
    )
    ended = bench("run", *data, *scorer, "--out", str(tmp_path / "runs"), cwd=tmp_path)
    assert ended.returncode == 2
    assert "utility compares with references, and the held-out examples of 'bare:Bare' have none" in ended.stderr
    assert not (tmp_path / "runs").exists()
    fine = bench(*command(tmp_path / "runs", "--dry-run", *scorer, rms=("length-only",)))
    assert fine.returncode == 0, fine.stderr
