"""How often the 95% intervals hold the truth, and how often equal arms are called different: tables from simulation.

python benchmarks/coverage.py --out docs/coverage.md        # some minutes on one core
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from coverage_data import LEVEL, Rng, Setting, crossed, rates
from coverage_settings import settings

from rlhf_bench.harness.statistics import comparisons

TOO_LOW = 0.93
COMMAND = "python benchmarks/coverage.py --out docs/coverage.md"
REPETITIONS = 1000


class Coverage(NamedTuple):
    covered: float
    missing: float
    width: float


# ---- what is found --------------------------------------------------------------------------------------------------


def cover(setting: Setting, seed: int) -> Coverage:
    """Share of repetitions whose interval holds the truth, share without an interval, median width."""
    rng = np.random.default_rng(seed)
    held, widths = 0, []
    for _ in range(setting.repetitions):
        found = setting.measure(setting.draw(rng), rng)
        if found.low is not None and found.high is not None:
            held += found.low - 1e-12 <= setting.truth <= found.high + 1e-12
            widths.append(found.high - found.low)
    count = len(widths)
    return Coverage(held / max(count, 1), 1 - count / setting.repetitions, float(np.median(widths)) if widths else 0.0)


def precision(repetitions: int) -> str:
    error = math.sqrt(LEVEL * (1 - LEVEL) / repetitions)
    return f"{repetitions} repetitions: a true {LEVEL:g} is found with a Monte Carlo standard error of {error:.3f}."


def coverage_lines(found: Iterable[Setting], seed: int) -> Iterator[str]:
    section = ""
    for setting in found:
        if setting.section != section:
            section = setting.section
            yield from ("", f"## {section}", "", precision(setting.repetitions), "")
            yield from ("| Setting | Covered | Median width |", "|---|--:|--:|")
        one = cover(setting, seed)
        without = f" ({one.missing:.1%} without an interval)" if one.missing else ""
        bold = "**" if one.covered < TOO_LOW else ""
        yield f"| {setting.name} | {bold}{one.covered:.3f}{bold}{without} | {one.width:.3f} |"


def called_different(arms: int, seeds: int, seed_sd: float, verdicts: bool, repetitions: int, rng: Rng) -> float:
    """Share of repetitions in which some pair of equal arms has a Holm-corrected p below .05 (100 prompts)."""
    draw = rates(seeds, 100, 0.7, seed_sd, 0.3) if verdicts else crossed(seeds, 100, seed_sd, 0.0)
    reached = 0
    for _ in range(repetitions):
        prompts = 0.0 if verdicts else rng.normal(size=100)
        cells = [draw(rng) + prompts for _ in range(arms)]
        pairs = itertools.combinations(cells, 2)
        kind = "win" if verdicts else "change"
        p = [comparisons.p_value(a, b, kind, rng).value for a, b in pairs]  # type: ignore[arg-type]
        reached += any(one is not None and one < 1 - LEVEL for one in comparisons.holm(p))
    return reached / repetitions


def equal_arms(repetitions: int, seed: int) -> Iterator[str]:
    counts = f"{repetitions} repetitions with 2 arms, {repetitions // 3} with 5."
    yield from ("", "## Equal arms called different", "", EQUAL, counts, "")
    yield from ("| Arms | Seeds | Spread of seeds | Numbers | Verdicts |", "|--:|--:|--:|--:|--:|")
    for arms, seeds, spread in itertools.product((2, 5), (1, 2, 3, 4, 5), (0.0, 0.15, 0.5)):
        count = repetitions if arms == 2 else repetitions // 3
        rng = np.random.default_rng(seed)
        shares = [called_different(arms, seeds, spread, verdicts, count, rng) for verdicts in (False, True)]
        most = 0.05 + 2 * math.sqrt(0.05 * 0.95 / count)
        cells = [f"**{share:.3f}**" if share > most else f"{share:.3f}" for share in shares]
        yield f"| {arms} | {seeds} | {spread:g} | {' | '.join(cells)} |"


EQUAL = """Share of comparisons in which some pair of arms with one and the same distribution has a Holm-corrected p
below .05, at 100 prompts.  Spread of seeds: their standard deviation beside a residual of 1; for verdicts, the share of
cases' correlation.  With one seed the p speaks of two training runs, which do differ where seeds differ: a report
calls no two reward models different on one seed each, whatever the p."""

HEAD = """# Coverage of the 95% intervals

    {command}

{took}

Bold: below .93 (equal arms: above .05 by two Monte Carlo standard errors).  Random effects: the mean of
seeds-by-prompts cells is 0, the residual's standard deviation 1.  Rates: half the cases follow a rate per seed, half a
rate per prompt, both Beta; the seed share is the correlation of two cases that follow the same seed.

What to take from it: several seeds are covered from two seeds on, at the price of a wide interval with two; where
seeds add nothing the interval is wider than it need be, since few seeds cannot show that.  Below 30 prompts skewed
numbers are covered less than their level says, and so are rates near 0 or 1 over five and more seeds that differ
(.91) and ratios of variances (.89 to .92 up to 100 prompts).  Differences at equal KL are interpolated: where the curve
bends, below the first checkpoint, they are covered .89 to .93 with one seed and down to .91 with five and ten.  Where
some runs collapse, a t interval of the mean over all runs covers .52 to .94, and the interval that reports show instead
more than its level.  The pigeonhole bootstrap is too short wherever few seeds
differ.  No comparison of two and more seeds calls equal arms different in more than 5% beyond Monte Carlo error."""


def table(repetitions: int, seed: int) -> str:
    start = time.process_time()
    lines = [*coverage_lines(settings(repetitions), seed), *equal_arms(repetitions, seed)]
    took = f"Simulated in {time.process_time() - start:.0f} s of one core, seed {seed}."
    command = COMMAND if repetitions == REPETITIONS else f"{COMMAND} --repetitions {repetitions}"
    return "\n".join([HEAD.format(command=command, took=took), *lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="file to write; printed where it is left out")
    chosen = parser.parse_args()
    text = table(chosen.repetitions, chosen.seed)
    if chosen.out:
        chosen.out.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
