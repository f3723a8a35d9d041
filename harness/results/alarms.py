"""Warnings about the log of a PPO run, as a pure function of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import Row

EMPTY_SHARE, TRUNCATED_SHARE, NEGATIVE_KL = 0.2, 0.5, -0.5
"""Shares of an iteration's rollouts from 0 to 1, and nats per response; beyond them there is a warning."""


def alarms(steps: Sequence[Row]) -> list[str]:
    """Sentences about the end of a PPO run; [] without a problem.

    `steps`: the rows of steps.jsonl, at least one, with kl (nats per response), empty_share and truncated_share (of
    the rollouts).  Means are over the last tenth of the iterations; NaN is looked for in all of them.
    """
    tail = steps[-max(1, len(steps) // 10) :]
    found = []

    def mean(name: str) -> float:
        return float(sum(row[name] for row in tail) / len(tail))

    # every iteration, not only the tail; NaN differs from itself, and `isnan` raises for values that are no numbers
    if any(value != value for row in steps for value in row.values()):
        found.append("NaN in the log")
    # the KL is at least 0; the mean of its unbiased estimate may be slightly below by chance, but not by half a nat
    if mean("kl") < NEGATIVE_KL:
        found.append(f"negative KL to the SFT policy: {mean('kl'):.2f} nats per response")
    if mean("empty_share") > EMPTY_SHARE:
        found.append(f"{mean('empty_share'):.0%} of the rollouts are empty")
    if mean("truncated_share") > TRUNCATED_SHARE:
        found.append(f"{mean('truncated_share'):.0%} of the rollouts are cut off at the longest length")
    return found
