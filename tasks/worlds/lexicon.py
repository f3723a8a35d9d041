"""Words and sentence templates of the synthetic summarisation tasks, as data: one `Register` for each kind of text.

A tiny model has to learn to copy the values, hence four rules: every fact value is one lower-case word that follows a
space wherever it occurs (a byte-level BPE then gives it one token), belongs to one kind only, occurs in no fixed text,
and is repeated once it is settled.  `lexicon_prose.py` has the registers of prose.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

# What one speaker says and what the other answers; in prose, two successive sentences.
Exchange = tuple[str, str]


@dataclass(frozen=True)
class FactKind:
    """A kind of fact and its sentences; `{}` stands for the value.

    `proposals` and `corrections` settle a value in the prompt and `accepts` repeat it, `mentions` name one without
    settling anything, `statements` are its paraphrases in a summary.  `reserved` values are for the tasks about unseen
    objects: half of the other prompts mention one of them, but there none is ever the truth or in a summary.
    """

    values: tuple[str, ...]
    proposals: tuple[str, ...]
    corrections: tuple[str, ...]
    accepts: tuple[str, ...]
    mentions: tuple[str, ...]
    statements: tuple[str, ...]
    reserved: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Register:
    """The texts of one kind of prompt: what may be agreed on, and everything around it.

    `core` is the kind that every prompt settles.  `{other}` in heads, openings and closings is the other person's name.
    Prose begins with one of `heads`; a dialogue has no head and takes turns.  Compared by identity, so that a register
    can be the key of a cache although its kinds are a mapping.
    """

    core: str
    kinds: Mapping[str, FactKind]
    names: tuple[str, ...]
    openings: tuple[Exchange, ...]
    closings: tuple[Exchange, ...]
    chat: tuple[Exchange, ...]
    replies: tuple[str, ...]
    fillers: tuple[str, ...]
    texts: str = "dialogues"
    heads: tuple[str, ...] = ()


def words_of(text: str) -> tuple[str, ...]:
    """The words of a text: lists of single words are easier to read without quotes."""
    return tuple(text.split())


@cache
def unseen(register: Register) -> Register:
    """The register with its reserved values alone, which no other task settles."""
    kinds = {name: replace(kind, values=kind.reserved, reserved=()) for name, kind in register.kinds.items()}
    return replace(register, kinds=kinds)


# 8 to 12 values each: few enough that a tiny model meets all of them, and no two kinds share a word.
KINDS = {
    "activity": FactKind(
        values=words_of("hiking swimming dancing fishing bowling skating cycling climbing sailing camping"),
        proposals=("Do you want to go {} with me?", "Let us go {} together."),
        corrections=("Wait, no, let us go {} instead.", "Sorry, can we go {} instead?"),
        accepts=("Yes, {} sounds good to me.", "Good idea, I like {}."),
        mentions=(),  # the core kind is never absent, and no value of it is reserved
        statements=("They will go {} together.", "The plan is to go {}."),
    ),
    "day": FactKind(
        values=words_of("monday tuesday wednesday thursday friday saturday sunday weekend"),
        proposals=("How about this {}?", "Let us do it this {}."),
        corrections=("Wait, no, this {} is better.", "Sorry, can we do it this {} instead?"),
        accepts=("Yes, this {} is fine with me.", "Good, I am free this {}."),
        mentions=("I was at home all day last {}.", "My car broke last {}."),
        statements=("It will happen this {}.", "They are both free this {}."),
    ),
    "time": FactKind(
        values=words_of("noon dawn dusk midnight five six seven eight nine ten"),
        proposals=("We could start at {}.", "Let us start at {}."),
        corrections=("Wait, no, at {} is better.", "Sorry, can we start at {} instead?"),
        accepts=("Yes, {} is fine with me.", "Good, at {} then."),
        mentions=("I woke up around {} today.", "My phone rang around {} last night."),
        statements=("They want to start at {}.", "The time to start is {}."),
    ),
    "place": FactKind(
        values=words_of("station library harbor museum bakery garden market castle school bridge"),
        proposals=("We could meet at the {}.", "Let us meet at the {}."),
        corrections=("Wait, no, meet me at the {} instead.", "Sorry, can we meet at the {} instead?"),
        accepts=("Yes, the {} is fine with me.", "Good, at the {} then."),
        mentions=("I walked past the old {} last week.", "My mother works near the {} now."),
        statements=("They will meet at the {}.", "The place to meet is the {}."),
    ),
    "item": FactKind(
        values=words_of("camera blanket umbrella lantern guitar thermos basket rope map kite"),
        proposals=("We should bring a good {}.", "Please bring the {}."),
        corrections=("Wait, no, bring the {} instead.", "Sorry, can we bring the {} instead?"),
        accepts=("Yes, I have a {}.", "Good, I will bring the {}."),
        mentions=("I lost my old {} last week.", "I saw a nice {} in a shop."),
        statements=("They have to bring the {}.", "The thing to bring is the {}."),
    ),
    "guest": FactKind(
        values=words_of("cousin brother sister uncle aunt neighbor teacher boss roommate grandmother"),
        proposals=("We should invite my {} too.", "Let us invite my {}."),
        corrections=("Wait, no, let us invite my {} instead.", "Sorry, can we invite my {} instead?"),
        accepts=("Yes, your {} is welcome.", "Good, I like your {}."),
        mentions=("I wrote a letter to my {} today.", "I had a long talk with my {} last night."),
        statements=("They want to invite the {}.", "The person to invite is the {}."),
    ),
}

DIALOGUE = Register(
    core="activity",
    kinds=KINDS,
    names=words_of("Anna Ben Clara David Emma Frank Grace Henry Julia Kevin Laura Peter"),
    openings=(
        ("Hi {other}, how are you?", "Hi {other}, I am fine, thank you."),
        ("Hello {other}, it is good to see you.", "Hello {other}, good to see you too."),
        ("Hi {other}, do you have a minute?", "Of course, {other}, what is it?"),
    ),
    closings=(
        ("See you soon, {other}.", "See you, {other}."),
        ("Good, I have to go now.", "Bye {other}, see you soon."),
        ("Thank you, {other}, that was all.", "Thank you too, {other}, bye."),
    ),
    # Small talk without any value, to fill a dialogue up to its length.
    chat=(
        ("It was so cold last night.", "Yes, but the sun is out today."),
        ("How is work?", "We are very busy this month, but I like my job."),
        ("Did you see the new film?", "Not yet, but I heard it is good."),
        ("I am trying to learn French.", "That is hard, but you will do well."),
        ("My cat was sick last week.", "Oh, I hope she is well now."),
        ("I had too much coffee today.", "Me too, we should drink more water."),
        ("Did you read the book I gave you?", "Yes, I liked the end very much."),
        ("I could not sleep last night.", "You should work less and rest more."),
        ("The train was late again today.", "It is late every day this month."),
        ("I am cooking soup for dinner.", "I hope you will let me try it."),
        ("Do you still play the piano?", "Not so much, I am too busy now."),
        ("I want to buy a new car.", "A good one is not cheap this year."),
        ("My balcony is full of flowers.", "I hope I can see them soon."),
        ("You look a bit tired today.", "I know, it was a long week."),
        ("I have to clean my house.", "So do I, but I am too tired."),
        ("Did you hear the music last night?", "Yes, it was so loud that I woke up."),
    ),
    # Answers to a mention.
    replies=(
        "Oh, I did not know that.",
        "I know, you told me.",
        "Oh, how was that?",
        "I hope that is all right.",
    ),
    # Sentences of a summary that state no fact.
    fillers=(
        "They had a nice talk.",
        "They are very good friends.",
        "The talk was short.",
        "They are both happy.",
        "It was good to talk.",
        "They like each other.",
    ),
)
