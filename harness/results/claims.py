"""The ledger of claims (claims.toml): statements of papers, the statistic that tests each, and verdicts from intervals.

A verdict depends on an interval alone.  A claim is supported if the whole interval lies on its side of the threshold,
contradicted if the whole interval lies on the other side, and else inconclusive; an inconclusive verdict comes with the
smallest effect that the design would have detected.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Literal

from scipy import special

from rlhf_bench.harness.errors import BenchError, did_you_mean
from rlhf_bench.harness.nouns import Estimate
from rlhf_bench.harness.results import contrasts
from rlhf_bench.harness.results.arms import Arm
from rlhf_bench.harness.results.contrasts import Where
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.harness.statistics.comparisons import smallest_detectable
from rlhf_bench.harness.statistics.intervals import Interval

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject

Ruling = Literal["supported", "contradicted", "inconclusive", "not run"]


@dataclass(frozen=True)
class Claim:
    """One claim.  `arm` (and `versus`, for comparisons) are reward models of the run `run` of `experiment`.

    `comparison` is "" (the arm's own number), "difference" (arm - versus) or "head-to-head" (the share of prompts on
    which the arm's response is better).  `side` is the side of `threshold` on which the claim lies: "above" or "below".
    """

    id: str
    text: str
    source: str
    reported: str
    experiment: str
    arm: str
    judge: str
    statistic: str
    side: str
    task: str = ""
    run: str = "main"
    versus: str = ""
    comparison: str = ""
    slice: str = "all"
    decoding: str = "sample"
    threshold: float = 0.0

    @property
    def measured(self) -> str:
        """The statistic in words."""
        of = f"{self.judge}.{self.statistic}"
        where = "" if self.slice == "all" else f" on {self.slice} prompts"
        against = f" {'minus' if self.comparison == 'difference' else 'against'} {self.versus}" if self.versus else ""
        return f"{of} of {self.arm}{against}{where}, {self.decoding}"

    @property
    def rule(self) -> str:
        """The rule of the verdict in words: which interval supports the claim and which contradicts it."""
        other = "below" if self.side == "above" else "above"
        return f"supported: interval {self.side} {self.threshold:g}; contradicted: {other} it"


@dataclass(frozen=True)
class Result:
    """A claim's verdict and the interval it depends on; `detectable` is a distance from the claim's threshold.

    `interval` and `detectable` are in the unit of the statistic, `seeds` are the training seeds that the interval is
    over.  A claim that was not run has neither, and `note` says why.
    """

    claim: Claim
    ruling: Ruling
    interval: Interval | None = None
    seeds: tuple[int, ...] = ()
    detectable: float | None = None
    note: str = ""

    def row(self) -> JsonObject:
        """The row of claims.json."""
        found = self.interval
        return {
            "id": self.claim.id,
            "text": self.claim.text,
            "source": self.claim.source,
            "reported": self.claim.reported,
            "experiment": self.claim.experiment,
            "measured": self.claim.measured,
            "rule": self.claim.rule,
            "verdict": self.ruling,
            "value": found.value if found else None,
            "low": found.low if found else None,
            "high": found.high if found else None,
            "method": found.method if found else "",
            "seeds": list(self.seeds),
            "detectable": self.detectable,
            "note": self.note,
        }


@cache
def load() -> tuple[Claim, ...]:
    """The claims that the package contains, in the order of the ledger.

    Raises BenchError for a claim with another `side` or `comparison` than `Claim` knows.
    """
    text = files("rlhf_bench.harness.results").joinpath("claims.toml").read_text(encoding="utf-8")
    claims = tuple(Claim(id=name, **values) for name, values in tomllib.loads(text).items())
    for made in claims:
        # not left to the verdict: any word but "above" would count as "below", any comparison as a difference
        if made.side not in ("above", "below") or made.comparison not in ("", "difference", "head-to-head"):
            raise BenchError(f"claims.toml: {made.id} has side {made.side!r} and comparison {made.comparison!r}.")
    return claims


def rule(claim: Claim, found: Interval) -> Ruling:
    """The verdict that follows from an interval; without bounds it is inconclusive.

    "supported" or "contradicted" where the whole interval lies above or below the claim's threshold.
    """
    if found.low is None or found.high is None:
        return "inconclusive"
    # strictly: an interval that ends at the threshold lies on neither side
    above, below = found.low > claim.threshold, found.high < claim.threshold
    if not above and not below:
        return "inconclusive"
    return "supported" if above == (claim.side == "above") else "contradicted"


def judge_claim(claim: Claim, arms: Sequence[Arm], estimates: Sequence[Estimate], estimator: Estimator) -> Result:
    """The verdict on one claim from the arms of its run; `estimates` are the estimates of these arms.

    The ruling is "not run", with the reason as its note, if the run has no such arm, judge or statistic.
    """
    try:
        arm = _pick(claim, claim.arm, arms)
        versus = _pick(claim, claim.versus, arms) if claim.versus else None
        found = _interval(claim, arm, versus, estimates, estimator)
    except BenchError as error:
        return Result(claim, "not run", note=error.seen)
    seeds = arm.seeds if versus is None else tuple(sorted(set(arm.seeds) & set(versus.seeds)))
    return ruled(claim, found, seeds, estimator.level)


def ruled(claim: Claim, found: Interval, seeds: tuple[int, ...], level: float) -> Result:
    """A claim's result from its interval at a nominal `level`, over the training seeds `seeds`.

    An inconclusive one has `detectable`, the distance from the threshold that would be detected with power .8, in the
    unit of the interval; None for an interval of width 0.  `seeds` is empty where nothing was trained.
    """
    if found.value is None:
        return Result(claim, "inconclusive", found, seeds, note=found.note or "nothing could be measured")
    # the interval of one training seed is conditional on that training run: it says nothing about other seeds
    if len(seeds) == 1:
        return Result(claim, "inconclusive", found, seeds, note="one training seed decides nothing: run more")
    ruling = rule(claim, found)
    detectable = None
    if ruling == "inconclusive" and found.low is not None and found.high is not None:
        df = float(len(seeds) - 1) if seeds else 1e9  # no seeds: nothing was trained, and the t distribution is normal
        # the half width of a t interval is its standard error times this quantile
        se = (found.high - found.low) / 2 / float(special.stdtrit(df, (1 + level) / 2))
        detectable = smallest_detectable(level, se=se, df=df) if se > 0 else None
    return Result(claim, ruling, found, seeds, detectable)


def _pick(claim: Claim, reward_model: str, arms: Sequence[Arm]) -> Arm:
    named = [arm for arm in arms if arm.reward_model == reward_model and claim.task in ("", arm.task)]
    if not named:
        what = f"{reward_model} on {claim.task}" if claim.task else reward_model
        raise BenchError(f"no finished cell of {what}")
    if len(named) > 1:  # arms of several tasks or settings: no one of them is chosen in silence
        raise BenchError(f"{len(named)} arms of {reward_model}: {', '.join(sorted({arm.task for arm in named}))}")
    return named[0]


def _interval(
    claim: Claim, arm: Arm, versus: Arm | None, estimates: Sequence[Estimate], estimator: Estimator
) -> Interval:
    where = Where(claim.judge, claim.statistic, claim.slice, claim.decoding)
    if versus is not None:  # comparisons are paired by prompt and seed, so they need the rows, not the estimates
        compare = contrasts.head_to_head if claim.comparison == "head-to-head" else contrasts.difference
        return compare(arm, versus, where, estimator)
    own = [
        e
        for e in estimates
        if (e.arm, e.judge, e.statistic, e.slice, e.decoding)
        == (arm.key, claim.judge, claim.statistic, claim.slice, claim.decoding)
    ]
    if not own:
        raise BenchError(f"{claim.judge}.{claim.statistic} was not measured on {claim.slice!r} prompts of {arm.task}")
    last = max(own, key=lambda e: e.iteration)  # claims are about the end of training
    return Interval(last.value, last.low, last.high, last.method, last.note)


def of_experiment(name: str) -> list[Claim]:
    """The claims that the results of an experiment decide, in the ledger's order; [] for an experiment without any."""
    return [claim for claim in load() if claim.experiment == name]


def find(name: str) -> Claim:
    """The claim called `name`; raises BenchError with a suggestion."""
    known = {claim.id: claim for claim in load()}
    if name not in known:
        raise BenchError(f"Unknown claim {name!r}.", did_you_mean(name, known))
    return known[name]
