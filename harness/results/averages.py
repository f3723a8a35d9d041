"""Claims about a mean over several runs of an experiment, such as the average win rate over tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.results import claims, contrasts
from rlhf_bench.harness.results.arms import Arm
from rlhf_bench.harness.results.claims import Claim, Result
from rlhf_bench.harness.results.contrasts import Where
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.harness.results.sheets import Sheets


def judge_average(claim: Claim, by_run: Mapping[str, Sequence[Arm]], estimator: Estimator) -> Result:
    """The verdict on a claim about the mean of its `runs`, from the arms of each.

    The interval is `contrasts.mean_head_to_head`, over the seeds that all runs have.  "not run", with the reason as its
    note, if one of the runs lacks an arm, the judge or the statistic.
    """
    where, sheets = Where(claim.judge, claim.statistic, claim.slice, claim.decoding), Sheets()
    try:
        pairs = [(_arm(claim, claim.arm, run, by_run), _arm(claim, claim.versus, run, by_run)) for run in claim.runs]
        found = contrasts.mean_head_to_head(pairs, where, estimator, sheets)
    except BenchError as error:
        return Result(claim, "not run", note=error.seen)
    return claims.ruled(
        claim,
        found,
        contrasts.common_seeds(pairs),
        estimator.level,
        lambda level: contrasts.mean_head_to_head(pairs, where, replace(estimator, level=level), sheets),
    )


def _arm(claim: Claim, reward_model: str, run: str, by_run: Mapping[str, Sequence[Arm]]) -> Arm:
    try:
        return claims.pick(claim, reward_model, by_run.get(run, ()))
    except BenchError as error:
        raise BenchError(f"{run}: {error.seen}", error.fix) from None
