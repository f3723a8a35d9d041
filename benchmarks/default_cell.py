"""Runs the default cell as `bench run` does, in this process with one job, and says where the time went (JSON)."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlhf_bench.harness import store
from rlhf_bench.harness.ppo import loop, schedule
from rlhf_bench.harness.ppo.scoring import NamedRewardModel
from rlhf_bench.harness.sampling import engines
from rlhf_bench.harness.stages import ppo as stages_ppo

SECONDS: dict[str, float] = {}
INSIDE: list[str] = []


def timed(name: str, place: Any, function: str) -> None:
    """Count the seconds of a function, those of timed functions inside it left out."""
    plain: Callable[..., Any] = getattr(place, function)

    def counted(*given: Any, **named: Any) -> Any:
        begun = time.perf_counter()
        INSIDE.append(name)
        try:
            return plain(*given, **named)
        finally:
            spent = time.perf_counter() - begun
            INSIDE.pop()
            SECONDS[name] = SECONDS.get(name, 0.0) + spent
            if INSIDE:
                SECONDS[INSIDE[-1]] = SECONDS.get(INSIDE[-1], 0.0) - spent

    setattr(place, function, counted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", action="append", default=[])
    sets = [text for pair in parser.parse_args().set for text in ("--set", pair)]
    timed("PPO: the rest", stages_ppo, "train")
    timed("PPO: sampling", engines, "sample")
    timed("PPO: rewards", NamedRewardModel, "rewards")
    timed("PPO: reference and values", schedule, "map_batches")
    timed("PPO: update", loop, "update")
    timed("PPO: evaluation at checkpoints", stages_ppo, "evaluate_checkpoint")
    from rlhf_bench.harness.cli.main import bench

    with tempfile.TemporaryDirectory() as name:
        begun = time.perf_counter()
        cell = ["run", "--task", "dialogsum", "--rm", "seq2seq-token", "--jobs", "1", "--out", name, *sets]
        with suppress(SystemExit):
            bench(cell, standalone_mode=False)
        whole = time.perf_counter() - begun
        records = [store.read_json(path) for path in sorted(Path(name).glob(f"*/*/{store.MARKER}"))]
    stages: dict[str, float] = {}
    for record in records:
        stages[record["kind"]] = stages.get(record["kind"], 0.0) + record["seconds"]
    sys.__stdout__.write("\n" + json.dumps({"whole": whole, "stages": stages, "ppo": SECONDS}) + "\n")


if __name__ == "__main__":
    main()
