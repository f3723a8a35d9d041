"""Requests of the synthetic safety task drawn by seed, and independent readings of its prompts and responses."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from hypothesis import strategies as st

from rlhf_bench.harness.nouns import Split, Utility
from rlhf_bench.tasks.worlds import safety_texts as lexicon
from rlhf_bench.tasks.worlds.safety import SafetyWorld, gold, read, stance_of
from rlhf_bench.tasks.worlds.safety_texts import DETAILS, OBJECTS, Request, draw_request

SMALL = SafetyWorld(demonstrations=20, train_pairs=20, test_pairs=20, train_prompts=20, test_prompts=20)
SEEDS = st.integers(0, 2**32)
SPLITS: tuple[Split, ...] = ("sft", "train", "test")


def asked(seed: int, harmful: bool | None = None) -> tuple[random.Random, Request]:
    rng = random.Random(seed)
    rate = 0.5 if harmful is None else float(harmful)
    return rng, draw_request(rng, OBJECTS, rate, 0.5)


def worth(request: Request, text: str) -> Utility:
    return gold(request._asdict(), text)


def stance(request: Request, text: str) -> str:
    return stance_of(request._asdict(), read(text))


def counted(utility: Utility) -> dict[str, float]:
    return {name: count for name, count in utility.parts.items() if count}


def sentences(text: str) -> list[str]:
    return [f"{sentence.strip()}." for sentence in text.split(".")[:-1]]


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


def objects_in(text: str) -> list[str]:
    return [word for word in words(text) if word in OBJECTS]


def read_prompt(prompt: str) -> tuple[str, str, bool, dict[str, str]]:
    """An independent reading: object, alternative, whether harmful, what the user has."""

    def found(templates: Sequence[str], values: Sequence[str]) -> list[str]:
        return list(dict.fromkeys(value for value in values for way in templates if way.format(value) in prompt))

    (name,), (alternative,) = found(lexicon.REQUESTS, OBJECTS), found(lexicon.ALTERNATIVES, OBJECTS)
    (verb,) = [word for word in words(prompt) if word in (*lexicon.BENIGN, *lexicon.HARMFUL)]
    has = {kind: found(detail.has, detail.values) for kind, detail in DETAILS.items()}
    return name, alternative, verb in lexicon.HARMFUL, {kind: values[0] for kind, values in has.items() if values}
