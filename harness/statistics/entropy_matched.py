"""A policy against the SFT policy at the temperature at which that is as sure: equal entropy per token.

Optimisation makes a policy surer, and a surer policy makes fewer sampling errors: part of a gain of sampled responses
may be no more than that.  The SFT policy at a lower temperature is surer without having learned anything, so it is the
control.  Its values are interpolated between the sampled temperatures, linearly in the entropy; never beyond them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.statistics.cells import Array, Clusters, drawn_weights
from rlhf_bench.harness.statistics.frontier import METHOD, RESAMPLES, interval_of, read
from rlhf_bench.harness.statistics.gao import Totals, totals_of
from rlhf_bench.harness.statistics.intervals import Interval, allow_non_finite, unbounded, undefined
from rlhf_bench.harness.statistics.layers import Layers, outer_codes
from rlhf_bench.harness.statistics.monotonicity import units_of

CONTROL = "sft-tempered"
"""The optimiser that samples the SFT policy at lower temperatures, and the name of its arm: it has no reward model."""
LOWEST = 0.01
"""The lowest temperature: it is greedy decoding but for near ties, and logits stay finite."""
MISSING = "some responses have no log-probability"
NOTHING = "no seed or no prompt in common"
ONE_UNIT = "one prompt or one cluster of prompts: its spread is unknown"
OUTSIDE = "the policy's entropy lies outside of those of the SFT policy's temperatures"


def parse_temperatures(text: str) -> tuple[float, ...]:
    """Temperatures from a text such as "1,0.8,0.6", falling: the same numbers in any order have one key.

    Raises BenchError for what is no number, for one that is not from LOWEST to 1, for fewer than two, and for one that
    is given twice.
    """
    name, fix = f"sft_tempered.temperatures is {text!r}", "Write them as in sft_tempered.temperatures=1,0.8,0.6."
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        raise BenchError(f"{name}, no list of numbers.", fix) from None
    # a comparison that NaN fails too
    if wrong := [value for value in found if not LOWEST <= value <= 1]:
        raise BenchError(
            f"{name}, with {wrong[0]:g}.",
            f"Each is a part of the SFT baseline's temperature, from {LOWEST:g} to 1, which is its own.",
        )
    if len(found) < 2:
        raise BenchError(f"{name}, a single one.", f"A curve needs two or more. {fix}")
    if len(set(found)) < len(found):
        raise BenchError(f"{name}, which names one temperature twice.", "Give each once.")
    return tuple(sorted(found, reverse=True))


class Sampled(NamedTuple):
    """Sampled responses of S seeds, at C temperatures or checkpoints, to P prompts: [S, C, P] each.

    logprob: the sum of the tokens' log-probabilities under the policy that wrote them, in nats.  tokens: their number,
    thinking and end-of-sequence included.  value: any measure of the response, NaN where undecided.
    """

    logprob: Array
    tokens: Array
    value: Array


class Matched(NamedTuple):
    """sft: the SFT policy's value at the policy's entropy.  difference: the policy's value minus it."""

    sft: Interval
    difference: Interval


def entropies(found: Sampled) -> Array:
    """[S, C] entropy per token in nats: minus the mean log-probability of the sampled tokens.

    The sums over all responses are divided, as the `entropy_estimate` of rollouts in steps.jsonl: the estimate is of
    the entropy of a response over the expected number of its tokens.
    """
    return np.asarray(-found.logprob.sum(axis=-1) / found.tokens.sum(axis=-1))


@allow_non_finite
def entropy(
    logprob: Array,
    tokens: Array,
    level: float,
    rng: np.random.Generator,
    clusters: Clusters | None = None,
    layers: Layers | None = None,
) -> Interval:
    """Entropy per token in nats of responses [S, P]: the mean over seeds, its interval as those of a difference.

    Of runs in layers the means over the outermost layer stand for seeds (as in `layers.outer_means`); a prompt of other
    data has 0 in both.  Undefined where a log-probability is not known.
    """
    if not logprob.size or np.isnan(logprob + tokens).any():
        return undefined(MISSING if logprob.size else NOTHING, METHOD)
    codes = units_of(logprob.shape[1], clusters)
    units = int(codes.max()) + 1
    member = np.eye(units)[codes]
    of = -logprob @ member, tokens @ member  # [S, U] each
    found = _outer(_means(of, np.ones((1, units))), layers)[0]
    if units < 2:
        return unbounded(float(found.mean()), METHOD, ONE_UNIT)
    draws = _outer(_means(of, drawn_weights(rng, RESAMPLES, units)), layers)
    left_out = _outer(_means(of, 1.0 - np.eye(units)), layers)[:, 0] if len(found) == 1 else np.empty(0)
    return interval_of(found, draws, left_out, units, level, NOTHING, "a response was drawn")


@allow_non_finite
def at_equal_entropy(
    policy: Sampled,
    tempered: Sampled,
    level: float,
    rng: np.random.Generator,
    clusters: Clusters | None = None,
    resamples: int = RESAMPLES,
    layers: Layers | None = None,
) -> Matched:
    """The policy (C = 1) against the tempered SFT policy at the policy's entropy, seed by seed, on the same prompts.

    Intervals as `frontier.at_kl`: prompts (or clusters) are resampled, entropies, means and the interpolation computed
    again each time, and seeds enter by their own values (two-way t; one seed: BCa); of runs in layers the means over
    the outermost layer stand for seeds (as in `layers.outer_means`), and a prompt of other data has the logarithm 0, no
    tokens and no value.  Undefined where a seed's policy is surer than at the lowest temperature or less sure than at
    the highest.  Raises BenchError for shapes that differ.
    """
    shapes = [part.shape for found in (policy, tempered) for part in found]
    wrong = any(len(shape) != 3 for shape in shapes) or len(set(shapes[:3])) > 1 or len(set(shapes[3:])) > 1
    if wrong or shapes[0][1] != 1 or shapes[0][::2] != shapes[3][::2]:
        raise BenchError(
            f"Samples of shapes {', '.join(map(str, shapes))}.",
            "Give [seeds, 1, prompts] of the policy and [seeds, temperatures, prompts], on the same seeds and prompts.",
        )
    seeds, _, prompts = shapes[0]
    if not seeds or not prompts:
        return Matched(undefined(NOTHING, METHOD), undefined(NOTHING, METHOD))
    codes = units_of(prompts, clusters)
    units = int(codes.max()) + 1
    member = np.eye(units)[codes]
    of = [_totals(found, member) for found in (policy, tempered)]
    found = _outer(_read(of, np.ones((1, units))), layers)[:, 0]  # [2, S]
    draws = _outer(_read(of, drawn_weights(rng, resamples, units)), layers)  # [2, R, S]
    left_out = _outer(_read(of, 1.0 - np.eye(units)), layers) if found.shape[1] == 1 else np.empty((2, 0, 1))
    inside = "every seed's policy lies between the temperatures"

    def interval(own: Array, drawn: Array, without: Array) -> Interval:
        if units < 2 and np.isfinite(own).all():
            return unbounded(float(own.mean()), METHOD, ONE_UNIT)
        return interval_of(own, drawn, without[:, 0], units, level, OUTSIDE, inside)

    sft, difference = map(interval, found, draws, left_out)
    return Matched(sft, difference)


def _totals(found: Sampled, member: Array) -> tuple[Totals, Totals]:
    """(entropy, value) as sums over units of prompts, numerator and denominator."""
    return (-found.logprob @ member, found.tokens @ member), totals_of(found.value, member)


def _means(totals: Totals, weights: Array) -> Array:
    """[R, ...] ratios of totals [..., U] under the weights of units [R, U]."""
    above, below = (np.moveaxis(part @ weights.T, -1, 0) for part in totals)
    return np.asarray(above / below)


def _outer(values: Array, layers: Layers | None) -> Array:
    """[..., S] -> [..., D]: means over the outermost layer, NaN where a run has none: its curve was not reached."""
    if layers is None:
        return values
    codes = outer_codes(layers)
    return np.stack([values[..., codes == code].mean(axis=-1) for code in range(int(codes.max()) + 1)], axis=-1)


def _read(of: Sequence[tuple[Totals, Totals]], weights: Array) -> Array:
    """[2, R, S] the SFT policy's value at the policy's entropy, and the policy's minus it, under weights [R, U]."""
    (own, value), (others, values) = ([_means(totals, weights) for totals in found] for found in of)  # [R, S, C] each
    # read at 0 from the policy's own entropy, which differs by resample and seed
    sft = read(others - own, values, [0.0])[..., 0]
    return np.stack([sft, value[..., 0] - sft])
