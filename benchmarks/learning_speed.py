"""How fast PPO wins the range that the SFT policy leaves, with the true utility itself as the reward (JSON).

    python benchmarks/learning_speed.py [--seed N] [--set GROUP.KEY=VALUE]

One cell of `dialogsum` with the arm `gold` on one thread, as `bench run` trains it, evaluated often.  A point of the
curve is the share of the range won so far, (gold - SFT) / (1 - SFT) in sampled decoding, and the processor seconds of
PPO so far, evaluations left out.  No learned reward model takes part, so what is faster here favours none.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from rlhf_bench.harness import store
from rlhf_bench.harness.stages import ppo as stages_ppo

BEFORE = (
    "ppo.iterations=42", "ppo.rollouts=64", "ppo.samples=1", "ppo.lr=5e-4", "ppo.critic_lr=1e-3", "ppo.kl=0.05",
    "ppo.checkpoints=14",
)  # fmt: skip
"""PPO's defaults up to commit ba5e3c2, on today's world and with today's code."""
HALF = 0.5


class Point(NamedTuple):
    """`iteration` from 1, processor `seconds` of PPO up to it, and the `share` of the range that is won."""

    iteration: int
    seconds: float
    share: float


def curve(seed: int, sets: Sequence[str]) -> list[Point]:
    """The points of one run, in order."""
    clock = {"outside": 0.0, "start": 0.0}
    at: dict[int, float] = {}
    train, evaluate = stages_ppo.train, stages_ppo.evaluate_checkpoint

    def timed_train(*given: Any, **named: Any) -> Any:
        clock["start"] = time.process_time()
        return train(*given, **named)

    def timed_evaluation(context: Any, run: Any, iteration: int) -> None:
        begun = time.process_time()
        at[iteration] = begun - clock["start"] - clock["outside"]
        evaluate(context, run, iteration)
        clock["outside"] += time.process_time() - begun

    stages_ppo.train, stages_ppo.evaluate_checkpoint = timed_train, timed_evaluation
    try:
        with tempfile.TemporaryDirectory() as name:
            from rlhf_bench.harness.cli.main import bench

            pairs = [text for pair in sets for text in ("--set", pair)]
            cell = ["run", "--task", "dialogsum", "--rm", "gold", "--judge", "utility", "--jobs", "1", "--out", name]
            with suppress(SystemExit):
                bench([*cell, "--seeds", f"{seed}-{seed}", *pairs], standalone_mode=False)
            (path,) = Path(name).glob("verdicts/*/verdicts.jsonl")
            rows = [row for row in store.read_rows(path) if row["decoding"] == "sample"]
    finally:
        stages_ppo.train, stages_ppo.evaluate_checkpoint = train, evaluate
    before = mean(row["gold_baseline"] for row in rows)
    gold = {i: mean(row["gold"] for row in rows if row["iteration"] == i) for i in sorted(at)}
    return [Point(i, at[i], (gold[i] - before) / (1 - before)) for i in sorted(at)]


def speed(points: Sequence[Point]) -> dict[str, float | None]:
    """`whole`: share of the range per core-minute over all of PPO; `to_half`: up to the first point at half of it.

    `to_half` is None where half is never won.
    """
    half = next((point for point in points if point.share >= HALF), None)
    last = points[-1]
    return {
        "share": last.share,
        "seconds": last.seconds,
        "whole": 60 * last.share / last.seconds,
        "to_half": None if half is None else 60 * half.share / half.seconds,
    }


def compare(seed: int) -> dict[str, Any]:
    """Today's defaults against those before, in turns in one process."""
    found = {name: curve(seed, sets) for name, sets in (("now", ("ppo.checkpoints=12",)), ("before", BEFORE))}
    return {name: {**speed(points), "points": points} for name, points in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=50, help="a development seed")
    parser.add_argument("--set", action="append", default=[], help="this setting instead of the comparison")
    given = parser.parse_args()
    points = curve(given.seed, given.set) if given.set else []
    found = {**speed(points), "points": points} if points else compare(given.seed)
    sys.__stdout__.write("\n" + json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
