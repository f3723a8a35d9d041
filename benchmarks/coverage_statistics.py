"""Intervals of other statistics, which benchmarks/coverage.py simulates: ratios, rankings, frontiers, modes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
from coverage_data import LEVEL, SEEDS, Draw, Measure, Rng, Setting
from scipy import special

from rlhf_bench.harness.statistics import collapse, comparisons, frontier, monotonicity, ratio, runs
from rlhf_bench.harness.statistics import intervals as s
from rlhf_bench.harness.statistics.cells import Array
from rlhf_bench.harness.statistics.intervals import Interval
from rlhf_bench.harness.statistics.length_control import length_controlled
from rlhf_bench.harness.statistics.ranking import rank, strengths


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
            "Spearman of reward models, one ranking: percentile bootstrap",
            f"{n} points, truth {6 / math.pi * math.asin(rho / 2):.2f}",
            lambda rng, n=n, rho=rho: np.linalg.cholesky([[1, rho], [rho, 1]]) @ rng.normal(size=(2, n)),  # type: ignore[misc]
            lambda y, r: comparisons.spearman(y[0], y[1], LEVEL, r, 999),
            6 / math.pi * math.asin(rho / 2),
            repetitions // 2,
        )


def at_equal_kl(repetitions: int) -> Iterator[Setting]:
    for seeds, kl, prompts in itertools.product((1, *SEEDS), (0.25, 1.0, 1.5), (100, 256)):
        yield Setting(
            "Difference at equal KL to the SFT policy, interpolated",
            f"{seeds} seeds, {prompts} prompts, KL {kl:g}",
            frontiers(seeds, prompts),
            lambda y, r, kl=kl: frontier.at_kl(halves(y), [kl], LEVEL, frontier.draws_of(r, y.shape[3], None, 500))[0],  # type: ignore[misc]
            float(gold_at(kl, 0.6) - gold_at(kl, 0.4)),
            repetitions // 2,
        )


def gold_at(kl: Array | float, a: float) -> Array:
    """Gao's curve for PPO, d (a - .2 log d) at d = sqrt(KL)."""
    d = np.sqrt(np.asarray(kl, dtype=np.float64))
    return np.asarray(d * (a - 0.2 * np.log(np.where(d > 0, d, 1.0))))


def frontiers(seeds: int, prompts: int) -> Draw:
    """[4, S, C, P] KL and gold of two arms at 4 and 3 checkpoints and the SFT policy, the second padded with NaN.

    KL by single samples (standard deviation up to 2 nats), a fifth of it different between seeds; gold along Gao's
    curve, with a run's own effect of .1, a prompt's of .3 and noise of .4.  One seed is the average run.
    """

    def draw(rng: Rng) -> Array:
        found = np.full((4, seeds, 5, prompts), np.nan)
        of_prompt = 0.3 * rng.normal(size=prompts)
        several = float(seeds > 1)
        for at, (a, ends) in enumerate(((0.6, (0.0, 0.4, 0.9, 1.6, 2.6)), (0.4, (0.0, 0.7, 1.3, 2.3)))):
            kl = np.array(ends) * np.exp(0.2 * several * rng.normal(size=(seeds, 1)))
            gold = gold_at(kl, a) + 0.1 * several * rng.normal(size=(seeds, 1)) * (kl > 0)
            sampled = np.minimum(2.0, 2 * np.sqrt(kl))[..., None] * rng.normal(size=(*kl.shape, prompts))
            noise = 0.4 * rng.normal(size=(*kl.shape, prompts))
            found[2 * at, :, : len(ends)] = kl[..., None] + sampled
            found[2 * at + 1, :, : len(ends)] = gold[..., None] + of_prompt + noise
        return found

    return draw


def halves(y: Array) -> list[frontier.Curve]:
    return [frontier.Curve(y[0], y[1]), frontier.Curve(y[2], y[3])]


def shares_of_a_ceiling(repetitions: int) -> Iterator[Setting]:
    for seeds, prompts, whole in itertools.product((1, *SEEDS), (30, 100, 256), (0.3, 0.6)):
        for section, measure in (
            ("Share of the ceiling: Fieller's interval", lambda y, _: ratio.share(y[0], y[1], LEVEL)),
            ("Share of the ceiling: pigeonhole bootstrap (no reported number uses it)", bootstrapped_ratio),
        ):
            yield Setting(
                section,
                f"{seeds} seeds, {prompts} prompts, gain of the ceiling {whole:g}",
                two_gains(seeds, prompts, 0.5 * whole, whole),
                measure,
                0.5,
                repetitions // 2,
            )


def two_gains(seeds: int, prompts: int, part: float, whole: float) -> Draw:
    """[2, S, P] gains of an arm and of its ceiling: prompts alike (.3), runs of their own (.08), noise .4."""

    def draw(rng: Rng) -> Array:
        runs = (0.08 if seeds > 1 else 0.0) * rng.normal(size=(2, seeds, 1))
        noise = 0.4 * rng.normal(size=(2, seeds, prompts))
        return np.array([part, whole])[:, None, None] + 0.3 * rng.normal(size=prompts) + runs + noise

    return draw


def bootstrapped_ratio(y: Array, rng: Rng) -> Interval:
    """The companion of `ratio.share`: percentiles of the ratio over resampled seeds and prompts."""
    seeds, prompts = (rng.multinomial(n, np.full(n, 1 / n), size=500) for n in y.shape[1:])
    means = np.einsum("rs,ksp,rp->kr", seeds, y, prompts, optimize=True)
    return s.percentile(float(y[0].mean() / y[1].mean()), means[0] / means[1], LEVEL)


def two_modes(repetitions: int) -> Iterator[Setting]:
    """Runs that gain .15 of gold, or lose .375 with some probability: gold in [0, 1], standard deviation .2."""
    measures: dict[str, Measure] = {
        "two-way t, of the mean over all runs (alone before)": lambda y, _: s.two_way(y[1] - y[0], LEVEL),
        "two-way t, of the runs that do not collapse": lambda y, _: runs.of_runs(y[0], y[1], LEVEL).others,
        "exact, of the probability of a collapse": lambda y, _: runs.of_runs(y[0], y[1], LEVEL).share,
        "exact binomial with t of either mode, of the mean over all runs": (
            lambda y, _: runs.of_runs(y[0], y[1], LEVEL).mixture
        ),
    }
    for (name, measure), seeds, chance in itertools.product(measures.items(), (3, 5, 10, 20), (0.0, 0.1, 0.3, 0.5)):
        truths = {"all runs": (1 - chance) * 0.15 - chance * 0.375, "not collapse": 0.15, "of a collapse": chance}
        (truth,) = (value for end, value in truths.items() if end in name)
        yield Setting(
            f"Seeds of two modes: {name}",
            f"{seeds} seeds, 100 prompts, collapse {chance:g}",
            collapsing(seeds, 100, chance),
            measure,
            truth,
            repetitions,
        )


def collapsing(seeds: int, prompts: int, chance: float) -> Draw:
    """[2, S, P] gold before and after training; a run closes .3 of the gap to 1, or loses .6 to .9 of its gold."""

    def draw(rng: Rng) -> Array:
        before, after = (rng.random(prompts) + rng.random((2, seeds, prompts))) / 2
        gain, loss = rng.normal(0.3, 0.05, (seeds, 1)), rng.uniform(0.6, 0.9, (seeds, 1))
        collapsed = rng.random((seeds, 1)) < chance
        return np.stack([before, np.where(collapsed, (1 - loss) * after, (1 - gain) * after + gain)])

    return draw


def checkpoints(repetitions: int) -> Iterator[Setting]:
    """Rank correlations over checkpoints that are drawn independently; the truth is the population's."""
    measures: dict[str, Measure] = {
        "Fisher's z": lambda y, _: monotonicity.of_means(y[0][..., None], y[1][..., None], LEVEL),
        "t over seeds (before)": lambda y, r: monotonicity.agreement(y[0], y[1], LEVEL, r).over_seeds,
    }
    for (name, measure), n, seeds, rho in itertools.product(measures.items(), (6, 8, 12), (1, 3, 5), (0.0, 0.6, 0.9)):
        if seeds == 1 and "before" in name:
            continue
        yield Setting(
            f"Spearman over checkpoints: {name}",
            f"{n} checkpoints, {seeds} seeds, truth {6 / math.pi * math.asin(rho / 2):.2f}",
            lambda rng, shape=(seeds, n), rho=rho: correlated(rng, shape, rho),  # type: ignore[misc]
            measure,
            6 / math.pi * math.asin(rho / 2),
            repetitions,
        )


def correlated(rng: Rng, shape: tuple[int, int], rho: float) -> Array:
    """[2, *shape] pairs of normal numbers with this correlation."""
    x, noise = rng.normal(size=(2, *shape))
    return np.stack([x, rho * x + math.sqrt(1 - rho * rho) * noise])


def by_length(seeds: int, prompts: int, log_odds: float, seed_sd: float) -> Draw:
    """[2, S, P] verdicts and length differences; the win rate at equal length is expit(log_odds) or near it."""

    def draw(rng: Rng) -> Array:
        lengths = rng.normal(0.5, 1.0, size=(seeds, prompts))
        odds = log_odds + seed_sd * rng.normal(size=(seeds, 1)) + 1.5 * np.tanh(lengths)
        return np.stack([(rng.random((seeds, prompts)) < special.expit(odds)).astype(np.float64), lengths])

    return draw
