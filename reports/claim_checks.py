"""Every claim again where its verdict could be an accident: in the other decoding, of the other arms, at equal KL.

The claim's own verdict is that of `results/claims.py`; checks stand beside it and change nothing in it.  They are not
part of Holm's adjustment, which is over the claims alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Estimate
from rlhf_bench.harness.results import claims
from rlhf_bench.harness.results.arms import Arm
from rlhf_bench.harness.results.averages import judge_average
from rlhf_bench.harness.results.claims import Claim, Result
from rlhf_bench.harness.results.estimates import Estimator, difference_limit, within
from rlhf_bench.harness.results.frontiers import Frontier, Reader, What, frontiers_of, matched, rungs, shared
from rlhf_bench.harness.results.sheets import Sheets
from rlhf_bench.harness.seeds import Seed
from rlhf_bench.harness.statistics.intervals import Interval
from rlhf_bench.reports.kl_matched import RANGE
from rlhf_bench.reports.measures import described

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject

Check = Literal["other decoding", "other arm", "equal KL"]


def checks(claim: Claim, arms: Sequence[Arm], estimates: Sequence[Estimate], estimator: Estimator) -> list[JsonObject]:
    """The rows of the checks, of a claim that was run, that could be measured.

    `arms` are those of the claim's run, `estimates` theirs.  A row has `check`, the fields of `claims.Result.row` that
    its interval decides, and `verdict` by the claim's own rule: of another arm it says whether the same holds of it.
    """
    found = [(kind, claims.judge_claim(one, arms, estimates, estimator)) for kind, one in variants(claim, arms)]
    found += [("equal KL", result) for result in _at_equal_kl(claim, arms, estimator)]
    return [_row(kind, result) for kind, result in found if result.ruling != "not run"]


def checks_of_average(claim: Claim, by_run: Mapping[str, Sequence[Arm]], estimator: Estimator) -> list[JsonObject]:
    """The rows of the checks of a claim about a mean over runs that could be measured, from the arms of each run.

    In the other decoding, and of every reward model that all of its runs have.  None at equal KL: runs of different
    tasks have no KL in common.
    """
    names = set.intersection(*({arm.reward_model for arm in by_run.get(run, ())} for run in claim.runs))
    every = [arm for arm in by_run.get(claim.runs[0], ()) if arm.reward_model in names]
    found = [(kind, judge_average(one, by_run, estimator)) for kind, one in variants(claim, every)]
    return [_row(kind, result) for kind, result in found if result.ruling != "not run"]


def variants(claim: Claim, arms: Sequence[Arm]) -> Iterator[tuple[Check, Claim]]:
    """The claim in the other decoding, and of every other arm of its run in the place of its own.

    An arm that the claim compares with is no other arm: of a comparison it would be compared with itself.
    """
    yield "other decoding", replace(claim, decoding="greedy" if claim.decoding == "sample" else "sample")
    names = {arm.reward_model for arm in arms if claim.task in ("", arm.task)}
    for name in sorted(names - {claim.arm, claim.versus}):
        yield "other arm", replace(claim, arm=name)


def _at_equal_kl(claim: Claim, arms: Sequence[Arm], estimator: Estimator) -> Iterator[Result]:
    """The claim at the largest KL of the ladder that all arms that it is about reach, in both decodings.

    A claim about one arm's own number is taken at the KL that every arm of its run reaches.  Claims about a slice have
    no such check: frontiers are over all prompts.
    """
    own = [arm for arm in arms if claim.task in ("", arm.task)]
    by_name = {one.arms[0].reward_model: one for one in frontiers_of(own)}
    named = [claim.arm, *filter(None, [claim.versus])]
    columns = {column.key: column for column in described(own)} if own else {}
    column = columns.get((claim.judge, claim.statistic))
    # two frontiers of one reward model differ in settings: no one of them is chosen in silence
    unclear = len(by_name) < len(frontiers_of(own)) or not set(named) <= set(by_name)
    if column is None or claim.slice != "all" or unclear:
        return
    # a share of prompts won has its threshold at one half; the difference of means that replaces it here, at 0
    wins = claim.comparison == "head-to-head"
    asked = replace(claim, threshold=0.0, comparison="difference") if wins else claim
    top = RANGE.get(column.kind, (0.0, math.inf))[1]
    bounds = (-top, top) if claim.versus else RANGE.get(column.kind, (-math.inf, math.inf))
    limit = difference_limit(column.limit) if claim.versus else column.limit
    for decoding in ("sample", "greedy"):
        what = What(column.judge, column.statistic, column.kind, column.before, decoding)
        found = _largest([by_name[name] for name in named], list(by_name.values()), what, estimator)
        if found is not None:
            kl, interval, seeds = found
            cut = within(interval.clipped(*bounds), limit)
            result = claims.ruled(replace(asked, decoding=decoding), cut, seeds, estimator.level)
            yield replace(result, note="; ".join(filter(None, (f"at KL {kl:g}", result.note))))


def _largest(
    named: Sequence[Frontier], every: Sequence[Frontier], what: What, estimator: Estimator
) -> tuple[float, Interval, tuple[Seed, ...]] | None:
    """(KL, interval, seeds) of the largest rung that is reached; None where there is none."""
    if Sheets().unlike([arm for one in named for arm in one.arms], what.judge):
        return None
    reader = Reader()
    try:
        common = shared([reader.points(one, what) for one in named])
        reach = min(shared([reader.points(one, what)]).reach for one in every) if len(named) == 1 else common.reach
    except BenchError:  # a judge's rows that cannot be read are said where its own measures are shown
        return None
    reached = rungs(min(reach, common.reach))
    if common.why or not reached:
        return None
    found = matched(common, reached[-1:], estimator)[0]
    return (reached[-1], found, common.seeds) if found.value is not None else None


def _row(kind: str, result: Result) -> JsonObject:
    row = result.row()
    names = ("id", "measured", "verdict", "value", "low", "high", "method", "level", "seeds", "note")
    return {"check": kind, **{name: row[name] for name in names}}
