"""A model folder whose configuration a library stumbles over is named; a fault of our own stays one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny import make_tokenizer
from transformers import AutoTokenizer, GenerationConfig

from rlhf_bench.harness.pipeline.foreign import foreign_fault


def caught(call: object) -> BaseException:
    with pytest.raises(Exception) as found:  # noqa: PT011  # of whatever kind: that is the point
        call()  # type: ignore[operator]
    return found.value


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_tokenizer().save_pretrained(tmp_path / "policy")
    return tmp_path / "policy"


def test_the_folder_and_the_library_are_named(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": "many"}))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    error = caught(lambda: tokenizer("a b c"))
    for named in (str(folder), f"hf:{folder}"):
        fault = foreign_fault(error, "sft x", {"policy": {"source": named, "more": ["", 3]}})
        assert fault is not None
        assert fault.seen.startswith(f"sft x: transformers cannot use the folder {folder} (")
        assert len(str(fault).splitlines()) == 1


def test_without_a_folder_it_is_our_own_fault(folder: Path) -> None:
    error = caught(lambda: GenerationConfig(cache_implementation=3).save_pretrained(str(folder / "no" / "\0")))
    assert foreign_fault(error, "sft x", {"policy": {"source": "tiny"}, "text": "\0"}) is None
    own = caught(lambda: [][1])
    assert foreign_fault(own, "sft x", {"source": str(folder)}) is None


def test_a_model_that_cannot_be_trained_is_named(folder: Path) -> None:
    error = caught(lambda: torch.zeros(1).sum().backward())
    fault = foreign_fault(error, "sft x", {"source": str(folder)})
    assert fault is not None
    assert fault.seen == f"sft x: no weight of {folder} can be trained."
    assert foreign_fault(error, "sft x", {"source": "tiny"}) is None
