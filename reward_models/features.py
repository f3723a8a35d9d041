"""Features of a response that can be recomputed by hand (arXiv 2402.03469): words, length incentive, repetition."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_bench.harness.printable import well_formed
from rlhf_bench.harness.text.words import cut_unspaced


def words(text: str) -> list[str]:
    r"""Runs of word characters and runs of punctuation, as nltk's `wordpunct_tokenize` splits (\w+|[^\w\s]+).

    In scripts without spaces every character is a word (text/words.py): a sentence would be one otherwise.
    """
    from tokenizers.pre_tokenizers import Whitespace  # the same pattern, without nltk as a dependency

    runs = Whitespace().pre_tokenize_str(well_formed(text))
    return [part for run, _ in runs for part in cut_unspaced(run)]


def length_incentive(tokens: Sequence[str], unit: float = 100.0) -> float:
    """LI: the number of tokens (`words`) / unit.

    Without an upper bound: a longer response always earns more.
    """
    return len(tokens) / unit


def repetition_penalty(tokens: Sequence[str], n: int = 3) -> float:
    """RP in (0, 1]: the share of distinct n-grams of the tokens (`words`), 1 for a text without any."""
    grams = list(zip(*(tokens[start:] for start in range(n)), strict=False))
    return len(set(grams)) / len(grams) if grams else 1.0
