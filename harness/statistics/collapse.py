"""Collapse of an outcome's distribution: spread and shape before against after training, and repetition of texts.

Before and after are paired by prompt: resampling draws prompts (or clusters of them), and the permutation null swaps
the two within a prompt.  Each statistic is measured once per training run; `over_seeds` combines several runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import scipy  # scipy.stats loads when it is first used: half a second that most commands do without
from scipy import special

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.statistics.cells import Array, Clusters, Codes, cluster_sums, constant, tidy, upper_tail
from rlhf_bench.harness.statistics.intervals import Interval, allow_non_finite, bca, bounded, unbounded, undefined
from rlhf_bench.harness.statistics.layers import Layers, chosen, outer_means

RESAMPLES = 1999
SHAPES = ("ks", "wasserstein", "energy")
KEYS = ("variance ratio", "levene p", *(key for shape in SHAPES for key in (shape, f"{shape} p")))
SHARES = ("top share", "distinct-1", "distinct-2", "ks")
ONE_RUN = "conditional on this training run"
# Notes that reports show.
CLUSTERED = "Levene's test takes prompts for independent, and these share sources: see the variance ratio"
ENOUGH = 300  # independent prompts: with fewer, the variance ratio's interval covers .87 to .93 (docs/coverage.md)
SHORT = f"fewer than {ENOUGH} independent prompts: the interval is a little short, more so for long tails"
ROUNDING = 1e-12  # relative to the mean square: a smaller variance counts as 0
FEW_VALUES = 100  # up to which a product is faster than a sum over all values
CHUNK = 100  # swaps at a time: bounds the memory


@allow_non_finite
def collapse(
    before: npt.ArrayLike,
    after: npt.ArrayLike,
    rng: np.random.Generator,
    level: float,
    resamples: int = RESAMPLES,
    clusters: Clusters | None = None,
) -> dict[str, Interval]:
    """Distribution statistics of one number per prompt, before [n] and after [n]; the keys are KEYS.

    The ratio of variances after / before (BCa), Levene's p around medians (Brown & Forsythe 1974; it ignores the
    pairing), and three distances, each with a permutation p: Kolmogorov-Smirnov, Wasserstein (the data's unit), energy
    (Szekely & Rizzo 2013; the square root of the unit).  Undecided prompts are left out of both.  With clusters [n]
    whole clusters are resampled and swapped; Levene's test has no form for clusters and is left out.  Raises BenchError
    unless both have the same shape [n].
    """
    first, second = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape:
        raise BenchError(
            f"Shapes {first.shape} before and {second.shape} after.", "Give one number per prompt in both."
        )
    pair = np.stack([first, second])
    # [2, n] the prompts with two finite numbers: an undecided side takes the whole prompt out
    kept, codes, _ = tidy(np.where(np.isfinite(pair).all(axis=0), pair, np.nan), clusters)
    pair = kept.reshape(2, -1)
    n, units = pair.shape[1], pair.shape[1] if codes is None else int(codes.max()) + 1
    if units < 3:
        what = f"{n} prompts" if codes is None else f"{units} clusters of prompts"
        return dict.fromkeys(KEYS, undefined(f"{what} decided both before and after: needs 3"))
    scale = float(np.abs(pair).max()) or 1.0  # the largest value becomes 1: squares neither overflow nor underflow
    first, second = pair / scale
    if codes is not None:
        levene = undefined(CLUSTERED)
    elif constant(first) and constant(second):
        levene = undefined("the values vary neither before nor after", "levene (median)")
    else:
        # Around medians: Brown & Forsythe (1974).
        levene = unbounded(float(scipy.stats.levene(first, second, center="median").pvalue), "levene (median)")
    return {
        "variance ratio": variance_ratio(first, second, rng, level, resamples, codes),
        "levene p": levene,
        **_distances(first, second, np.arange(n) if codes is None else codes, scale, rng, resamples),
    }


def variance_ratio(
    first: Array,
    second: Array,
    rng: np.random.Generator,
    level: float,
    resamples: int = RESAMPLES,
    codes: Codes | None = None,
) -> Interval:
    """BCa interval of var(second) / var(first), paired by prompt [n]; whole clusters (codes [n]) are resampled."""
    if constant(first):
        return undefined("the values before do not vary")
    if constant(second):
        return unbounded(0.0, "none", "the values after do not vary: resampling gives no bounds")

    def ratio(totals: Array) -> Array:
        """[..., 5] totals of 1, x, x^2, y, y^2 -> [...] var(y) / var(x)."""
        count, x, xx, y, yy = np.moveaxis(totals, -1, 0)
        before, after = (np.maximum(squares / count - (sums / count) ** 2, 0.0) for sums, squares in ((x, xx), (y, yy)))
        # nan where x does not vary in a resample: it is left out, and the interval is then a percentile one
        return np.asarray(after / np.where(before > ROUNDING * xx / count, before, np.nan))

    # E x^2 - (E x)^2 loses digits where the mean is large against the spread: centred values have a mean of 0.
    one, two = first - first.mean(), second - second.mean()
    columns = cluster_sums(np.stack([np.ones_like(one), one, one * one, two, two * two]), codes)
    found = bca(columns.T, ratio, level, rng, resamples)
    return found.noted(SHORT if columns.shape[1] < ENOUGH else "")


def _distances(
    first: Array, second: Array, codes: Codes, scale: float, rng: np.random.Generator, resamples: int
) -> dict[str, Interval]:
    """Distances between the two distribution functions, and the share of swaps within prompts that reach them.

    Prompts of one cluster (equal codes [n]) are swapped together.
    """
    n, units = first.size, int(codes.max()) + 1
    pooled = np.concatenate([first, second])
    order = np.argsort(pooled, kind="stable")
    # Values in rising order [2n]: the gap to the next one, +1 before and -1 after, the cluster.
    gaps, side, unit = np.diff(pooled[order]), np.where(order < n, 1.0, -1.0), codes[order % n]
    ends = np.flatnonzero(gaps > 0)  # the last of each group of ties, but for the largest value
    few = 0 < ends.size <= FEW_VALUES
    if few:
        # [units, k] what each unit adds to n (F_before - F_after) at the k ends.  These are whole numbers, so that a
        # product with the swaps is exact.
        steps = np.zeros((units, ends.size))
        place = np.minimum(np.searchsorted(ends, np.arange(side.size)), ends.size - 1)
        np.add.at(steps, (unit, place), np.where(np.arange(side.size) <= ends[-1], side, 0.0))
        steps = np.cumsum(steps, axis=1)
    observed = _shapes(side[None], gaps)[:, 0]
    reached = np.ones(len(SHAPES))  # the observed sides are one of the swaps, so that p is never 0
    for start in range(0, resamples, CHUNK):
        flips = 2.0 * rng.integers(0, 2, size=(min(CHUNK, resamples - start), units)) - 1.0
        null = _of_curve(flips @ steps / n, gaps[ends]) if few else _shapes(side * flips[:, unit], gaps)
        reached += (null >= observed[:, None] * (1 - 1e-9)).sum(axis=1)  # equal but for rounding counts
    found: dict[str, Interval] = {}
    # Back to the data's unit: KS has none, Wasserstein the unit itself, energy its square root.
    for name, value, factor, count in zip(SHAPES, observed, (1.0, scale, scale**0.5), reached, strict=True):
        found[name] = unbounded(float(value * factor), name)
        found[f"{name} p"] = unbounded(float(count / (resamples + 1)), "permutation within prompts")
    return found


def _shapes(sides: Array, gaps: Array) -> Array:
    """[3, R] KS, Wasserstein and energy distance; sides [R, 2n]: +1 before, -1 after, by rising value."""
    return _of_curve(np.cumsum(sides, axis=1)[:, :-1] / (sides.shape[1] / 2), gaps)


def _of_curve(curve: Array, gaps: Array) -> Array:
    """The same from F_before - F_after between neighbouring values [R, k] and the gaps between them [k]."""
    absolute = np.abs(curve)
    # sup |D|, the integral of |D|, and sqrt(2 integral of D^2) (Szekely & Rizzo 2013); ties have a gap of 0.
    highest = (absolute if (gaps > 0).all() else absolute * (gaps > 0)).max(axis=1)
    return np.stack([highest, absolute @ gaps, np.sqrt(2 * (curve * curve) @ gaps)])


def repetition(responses: Sequence[str]) -> dict[str, Interval]:
    """Share of the most frequent response, and distinct-1 and -2: distinct over all word n-grams (Li et al. 2016).

    Words are split at white space.  Distinct-n falls with the amount of text, so compare equal numbers of responses.
    """
    texts = [" ".join(response.split()) for response in responses]  # responses that differ in white space are equal
    if not texts:
        return dict.fromkeys(("top share", "distinct-1", "distinct-2"), undefined("no response"))
    counts = Counter(texts)
    most = counts.most_common(1)[0][1]
    return {
        "top share": unbounded(most / len(texts), "count", f"{most} of {len(texts)} responses"),
        "distinct-1": _distinct(counts, 1),
        "distinct-2": _distinct(counts, 2),
    }


def _distinct(texts: Mapping[str, int], n: int) -> Interval:
    """Of texts by how often they occur, with single spaces: a collapsed policy repeats them, and each is split once."""
    distinct, _ = distinct_grams(map(str.split, texts), n)
    total = sum(count * max(text.count(" ") + 2 - n, 0) for text, count in texts.items() if text)
    if not total:
        return undefined(f"no response has {n} words", f"distinct-{n}")
    return unbounded(distinct / total, f"distinct-{n}", f"of {total}")


def distinct_grams(texts: Iterable[Sequence[str]], n: int) -> tuple[int, int]:
    """How many different n-grams texts have, and how many in all; each text is its words."""
    grams: set[tuple[str, ...]] = set()
    total = 0
    for words in texts:
        grams.update(zip(*(words[i:] for i in range(n)), strict=False))
        total += max(len(words) - n + 1, 0)
    return len(grams), total


@allow_non_finite
def over_seeds(name: str, found: Sequence[Interval], level: float, layers: Layers | None = None) -> Interval:
    """One statistic measured once per training seed, as one Interval.

    Several seeds: Student's t over their values, on the logarithm where the name ends with "ratio"; it holds for other
    training runs on these prompts.  Runs in layers [S]: over the means of the outermost layer with several levels.
    P-values are listed, not averaged.  Seeds without a value are counted in the note.
    """
    if not found:
        return undefined("no seed")
    if len(found) == 1:
        one = found[0]
        return one if one.value is None or ONE_RUN in one.note else one.noted(ONE_RUN)
    values = [one.value for one in found if one.value is not None]
    reasons = dict.fromkeys(one.note for one in found if one.value is None)
    count = len(found) - len(values)
    missing = f"{count} of {len(found)} seeds without a value ({'; '.join(reasons)})" if count else ""
    if not values:
        return undefined(missing)
    if name.endswith(" p"):
        listed = ", ".join(f"{p:.3g}".removeprefix("0") or "0" for p in values)
        return undefined(f"p-values of {len(values)} seeds: {listed}").noted(missing)
    # one value among several seeds: it is shown, with the seeds that lack one counted
    if len(values) == 1:
        (only,) = (one for one in found if one.value is not None)
        return unbounded(values[0], only.method, f"one seed has a value, {ONE_RUN}").noted(only.note, missing)
    known = [place for place, one in enumerate(found) if one.value is not None]
    return _student(name, np.array(values), level, chosen(layers, known)).noted(
        f"{len(values)} seeds, on these prompts", missing
    )


def _student(name: str, values: Array, level: float, layers: Layers | None = None) -> Interval:
    """t interval over the seeds' values [S], S at least 2, inside the statistic's range."""
    method, note = "t over seeds", ""
    zeros = int((values <= 0).sum())
    ratio = name.endswith("ratio") and not zeros
    if zeros and name.endswith("ratio"):
        # The variance ratio of a collapse to one value is 0, which has no logarithm.
        note = f"{zeros} values are 0: the mean of the ratios themselves, not of their logarithms"
    scaled = np.log(values) if ratio else values  # ratios r and 1 / r are equally far from 1 on this scale
    scaled = outer_means(scaled, layers)
    mean = float(scaled.mean())
    half = float(special.stdtrit(scaled.size - 1, upper_tail(level)) * scaled.std(ddof=1)) / scaled.size**0.5
    if constant(scaled):
        equal = "all values are equal: nothing varied here"
        mean, half, note = float(scaled[0]), 0.0, "; ".join(filter(None, (note, equal)))
    bounds = np.array([mean, mean - half, mean + half])
    value, low, high = (np.exp(bounds) if ratio else bounds).tolist()
    found = bounded(value, low, high, method, note)
    highest = 1.0 if name in SHARES else np.inf
    return found if ratio else found.clipped(0.0, highest)
