"""Scorers: how good a response is where no gold exists.  Every report names the scorer it used."""

from __future__ import annotations

import importlib
from typing import Any

from rlhf_bench.harness.errors import BenchError, did_you_mean
from rlhf_bench.harness.nouns import Example
from rlhf_bench.harness.plugins import one_line
from rlhf_bench.harness.seams import Scorer

NO_GOLD = "the task has no gold utility and no scorer was given"


def load_scorer(name: str) -> Scorer:
    """A scorer of this package by name, or `module:attribute`, a callable (example, response) -> number or None."""
    if name in BUILT_IN:
        return BUILT_IN[name]()
    if ":" not in name:
        raise BenchError(f"Unknown scorer {name!r}.", did_you_mean(name, BUILT_IN) + " Or give module:attribute.")
    module, _, attribute = name.partition(":")
    try:
        found: Any = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise BenchError(f"The scorer {name!r} cannot be imported: {one_line(error)}.") from error
    if not callable(found):
        raise BenchError(
            f"The scorer {name!r} is not callable.", "Give a function (example, response) -> float | None."
        )
    return found  # type: ignore[no-any-return]


def rouge_l() -> Scorer:
    """ROUGE-L F1 (Lin, 2004; the rouge-score package, with stemming) against the best of the example's references.

    It measures lexical overlap with what people wrote, no more.  Without a reference it does not decide.
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise BenchError("The scorer 'rouge-l' needs rouge-score.", "Install rlhf-bench[rouge].") from None
    scorer = RougeScorer(["rougeL"], use_stemmer=True)

    def score(example: Example, response: str) -> float | None:
        references = [text for text in (example.completion, *example.references) if text.strip()]
        if not references:
            return None
        return max(float(scorer.score(text, response)["rougeL"].fmeasure) for text in references)

    return score


BUILT_IN = {"rouge-l": rouge_l}
