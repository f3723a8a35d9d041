"""A task (repeat four words), a reward model (likes vowels) and a judge (was it an exact echo?).

None of them inherits anything: they have the members of the seams, and pyproject.toml gives them their names.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING

from rlhf_bench.harness.nouns import Case, Example, Measure, Pair, Rollout, Split, Utility, Verdict
from rlhf_bench.harness.seams import Task

if TYPE_CHECKING:
    from torch import Tensor

WORDS = ["moon", "river", "apple", "stone", "bird", "glass", "cloud", "tiger", "lamp", "ocean", "fern", "wolf"]
PROMPTS = [" ".join(words) for words in permutations(WORDS, 4)]  # 11,880 of them
random.Random(0).shuffle(PROMPTS)


@dataclass(frozen=True)
class EchoWords:
    """The fields are the settings; each set has prompts of its own: `--set echo-words.demonstrations=500`."""

    demonstrations: int = 2000
    train_prompts: int = 128
    test_prompts: int = 64
    train_pairs: int = 128
    test_pairs: int = 32
    max_response_tokens: int = 16

    def examples(self, split: Split) -> Sequence[Example]:
        return [Example(f"{split}-{i}", text, text) for i, text in enumerate(self._prompts(split))]

    def pairs(self, split: Split) -> Sequence[Pair]:
        """The echo against the echo without its first word."""
        texts = self._prompts(f"{split} pairs")
        return [Pair(f"{split}-{i}", text, text, text.partition(" ")[2]) for i, text in enumerate(texts)]

    def utility(self, example: Example, response: str) -> Utility:
        """The share of places that hold the right word; words too many count as places."""
        wanted, given = example.prompt.split(), response.split()
        right = sum(a == b for a, b in zip(wanted, given, strict=False))
        return Utility(right / max(len(wanted), len(given)))

    def _prompts(self, part: str) -> list[str]:
        sizes = {"test": self.test_prompts, "test pairs": self.test_pairs, "train": self.train_prompts}
        sizes |= {"train pairs": self.train_pairs, "sft": self.demonstrations}
        if sum(sizes.values()) > len(PROMPTS):
            raise ValueError(f"{sum(sizes.values())} prompts were asked for; there are {len(PROMPTS)}")
        start = sum(list(sizes.values())[: list(sizes).index(part)]) if part in sizes else 0
        return PROMPTS[start : start + sizes.get(part, 0)]


class Vowels:
    """One point for each vowel, on the token that holds it."""

    def rewards(self, rollout: Rollout) -> Tensor:
        import torch

        rewards = torch.zeros(rollout.mask.shape)
        for row, (text, spans) in enumerate(zip(rollout.responses, rollout.spans, strict=True)):
            for column, (start, end) in enumerate(spans):
                rewards[row, column] = sum(letter in "aeiou" for letter in text[start:end].lower())
        return rewards.to(rollout.mask.device)


class ExactEcho:
    """Whether the response is the prompt, word by word, and whether it repeats more of it than the SFT baseline's.

    Title, reference value and format of a measure are what reports show it with, in every table and figure.
    """

    measures = (
        Measure("exact_echo", "rate", "responses that repeat the prompt and nothing else", title="exact echoes",
                format="percent"),
        Measure("longer_echo", "win", "repeats more words from the prompt's start than the SFT baseline's response",
                title="longer echoes", reference=0.5),
    )  # fmt: skip

    def measure(self, cases: Sequence[Case], task: Task) -> Iterable[Verdict]:  # noqa: ARG002
        for case in cases:
            wanted, given = case.example.prompt.split(), case.generation.response.split()
            after, before = echoed(wanted, given), echoed(wanted, case.baseline.response.split())
            win = 0.5 if after == before else float(after > before)
            yield Verdict({"exact_echo": float(given == wanted), "longer_echo": win})


def echoed(wanted: Sequence[str], given: Sequence[str]) -> int:
    """How many words a response repeats from the start."""
    return next(
        (k for k, (a, b) in enumerate(zip(wanted, given, strict=False)) if a != b), min(len(wanted), len(given))
    )
