"""Warnings about the logs of PPO runs and about stored responses, as pure functions of their rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import special

from rlhf_bench.harness.seeds import Seed, named, run_name

if TYPE_CHECKING:
    from rlhf_bench.harness.statistics.cells import Array
    from rlhf_bench.harness.text.types import Row

EMPTY_SHARE, TRUNCATED_SHARE, NEGATIVE_KL = 0.2, 0.5, -0.5
"""Shares of an iteration's rollouts from 0 to 1, and nats per response; beyond them there is a warning."""
EXPLAINED = 0.1
"""Explained variance of the critic's values below which it says little about the returns."""
STILL_RISING = 0.1
"""Share of the whole gain in training reward that the last third may bring of a curve that has levelled off.

Of a gain that approaches its end exponentially, the last third brings this share where the end is 97% reached.
"""
BEYOND_NOISE = 0.95
"""One-sided level at which a rise is told from noise."""
UNTRAINED, UNTRAINED_SHARE = 0.5, 0.1
"""Correlation with its untrained self, within prompts, and that self's part of the variance of a trained reward model's
score; above both there is a warning.

Above .5 a quarter of the score's variance within prompts follows the random head.  Below a part of .1 the head cannot
have caused it: responses whose states vary in one direction give any two scores a high correlation.
"""
FEWEST_STEPS = 12
"""Iterations of a run below which nothing is said of its curve: the last third has fewer than 4."""


def alarms(steps: Sequence[Row]) -> dict[str, str]:
    """Sentences about the end of a PPO run, by what they are about; {} without a problem.

    `steps`: the rows of steps.jsonl, at least one, with kl (nats per response), empty_share and truncated_share (of
    the rollouts).  Means are over the last tenth of the iterations; NaN is looked for in all of them.
    """
    tail = steps[-max(1, len(steps) // 10) :]
    found = {}

    def mean(name: str) -> float:
        return float(sum(row[name] for row in tail) / len(tail))

    # every iteration, not only the tail; NaN differs from itself, and `isnan` raises for values that are no numbers
    if any(value != value for row in steps for value in row.values()):
        found["nan"] = "NaN in the log"
    # the KL is at least 0; the mean of its unbiased estimate may be slightly below by chance, but not by half a nat
    if mean("kl") < NEGATIVE_KL:
        found["kl"] = f"negative KL to the SFT policy: {mean('kl'):.2f} nats per response"
    if mean("empty_share") > EMPTY_SHARE:
        found["empty"] = f"{mean('empty_share'):.0%} of the rollouts are empty"
    if mean("truncated_share") > TRUNCATED_SHARE:
        found["truncated"] = f"{mean('truncated_share'):.0%} of the rollouts are cut off at the longest length"
    return found


def response_alarms(finished: Array, tokens: Array) -> list[str]:
    """Sentences about responses to held-out prompts, with the bounds of a run's rollouts; [] without a problem.

    finished [P]: 1 for a response that ended by itself, 0 for one that was cut off.   tokens [P]: its length without
    end-of-sequence.   NaN where not stored.
    """
    found = []
    ended, lengths = finished[~np.isnan(finished)], tokens[~np.isnan(tokens)]
    if lengths.size and (empty := float(np.mean(lengths == 0))) > EMPTY_SHARE:
        found.append(f"{empty:.0%} of the responses to held-out prompts are empty")
    if ended.size and (cut := float(np.mean(ended == 0))) > TRUNCATED_SHARE:
        found.append(f"{cut:.0%} of the responses to held-out prompts are cut off at the longest length")
    return found


def untrained_alarm(figures: Row) -> list[str]:
    """The sentence about a trained reward model that scores as it did before its first step; [] without a problem.

    `figures`: those of the stage that trained it, with `untrained_correlation` and `untrained_share` where the model
    began with a random head (reward_models/untrained.py).
    """
    found = [figures.get(name) for name in ("untrained_correlation", "untrained_share")]
    numbers = [value for value in found if isinstance(value, int | float)]
    if len(numbers) < 2 or numbers[0] <= UNTRAINED or numbers[1] <= UNTRAINED_SHARE:
        return []
    return [
        f"the reward is largely that of its untrained random head: correlation {numbers[0]:.2f} within prompts, "
        f"{numbers[1]:.2f} of its variance; a smaller head_std, a higher rate or more steps would leave less of it"
    ]


def running_alarms(steps: Sequence[Row]) -> dict[str, str]:
    """Sentences about a PPO run up to now, by what they are about; {} before FEWEST_STEPS iterations are made.

    As `alarms`, and whether the critic explains little; the curve of a run that goes on need not have levelled off.
    """
    if len(steps) < FEWEST_STEPS:  # the last tenth is one iteration, and the critic begins at 0
        return {}
    found, critic = alarms(steps), explained(steps)
    if critic is not None and critic < EXPLAINED:
        shown = round(critic, 2) + 0.0  # no -0.00
        found["critic"] = f"the critic explains {shown:.2f} of the variance of the returns, less than {EXPLAINED:g}"
    return found


def arm_alarms(runs: Mapping[Seed, Sequence[Row]]) -> list[str]:
    """Sentences about an arm's critic and its curves, each about all runs it applies to; [] without a problem.

    `runs`: steps.jsonl by training seed.
    """
    found = []
    critics = {seed: explained(steps) for seed, steps in runs.items()}
    weak = {seed: value for seed, value in critics.items() if value is not None and value < EXPLAINED}
    if weak:
        where = f"in {len(weak)} of {len(runs)} runs ({named(weak)})"
        if len(runs) == 1:
            where = run_name(next(iter(runs)))
        values = [f"{value:.2f}" for value in sorted(weak.values())]
        span = values[0] if values[0] == values[-1] else f"{values[0]} to {values[-1]}"
        found.append(
            f"the critic explains less than {EXPLAINED:g} of the variance of the returns in the last tenth of PPO, "
            f"{where}: {span}"
        )
    curve = last_third(mean_curve(runs))
    if curve and curve.rises:
        of = "the run" if len(runs) == 1 else f"the mean of {len(runs)} runs"
        brings = f"brings {curve.share:.0%} of the whole gain" if curve.share is not None else "still rises"
        found.append(
            f"the training reward has not levelled off: in {of} the last third of the iterations {brings}, "
            f"more than {STILL_RISING:.0%} of it beyond noise"
        )
    return found


def mean_curve(runs: Mapping[Seed, Sequence[Row]]) -> list[float]:
    """The training reward [T], mean over runs, up to the last iteration that all runs have.

    One statement for an arm: noise is averaged out, and false alarms do not add up over its runs.
    """
    rows = zip(*runs.values(), strict=False)
    return [sum(float(row["reward"]) for row in at) / len(at) for at in rows]


def explained(steps: Sequence[Row]) -> float | None:
    """Mean explained variance in the last tenth of the iterations (at least one); None where no critic is used."""
    tail = [row.get("explained_variance") for row in steps[-max(1, len(steps) // 10) :]]
    known = [float(value) for value in tail if value is not None and math.isfinite(value)]
    return sum(known) / len(known) if known else None


class LastThird(NamedTuple):
    """The last third of a training curve.

    rise: of the line through it, from its first to its last iteration.   error: the rise's standard error.   gain: from
    the first tenth of the run to the line's end.   All in the reward's unit.   rises: see `last_third`.
    """

    rise: float
    error: float
    gain: float
    rises: bool

    @property
    def share(self) -> float | None:
        """The rise as a share of the gain, None where nothing was gained."""
        return self.rise / self.gain if self.gain > 0 else None


def last_third(rewards: Sequence[float]) -> LastThird | None:
    """Whether a curve of rewards [T] still rises at its end; None for fewer than FEWEST_STEPS values.

    A line is fitted by least squares to the last third.  The curve rises if its rise is more than STILL_RISING of the
    gain (0 where nothing was gained) by more than noise: by the one-sided t quantile of BEYOND_NOISE times the rise's
    standard error.  The error comes from the line's residuals; where neighbours are correlated it is that of a first
    order autoregression.  Invariant to affine changes of the reward with a positive factor.
    """
    y = np.asarray(rewards, dtype=np.float64)
    if y.size < FEWEST_STEPS or not np.isfinite(y).all():
        return None
    third = y[-(y.size // 3) :]
    n = third.size
    x = np.arange(n) - (n - 1) / 2
    slope = float(x @ third) / float(x @ x)
    residual = third - third.mean() - slope * x
    squares = float(residual @ residual)
    variance = squares / (n - 2)
    # Lag-1 correlation, corrected for its bias of about -(1 + 3 rho) / n in residuals (Kendall 1954).
    lag = float(residual[1:] @ residual[:-1]) / squares if squares > 0 else 0.0
    rho = min(max((lag * n + 1) / (n - 3), 0.0), 0.9)
    error = math.sqrt(variance / float(x @ x) * (1 + rho) / (1 - rho)) * (n - 1)
    rise = slope * (n - 1)
    gain = float(third.mean() + slope * x[-1] - y[: max(1, y.size // 10)].mean())
    beyond = float(special.stdtrit(n - 2, BEYOND_NOISE)) * error
    # A line that rises by rounding alone does not rise.
    tiny = 1e-9 * float(np.abs(y).max())
    return LastThird(rise, error, gain, rise - STILL_RISING * max(gain, 0.0) > max(beyond, tiny))
