"""Intervals of means and rates that benchmarks/coverage.py simulates: one seed, several seeds, nested seeds."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
from coverage_data import LEVEL, RATES, SEEDS, SIZES, Measure, Rng, Setting, crossed, outcomes, rates

from rlhf_bench.harness.statistics import comparisons
from rlhf_bench.harness.statistics import intervals as s
from rlhf_bench.harness.statistics.cells import Array


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


def nested_seeds(repetitions: int) -> Iterator[Setting]:
    """Outcomes of data seeds x reward seeds x PPO seeds x prompts; the residual's standard deviation is 1."""
    designs = [(3, 1, 1), (3, 2, 2), (2, 2, 3), (5, 2, 2), (10, 1, 1)]
    spreads = [(0.5, 0.5, 0.5), (0.0, 0.5, 0.2), (0.5, 0.0, 0.0), (0.0, 0.0, 0.0)]
    for shared, design, spread in itertools.product((True, False), designs, spreads):
        layers, prompts = nested_columns((*design, 40), shared)
        yield Setting(
            f"Nested seeds: t over layers, prompts {'shared by' if shared else 'drawn for each of'} the data seeds",
            f"{' x '.join(map(str, design))} data, reward, PPO seeds, sd {' '.join(f'{sd:g}' for sd in spread)}",
            lambda rng, design=design, spread=spread, shared=shared: nested_cells(rng, design, spread, shared),  # type: ignore[misc]
            lambda y, _, layers=layers, prompts=prompts: s.nested_t(y, layers, prompts, LEVEL),  # type: ignore[misc]
            0.0,
            repetitions // 2,
        )


def nested_columns(shape: tuple[int, ...], shared: bool) -> tuple[dict[str, list[int]], list[int]]:
    """The layers and prompts of the cells of `nested_cells`, in the order of their raveled form."""
    data, reward, ppo, prompt = np.indices(shape).reshape(4, -1)
    prompts = prompt if shared else shape[3] * data + prompt
    return {"data": data.tolist(), "reward": reward.tolist(), "PPO": ppo.tolist()}, prompts.tolist()


def nested_cells(rng: Rng, design: tuple[int, int, int], spread: tuple[float, float, float], shared: bool) -> Array:
    """[N] outcomes around 0, 40 prompts; prompts have a standard deviation of .7."""
    d, r, p = design
    seeds = zip(spread, ((d, 1, 1, 1), (d, r, 1, 1), (d, r, p, 1)), strict=True)
    cells = sum(sd * rng.normal(size=shape) for sd, shape in seeds)
    cells = cells + 0.7 * rng.normal(size=(1 if shared else d, 1, 1, 40)) + rng.normal(size=(d, r, p, 40))
    return np.asarray(cells).ravel()
