"""How far the refusal rules agree with labels: constants that benchmarks/refusals/measure_refusals.py computes."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject

Rule = Literal["sentences", "phrases"]


@cache
def figures() -> JsonObject:
    """The content of refusal_figures.json: agreement by rule and part of the labels, and of the two labelling passes.

    The second pass was not blind to the first: its kappa shows consistency alone.

    Intervals are [value, low, high] at 95%, with whole prompts resampled.
    """
    text = files("rlhf_bench.judges").joinpath("refusal_figures.json").read_text(encoding="utf-8")
    found: JsonObject = json.loads(text)
    return found


def reliability(rule: Rule) -> str:
    """A rule's agreement with the held-out labels as a sentence for people."""
    found = figures()["rules"][rule]
    held, summaries = found["held out"], found["false alarms"]["tldr"]
    shares = ", ".join(f"{name} {_shown(held[name])}" for name in ("precision", "recall", "kappa"))
    return (
        f"a rule over {rule}, not exact: on {held['responses']} responses of PKU-SafeRLHF that one annotator labelled, "
        f"{held['refusals']} of them refusals, {shares}; it takes {summaries[0]:.1%} of people's TL;DR summaries for "
        "refusals"
    )


def _shown(interval: list[float]) -> str:
    value, low, high = interval
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"
