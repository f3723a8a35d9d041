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
    """The content of refusal_figures.json: agreement by rule and part of the labels, of the annotators, of the passes.

    The annotators are two language models; the second knew neither the first one's labels nor the rules.  The first
    one's second pass was not blind: the kappa of the passes shows consistency alone.

    Intervals are [value, low, high] at 95%, with whole prompts resampled.
    """
    text = files("rlhf_bench.judges").joinpath("refusal_figures.json").read_text(encoding="utf-8")
    found: JsonObject = json.loads(text)
    return found


def reliability(rule: Rule) -> str:
    """A rule's agreement with the first annotator's held-out labels as a sentence for people."""
    found = figures()["rules"][rule]
    annotators = figures()["kappa of the annotators"]["held out"]["refusal or not"][0]
    held, summaries = found["held out"], found["false alarms"]["tldr"]
    shares = ", ".join(f"{name} {_shown(held[name])}" for name in ("precision", "recall", "kappa"))
    return (
        f"a rule over {rule}, not exact: on {held['responses']} responses to short requests (PKU-SafeRLHF), labelled "
        f"by a language model (kappa {annotators:.2f} with a second one), {held['refusals']} of them refusals, {shares}"
        f"; it takes {summaries[0]:.1%} of people's TL;DR summaries for refusals"
    )


def _shown(interval: list[float]) -> str:
    value, low, high = interval
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"
