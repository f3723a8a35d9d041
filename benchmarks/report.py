"""How long `bench report` takes by the number of cells: copies of one small real cell (JSON).

    python benchmarks/report.py [--prompts 500] [--seeds 5] [--arms 2,10]

Seconds are of the whole command, start-up included, as somebody waits for it; the least of `--rounds`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from many_cells import multiply

SMALL = {
    "dialogsum.demonstrations": 48, "dialogsum.train_pairs": 24, "dialogsum.train_prompts": 24, "sft.steps": 60,
    "ppo.iterations": 8, "ppo.scale_prompts": 32,
}  # fmt: skip


def bench(*given: str) -> float:
    """Seconds of a command of ours; raises RuntimeError with what it said where it fails."""
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "rlhf_bench.harness", *given], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return time.perf_counter() - begun


def one_cell(out: Path, prompts: int) -> None:
    """A real cell of a policy that has hardly learned anything: as many rows as any other."""
    sizes = {**SMALL, "dialogsum.test_prompts": prompts, "eval.prompts": prompts}
    sets = [text for name, value in sizes.items() for text in ("--set", f"{name}={value}")]
    bench("run", "--task", "dialogsum", "--rm", "whitebox", "--jobs", "1", "--out", str(out), *sets)


def measure(arms: list[int], seeds: int, prompts: int, rounds: int) -> dict[str, Any]:
    """{"prompts", "seeds", "seconds": by the number of cells}."""
    seconds = {}
    with tempfile.TemporaryDirectory() as name:
        one_cell(Path(name) / "real", prompts)
        for count in arms:
            runs = Path(name) / f"runs-{count}"
            cells = multiply(Path(name) / "real", runs, count, seeds)
            taken = [bench("report", str(runs), "--out", str(runs / f"report-{k}")) for k in range(rounds)]
            seconds[str(cells)] = min(taken)
    return {"prompts": prompts, "seeds": seeds, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", default="2,10", help="numbers of reward models")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    print(json.dumps(measure([int(n) for n in given.arms.split(",")], given.seeds, given.prompts, given.rounds)))


if __name__ == "__main__":
    main()
