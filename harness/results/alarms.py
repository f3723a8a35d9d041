"""What in a run's log should worry its reader: a pure function of its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

EMPTY_SHARE, TRUNCATED_SHARE, NEGATIVE_KL = 0.2, 0.5, -0.5


def alarms(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sentences about the last tenth of the iterations (at least one).

    Negative KL: the mean of an unbiased estimate may dip below 0 by chance, but not by half a nat per response.
    """
    tail = steps[-max(1, len(steps) // 10) :]
    found = []

    def mean(name: str) -> float:
        return float(sum(row[name] for row in tail) / len(tail))

    if any(value != value for row in steps for value in row.values()):
        found.append("NaN in the log")
    if mean("kl") < NEGATIVE_KL:
        found.append(f"negative KL to the SFT policy: {mean('kl'):.2f} nats per response")
    if mean("empty_share") > EMPTY_SHARE:
        found.append(f"{mean('empty_share'):.0%} of the rollouts are empty")
    if mean("truncated_share") > TRUNCATED_SHARE:
        found.append(f"{mean('truncated_share'):.0%} of the rollouts are cut off at the longest length")
    return found
