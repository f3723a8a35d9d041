"""What all synthetic tasks share: sizes, prompts that occur once, and pairs preferred by true utility ("gold").

The generator of a synthetic task is called a world.  A subclass of `Generated` draws prompts, writes responses and
computes what a response is worth.  All data are a pure function of the settings, of which the seed is one.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Example, Origin, Pair, Split, to_row
from rlhf_bench.harness.text.tokens import Span

# Redraws of a prompt or a pair before the settings are called impossible.
ATTEMPTS = 1000

SIZES = ("demonstrations", "train_pairs", "test_pairs", "train_prompts", "test_prompts")

Range = tuple[float, float]
# Smallest and largest value of a setting. A numeric setting that is not listed is a rate, from 0 to 1.
RANGES: Mapping[str, Range] = {
    **dict.fromkeys(SIZES, (1, 10**6)),
    "seed": (0, 2**63 - 1),
    "preference_noise": (1e-6, 1e6),
    "response_tokens": (1, 2**20),
}


class Written(NamedTuple):
    """A text and the character spans in it that are flaws."""

    text: str
    flaws: tuple[Span, ...] = ()


def flawed(text: str) -> Written:
    """A text that is one flaw from its first to its last character."""
    return Written(text, ((0, len(text)),))


def joined(parts: Iterable[Written]) -> Written:
    """The parts with a space between them, their flaws moved accordingly."""
    texts: list[str] = []
    flaws: list[Span] = []
    offset = 0
    for text, spans in parts:
        texts.append(text)
        flaws += [(offset + start, offset + end) for start, end in spans]
        offset += len(text) + 1  # the space
    return Written(" ".join(texts), tuple(flaws))


def split_sentences(text: str) -> list[str]:
    """The sentences of any text, white space normalised; a last one without its full stop is a sentence too."""
    # Up to each full stop, and what is left after the last one: text cut off at the limit of tokens.
    found = (" ".join(sentence.split()) for sentence in re.findall(r"[^.]*\.|[^.]+$", text))
    return [sentence for sentence in found if sentence]


class Truth(Protocol):
    """What a prompt asks for and all that gold depends on: a NamedTuple."""

    def _asdict(self) -> dict[str, Any]: ...


T = TypeVar("T", bound=Truth)


@dataclass(frozen=True)
class Generated(Generic[T]):
    """Sizes and settings of every world, and its data.

    `carelessness` moves the good writer of pairs towards the bad one (0: as set, 1: equally bad), so it sets how clean
    the chosen responses are.  The better text is preferred with probability sigmoid(difference in gold /
    preference_noise).  Every set draws its own prompts, and no two prompts are equal.

    A subclass implements the methods that raise NotImplementedError.  They use no randomness but `rng`, so that the
    data depend on the settings alone.

    Raises BenchError for a setting outside its range, and, once data are read, for settings under which no new prompt
    or no pair of different texts is found in ATTEMPTS draws.
    """

    # Words for error messages: the world, two responses, and what to change where prompts or such responses run out.
    world: ClassVar[str]
    responses: ClassVar[str]
    fix_prompts: ClassVar[str] = "Ask for fewer prompts."
    fix_pairs: ClassVar[str]

    seed: int = 0
    # Numbers of examples and pairs.
    demonstrations: int = 2000
    train_pairs: int = 1500
    test_pairs: int = 256
    train_prompts: int = 512
    test_prompts: int = 256
    carelessness: float = 0.0  # of the good writer, as a share of the way to the bad one
    preference_noise: float = 0.2  # in units of gold
    response_tokens: int = 48

    def __post_init__(self) -> None:
        ranges = self.ranges
        for name in (field.name for field in fields(self)):
            value, (low, high) = getattr(self, name), ranges.get(name, (0.0, 1.0))
            # "not low <= value <= high" refuses NaN too, which `--set` cannot write but a caller in Python can.
            # texts and registers have no range
            if isinstance(value, int | float) and not low <= value <= high:
                raise BenchError(f"{name} = {value} in {self.world}.", f"Give a number from {low} to {high}.")

    @property
    def ranges(self) -> Mapping[str, Range]:
        """Smallest and largest value by setting; 0 and 1 for a setting that is not in it."""
        return RANGES

    @property
    def max_response_tokens(self) -> int:
        """As set; a world's default suffices for its longest perfect response and the end-of-sequence token."""
        return self.response_tokens

    @property
    def description(self) -> str:
        """What the data are, in words; part of every report."""
        raise NotImplementedError

    def draw(self, rng: random.Random) -> tuple[T, str]:
        """What a prompt asks for, and the prompt."""
        raise NotImplementedError

    def draw_held_out(self, rng: random.Random) -> tuple[T, str]:
        """As `draw`, for the split "test" and its pairs: a world that holds more out than prompts has its own."""
        return self.draw(rng)

    def slices(self, truth: T) -> tuple[str, ...]:
        """The slices that a prompt belongs to."""
        raise NotImplementedError

    def source(self, truth: T) -> str:  # noqa: ARG002  # a subclass needs the truth
        """What several prompts share, so that they are one cluster in intervals (`Example.source`); "" for nothing."""
        return ""

    def demonstration(self, rng: random.Random, truth: T) -> str:
        """A response of mixed quality; the SFT policy learns from these."""
        raise NotImplementedError

    def perfect(self, rng: random.Random, truth: T) -> str:
        """A response whose gold is exactly 1."""
        raise NotImplementedError

    def pair_texts(self, rng: random.Random, truth: T) -> tuple[Written, Written]:
        """Two responses for a pair: the good writer's and the bad one's."""
        raise NotImplementedError

    def gold_value(self, truth: T, response: str) -> float:
        """The gold utility of a response."""
        raise NotImplementedError

    @cached_property
    def origin(self) -> Origin:
        """A generated task; the hash is of every example and pair, so it changes with settings, seed and wording."""
        examples, pairs = self._data
        # Splits in the order in which they were drawn; the hash is in stored results, so the order is fixed.
        content = json.dumps([to_row(record) for split in (*examples.values(), *pairs.values()) for record in split])
        return Origin(
            kind="generated",
            description=self.description,
            sha256=hashlib.sha256(content.encode()).hexdigest(),
            license="none needed: generated by this package",
        )

    def examples(self, split: Split) -> Sequence[Example]:
        """Prompts; the completion is a noisy demonstration in "sft", a perfect response in "train" and "test"."""
        return self._data[0][split]

    def pairs(self, split: Split) -> Sequence[Pair]:
        """Preference pairs with known flaws, on prompts of their own; there are none for "sft"."""
        return self._data[1][split]

    @cached_property
    def _data(self) -> tuple[dict[Split, tuple[Example, ...]], dict[Split, tuple[Pair, ...]]]:
        """Examples and pairs by split, drawn together because no prompt may occur twice."""
        seen: set[str] = set()
        # Held-out prompts are drawn first: their redraws then never depend on the sizes of the other sets.
        sizes: dict[Split, int] = {"test": self.test_prompts, "train": self.train_prompts, "sft": self.demonstrations}
        pair_sizes: dict[Split, int] = {"test": self.test_pairs, "train": self.train_pairs, "sft": 0}
        examples, pairs = {}, {}
        for split, size in sizes.items():
            made = []
            for name in (f"{split}-{at}" for at in range(size)):
                rng, truth, prompt = self.new_prompt(name, seen, split == "test")
                completion = self.demonstration(rng, truth) if split == "sft" else self.perfect(rng, truth)
                slices, source = self.slices(truth), self.source(truth)
                made.append(Example(name, prompt, completion, (), slices, source, truth._asdict()))
            examples[split] = tuple(made)
        for split, size in pair_sizes.items():
            names = (f"{split}-pair-{at}" for at in range(size))
            pairs[split] = tuple(self.compare(name, *self.new_prompt(name, seen, split == "test")) for name in names)
        return examples, pairs

    def new_prompt(self, name: str, seen: set[str], held_out: bool = False) -> tuple[random.Random, T, str]:
        """A generator, the truth, and a prompt that is not in `seen` and is added to it.

        Every prompt has a generator of its own, which its responses go on with: one prompt more or fewer elsewhere
        changes nothing here.
        """
        for attempt in range(ATTEMPTS):
            rng = random.Random(f"{self.seed}/{name}/{attempt}")
            truth, prompt = self.draw_held_out(rng) if held_out else self.draw(rng)
            if prompt not in seen:  # else the next attempt has another generator
                seen.add(prompt)
                return rng, truth, prompt
        raise BenchError(f"No new prompt in {ATTEMPTS} draws for {name}.", self.fix_prompts)

    def compare(self, name: str, rng: random.Random, truth: T, prompt: str) -> Pair:
        """A pair of two comparable texts, the preference by Bradley-Terry: sigmoid(gap of gold / preference_noise)."""
        for _ in range(ATTEMPTS):
            one, two = self.pair_texts(rng, truth)
            if self.comparable(truth, one, two):
                gap = self.gold_value(truth, one.text) - self.gold_value(truth, two.text)
                # The sigmoid by tanh, because exp overflows for a large gap over a small noise.
                first = rng.random() < (1 + math.tanh(gap / self.preference_noise / 2)) / 2
                chosen, rejected = (one, two) if first else (two, one)
                return Pair(name, prompt, chosen.text, rejected.text, chosen.flaws, rejected.flaws)
        raise BenchError(f"No two {self.responses} in {ATTEMPTS} draws for {name}.", self.fix_pairs)

    def comparable(self, truth: T, one: Written, two: Written) -> bool:  # noqa: ARG002  # a subclass needs the truth
        """Whether two texts can be a pair; others are drawn again."""
        return one.text != two.text

    def careless_rates(self, good: Sequence[float], bad: Sequence[float]) -> Iterator[float]:
        """The good writer's rates, moved towards the bad one's by the share `carelessness`."""
        return (g + self.carelessness * (b - g) for g, b in zip(good, bad, strict=True))
