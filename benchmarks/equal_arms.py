"""Equal arms on real cells: how often two halves of one reward model's training seeds are called different.

    python benchmarks/equal_arms.py RUNS

Every arm with four or more seeds is split into every two pairs of seeds; each split is compared as two reward models
would be, on the same prompts.  Splits of one arm share seeds, so the shares below are no independent draws.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np

from rlhf_bench.harness.results.arms import Arm, arms_of
from rlhf_bench.harness.results.contrasts import Where, paired
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.harness.results.found import find_cells
from rlhf_bench.harness.statistics import comparisons

MEASURES = (Where("utility", "gold_change"), Where("winrate", "win_rate"), Where("length", "length_change"))


def splits(count: int) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Two disjoint pairs of `count` seeds, each such two once."""
    for first in combinations(range(count), 2):
        rest = [i for i in range(count) if i not in first]
        for second in combinations(rest, 2):
            if first < second:
                yield first, second


def called_different(arm: Arm, where: Where) -> tuple[int, int]:
    """(splits called different at 95%, splits) of one arm."""
    cells, _, clusters, kind = paired(arm, arm, where)
    different = total = 0
    for first, second in splits(len(cells)):
        rng = np.random.default_rng(0)
        found = comparisons.difference(cells[list(first)], cells[list(second)], kind, Estimator().level, rng, clusters)
        if found.low is not None and found.high is not None:
            different += found.low > 0 or found.high < 0
            total += 1
    return different, total


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    arms = [arm for arm in arms_of(find_cells([Path(sys.argv[1])])[0]) if len(arm.seeds) > 3]
    print("| measure | arms | splits | called different |\n|---|--:|--:|--:|")
    for where in MEASURES:
        counts: Counter[str] = Counter()
        for arm in arms:
            different, total = called_different(arm, where)
            counts.update(different=different, total=total)
        share = counts["different"] / max(1, counts["total"])
        print(f"| {where.judge}.{where.statistic} | {len(arms)} | {counts['total']} | {share:.3f} |")


if __name__ == "__main__":
    main()
