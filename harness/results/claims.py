"""The ledger of claims (claims.toml): statements of papers, the statistic that tests each, and verdicts from intervals.

Verdicts depend on one interval alone.  Direction: a claim is supported if the whole interval lies on its side of the
threshold, contradicted if the whole interval lies on the other side, and else inconclusive; an inconclusive verdict
comes with the smallest effect that the design would have detected.  Size: the paper's figure, where it gives one, lies
inside the interval or outside.  Holm's adjustment is over the direction tests of all claims that are shown together.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy import special

from rlhf_bench.harness.errors import BenchError, did_you_mean
from rlhf_bench.harness.nouns import Estimate
from rlhf_bench.harness.results import contrasts
from rlhf_bench.harness.results.arms import Arm
from rlhf_bench.harness.results.contrasts import Where
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.harness.results.sheets import Sheets
from rlhf_bench.harness.seeds import Seed, layers_of, shown
from rlhf_bench.harness.statistics import comparisons, layers
from rlhf_bench.harness.statistics.intervals import Interval
from rlhf_bench.harness.statistics.layers import outer_codes

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject, Row

Ruling = Literal["supported", "contradicted", "inconclusive", "not run"]
Size = Literal["inside", "outside", "not known", "no figure"]
IntervalAt = Callable[[float], Interval]
"""The interval of a claim at a confidence level."""

SMALLEST_P = 1e-12


@dataclass(frozen=True)
class Claim:
    """One claim.  `arm` (and `versus`, for comparisons) are reward models of the run `run` of `experiment`.

    `comparison` is "" (the arm's own number), "difference" (arm - versus) or "head-to-head" (the share of prompts on
    which the arm's response is better).  `side` is the side of `threshold` on which the claim lies: "above" or "below".
    `figure` is the paper's number for the statistic, in its unit: (), (number,) or (lowest, highest).  `runs` names
    several runs in the place of `run`: a head-to-head share is then the mean over them (`averages.judge_average`).
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
    figure: tuple[float, ...] = ()
    runs: tuple[str, ...] = ()

    @property
    def measured(self) -> str:
        """The statistic in words."""
        of = f"{self.judge}.{self.statistic}"
        where = "" if self.slice == "all" else f" on {self.slice} prompts"
        against = f" {'minus' if self.comparison == 'difference' else 'against'} {self.versus}" if self.versus else ""
        mean = f", mean over {', '.join(self.runs)}" if self.runs else ""
        return f"{of} of {self.arm}{against}{where}, {self.decoding}{mean}"

    @property
    def rule(self) -> str:
        """The rule of the verdict in words: which interval supports the claim and which contradicts it."""
        other = "below" if self.side == "above" else "above"
        return f"supported: interval {self.side} {self.threshold:g}; contradicted: {other} it"


@dataclass(frozen=True)
class Result:
    """A claim's verdicts and the interval they depend on.

    `ruling` is of the direction.  `interval` and `detectable`, a distance from the claim's threshold, are in the unit
    of the statistic; `seeds` are the training seeds that the interval is over, `level` is its nominal level.  `p` is
    two-sided, of the statistic being equal to the threshold; None where it is not known.  A claim that was not run has
    no interval, and `note` says why.
    """

    claim: Claim
    ruling: Ruling
    interval: Interval | None = None
    seeds: tuple[Seed, ...] = ()
    detectable: float | None = None
    note: str = ""
    p: float | None = None
    level: float = 0.95

    @property
    def size(self) -> Size:
        """Whether the paper's figure lies inside the interval; a range does if a part of it does."""
        if not self.claim.figure:
            return "no figure"
        found = self.interval
        # an interval of one seed is conditional on its training run
        if found is None or found.low is None or found.high is None or len(self.seeds) == 1:
            return "not known"
        return "outside" if self.claim.figure[-1] < found.low or self.claim.figure[0] > found.high else "inside"

    def row(self) -> JsonObject:
        """The row of claims.json; `adjusted` adds what depends on the other claims."""
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
            "figure": list(self.claim.figure),
            "size": self.size,
            "p": self.p,
            "level": self.level,
            "value": found.value if found else None,
            "low": found.low if found else None,
            "high": found.high if found else None,
            "method": found.method if found else "",
            "seeds": list(map(shown, self.seeds)),
            "detectable": self.detectable,
            "note": self.note,
        }


@cache
def load() -> tuple[Claim, ...]:
    """The claims that the package contains, in the order of the ledger.

    Raises BenchError for a claim with another `side` or `comparison` than `Claim` knows, or with several runs of
    anything but a head-to-head share.
    """
    text = files("rlhf_bench.harness.results").joinpath("claims.toml").read_text(encoding="utf-8")
    rows = tomllib.loads(text).items()
    return tuple(_claim(name, values, "claims.toml") for name, values in rows)


def _claim(name: str, values: Row, where: str) -> Claim:
    """A claim of a table; raises BenchError for what `load` refuses."""
    # TOML has lists, the fields are tuples
    fields: JsonObject = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
    made = Claim(id=name, **fields)
    if len(made.figure) > 2 or list(made.figure) != sorted(made.figure):
        raise BenchError(f"{where}: {made.id} has the figure {list(made.figure)}.", "Give [n] or [low, high].")
    # not left to the verdict: any word but "above" would count as "below", any comparison as a difference
    if made.side not in ("above", "below") or made.comparison not in ("", "difference", "head-to-head"):
        seen = f"{where}: {made.id} has side {made.side!r} and comparison {made.comparison!r}."
        raise BenchError(seen, "Sides are above and below; comparisons difference and head-to-head, or none.")
    if made.runs and made.comparison != "head-to-head":
        raise BenchError(f"{where}: {made.id} has {len(made.runs)} runs.", "Only shares of wins have a mean.")
    return made


def of_record(record: Row) -> list[Claim]:
    """The claims that an experiment decides, in the ledger's order: of its own file where its record has that.

    Raises BenchError for a claim that `load` would refuse, that names a run or an arm which the experiment lacks, or a
    comparison without both sides.  The definition is checked already (`own_experiments.of_definition`).
    """
    if "definition" not in record:
        return of_experiment(record["name"])
    name, definition = record["name"], record["definition"]
    rms = {run.get("name", "main"): run.get("rms", []) for run in definition["runs"]}
    found = []
    for key, values in definition.get("claims", {}).items():
        made = _claim(key, {"source": "", "reported": "", **values, "experiment": name}, name)
        for run in made.runs or (made.run,):
            if run not in rms:
                raise BenchError(
                    f"{name}: the claim {key} is of the run {run!r}, which is none.", did_you_mean(run, rms)
                )
            for arm in filter(None, (made.arm, made.versus)):
                if arm not in rms[run]:
                    seen = f"{name}: the claim {key} is of {arm!r}, which the run {run} does not have."
                    raise BenchError(seen, did_you_mean(arm, rms[run]))
        if bool(made.versus) != bool(made.comparison):
            raise BenchError(f"{name}: the claim {key} needs both `versus` and `comparison`, or neither.")
        found.append(made)
    return found


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
        arm = pick(claim, claim.arm, arms)
        versus = pick(claim, claim.versus, arms) if claim.versus else None
        found = _interval(claim, arm, versus, estimates, estimator)
    except BenchError as error:
        return Result(claim, "not run", note=error.seen)
    seeds = arm.seeds if versus is None else tuple(sorted(set(arm.seeds) & set(versus.seeds)))
    return ruled(claim, found, seeds, estimator.level, _recomputed(claim, arm, versus, estimator))


def ruled(
    claim: Claim, found: Interval, seeds: tuple[Seed, ...], level: float, interval_at: IntervalAt | None = None
) -> Result:
    """A claim's result from its interval at a nominal `level`, over the training seeds `seeds`.

    An inconclusive one has `detectable`, the distance from the threshold that would be detected with power .8, in the
    unit of the interval; None for an interval of width 0.  `seeds` is empty where nothing was trained.
    `interval_at`: the interval at other levels, for p; without it p follows from `found` alone (`scaled_p`).
    """
    if found.value is None:
        why = found.note or "nothing could be measured"
        return Result(claim, "inconclusive", found, seeds, note=why, level=level)
    # the interval of one training seed is conditional on that training run: it says nothing about other seeds
    if len(seeds) == 1:
        why = "one training seed decides nothing: run more"
        return Result(claim, "inconclusive", found, seeds, note=why, level=level)
    ruling = rule(claim, found)
    detectable = None
    if ruling == "inconclusive" and found.low is not None and found.high is not None:
        df = (
            float(independent(seeds) - 1) if seeds else 1e9
        )  # no seeds: nothing was trained, and the t distribution is normal
        # the half width of a t interval is its standard error times this quantile
        se = (found.high - found.low) / 2 / float(special.stdtrit(df, (1 + level) / 2))
        detectable = comparisons.smallest_detectable(level, se=se, df=df) if se > 0 else None
    again = interval_at(level) if interval_at and len(seeds) > 1 else None
    # a statistic that is no measure, or a mean over runs of two modes, has no interval that can be made here again
    if interval_at and again and _equal(again, found):
        p: float | None = inverted_p(interval_at, claim.threshold)
    else:
        p = scaled_p(claim, found, independent(seeds), level)
    return Result(claim, ruling, found, seeds, detectable, p=p, level=level)


def independent(seeds: Sequence[Seed]) -> int:
    """The number of runs that are independent: the seeds, or the levels of the outermost layer with several."""
    levels = layers_of(seeds)
    return len(seeds) if levels is None else int(outer_codes(levels).max()) + 1


def _equal(one: Interval, other: Interval) -> bool:
    """Whether two intervals have the same bounds but for the order of summation."""
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return False
    return bool(np.allclose([one.low, one.high], [other.low, other.high], rtol=1e-9, atol=1e-12))


# ---- p and Holm's adjustment ----------------------------------------------------------------------------------------


def inverted_p(interval_at: IntervalAt, threshold: float) -> float:
    """Two-sided p of the threshold: 1 minus the highest level whose interval excludes it, at least SMALLEST_P.

    It is at most 1 - level exactly where the interval of that level excludes the threshold.
    """

    def excluded(p: float) -> bool:
        found = interval_at(1 - p)
        return found.low is not None and found.high is not None and not found.low <= threshold <= found.high

    low, high = math.log10(SMALLEST_P), 0.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if excluded(10**middle) else (middle, high)
    return float(10**high)


def scaled_p(claim: Claim, found: Interval, seeds: int, level: float) -> float | None:
    """Two-sided p of the claim's threshold from its interval alone; None without a width.

    The distance from the value to the threshold over the half width on that side, times the quantile of t with
    seeds - 1 degrees of freedom (normal where nothing was trained), is read as a t statistic.  Ratios are compared on
    the logarithm and rank correlations on Fisher's z, the scales their intervals are made on.  At most 1 - level
    exactly where the interval excludes the threshold.
    """
    if found.value is None or found.low is None or found.high is None or seeds == 1:
        return None
    ends = np.array([found.value, found.low, found.high, claim.threshold])
    if claim.statistic == "spearman":
        ends = np.arctanh(np.clip(ends, -1 + 1e-9, 1 - 1e-9))
    elif "ratio" in claim.statistic and (ends > 0).all():
        ends = np.log(ends)
    value, low, high, threshold = ends.tolist()
    half = value - low if threshold < value else high - value
    if half <= 0:
        return 1.0 if threshold == value else None
    df = float(seeds - 1) if seeds else 1e9
    t = abs(value - threshold) / half * float(special.stdtrit(df, (1 + level) / 2))
    return max(SMALLEST_P, 2 * float(special.stdtr(df, -t)))


def adjusted(rows: Sequence[JsonObject]) -> list[JsonObject]:
    """The rows with `p_holm`, adjusted over all of them that have a p (Holm 1979), and `verdict_holm`.

    `verdict_holm` is the direction's verdict where p_holm is at most 1 - level, else inconclusive.
    """
    found = []
    for row, p in zip(rows, comparisons.holm([row.get("p") for row in rows]), strict=True):
        holds = row["verdict"] == "not run" or (p is not None and p <= 1 - row.get("level", 0.95))
        found.append({**row, "p_holm": p, "verdict_holm": row["verdict"] if holds else "inconclusive"})
    return found


def pick(claim: Claim, reward_model: str, arms: Sequence[Arm]) -> Arm:
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


def _recomputed(claim: Claim, arm: Arm, versus: Arm | None, estimator: Estimator) -> IntervalAt | None:
    """The claim's interval at any level, from the rows; None for a statistic that is no measure of its judge."""
    where, sheets = Where(claim.judge, claim.statistic, claim.slice, claim.decoding), Sheets()
    if versus is not None:
        compare = contrasts.head_to_head if claim.comparison == "head-to-head" else contrasts.difference
        return lambda level: compare(arm, versus, where, replace(estimator, level=level), sheets)
    try:
        # an arm paired with itself gives its own cells
        own = contrasts.paired(arm, arm, where, sheets)
    except BenchError:
        return None
    # from two seeds on no interval draws random numbers
    rng = np.random.default_rng(0)
    return lambda level: layers.interval(own.kind, own.cells[0], level, rng, own.clusters, own.layers)


def of_experiment(name: str) -> list[Claim]:
    """The claims that the results of an experiment decide, in the ledger's order; [] for an experiment without any."""
    return [claim for claim in load() if claim.experiment == name]


def find(name: str) -> Claim:
    """The claim called `name`; raises BenchError with a suggestion."""
    known = {claim.id: claim for claim in load()}
    if name not in known:
        raise BenchError(f"Unknown claim {name!r}.", did_you_mean(name, known))
    return known[name]
