"""Small synthetic tasks and readers of their texts, for tests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain

from hypothesis import settings
from hypothesis import strategies as st

from rlhf_bench.tasks.worlds.lexicon import DIALOGUE, Register, unseen
from rlhf_bench.tasks.worlds.lexicon_prose import ARTICLE, POST
from rlhf_bench.tasks.worlds.world import DialogueWorld, SummaryWorld, World

SIZES = {"demonstrations": 20, "train_pairs": 20, "test_pairs": 20, "train_prompts": 20, "test_prompts": 20}
SMALL = DialogueWorld(**SIZES)
REGISTERS = {
    "dialogue": DIALOGUE,
    "post": POST,
    "article": ARTICLE,
    "unseen post": unseen(POST),
    "unseen article": unseen(ARTICLE),
}
WORLDS: dict[str, World] = {
    "dialogue": SMALL,
    "post": SummaryWorld(**SIZES),
    "article": SummaryWorld(**SIZES, register=ARTICLE),
    "unseen post": SummaryWorld(**SIZES, objects="unseen"),
}
LAW = settings(deadline=None)  # a busy machine is no failure
SEEDS = st.integers(0, 2**32)
NAMES = st.sampled_from(sorted(REGISTERS))
SETTLED = {
    "activity": r"go (\w+) (?:with me|together|instead)",
    "day": r"(?:How about|do it|no,) this (\w+)",
    "time": r"(?:start|no,) at (\w+)",
    "place": r"meet (?:me )?at the (\w+)",
    "item": r"bring (?:a good|the) (\w+)",
    "guest": r"invite my (\w+)",
}
"""An independent reading of the dialogue: what was settled last holds, what was settled before it was taken back."""


def settled(register: Register, prompt: str) -> dict[str, list[str]]:
    """What a reader who knows the templates finds settled in a prompt: the values of each kind, in order."""
    found: dict[str, list[str]] = {}
    for name, kind in register.kinds.items():
        ways = [re.escape(way).replace(r"\{\}", r"(\w+)") for way in (*kind.proposals, *kind.corrections)]
        places = sorted((match.start(), match[1]) for way in ways for match in re.finditer(rf"(?<=\s){way}", prompt))
        if places:
            found[name] = [value for _, value in places]
    return found


def fixed_texts(register: Register) -> Iterator[str]:
    """Everything a register may say, fact sentences as templates."""
    for kind in register.kinds.values():
        yield from (*kind.proposals, *kind.corrections, *kind.mentions, *kind.accepts, *kind.statements)
    yield from chain(register.replies, register.fillers, register.heads, register.names)
    yield from chain(*register.openings, *register.closings, *register.chat)


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text)
