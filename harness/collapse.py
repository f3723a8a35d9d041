"""Has the distribution of an outcome collapsed?  Spread and shape before against after, and how repetitive texts are.

Before and after are paired by prompt: resampling draws prompts, and the permutation null swaps the two within prompts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.statistics import Array, Interval, alone, bca, constant, nothing, quiet

RESAMPLES = 1999
SHAPES = ("ks", "wasserstein", "energy")
KEYS = ("variance ratio", "levene p", *(key for shape in SHAPES for key in (shape, f"{shape} p")))
CHUNK = 100  # swaps at a time: bounds the memory


@quiet
def collapse(
    before: npt.ArrayLike, after: npt.ArrayLike, rng: np.random.Generator, level: float, resamples: int = RESAMPLES
) -> dict[str, Interval]:
    """Distribution statistics of one number per prompt, before [n] and after [n]; the keys are KEYS.

    The ratio of variances after / before (BCa), Levene's p around medians (Brown & Forsythe 1974; it ignores the
    pairing), and three distances, each with a permutation p: Kolmogorov-Smirnov, Wasserstein (the data's unit), energy
    (Szekely & Rizzo 2013; the square root of the unit).  Undecided prompts are left out of both.
    """
    pair = _paired(before, after)
    n = pair.shape[1]
    if n < 3:
        return dict.fromkeys(KEYS, nothing(f"{n} prompts decided both before and after: needs 3"))
    scale = float(np.abs(pair).max()) or 1.0  # so that squares neither overflow nor vanish
    first, second = pair / scale
    return {
        "variance ratio": _variance_ratio(first, second, rng, level, resamples),
        "levene p": _levene(first, second),
        **_distances(first, second, scale, rng, resamples),
    }


def _paired(before: npt.ArrayLike, after: npt.ArrayLike) -> Array:
    """[2, n] the prompts with two finite numbers."""
    first, second = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape:
        raise BenchError(
            f"Shapes {first.shape} before and {second.shape} after.", "Give one number per prompt in both."
        )
    pair: Array = np.stack([first, second])
    return pair[:, np.isfinite(pair).all(axis=0)]


def _variance_ratio(first: Array, second: Array, rng: np.random.Generator, level: float, resamples: int) -> Interval:
    if constant(first):
        return nothing("the values before do not vary")
    if constant(second):
        return alone(0.0, "none", "the values after do not vary at all: resampling cannot tell how certain that is")
    return bca((first, second), _ratio_of_variances, level, rng, resamples)


def _ratio_of_variances(first: Array, second: Array, axis: int = -1) -> Any:
    below = first.var(axis=axis)
    return second.var(axis=axis) / np.where(below > 0, below, np.nan)  # a resample without spread says nothing


def _levene(first: Array, second: Array) -> Interval:
    if constant(first) and constant(second):
        return nothing("the values vary neither before nor after", "levene (median)")
    return alone(float(stats.levene(first, second, center="median").pvalue), "levene (median)")


def _distances(
    first: Array, second: Array, scale: float, rng: np.random.Generator, resamples: int
) -> dict[str, Interval]:
    """Distances between the two distribution functions and the share of within-prompt swaps that reach them."""
    n = first.size
    pooled = np.concatenate([first, second])
    order = np.argsort(pooled, kind="stable")
    gaps, side, prompt = np.diff(pooled[order]), np.where(order < n, 1.0, -1.0), order % n
    observed = _shapes(side[None], gaps)[:, 0]
    reached = np.ones(len(SHAPES))  # the data as they are is one of the swaps
    for start in range(0, resamples, CHUNK):
        flips = 2.0 * rng.integers(0, 2, size=(min(CHUNK, resamples - start), n)) - 1.0
        reached += (_shapes(side * flips[:, prompt], gaps) >= observed[:, None] * (1 - 1e-9)).sum(axis=1)
    found: dict[str, Interval] = {}
    for name, value, unit, count in zip(SHAPES, observed, (1.0, scale, scale**0.5), reached, strict=True):
        found[name] = alone(float(value * unit), name)
        found[f"{name} p"] = alone(float(count / (resamples + 1)), "permutation within prompts")
    return found


def _shapes(sides: Array, gaps: Array) -> Array:
    """[3, R] KS, Wasserstein and energy distance; sides [R, 2n]: +1 before, -1 after, by rising value."""
    curve = np.cumsum(sides, axis=1)[:, :-1] / (sides.shape[1] / 2)  # F_before - F_after between neighbouring values
    absolute = np.abs(curve)
    return np.stack([(absolute * (gaps > 0)).max(axis=1), absolute @ gaps, np.sqrt(2 * (curve * curve) @ gaps)])


def repetition(responses: Sequence[str]) -> dict[str, Interval]:
    """Share of the most frequent response, and distinct-1 and -2: distinct over all word n-grams (Li et al. 2016).

    Words are split at white space.  Distinct-n falls with the amount of text, so compare equal numbers of responses.
    """
    texts = [" ".join(response.split()) for response in responses]
    if not texts:
        return dict.fromkeys(("top share", "distinct-1", "distinct-2"), nothing("no response"))
    most = Counter(texts).most_common(1)[0][1]
    return {
        "top share": alone(most / len(texts), "count", f"{most} of {len(texts)} responses"),
        "distinct-1": _distinct(texts, 1),
        "distinct-2": _distinct(texts, 2),
    }


def _distinct(texts: Sequence[str], n: int) -> Interval:
    grams = [gram for words in map(str.split, texts) for gram in zip(*(words[i:] for i in range(n)), strict=False)]
    if not grams:
        return nothing(f"no response has {n} words", f"distinct-{n}")
    return alone(len(set(grams)) / len(grams), f"distinct-{n}", f"of {len(grams)}")
