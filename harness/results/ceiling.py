"""Gold as a share of the ceiling: an arm's gain over the SFT policy, divided by that of the control arm `gold`.

The arm `gold` is optimised for the task's true utility itself, under the same policy, optimiser and settings: what it
gains is what that optimiser can reach, and no learned reward model can be blamed for the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from rlhf_bench.harness.nouns import Estimate
from rlhf_bench.harness.results.arms import Arm
from rlhf_bench.harness.results.estimates import ALL, Estimator
from rlhf_bench.harness.results.frontiers import place_of, settings_but_rewards
from rlhf_bench.harness.results.sheets import NO_PROMPT, Common, Rows, Sheets, common
from rlhf_bench.harness.seeds import Seed, shown
from rlhf_bench.harness.statistics import ratio
from rlhf_bench.harness.statistics.intervals import Interval, undefined

GOLD = "gold"
"""The reward model whose arm is the ceiling."""
JUDGE, STATISTIC = "ceiling", "gold_share"
MEASURED = ("utility", "gold_change")
"""The judge and the measure of an arm's gain: gold minus the SFT policy's on the same prompt."""


def ceiling_of(arm: Arm, arms: Sequence[Arm]) -> Arm | None:
    """The arm `gold` of the same task, policy, optimiser and settings but those of reward models; None without one."""
    golds = [other for other in arms if (other.task, other.reward_model) == (arm.task, GOLD)]
    names = {other.reward_model for other in arms} | {arm.reward_model, GOLD}
    own = (place_of(arm), settings_but_rewards(arm, names)) if golds else ()
    return next((one for one in golds if (place_of(one), settings_but_rewards(one, names)) == own), None)


def ceiling_estimates(arms: Sequence[Arm], estimator: Estimator) -> Iterator[Estimate]:
    """Each arm's share of its ceiling at the last checkpoint, sampled and greedy, over all prompts and by slice.

    (arm - SFT) / (gold arm - SFT) over the seeds and prompts that both have; none for an arm without a ceiling, and
    none of the arm `gold` itself.
    """
    sheets = Sheets()
    for arm in arms:
        gold = ceiling_of(arm, arms)
        if gold is None or gold.key == arm.key or arm.reward_model == GOLD:
            continue
        unlike = ""
        if all(MEASURED[0] in cell.judged() for one in (arm, gold) for cell in one.cells):
            unlike = sheets.unlike((arm, gold), MEASURED[0])
        for decoding in ("sample", "greedy"):
            tables = [sheets.of(one, MEASURED[0], decoding) for one in (arm, gold)]
            if not all(tables):
                continue
            rows = [row for table in tables[0].values() for row in table.values()]
            for name in [ALL, *sorted({name for row in rows for name in row["slices"]})]:
                parts: list[dict[Seed, Rows]] = [
                    {s: {key: row for key, row in own.items() if name in row["slices"]} for s, own in table.items()}
                    for table in tables
                ]
                found = common(tables if name == ALL else parts, [MEASURED[1]] * 2, unlike)
                interval, cells = _share(found, estimator.level), found.cells[0] if found.cells else np.empty((0, 0))
                iteration = int(rows[0]["iteration"])
                place = (JUDGE, STATISTIC, name, decoding, iteration)
                made = estimator.estimate(arm, *place, interval, cells, found.absent)
                # the annotation in nouns.py, which is part of every stage's key, knows plain seeds alone
                yield replace(made, seeds=tuple(map(shown, found.seeds)))  # type: ignore[arg-type]


def _share(found: Common, level: float) -> Interval:
    if found.why or not found.prompts:
        return undefined(found.why or NO_PROMPT, ratio.METHOD)
    part, whole = found.outer
    made = ratio.share(part, whole, level, found.clusters)
    missing = "no ceiling: " if made.value is None else ""
    note = missing + made.note.replace("the whole is not above 0", "the arm gold does not end above the SFT policy")
    return replace(made, note=note)
