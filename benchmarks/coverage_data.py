"""Data of seeds and prompts whose true value is known, and what a simulation of benchmarks/coverage.py consists of."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from rlhf_bench.harness.statistics.cells import Array
from rlhf_bench.harness.statistics.intervals import Interval

LEVEL = 0.95
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
