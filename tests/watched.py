"""A results folder in the middle of training, written by hand: journals of drivers and rows of policy optimisation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlhf_bench.harness.pipeline.journal import Journal, journal
from rlhf_bench.harness.pipeline.machine import Machine
from rlhf_bench.harness.pipeline.stage import Stage

KEY = "0" * 12
ORIGIN = {"kind": "generated", "description": "A task.", "sha256": "0", "license": "none"}


def ppo_stage(label: str, number: int = 0) -> Stage:
    return Stage("ppo", label, "stored:make", {"of": label, "number": number}, cost=10.0, family="f")


def row(iteration: int, **more: Any) -> dict[str, Any]:
    """A row of steps.jsonl."""
    return {
        "iteration": iteration, "reward": iteration / 10, "kl": iteration / 20, "tokens": 12.0, "clip_share": 0.1,
        "entropy_estimate": 1.5, "empty_share": 0.0, "truncated_share": 0.0, "explained_variance": 0.5, **more,
    }  # fmt: skip


def write_steps(root: Path, stage: Stage, rows: Sequence[object]) -> Path:
    """The rows of a stage that runs."""
    kind, _, key = stage.place
    path = root / ".partial" / f"{kind}-{key}" / "scratch" / "steps.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in rows))
    return path


@contextmanager
def driver(root: Path, stages: Sequence[Stage], jobs: int = 1) -> Iterator[Journal]:
    """A driver of this process, alive within the block, that plans `stages`."""
    (root / ".partial").mkdir(parents=True, exist_ok=True)
    with journal(root, stages, Machine(jobs)) as rows:
        yield rows
