"""How long the bootstrap takes and how much memory: checked against the promise, and beside scipy's.

python benchmarks/bootstrap.py        # exits with 1 where a promise is broken

10^4 resamples of 10^4 paired values in at most 1.5 s and 200 MB, of verdicts in .1 s.  Memory is what the process grows
by over its size after imports.
"""

from __future__ import annotations

import resource
import statistics as middle
import sys
import time
from collections.abc import Callable

import numpy as np
from scipy import stats

from rlhf_bench.harness.statistics import intervals as s
from rlhf_bench.harness.statistics.length_control import length_controlled
from rlhf_bench.harness.statistics.ranking import rank

SECONDS, MEGABYTES, VERDICT_SECONDS = 1.5, 200.0, 0.1
N = RESAMPLES = 10_000


def peak() -> float:
    """Largest memory so far, in MB."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / 1e6 if sys.platform == "darwin" else used / 1e3


def seconds(call: Callable[[], object], repeats: int = 3) -> float:
    """Median of a few runs, in seconds of the processor: what else runs on the machine counts for nothing."""
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        taken.append(time.process_time() - start)
    return middle.median(taken)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def main() -> int:
    values = rng().normal(size=N)
    verdicts = rng().choice([0.0, 0.5, 1.0], size=N)
    before = peak()
    paired = seconds(lambda: s.paired(values, 0.95, rng(), resamples=RESAMPLES))
    grown = peak() - before
    drawn = seconds(lambda: s.verdicts(verdicts, 0.95, rng(), RESAMPLES), 9)
    before = peak()
    plain = {"n_resamples": RESAMPLES, "batch": 100, "method": "BCa"}
    scipys = seconds(lambda: stats.bootstrap((values,), np.mean, **plain, rng=rng()), repeats=1)
    scipy_grown = peak() - before
    small = values[:200]
    ours_small = seconds(lambda: s.paired(small, 0.95, rng()))
    scipys_small = seconds(lambda: stats.bootstrap((small,), np.mean, **plain, rng=rng()))
    cells = rng().normal(size=(6, 5, 200))
    ranked = seconds(lambda: rank(cells, 0.95, rng()))
    lengths = rng().normal(size=(1, 500))
    wins = (rng().random((1, 500)) < 0.6).astype(float)
    controlled = seconds(lambda: length_controlled(wins, lengths, 0.95, rng()))
    print(f"BCa, {RESAMPLES} resamples of {N} values: {paired:.2f} s, {grown:.0f} MB more; at most {SECONDS} s, 200 MB")
    print(f"  scipy in batches of 100: {scipys:.2f} s, {scipy_grown:.0f} MB more; {scipys / paired:.1f} times ours")
    print(f"verdicts, {RESAMPLES} resamples of {N}: {drawn:.4f} s; at most {VERDICT_SECONDS} s")
    print(f"BCa of 200 values: {ours_small * 1e3:.0f} ms; scipy {scipys_small / ours_small:.1f} times that")
    print(f"Bradley-Terry of 6 reward models, 5 seeds, 200 prompts, 1999 resamples: {ranked:.2f} s")
    print(f"length-controlled rate of 500 prompts, 1999 refits: {controlled:.2f} s")
    kept = paired <= SECONDS and grown <= MEGABYTES and drawn <= VERDICT_SECONDS
    print("every promise kept" if kept else "a promise is broken")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
