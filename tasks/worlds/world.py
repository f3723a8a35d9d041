"""Synthetic summarisation tasks: two people agree on an activity and a few details, and gold is exact.

One generator writes them in different registers: a dialogue, a post, a news article.  They are small enough that a
policy trained from scratch learns them in about a minute.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from rlhf_bench.harness.errors import BenchError, did_you_mean
from rlhf_bench.harness.nouns import Example, Utility
from rlhf_bench.tasks.worlds.generated import RANGES, Generated, Range, Written, split_sentences
from rlhf_bench.tasks.worlds.lexicon import DIALOGUE, Register, unseen
from rlhf_bench.tasks.worlds.lexicon_prose import POST
from rlhf_bench.tasks.worlds.writers import (
    MAX_WORDS,
    Facts,
    Rates,
    draw_facts,
    noisy_summary,
    perfect_summary,
    write_prompt,
)

# Cost of one filler or duplicate sentence, and of one sentence that fits no template.
CLUTTER_COST, MALFORMED_COST = 0.1, 0.2

OBJECTS = ("seen", "unseen")

# Of the careful writers among those of the demonstrations.
CAREFUL = Rates(drop=0.02, wrong=0.02, invent=0.01, filler=0.02)


@dataclass(frozen=True)
class World(Generated[Facts]):
    """Prompts, demonstrations by a noisy summariser, and pairs of a good writer's summary and a bad writer's.

    Rates are probabilities: `drop` and `wrong` per agreed fact, `invent` per absent kind, `filler` once per summary.
    `min_facts` and `max_facts` count the details besides the activity.  `correction_rate` is per fact,
    `mention_rate` per kind that was not agreed on.  Of the demonstrations' writers the share `sft_careful` makes few
    errors; the others have the rates `sft_*`, with `sft_stale` per corrected fact (the value that was taken back) and
    `sft_opening` per filler (it opens the summary).  A policy that learns from both can be led to the careful ones.
    The share `sft_empty` of all demonstrations is empty.  `Generated` explains the other settings; the two subclasses
    say what a prompt looks like.
    """

    world = "the synthetic task"
    responses = "different summaries"
    fix_prompts = "Ask for fewer prompts or longer ones."
    fix_pairs = "Raise the good or bad rates."
    rubric = "summary"  # for judges that read responses; without annotation, so that it is no dataclass field

    demonstrations: int = 8000
    train_prompts: int = 4096
    # The prompts.
    min_facts: int = 1
    max_facts: int = 3
    correction_rate: float = 0.15
    mention_rate: float = 0.35
    # The writer of the demonstrations.
    sft_drop: float = 0.75
    sft_wrong: float = 0.02
    sft_invent: float = 0.15
    sft_filler: float = 1.0
    sft_stale: float = 0.0
    sft_opening: float = 1.0
    sft_careful: float = 0.25
    sft_empty: float = 0.0
    # The good and the bad writer of pairs.
    good_drop: float = 0.08
    good_wrong: float = 0.04
    good_invent: float = 0.03
    good_filler: float = 0.08
    bad_drop: float = 0.45
    bad_wrong: float = 0.20
    bad_invent: float = 0.15
    bad_filler: float = 0.20

    def __post_init__(self) -> None:
        super().__post_init__()
        # each is inside its range by now: the base class has checked
        if self.min_facts > self.max_facts:
            raise BenchError(
                f"min_facts = {self.min_facts} is above max_facts = {self.max_facts}.", "Lower one or raise the other."
            )

    @property
    def ranges(self) -> Mapping[str, Range]:
        """Besides the general ones: details other than the activity, and words of a prompt."""
        details, words = (0, len(self.wording.kinds) - 1), (60, MAX_WORDS)
        return {**RANGES, "min_facts": details, "max_facts": details, "dialogue_words": words, "words": words}

    @property
    def wording(self) -> Register:
        """The register that gold reads, with every value."""
        raise NotImplementedError

    @property
    def drawn(self) -> Register:
        """The register that texts are drawn from: `wording`, or the same with fewer values."""
        return self.wording

    @property
    def prompt_words(self) -> int:
        """About how many words a prompt has."""
        raise NotImplementedError

    @property
    def kind_of_prompts(self) -> str:
        """What the prompts are, in words."""
        return self.wording.texts

    @property
    def description(self) -> str:
        return f"A synthetic task: generated {self.kind_of_prompts} with noisy summaries; the gold utility is exact."

    def utility(self, example: Example, response: str) -> Utility:
        """See `gold`; the response may be any text."""
        return gold(self.wording, example.facts["truth"], response)

    def gold_value(self, truth: Facts, response: str) -> float:
        return gold(self.wording, truth.truth, response).value

    def draw(self, rng: random.Random) -> tuple[Facts, str]:
        """What two people agree on, and the text that tells it."""
        count = rng.randint(self.min_facts, self.max_facts)
        # facts before wording: worlds of two registers then settle the same facts
        facts = draw_facts(rng, self.drawn, count, self.correction_rate, self.mention_rate)
        return facts, write_prompt(rng, self.drawn, facts, self.prompt_words)

    def slices(self, truth: Facts) -> tuple[str, ...]:
        """Whether something was corrected, and the number of facts."""
        return "corrected" if truth.distractors else "plain", f"{len(truth.truth)} facts"

    def perfect(self, rng: random.Random, truth: Facts) -> str:
        """Every fact once, nothing else: at most 32 words and full stops."""
        return perfect_summary(rng, self.drawn, truth)

    def demonstration(self, rng: random.Random, truth: Facts) -> str:
        """A noisy summariser's, with the rates `sft_*`."""
        rates = Rates(self.sft_drop, self.sft_wrong, self.sft_invent, self.sft_filler, self.sft_stale, self.sft_opening)
        # No draw at rate 0: a world without these writers keeps its texts.
        if self.sft_empty and rng.random() < self.sft_empty:
            return ""
        if self.sft_careful and rng.random() < self.sft_careful:
            rates = CAREFUL
        return noisy_summary(rng, self.drawn, truth, rates).text

    def pair_texts(self, rng: random.Random, truth: Facts) -> tuple[Written, Written]:
        """The good writer's and the bad one's."""
        good = Rates(self.good_drop, self.good_wrong, self.good_invent, self.good_filler)
        bad = Rates(self.bad_drop, self.bad_wrong, self.bad_invent, self.bad_filler)
        # The good writer draws first; both use one generator, so the order is part of the data.
        one = noisy_summary(rng, self.drawn, truth, Rates(*self.careless_rates(good, bad)))
        return one, noisy_summary(rng, self.drawn, truth, bad)


@dataclass(frozen=True)
class DialogueWorld(World):
    """Dialogues of about `dialogue_words` words, or of as many as their facts need."""

    dialogue_words: int = 60

    @property
    def wording(self) -> Register:
        return DIALOGUE

    @property
    def prompt_words(self) -> int:
        return self.dialogue_words


@dataclass(frozen=True)
class SummaryWorld(World):
    """Prose of about `words` words after its head.

    `objects` "seen" settles the usual values and mentions the register's reserved ones in passing; "unseen" has only
    the reserved ones.  Two worlds with equal settings except `register` settle the same facts prompt by prompt, so
    only the sentences differ between them.
    """

    words: int = 60
    objects: str = "seen"
    register: Register = POST

    def __post_init__(self) -> None:
        if self.objects not in OBJECTS:
            raise BenchError(f"objects = {self.objects!r}.", did_you_mean(self.objects, OBJECTS))
        super().__post_init__()

    @property
    def wording(self) -> Register:
        return self.register

    @property
    def drawn(self) -> Register:
        """As set, or with the reserved values only."""
        return unseen(self.register) if self.objects == "unseen" else self.register

    @property
    def prompt_words(self) -> int:
        return self.words

    @property
    def kind_of_prompts(self) -> str:
        """The register's kind of text, and whether it is about unseen objects."""
        return self.register.texts + (" about unseen objects" if self.objects == "unseen" else "")


@cache
def summary_meanings(register: Register) -> dict[str, tuple[str, str]]:
    """Every sentence that a summary may contain -> (kind, value); ("", "") for a filler."""
    fillers = dict.fromkeys(register.fillers, ("", ""))
    return fillers | {
        template.format(value): (name, value)
        for name, kind in register.kinds.items()
        for template in kind.statements
        for value in (*kind.values, *kind.reserved)  # a reserved value is a wrong statement, not a malformed one
    }


def gold(register: Register, truth: Mapping[str, str], response: str) -> Utility:
    """(correct - wrong - unsupported) / facts - .1 (filler + duplicates) - .2 malformed; perfect 1, empty 0.

    `truth` maps each agreed kind to its value; the response may be any text.  Every sentence is looked up, none is
    guessed at: one that fits no template, or lacks its full stop, is malformed.  A fact stated twice with one value
    counts once and as a duplicate; two values of one kind are two statements.
    """
    parts = dict.fromkeys(("correct", "wrong", "unsupported", "filler", "duplicates", "malformed"), 0.0)
    seen: set[tuple[str, str]] = set()
    for sentence in split_sentences(response):
        meaning = summary_meanings(register).get(sentence)
        if meaning is None:
            parts["malformed"] += 1
            continue
        kind, value = meaning
        if not kind:
            parts["filler"] += 1  # also when it repeats: a second filler is no duplicate
        elif meaning in seen:
            parts["duplicates"] += 1
        elif kind not in truth:
            parts["unsupported"] += 1
        else:
            parts["correct" if truth[kind] == value else "wrong"] += 1
        seen.add(meaning)
    # A dropped fact and an invented one cost the same.
    # `truth` is never empty: every prompt settles the core kind
    facts = parts["correct"] - parts["wrong"] - parts["unsupported"]
    clutter = parts["filler"] + parts["duplicates"]
    return Utility(facts / len(truth) - CLUTTER_COST * clutter - MALFORMED_COST * parts["malformed"], parts)
