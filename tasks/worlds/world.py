"""Controlled worlds: two people agree on an activity and a few details, and the gold utility of a summary is exact.

One generator tells it in different registers: a dialogue, a post, a news article.  All data are a pure function of the
settings and the seed, small enough that a policy trained from nothing learns them in about a minute.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from rlhf_bench.harness.errors import BenchError, did_you_mean
from rlhf_bench.harness.nouns import Example, Utility
from rlhf_bench.tasks.worlds.generated import Generated, Range, Written
from rlhf_bench.tasks.worlds.gold import gold
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


@dataclass(frozen=True)
class World(Generated[Facts]):
    """The task: prompts, demonstrations by a noisy summariser, pairs of a good writer's text against a bad one's.

    Rates are probabilities: `drop` and `wrong` per agreed fact, `invent` per absent kind, `filler` once per summary.
    `min_facts` and `max_facts` count the details besides the activity.  `correction_rate` is per fact,
    `mention_rate` per kind not agreed on.  `Generated` explains the others.
    What the prompts look like is the business of the two worlds below.
    """

    where = "the controlled world"
    texts = "summaries"
    more_prompts = "Ask for fewer prompts or longer ones."
    more_pairs = "Raise the good or bad rates."
    rubric = "summary"  # of judges that read; no annotation, so that it is no field

    min_facts: int = 1
    max_facts: int = 3
    correction_rate: float = 0.15
    mention_rate: float = 0.35
    sft_drop: float = 0.15
    sft_wrong: float = 0.15
    sft_invent: float = 0.10
    sft_filler: float = 0.25
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
        if self.min_facts > self.max_facts:
            raise BenchError(
                f"min_facts = {self.min_facts} is above max_facts = {self.max_facts}.", "Lower one or raise the other."
            )

    def _range(self, name: str) -> Range:
        if name in ("min_facts", "max_facts"):
            return 0, len(self.wording.kinds) - 1
        return (60, MAX_WORDS) if name in ("dialogue_words", "words") else super()._range(name)

    @property
    def wording(self) -> Register:
        """The register that gold reads, every value included."""
        raise NotImplementedError

    @property
    def drawn(self) -> Register:
        """The register that texts are drawn from: the same, or with fewer values."""
        return self.wording

    @property
    def length(self) -> int:
        """About how many words a prompt has."""
        raise NotImplementedError

    @property
    def telling(self) -> str:
        """What the prompts are, in words."""
        return self.wording.texts

    @property
    def description(self) -> str:
        """What the data are, in words."""
        return f"A controlled world: generated {self.telling} with noisy summaries; the gold utility is exact."

    def utility(self, example: Example, response: str) -> Utility:
        """See `gold`; any text may be asked about."""
        return gold(self.wording, example.facts["truth"], response)

    def worth(self, truth: Facts, response: str) -> float:
        """See `gold`."""
        return gold(self.wording, truth.truth, response).value

    def draw(self, rng: random.Random) -> tuple[Facts, str]:
        """What two people agree on, and its telling."""
        count = rng.randint(self.min_facts, self.max_facts)
        facts = draw_facts(rng, self.drawn, count, self.correction_rate, self.mention_rate)
        return facts, write_prompt(rng, self.drawn, facts, self.length)

    def slices(self, truth: Facts) -> tuple[str, ...]:
        """Whether something was corrected, and how many facts there are."""
        return "corrected" if truth.distractors else "plain", f"{len(truth.truth)} facts"

    def perfect(self, rng: random.Random, truth: Facts) -> str:
        """Every fact once, nothing else: at most 32 words and stops."""
        return perfect_summary(rng, self.drawn, truth)

    def demonstration(self, rng: random.Random, truth: Facts) -> str:
        """A noisy summariser's."""
        rates = Rates(self.sft_drop, self.sft_wrong, self.sft_invent, self.sft_filler)
        return noisy_summary(rng, self.drawn, truth, rates).text

    def two_texts(self, rng: random.Random, truth: Facts) -> tuple[Written, Written]:
        """The good writer's and the bad one's."""
        good = Rates(self.good_drop, self.good_wrong, self.good_invent, self.good_filler)
        bad = Rates(self.bad_drop, self.bad_wrong, self.bad_invent, self.bad_filler)
        one = noisy_summary(rng, self.drawn, truth, Rates(*self.careless(good, bad)))
        return one, noisy_summary(rng, self.drawn, truth, bad)


@dataclass(frozen=True)
class DialogueWorld(World):
    """A world told in dialogues of about `dialogue_words` words."""

    dialogue_words: int = 80

    @property
    def wording(self) -> Register:
        """The dialogue's."""
        return DIALOGUE

    @property
    def length(self) -> int:
        """As set."""
        return self.dialogue_words


OBJECTS = ("seen", "unseen")


@dataclass(frozen=True)
class SummaryWorld(World):
    """A world told in prose of about `words` words after its head.

    `objects` "seen" settles the usual values and mentions the register's reserved ones in passing; "unseen" knows the
    reserved ones only.  Two worlds with equal settings but for `register` settle the same facts prompt by prompt, so
    what differs between them is the telling.
    """

    words: int = 80
    objects: str = "seen"
    register: Register = POST

    def __post_init__(self) -> None:
        if self.objects not in OBJECTS:
            raise BenchError(f"objects = {self.objects!r}.", did_you_mean(self.objects, OBJECTS))
        super().__post_init__()

    @property
    def wording(self) -> Register:
        """As set."""
        return self.register

    @property
    def drawn(self) -> Register:
        """As set, or with the reserved values only."""
        return unseen(self.register) if self.objects == "unseen" else self.register

    @property
    def length(self) -> int:
        """As set."""
        return self.words

    @property
    def telling(self) -> str:
        """The register's kind of text, and whether it is about unseen objects."""
        return self.register.texts + (" about unseen objects" if self.objects == "unseen" else "")
