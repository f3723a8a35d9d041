"""benchmarks/gpu.sh --toy: every part of what is measured on a GPU works, on a CPU at toy size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny import Tiny

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu.sh"

pytestmark = pytest.mark.training


def measured(out: Path, *more: str) -> Any:
    pytest.importorskip("peft", reason="the optional package peft is not installed")
    environment = {**os.environ, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run(
        [str(SCRIPT), "--device", "cpu", "--out", str(out), *more],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(out.read_text())


@pytest.mark.slow
def test_a_policy_takes_the_place_of_random_weights(tiny_llama: Tiny, tmp_path: Path) -> None:
    """Without a GPU at small sizes, whatever is asked for."""
    found = measured(tmp_path / "gpu.json", "--policy", str(tiny_llama.folder))
    assert not [name for name, part in found.items() if isinstance(part, dict) and "failed" in part], found
    assert found["policy"] == tiny_llama.folder.name
    size = found["size"]
    # no response ends before its limit: the lengths are those that were asked for
    for name in ("ppo_lora", "ppo_full"):
        assert found[name]["tokens"] == size["rows"] * (size["prompt"] + size["response"])
    assert {row[0] for row in found["plan_lora"]} >= {"policy", "critic"}


def test_every_part_is_measured(tmp_path: Path) -> None:
    found = measured(tmp_path / "gpu.json", "--toy")
    assert not [name for name, part in found.items() if isinstance(part, dict) and "failed" in part], found
    assert found["engines"]["plain"]["tokens_per_s"] > 0
    assert found["engines"]["vllm"].keys() & {"tokens_per_s", "failed"}  # is seldom installed
    assert found["rollouts_lora"]["ours_tokens_per_s"] > 0
    assert found["rollouts_full"]["generate_tokens_per_s"] > 0
    for name in ("ppo_lora", "ppo_full", "paper_2b"):
        assert found[name]["update_s"] > 0
        assert found[name]["tokens"] > 0
    assert found["scoring"]["ratio"] > 0
    assert ["largest", "ppo.micro_batch"] in [row[:2] for row in found["needs_of_7b"]]
    assert found["device"] == "cpu"
    assert found["versions"]["torch"]
