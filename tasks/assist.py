"""The task `assist`: a synthetic task of open-ended and closed-ended questions with exact gold.

It tests what arXiv 2402.03469 finds of white-box rewards: that length and relevance pay where a fuller answer is
better, and consistency with a reference where one fact is asked for.  The table of right facts is drawn from the seed
and is the same for every split.  A perfect answer follows from the prompt and that table, which the demonstrations
show: the most frequent value is the right one.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from rlhf_bench.harness.nouns import Example, Pair, Split, Utility
from rlhf_bench.tasks.worlds.assist_texts import (
    CAREFUL,
    ENOUGH,
    FLAWED,
    Habits,
    Meaning,
    Question,
    Table,
    draw_question,
    draw_table,
    meanings,
    perfect_answer,
    write_answer,
    write_prompt,
)
from rlhf_bench.tasks.worlds.generated import RANGES, Generated, Range, Written, split_sentences

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import Row

# Cost of a wrong fact and of a needless sentence in an open-ended answer.
WRONG_COST, CLUTTER_COST = 0.25, 0.1

# Cost of a wrong fact in a closed-ended answer, and of each sentence beyond the one that was asked for.
CLOSED_WRONG_COST, BEYOND_COST = 0.5, 0.2

# Cost of a sentence that fits no template or lacks its full stop.
MALFORMED_COST = 0.2

PARTS = ("right", "extra", "wrong", "contradicted", "strayed", "repeated", "padding", "malformed")


@dataclass(frozen=True)
class AssistWorld(Generated[Question]):
    """Open-ended and closed-ended questions (synthetic task only).

    Rates are probabilities.  `open_rate` and `mention_rate` (to name another subject in passing) are per prompt;
    `long` is per fact: its long form rather than its short one.  `sft_*` are the habits (`Habits` explains them) of
    the writer of the demonstrations.  One text of a pair is by one of five writers with a flaw each (too short, wrong,
    padded, repeating, off topic), the other by the careful writer with probability `careful`, else by one of the five;
    texts of equal worth are drawn again.  Pairs of "test" are on the held-out prompts, in turn, so that rewards that
    need a reference can score them; no prompt occurs twice elsewhere.  `Generated` explains the other settings.
    """

    world = "the task of questions"
    responses = "answers of different worth"
    fix_pairs = "Lower carelessness."
    rubric = "general"  # for judges that read responses; without annotation, so that it is no dataclass field

    train_pairs: int = 4000
    open_rate: float = 0.5  # per prompt
    mention_rate: float = 0.5
    long: float = 0.4  # per fact
    # The writer of the demonstrations.
    sft_keep: float = 0.15
    sft_miss: float = 0.08
    sft_more: float = 0.06
    sft_wrong: float = 0.12
    sft_repeat: float = 0.12
    sft_stray: float = 0.15
    sft_pad: float = 0.9
    careful: float = 0.5  # per pair

    @property
    def ranges(self) -> Mapping[str, Range]:
        """The general ones, but at least 2 response tokens.

        An answer is one token and end-of-sequence at least.
        """
        return {**RANGES, "response_tokens": (2, 2**20)}

    @cached_property
    def table(self) -> Table:
        """Right facts of every subject, a function of the seed alone."""
        return draw_table(random.Random(f"{self.seed}/table"))

    @property
    def description(self) -> str:
        return (
            "A synthetic task: generated open-ended and closed-ended questions about invented facts; the gold "
            "utility is exact."
        )

    def utility(self, example: Example, response: str) -> Utility:
        """See `gold`; the response may be any text, and an empty one has 0."""
        return gold(example.facts, response)

    def gold_value(self, truth: Question, response: str) -> float:
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
        """By a writer with the habits `sft_*`."""
        habits = Habits(*(getattr(self, f"sft_{habit}") for habit in Habits._fields))
        return write_answer(rng, truth, habits, self.long).text

    def pair_texts(self, rng: random.Random, truth: Question) -> tuple[Written, Written]:
        """Of a writer with a flaw, and of the careful one or another with a flaw."""
        # Drawn with replacement: two writers of one flaw may meet.
        one, two = rng.choices(list(FLAWED.values()), k=2)
        if rng.random() < self.careful:
            two = Habits(*self.careless_rates(CAREFUL, two))
        return write_answer(rng, truth, one, self.long), write_answer(rng, truth, two, self.long)

    def comparable(self, truth: Question, one: Written, two: Written) -> bool:
        """Whether their gold differs: a preference between texts of equal worth is noise alone."""
        return self.gold_value(truth, one.text) != self.gold_value(truth, two.text)

    @cached_property
    def _data(self) -> tuple[dict[Split, tuple[Example, ...]], dict[Split, tuple[Pair, ...]]]:
        """As in every world, except that the held-out pairs are on the held-out prompts.

        The completion of an example is a demonstration in "sft", elsewhere a perfect answer, with another one in
        references.
        """
        seen: set[str] = set()

        def questions(name: str, size: int) -> list[tuple[Question, str]]:
            return [self.new_prompt(f"{name}-{at}", seen)[1:] for at in range(size)]

        def pairs(name: str, asked: Sequence[tuple[Question, str]]) -> tuple[Pair, ...]:
            # Not the prompts' generators, because a held-out prompt has several pairs where there are fewer prompts.
            names = [f"{name}-{at}" for at in range(len(asked))]
            rngs = (random.Random(f"{self.seed}/{name}/answers") for name in names)
            return tuple(self.compare(name, rng, *q) for name, rng, q in zip(names, rngs, asked, strict=True))

        def example(name: str, split: Split, question: Question, prompt: str) -> Example:
            rng = random.Random(f"{self.seed}/{name}/answer")
            references: tuple[str, ...] = ()
            if split == "sft":
                completion = self.demonstration(rng, question)
            else:
                # A second perfect answer is a reference: of an open-ended question it may state other facts.
                completion, other = (self.perfect(rng, question) for _ in range(2))
                references = (other,) if other != completion else ()
            return Example(name, prompt, completion, references, slices=self.slices(question), facts=question._asdict())

        # Held-out prompts first, as in every world: their redraws do not depend on the sizes of the other sets.
        sizes: dict[Split, int] = {"test": self.test_prompts, "train": self.train_prompts, "sft": self.demonstrations}
        drawn = {split: questions(split, size) for split, size in sizes.items()}
        own = questions("train-pair", self.train_pairs)  # training pairs have prompts of their own
        examples = {
            split: tuple(example(f"{split}-{at}", split, *q) for at, q in enumerate(asked))
            for split, asked in drawn.items()
        }
        # in turn: with more pairs than prompts the first prompt comes again
        held_out = [drawn["test"][at % self.test_prompts] for at in range(self.test_pairs)]
        return examples, {"test": pairs("test-pair", held_out), "train": pairs("train-pair", own), "sft": ()}


def gold(facts: Row, response: str) -> Utility:
    """The exact worth of any text as an answer to the question that `facts` (a `Question`) describe; empty 0.

    Sentences are looked up and facts counted.  No words, no n-grams and no overlap with a prompt or a reference enter,
    so rewards made of those may or may not agree with it.

    A kind of fact is "right" where its right value alone is stated of the subject asked about; every other value is
    "wrong", and a kind with several values is "contradicted": it is not right even if one of them is.  "strayed" counts
    facts of other subjects, true or not, "repeated" facts that were stated before.

    Open-ended: min(right, 4) / 4 - .25 wrong - .1 (strayed + repeated + padding) - .2 malformed; "extra" are right
    facts beyond four.  Closed-ended: 1 if the kind asked for is right, - .5 wrong, - .2 (extra + strayed + repeated +
    padding + malformed); "extra" are right facts of other kinds.
    """
    parts = dict.fromkeys(PARTS, 0.0)
    stated: dict[str, set[str]] = {}  # kind -> the values stated of the subject asked about
    seen: set[Meaning] = set()
    for meaning in read(response):
        if meaning is None or meaning.act == "padding":
            parts["malformed" if meaning is None else "padding"] += 1
        elif meaning in seen:  # the short and the long form of a fact have one meaning
            parts["repeated"] += 1
        elif meaning.subject != facts["subject"]:
            parts["strayed"] += 1
        else:
            stated.setdefault(meaning.kind, set()).add(meaning.value)
        if meaning:
            seen.add(meaning)

    truth = facts["truth"]
    # A kind is right only where nothing else is stated of it: listing all values earns nothing.
    right = {kind for kind, values in stated.items() if values == {truth[kind]}}
    counted = len(right & {facts["asked"]}) if facts["type"] == "closed" else min(len(right), ENOUGH)
    parts["right"], parts["extra"] = float(counted), float(len(right) - counted)
    parts["wrong"] = float(sum(len(values - {truth[kind]}) for kind, values in stated.items()))
    parts["contradicted"] = float(sum(len(values) > 1 for values in stated.values()))  # shown, but costs nothing more

    clutter = parts["strayed"] + parts["repeated"] + parts["padding"]
    # Distinct costs by type: extra facts are free where a fuller answer is better.
    if facts["type"] == "open":
        costs = WRONG_COST * parts["wrong"] + CLUTTER_COST * clutter
        return Utility(parts["right"] / ENOUGH - costs - MALFORMED_COST * parts["malformed"], parts)
    costs = CLOSED_WRONG_COST * parts["wrong"] + BEYOND_COST * (parts["extra"] + clutter)
    return Utility(parts["right"] - costs - MALFORMED_COST * parts["malformed"], parts)


def read(response: str) -> list[Meaning | None]:
    """What each sentence says, None for one that fits no template or lacks its full stop.

    Sentences are looked up whole (`meanings`): nothing is guessed.
    """
    return [meanings().get(sentence) for sentence in split_sentences(response)]
