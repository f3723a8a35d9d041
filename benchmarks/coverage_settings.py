"""What benchmarks/coverage.py simulates: data whose true value is known, and the interval that should hold it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from scipy import special

from rlhf_bench.harness.statistics import collapse, comparisons, frontier, monotonicity, ratio, runs
from rlhf_bench.harness.statistics import intervals as s
from rlhf_bench.harness.statistics.cells import Array
from rlhf_bench.harness.statistics.intervals import Interval
from rlhf_bench.harness.statistics.length_control import length_controlled
from rlhf_bench.harness.statistics.ranking import rank, strengths

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
            lambda y, r, kl=kl: frontier.at_kl(halves(y), [kl], LEVEL, r, resamples=500)[0],  # type: ignore[misc]
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


def by_length(seeds: int, prompts: int, log_odds: float, seed_sd: float) -> Draw:
    """[2, S, P] verdicts and length differences; the win rate at equal length is expit(log_odds) or near it."""

    def draw(rng: Rng) -> Array:
        lengths = rng.normal(0.5, 1.0, size=(seeds, prompts))
        odds = log_odds + seed_sd * rng.normal(size=(seeds, 1)) + 1.5 * np.tanh(lengths)
        return np.stack([(rng.random((seeds, prompts)) < special.expit(odds)).astype(np.float64), lengths])

    return draw


def settings(repetitions: int) -> Iterator[Setting]:
    for part in (
        one_seed_verdicts,
        one_seed_numbers,
        several_seeds,
        rates_over_seeds,
        other_statistics,
        at_equal_kl,
        shares_of_a_ceiling,
        two_modes,
        checkpoints,
        nested_seeds,
    ):
        # by section, in the order of their first settings
        found = list(part(repetitions))
        for section in dict.fromkeys(setting.section for setting in found):
            yield from (setting for setting in found if setting.section == section)
