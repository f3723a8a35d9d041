"""Kill one run again and again at random moments, let it finish, and compare it with an undisturbed one.

    python benchmarks/kills.py [--kills 10] [--seed 0] [--jobs 1]

The runs are those of tests/small.py (every stage is real) with two reward models.  Exit code 0 when the estimates are
equal to the byte.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from small import bench, command, estimates

RMS = ("seq2seq-token", "scalar")
SIZES = {"sft.steps": 60, "sft.save_every": 10, "ppo.iterations": 16, "ppo.save_every": 2}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="of the run that is killed; the undisturbed one has 1")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        calm, killed = Path(name) / "calm", Path(name) / "killed"
        begun = time.monotonic()
        bench(*command(calm, rms=RMS, **SIZES)).check_returncode()
        whole = time.monotonic() - begun
        print(f"undisturbed: {whole:.1f} s", flush=True)
        for number in range(options.kills):
            print(f"kill {number + 1}: {disturb(killed, options.jobs, rng.uniform(0.1, 0.5) * whole)}", flush=True)
        bench(*command(killed, rms=RMS, **SIZES)).check_returncode()
        same = estimates(calm) == estimates(killed)
    print("estimates are identical" if same else "ESTIMATES DIFFER")
    return 0 if same else 1


def disturb(out: Path, jobs: int, after: float) -> str:
    """Start the run and kill it `after` seconds; says what it was doing."""
    arguments = command(out, "--jobs", str(jobs), rms=RMS, **SIZES)
    arguments = [sys.executable, "-m", "rlhf_bench.harness", *arguments]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(timeout=after)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
    doing = sorted(p.name.rpartition("-")[0] for p in (out / ".partial").glob("*") if p.is_dir())
    return f"after {after:.1f} s, in {', '.join(doing) or 'between stages'} (exit {process.returncode})"


if __name__ == "__main__":
    sys.exit(main())
