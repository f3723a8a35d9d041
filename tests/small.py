"""A run small enough for tests: every stage is real, nothing is learned."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SIZES = {
    "dialogsum.demonstrations": 48,
    "dialogsum.train_pairs": 24,
    "dialogsum.test_pairs": 16,
    "dialogsum.train_prompts": 24,
    "dialogsum.test_prompts": 16,
    "dialogsum.response_tokens": 16,
    "policy.width": 16,
    "policy.heads": 2,
    "sft.steps": 6,
    "sft.save_every": 2,
    "ppo.iterations": 6,
    "ppo.checkpoints": 2,
    "ppo.rollouts": 8,
    "ppo.save_every": 2,
    "ppo.scale_prompts": 8,
    "ppo.scale_samples": 2,
}


def settings(rms: tuple[str, ...] = ("seq2seq-token",), world: bool = True, **more: Any) -> list[str]:
    """--set arguments of the small run, those of the dialogsum world included or not."""
    sizes = {name: value for name, value in SIZES.items() if world or not name.startswith("dialogsum.")}
    pairs = {**sizes, **{f"{rm}.epochs": 1 for rm in rms if rm.startswith(("scalar", "seq2seq"))}, **more}
    return [text for name, value in pairs.items() for text in ("--set", f"{name}={value}")]


def command(out: Path, *more: str, rms: tuple[str, ...] = ("seq2seq-token",), **sets: Any) -> list[str]:
    """Arguments of `bench run` for the small world."""
    chosen = [text for rm in rms for text in ("--rm", rm)]
    return ["run", "--task", "dialogsum", *chosen, "--out", str(out), "--jobs", "1", *settings(rms, **sets), *more]


def popen(*arguments: str) -> subprocess.Popen[str]:
    """`bench`, started and left running."""
    return subprocess.Popen(
        [sys.executable, "-m", "rlhf_bench.harness", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )


def bench(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """`bench` as a person runs it, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "rlhf_bench.harness", *arguments],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        cwd=cwd,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **environment},
    )


def estimates(out: Path) -> str:
    """The estimates of a run's report, as text that can be compared to the byte."""
    return json.dumps(json.loads((out / "report" / "report.json").read_text())["estimates"])
