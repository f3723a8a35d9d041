"""How a PPO step's time and memory grow with batch, response length, model size and vocabulary."""

from __future__ import annotations

import gc
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import numpy as np
from engine_own import Engine, make_run
from peer_model import Sizes

from rlhf_bench.harness.ppo import loop
from rlhf_bench.harness.stages.overhead import peak_bytes

BASE = Sizes(layers=2, width=128, heads=4, vocabulary=2000, prompt=32, response=32, batch=16, minibatches=2)
GRID: dict[str, Sequence[int]] = {
    "batch": (8, 16, 32, 64),
    "response": (16, 32, 64, 128),
    "width": (64, 128, 256, 384),
    "vocabulary": (500, 2000, 8000, 32000),
}
PLAIN = {name: getattr(loop, name) for name in ("update",)}


def measure(sizes: Sizes, rounds: int) -> dict[str, float]:
    """Median seconds of a step, and the most bytes that an update held beyond weights and data."""
    for name, function in PLAIN.items():
        setattr(loop, name, function)  # every engine times them anew
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(sizes, Path(folder))
        engine = Engine(run)
        engine.step()
        seconds = median(engine.step()["wall"] for _ in range(rounds))
        experience = loop.collect(run, 0)
        peak = peak_bytes(lambda: PLAIN["update"](run, experience, 0))
    gc.collect()
    parameters = sum(p.numel() for p in run.actors.policy.parameters())
    return {"seconds": seconds, "peak_bytes": float(peak), "parameters": float(parameters)}


def grow(rounds: int) -> dict[str, Any]:
    """Per factor: rows of figures, and the exponents of a power law in it (least squares on logarithms)."""
    found = {}
    for factor, values in GRID.items():
        rows = [{factor: value, **measure(_with(factor, value), rounds)} for value in values]
        found[factor] = {
            "rows": rows,
            "seconds": exponent(values, [row["seconds"] for row in rows]),
            "peak_bytes": exponent(values, [row["peak_bytes"] for row in rows]),
        }
    return found


def _with(factor: str, value: int) -> Sizes:
    return Sizes(**{**vars(BASE), factor: value})


def exponent(values: Sequence[int], figures: Sequence[float]) -> float:
    """b of figures = a values^b."""
    return float(np.polyfit(np.log(values), np.log(figures), 1)[0])
