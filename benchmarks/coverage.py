"""How often the 95% intervals hold the truth, and how often equal arms are called different: tables from simulation.

python benchmarks/coverage.py --out docs/coverage.md        # some minutes on one core
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import special

from rlhf_bench.harness import collapse, comparisons
from rlhf_bench.harness import statistics as s
from rlhf_bench.harness.cells import Array
from rlhf_bench.harness.intervals import Interval
from rlhf_bench.harness.length_control import length_controlled
from rlhf_bench.harness.ranking import rank, strengths

LEVEL = 0.95
TOO_LOW = 0.93
COMMAND = "python benchmarks/coverage.py --out docs/coverage.md"
REPETITIONS = 1000
SIZES = (10, 30, 100, 500)
RATES = (0.5, 0.8, 0.95, 0.99)
SEEDS = (2, 3, 5, 10)
Rng = np.random.Generator
Draw = Callable[[Rng], Array]
Measure = Callable[[Array, Rng], Interval]


class Setting(NamedTuple):
    """`draw` makes data whose true value is `truth`; `measure` makes the interval."""

    section: str
    name: str
    draw: Draw
    measure: Measure
    truth: float
    repetitions: int


class Coverage(NamedTuple):
    covered: float
    missing: float
    width: float


# ---- data -----------------------------------------------------------------------------------------------------------


def outcomes(n: int, rate: float, ties: float) -> Draw:
    """Verdicts 1, .5, 0 with the given mean."""
    chances = [rate - ties / 2, ties, 1 - rate - ties / 2]
    return lambda rng: rng.choice([1.0, 0.5, 0.0], size=n, p=chances)


def crossed(
    seeds: int, prompts: int, seed_sd: float, prompt_sd: float, holes: float = 0.0, clusters: int | None = None
) -> Draw:
    """Seeds-by-prompts random effects around 0, residual standard deviation 1; clusters share their prompt effect."""
    of = np.arange(prompts) if clusters is None else np.arange(prompts) % clusters

    def draw(rng: Rng) -> Array:
        cells = seed_sd * rng.normal(size=(seeds, 1)) + prompt_sd * rng.normal(size=prompts)[of]
        cells = cells + rng.normal(size=(seeds, prompts))
        return np.where(rng.random(cells.shape) < holes, np.nan, cells)

    return draw


def rates(seeds: int, prompts: int, rate: float, seed_share: float, prompt_share: float, clusters: int = 0) -> Draw:
    """0 or 1 with a rate that is Beta over seeds and mixed over prompts: both have mean `rate`.

    The share is the correlation of two cases that both follow the same seed (or the same prompt or cluster).
    """
    of = np.arange(prompts) % (clusters or prompts)

    def beta(rng: Rng, share: float, size: tuple[int, int]) -> Array:
        if share == 0:
            return np.full(size, rate)
        total = 1 / share - 1
        return rng.beta(rate * total, (1 - rate) * total, size=size)

    def draw(rng: Rng) -> Array:
        by_seed = rng.random((seeds, prompts)) < beta(rng, seed_share, (seeds, 1))
        by_prompt = rng.random((seeds, prompts)) < beta(rng, prompt_share, (1, prompts))[:, of]
        either = rng.random((seeds, prompts)) < 0.5  # half of the cases follow the seed, half the prompt
        return np.where(either, by_seed, by_prompt).astype(np.float64)

    return draw


# ---- settings -------------------------------------------------------------------------------------------------------


def one_seed_verdicts(repetitions: int) -> Iterator[Setting]:
    measures: dict[str, Measure] = {
        "Win and rate, one seed: Wilson": lambda y, _: s.wilson(y, LEVEL),
        "Rate: exact (Clopper-Pearson)": lambda y, _: s.exact(int(y.sum()), y.size, LEVEL),
        "Verdicts: percentile bootstrap (no reported number uses it)": lambda y, r: s.verdicts(y, LEVEL, r, 1999),
    }
    for section, measure in measures.items():
        for ties, n, rate in itertools.product((0.0, 0.04), SIZES, RATES):
            if rate + ties / 2 <= 1 and not (ties and "Wilson" not in section):
                name = f"n {n}, rate {rate:g}" + (f", {ties:.0%} ties" if ties else "")
                yield Setting(section, name, outcomes(n, rate, ties), measure, rate, repetitions)
    for n, rate in itertools.product((40, 100, 500), RATES):
        names = np.arange(n) % (n // 4)
        yield Setting(
            "Win and rate, one seed, sources of 4 prompts: Korn-Graubard",
            f"n {n}, rate {rate:g}",
            rates(1, n, rate, 0.0, 0.5, n // 4),
            lambda y, r, names=names: s.interval("win", y, LEVEL, r, names),  # type: ignore[misc]
            rate,
            repetitions,
        )


def one_seed_numbers(repetitions: int) -> Iterator[Setting]:
    shapes: dict[str, tuple[Callable[[Rng, int], Array], float]] = {
        "normal": (lambda rng, n: rng.normal(size=n), 0.0),
        "exponential": (lambda rng, n: rng.exponential(size=n), 1.0),
        "whole numbers -2 .. 2": (lambda rng, n: rng.integers(-2, 3, size=n).astype(np.float64), 0.0),
    }
    for n, (shape, (sample, truth)) in itertools.product(SIZES, shapes.items()):
        yield Setting(
            "Change and level, one seed: BCa",
            f"n {n}, {shape}",
            lambda rng, n=n, sample=sample: sample(rng, n),  # type: ignore[misc]
            lambda y, r: s.paired(y, LEVEL, r, resamples=1999),
            truth,
            repetitions,
        )
    for n in (40, 100, 500):
        yield Setting(
            "Change and level, one seed, sources of 4 prompts: BCa",
            f"n {n}, correlation .5 within a source",
            crossed(1, n, 0.0, 1.0, clusters=n // 4),
            lambda y, r, n=n: s.interval("change", y, LEVEL, r, np.arange(n) % (n // 4)),  # type: ignore[misc]
            0.0,
            repetitions,
        )


def several_seeds(repetitions: int) -> Iterator[Setting]:
    spreads = list(itertools.product((0.0, 0.15, 0.5), (0.3, 1.0)))
    for seeds, n, (seed_sd, prompt_sd) in itertools.product(SEEDS, SIZES, spreads):
        name = f"{seeds} seeds, {n} prompts, sd seed {seed_sd:g} prompt {prompt_sd:g}"
        draw = crossed(seeds, n, seed_sd, prompt_sd)
        section = "Change and level, several seeds: two-way t"
        yield Setting(section, name, draw, lambda y, _: s.two_way(y, LEVEL), 0.0, repetitions)
    for seeds, (seed_sd, prompt_sd) in itertools.product(SEEDS, spreads):
        name = f"{seeds} seeds, 100 prompts, sd seed {seed_sd:g} prompt {prompt_sd:g}"
        holed = crossed(seeds, 100, seed_sd, prompt_sd, 0.2)
        grouped = crossed(seeds, 100, seed_sd, prompt_sd, clusters=25)
        names = np.arange(100) % 25
        section = "Two-way t, "
        yield Setting(section + "20% undecided", name, holed, lambda y, _: s.two_way(y, LEVEL), 0.0, repetitions)
        yield Setting(
            section + "sources of 4 prompts",
            name,
            grouped,
            lambda y, _, names=names: s.two_way(y, LEVEL, names),  # type: ignore[misc]
            0.0,
            repetitions,
        )
        if seed_sd != 0.15:
            measure: Measure = lambda y, r: s.pigeonhole(y, LEVEL, r, 500)  # noqa: E731
            section = "Pigeonhole bootstrap (the companion)"
            yield Setting(section, name, crossed(seeds, 100, seed_sd, prompt_sd), measure, 0.0, repetitions // 5)


def rates_over_seeds(repetitions: int) -> Iterator[Setting]:
    for seeds, n, rate, seed_share in itertools.product(SEEDS, SIZES[1:], RATES, (0.0, 0.05)):
        name = f"{seeds} seeds, {n} prompts, rate {rate:g}, seed share {seed_share:g}"
        draw = rates(seeds, n, rate, seed_share, 0.3)
        section = "Win and rate, several seeds: Korn-Graubard"
        yield Setting(section, name, draw, lambda y, r: s.interval("win", y, LEVEL, r), rate, repetitions)
    for seeds, rate, seed_share in itertools.product(SEEDS, RATES, (0.0, 0.05)):
        name = f"{seeds} seeds, 100 prompts, rate {rate:g}, seed share {seed_share:g}"
        yield Setting(
            "Korn-Graubard, sources of 4 prompts",
            name,
            rates(seeds, 100, rate, seed_share, 0.3, 25),
            lambda y, r: s.interval("win", y, LEVEL, r, np.arange(100) % 25),
            rate,
            repetitions,
        )
    for seeds, n, rate in itertools.product((1, 2, 3, 5), (30, 100, 500), (0.5, 0.95)):
        both = rates(seeds, n, rate, 0.05 if seeds > 1 else 0.0, 0.3)
        yield Setting(
            "Difference of two arms' win rates",
            f"{seeds} seeds, {n} prompts, rate {rate:g}",
            lambda rng, both=both: np.stack([both(rng), both(rng)]),  # type: ignore[misc]
            lambda y, r: comparisons.difference(y[0], y[1], "win", LEVEL, r),
            0.0,
            repetitions // 2,
        )


def other_statistics(repetitions: int) -> Iterator[Setting]:
    for n, shape in itertools.product((30, 100, 500), ("normal", "exponential")):
        yield Setting(
            "Ratio of variances after / before: BCa",
            f"n {n}, {shape}, truth .25",
            lambda rng, n=n, shape=shape: (
                np.stack(  # type: ignore[misc]
                    [getattr(rng, shape if shape == "exponential" else "standard_normal")(size=n) for _ in range(2)]
                )
                * [[1.0], [0.5]]
            ),
            lambda y, r: collapse.variance_ratio(y[0], y[1], r, LEVEL, 999),
            0.25,
            repetitions // 2,
        )
    for seeds, n, log_odds in itertools.product((1, 3, 5), (100, 500), (0.0, 1.5)):
        yield Setting(
            f"Length-controlled win rate, {'one seed' if seeds == 1 else 'several seeds'}",
            f"{seeds} seeds, {n} prompts, sd of seeds' log odds {0.3 if seeds > 1 else 0:g}, log odds {log_odds:g}",
            by_length(seeds, n, log_odds, 0.3 if seeds > 1 else 0.0),
            lambda y, r: length_controlled(y[0], y[1], LEVEL, r, resamples=499),
            float(special.expit(log_odds)),
            repetitions // 5 if seeds == 1 else repetitions,
        )
    for seeds, n in itertools.product((1, 3, 5), (30, 100, 500)):
        seed_sd = 0.3 if seeds > 1 else 0.0
        means = np.array([0.0, 0.2, 0.5, 1.0])
        truth = strengths(special.ndtr((means[:, None] - means) / math.sqrt(2 * (1 + seed_sd**2))) * (1 - np.eye(4)))
        yield Setting(
            "Bradley-Terry strength of the best of four",
            f"{seeds} seeds, {n} prompts, sd of seeds {seed_sd:g}",
            lambda rng, shape=(4, seeds, n), sd=seed_sd, means=means: (  # type: ignore[misc]
                rng.normal(size=shape) + means[:, None, None] + sd * rng.normal(size=(*shape[:2], 1))
            ),
            lambda y, r: rank(list(y), LEVEL, r, resamples=499).strengths[3],
            float(truth[3]),
            repetitions // 2,
        )
    for n, rho in itertools.product((10, 30, 100), (0.0, 0.6)):
        yield Setting(
            "Spearman of proxy and gold: percentile bootstrap",
            f"{n} points, truth {6 / math.pi * math.asin(rho / 2):.2f}",
            lambda rng, n=n, rho=rho: np.linalg.cholesky([[1, rho], [rho, 1]]) @ rng.normal(size=(2, n)),  # type: ignore[misc]
            lambda y, r: comparisons.spearman(y[0], y[1], LEVEL, r, 999),
            6 / math.pi * math.asin(rho / 2),
            repetitions // 2,
        )


def by_length(seeds: int, prompts: int, log_odds: float, seed_sd: float) -> Draw:
    """[2, S, P] verdicts and length differences; the win rate at equal length is expit(log_odds) or near it."""

    def draw(rng: Rng) -> Array:
        lengths = rng.normal(0.5, 1.0, size=(seeds, prompts))
        odds = log_odds + seed_sd * rng.normal(size=(seeds, 1)) + 1.5 * np.tanh(lengths)
        return np.stack([(rng.random((seeds, prompts)) < special.expit(odds)).astype(np.float64), lengths])

    return draw


def settings(repetitions: int) -> Iterator[Setting]:
    for part in (one_seed_verdicts, one_seed_numbers, several_seeds, rates_over_seeds, other_statistics):
        # by section, in the order of their first settings
        found = list(part(repetitions))
        for section in dict.fromkeys(setting.section for setting in found):
            yield from (setting for setting in found if setting.section == section)


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
(.91) and ratios of variances (.89 to .92 up to 100 prompts).  The pigeonhole bootstrap is too short wherever few seeds
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
