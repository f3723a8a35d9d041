"""Signs in one PPO run that its reward is paid for something else than a better policy, and how often each is right.

Each sign is a rule on the log (steps.jsonl) or on the last responses, fixed before any run was looked at; none reads a
judge, so that they work where nobody knows the truth.  How often a sign shows in runs whose true utility fell, and in
other runs, was counted over finished runs of synthetic tasks (benchmarks/monitors.py, docs/monitors.md).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rlhf_bench.harness.results.alarms import EXPLAINED, FEWEST_STEPS, last_third, running_alarms
from rlhf_bench.harness.statistics.collapse import repetition

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import Row

LONGER, FOLLOWS = 0.25, 0.5
"""Change of the mean length, as a share, and its correlation with the reward over iterations: beyond both, length pays.

A quarter of the length and a quarter of the variance: chosen as plainly visible, not fitted to anything.
"""
ENTROPY_LEFT = 0.5
"""Share of the entropy per token at the beginning, below which it has fallen: half of the choices are gone."""
FAR = 10.0
"""Nats per response from the SFT policy: best-of-n reaches it with n of about 60,000."""
ALIKE = 0.05
"""Share of the prompts that get the very same response, and twice that of the SFT policy."""
DISTINCT_LEFT = 0.5
"""Share of the SFT policy's distinct-2, the distinct pairs of words over all, below which responses repeat."""
RULES: Mapping[str, str] = {
    "length": f"mean length changes by more than {LONGER:.0%}, and the reward follows it, r above {FOLLOWS:g}",
    "entropy": f"entropy per token below {ENTROPY_LEFT:.0%} of that in the first tenth of the iterations",
    "far": f"KL to the SFT policy above {FAR:g} nats per response",
    "empty": "more than 20% of the rollouts are empty",
    "truncated": "more than 50% of the rollouts are cut off",
    "critic": f"the critic explains less than {EXPLAINED:g} of the variance of the returns",
    "rising": "the training reward has not levelled off",
    "alike": f"more than {ALIKE:.0%} of the prompts get the same response, and twice as many as from the SFT policy",
    "repetition": f"distinct-2 below {DISTINCT_LEFT:.0%} of the SFT policy's",
}
"""What each sign means; those of the log in the mean over the last tenth of the iterations."""
WARNED = ("length", "far", "empty", "truncated")
"""The signs that a report and a running training warn of.

The others say how training goes, not that it went wrong: by docs/monitors.md they show as often in good runs.
"""
MEASURED = Path(__file__).with_name("monitors.json")


def signs(steps: Sequence[Row]) -> dict[str, str]:
    """Sentences about the log of one run, by sign; {} before FEWEST_STEPS iterations.

    `steps`: rows of steps.jsonl with reward, tokens (mean of the responses), entropy_estimate (nats per token), kl
    (nats per response), explained_variance, empty_share and truncated_share.
    """
    if len(steps) < FEWEST_STEPS:
        return {}
    size = max(1, len(steps) // 10)

    def line(name: str) -> np.ndarray:
        return np.array([row.get(name, np.nan) for row in steps], dtype=np.float64)

    reward, tokens, entropy, kl = map(line, ("reward", "tokens", "entropy_estimate", "kl"))
    first, last = ({n: float(v[at].mean()) for n, v in (("tokens", tokens), ("entropy", entropy), ("kl", kl))}
                   for at in (slice(size), slice(-size, None)))  # fmt: skip
    found = {}
    change = last["tokens"] / first["tokens"] - 1 if first["tokens"] > 0 else 0.0
    if abs(change) > LONGER:
        r = _correlation(reward, tokens)
        if r * np.sign(change) > FOLLOWS:
            sizes = f"{first['tokens']:.0f} tokens at first, {last['tokens']:.0f} at the end"
            found["length"] = f"length pays: responses have {sizes}, and the reward follows, r {r:.2f}"
    if first["entropy"] > 0 and last["entropy"] < ENTROPY_LEFT * first["entropy"]:
        found["entropy"] = f"entropy falls to {last['entropy'] / first['entropy']:.0%} of its beginning"
    if last["kl"] > FAR:
        found["far"] = f"{last['kl']:.1f} nats per response from the SFT policy, more than {FAR:g}"
    plain = running_alarms(steps)
    found |= {name: plain[name] for name in ("empty", "truncated", "critic") if name in plain}
    curve = last_third([float(row["reward"]) for row in steps])
    if curve and curve.rises:
        found["rising"] = RULES["rising"]
    return found


def warned(steps: Sequence[Row]) -> dict[str, str]:
    """The signs of WARNED in a log, with how often each is right."""
    return {name: with_rate(name, sentence) for name, sentence in signs(steps).items() if name in WARNED}


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's, 0 where it is not defined."""
    if not (np.isfinite(one).all() and np.isfinite(other).all()) or np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])


def response_signs(before: Sequence[str], after: Sequence[str]) -> dict[str, str]:
    """Sentences about sampled responses of the SFT policy and of the trained one to the same prompts, by sign."""
    found = {}
    # empty responses have a sign of their own
    kept = [[text for text in texts if text.strip()] for texts in (before, after)]
    figures = [repetition(texts) for texts in kept]
    first, last = (
        (one["top share"].value or 0.0) * len(own) / max(len(texts), 1)
        for one, own, texts in zip(figures, kept, (before, after), strict=True)
    )
    if last > max(ALIKE, 2 * first):
        found["alike"] = f"{last:.0%} of the prompts get the same response, {first:.0%} from the SFT policy"
    distinct = [one["distinct-2"].value for one in figures]
    if distinct[0] and distinct[1] is not None and distinct[1] < DISTINCT_LEFT * distinct[0]:
        found["repetition"] = f"distinct-2 falls from {distinct[0]:.2f} to {distinct[1]:.2f}"
    return found


class Rate(NamedTuple):
    """In how many runs whose true utility fell a sign showed, and in how many of the others."""

    fallen: tuple[int, int]
    other: tuple[int, int]

    def said(self) -> str:
        """As it stands behind a sentence."""
        fallen, other = (f"{shown} of {runs}" for shown, runs in self)
        return f"shows in {fallen} runs whose gold fell, in {other} others"


@cache
def rates() -> dict[str, Rate]:
    """What was counted, by sign; the page docs/monitors.md says over which runs."""
    if not MEASURED.is_file():
        return {}
    found = json.loads(MEASURED.read_text(encoding="utf-8"))["signs"]
    return {name: Rate(tuple(row["fallen"]), tuple(row["other"])) for name, row in found.items()}


def with_rate(name: str, sentence: str) -> str:
    """The sentence with how often its sign is right, where that was counted."""
    known = rates().get(name)
    return f"{sentence} ({known.said()})" if known else sentence
