"""Features of a response that anyone can recompute by hand, and the type of its prompt (arXiv 2402.03469).

Words are those of nltk's `wordpunct_tokenize`, by the tokenizers library's rule of the same pattern (\\w+|[^\\w\\s]+).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from rlhf_bench.harness.printable import well_formed


@cache
def _splitter() -> Any:
    from tokenizers.pre_tokenizers import Whitespace

    return Whitespace()


def words(text: str) -> list[str]:
    """Runs of word characters and runs of punctuation."""
    return [word for word, _ in _splitter().pre_tokenize_str(well_formed(text))]


def length_incentive(tokens: Sequence[str], unit: float = 100.0) -> float:
    """LI: tokens / unit."""
    return len(tokens) / unit


def repetition_penalty(tokens: Sequence[str], n: int = 3) -> float:
    """RP in (0, 1]: distinct over all n-grams, 1 where the text has none."""
    grams = list(zip(*(tokens[start:] for start in range(n)), strict=False))
    return len(set(grams)) / len(grams) if grams else 1.0
