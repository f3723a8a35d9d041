"""The task `dialogsum`: summarise a dialogue.  A controlled world, or DialogSum (arXiv 2105.06762) with `data`."""

from __future__ import annotations

from rlhf_bench.tasks.real import Corpus, RealSummaries, check_data, parted, refuse_knobs
from rlhf_bench.tasks.worlds.world import DialogueWorld

DIALOGSUM = Corpus(
    noun="dialogue",
    hub="knkarthick/dialogsum",
    files="dialogsum",
    column="dialogue",
    summaries=("summary", "summary1", "summary2", "summary3"),
    ids=("fname", "id"),
    instruction="Summarize the dialogue above.",
    license="CC BY-NC-SA 4.0 (stated for DialogSum; its dialogues belong to the users who created them)",
)


def dialogsum(
    *,
    data: str = "",
    response_tokens: int = 0,
    seed: int = DialogueWorld.seed,
    demonstrations: int = DialogueWorld.demonstrations,
    train_pairs: int = DialogueWorld.train_pairs,
    test_pairs: int = DialogueWorld.test_pairs,
    train_prompts: int = DialogueWorld.train_prompts,
    test_prompts: int = DialogueWorld.test_prompts,
    dialogue_words: int = DialogueWorld.dialogue_words,
    min_facts: int = DialogueWorld.min_facts,
    max_facts: int = DialogueWorld.max_facts,
    correction_rate: float = DialogueWorld.correction_rate,
    mention_rate: float = DialogueWorld.mention_rate,
    sft_drop: float = DialogueWorld.sft_drop,
    sft_wrong: float = DialogueWorld.sft_wrong,
    sft_invent: float = DialogueWorld.sft_invent,
    sft_filler: float = DialogueWorld.sft_filler,
    good_drop: float = DialogueWorld.good_drop,
    good_wrong: float = DialogueWorld.good_wrong,
    good_invent: float = DialogueWorld.good_invent,
    good_filler: float = DialogueWorld.good_filler,
    bad_drop: float = DialogueWorld.bad_drop,
    bad_wrong: float = DialogueWorld.bad_wrong,
    bad_invent: float = DialogueWorld.bad_invent,
    bad_filler: float = DialogueWorld.bad_filler,
    carelessness: float = DialogueWorld.carelessness,
    preference_noise: float = DialogueWorld.preference_noise,
) -> DialogueWorld | RealSummaries:
    """The controlled world, or with `data` (a folder, a file, "hub", a hub dataset) real dialogues.

    `response_tokens` 0 means 48 in the world and 64 with real data; every other setting is the world's alone
    (`DialogueWorld` explains them) and is refused together with `data`.
    """
    knobs, tokens = parted(locals(), "data")
    if not data:
        return DialogueWorld(**knobs, **tokens)
    refuse_knobs(data, knobs, DialogueWorld)
    check_data(data)
    return RealSummaries(DIALOGSUM, data, **tokens)
