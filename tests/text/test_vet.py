"""Templates and tokenizers of strangers end within their bounds, in one line."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from tiny import make_tokenizer

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.models.policies import load_tokenizer
from rlhf_bench.harness.text import vet
from rlhf_bench.reward_models.classifier import ClassifierScorer
from rlhf_bench.reward_models.embeddings import Encoder

LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
HUGE = "{{ 'a' * 10000000000 }}"
LONG = "{{ 'a' * 10000000 }}"
SOUND = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vet, "_checked", set())
    monkeypatch.setattr(vet, "CPU_SECONDS", 1)


def saved(folder: Path, template: str = "", pattern: str = "") -> Path:
    tokenizer = make_tokenizer()
    if template:
        tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    path = folder / "tokenizer.json"
    stored = json.loads(path.read_text())
    if pattern:
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        stored["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, stored["pre_tokenizer"]]}
        path.write_text(json.dumps(stored))
    return folder


@pytest.mark.parametrize(
    ("template", "pattern", "said"),
    [
        (LOOP, "", "chat template"),
        (HUGE, "", "chat template"),
        (LONG, "", "chat template .*200,000 characters"),
        ("{% if messages[0]['content']|length > 2999 %}" + LOOP + "{% endif %}", "", "chat template"),
        ("", "(a+)+$", "tokenizer"),
        ("", "(a|aa)+b", "tokenizer"),
    ],
    ids=["loop", "huge", "long", "loop on long prompts", "an expression", "another"],
)
def test_a_hostile_one_ends_in_one_line(tmp_path: Path, template: str, pattern: str, said: str) -> None:
    folder, began = saved(tmp_path, template, pattern), time.monotonic()
    with pytest.raises(BenchError, match=f"The {said}.* was stopped") as caught:
        load_tokenizer(folder, "auto")
    assert time.monotonic() - began < vet.SECONDS + 10
    assert "\n" not in str(caught.value)


def test_every_reader_of_tokenizers_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vet, "_fault_of", lambda _: "chat template (0 s)")
    folder = saved(tmp_path, SOUND)
    for read in (lambda: load_tokenizer(folder), lambda: Encoder(str(folder)).tokenizer):
        with pytest.raises(BenchError, match="was stopped"):
            read()
    scorer = ClassifierScorer.__new__(ClassifierScorer)
    scorer.source, scorer.revision = str(folder), None
    with pytest.raises(BenchError, match="was stopped"):
        _ = scorer.tokenizer


def test_a_sound_one_is_tried_once_and_a_plain_one_never(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    sound = vet._fault_of

    def counted(text: str) -> str:
        tried.append(text)
        return sound(text)

    monkeypatch.setattr(vet, "_fault_of", counted)
    for _ in range(2):
        load_tokenizer(saved(tmp_path / "plain"))
    assert not tried
    for _ in range(2):
        load_tokenizer(saved(tmp_path / "sound", SOUND), "auto")
    assert len(tried) == 1


def test_an_error_of_a_template_is_no_question_of_bounds(tmp_path: Path) -> None:
    broken: Any = saved(tmp_path, "{{ raise_exception('no') }}")
    assert load_tokenizer(broken).chat_template
    with pytest.raises(BenchError, match="chat template fails"):
        load_tokenizer(broken, "chat")
