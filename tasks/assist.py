"""The task `assist`: a controlled world of open-ended and closed-ended questions; the utility of an answer is exact.

It puts to the test what arXiv 2402.03469 finds of white-box rewards: that length and relevance pay where a fuller
answer is better, and consistency with a reference where one fact is asked for.  All data are a pure function of the
settings and the seed.  The table of right facts is drawn from the seed too and is the same for every split: a perfect
answer follows from the prompt and that table, which the demonstrations show (the most frequent value is the right one).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Example, Pair, Split, Utility
from rlhf_bench.tasks.worlds.assist_gold import gold
from rlhf_bench.tasks.worlds.assist_writers import (
    CAREFUL,
    FLAWED,
    Habits,
    Question,
    Table,
    draw_question,
    draw_table,
    perfect_answer,
    write_answer,
    write_prompt,
)
from rlhf_bench.tasks.worlds.generated import ATTEMPTS, Generated, Range, Written


@dataclass(frozen=True)
class AssistWorld(Generated[Question]):
    """The task: questions, demonstrations by one writer of mixed quality, pairs of two writers' texts.

    Rates are probabilities.  `open_rate` and `mention_rate` (to name another subject in passing) are per prompt;
    `long` is per fact: its long form rather than its short one.  `sft_*` are the habits (`Habits` explains them) of
    whoever writes the demonstrations.  One text of a pair is by one of five writers with a flaw each (too short,
    wrong, padded, repeating, off topic), the other one with probability `careful` by the careful writer, else by one of
    the five; texts of equal worth are written again.  Pairs of "test" are on the held-out prompts, in turn, so that
    rewards which need a reference can score them; no prompt occurs twice elsewhere.  `Generated` explains the others.
    """

    where = "the world of questions"
    texts = "answers of different worth"
    more_pairs = "Lower carelessness."
    rubric = "general"  # of judges that read; no annotation, so that it is no field

    train_pairs: int = 4000
    open_rate: float = 0.5
    mention_rate: float = 0.5
    long: float = 0.4
    sft_keep: float = 0.25
    sft_miss: float = 0.08
    sft_more: float = 0.06
    sft_wrong: float = 0.12
    sft_repeat: float = 0.12
    sft_stray: float = 0.15
    sft_pad: float = 0.7
    careful: float = 0.5

    def _range(self, name: str) -> Range:
        return (2, 2**20) if name == "response_tokens" else super()._range(name)

    @cached_property
    def table(self) -> Table:
        """Right facts of every subject, a function of the seed alone."""
        return draw_table(random.Random(f"{self.seed}/table"))

    @property
    def description(self) -> str:
        """What the data are, in words."""
        return (
            "A controlled world: generated open-ended and closed-ended questions about invented facts; the gold "
            "utility is exact."
        )

    def utility(self, example: Example, response: str) -> Utility:
        """See `gold`; any text may be asked about."""
        return gold(example.facts, response)

    def worth(self, truth: Question, response: str) -> float:
        """See `gold`."""
        return gold(truth._asdict(), response).value

    def draw(self, rng: random.Random) -> tuple[Question, str]:
        """A question, and its wording."""
        question = draw_question(rng, self.table, self.open_rate, self.mention_rate)
        return question, write_prompt(rng, question)

    def slices(self, truth: Question) -> tuple[str, ...]:
        """Whether the question is open-ended or closed-ended."""
        return (truth.type,)

    def perfect(self, rng: random.Random, truth: Question) -> str:
        """Four right facts, or the one that was asked for."""
        return perfect_answer(rng, truth, self.long)

    def demonstration(self, rng: random.Random, truth: Question) -> str:
        """By a writer of the habits that were set."""
        habits = Habits(*(getattr(self, f"sft_{habit}") for habit in Habits._fields))
        return write_answer(rng, truth, habits, self.long).text

    def two_texts(self, rng: random.Random, truth: Question) -> tuple[Written, Written]:
        """Of a writer with a flaw, and of the careful one or another with a flaw."""
        one, two = rng.choices(list(FLAWED.values()), k=2)
        if rng.random() < self.careful:
            two = Habits(*self.careless(CAREFUL, two))
        return write_answer(rng, truth, one, self.long), write_answer(rng, truth, two, self.long)

    @cached_property
    def _data(self) -> tuple[dict[Split, tuple[Example, ...]], dict[Split, tuple[Pair, ...]]]:
        """As in every world, but that the held-out pairs are on the held-out prompts."""
        seen: set[str] = set()
        sizes: dict[Split, int] = {"test": self.test_prompts, "train": self.train_prompts, "sft": self.demonstrations}
        asked = {split: self._asked(split, size, seen) for split, size in sizes.items()}
        own = self._asked("train-pair", self.train_pairs, seen)
        held = [asked["test"][at % self.test_prompts] for at in range(self.test_pairs)]
        examples = {split: tuple(self._on(split, at, *q) for at, q in enumerate(asked[split])) for split in sizes}
        pairs: dict[Split, tuple[Pair, ...]] = {
            "test": tuple(self._pair_on(f"test-pair-{at}", *q) for at, q in enumerate(held)),
            "train": tuple(self._pair_on(f"train-pair-{at}", *q) for at, q in enumerate(own)),
            "sft": (),
        }
        return examples, pairs

    def _asked(self, name: str, size: int, seen: set[str]) -> Sequence[tuple[Question, str]]:
        return [self._prompt(f"{name}-{at}", seen)[1:] for at in range(size)]

    def _on(self, split: Split, at: int, question: Question, prompt: str) -> Example:
        """The completion is a demonstration in "sft", elsewhere a perfect answer, with another one in references."""
        name = f"{split}-{at}"
        rng = random.Random(f"{self.seed}/{name}/answer")
        kinds, facts = self.slices(question), question._asdict()
        if split == "sft":
            return Example(name, prompt, self.demonstration(rng, question), slices=kinds, facts=facts)
        completion, other = (self.perfect(rng, question) for _ in range(2))
        references = (other,) if other != completion else ()
        return Example(name, prompt, completion, references, slices=kinds, facts=facts)

    def _pair_on(self, name: str, question: Question, prompt: str) -> Pair:
        rng = random.Random(f"{self.seed}/{name}/answers")
        for _ in range(ATTEMPTS):
            one, two = self.two_texts(rng, question)
            if self.worth(question, one.text) != self.worth(question, two.text):
                chosen, rejected = (one, two) if self._prefers(rng, question, one, two) else (two, one)
                return Pair(name, prompt, chosen.text, rejected.text, chosen.flaws, rejected.flaws)
        raise BenchError(f"No two {self.texts} in {ATTEMPTS} draws for {name}.", self.more_pairs)
