"""Laws of the controlled world: its gold is exact, its prompts hold the truth, its labels cover what is wrong."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Example, to_row
from rlhf_bench.harness.seams import GoldTask, HasOrigin, Task
from rlhf_bench.tasks.lexicon import DIALOGUE
from rlhf_bench.tasks.world import DialogueWorld, gold
from rlhf_bench.tasks.writers import Facts, Rates, draw_facts, noisy_summary, perfect_summary, write_dialogue

SMALL = DialogueWorld(demonstrations=20, train_pairs=20, test_pairs=20, train_prompts=20, test_prompts=20)
LAW = settings(deadline=None)  # a busy machine is no failure
SEEDS = st.integers(0, 2**32)
RATES = st.builds(Rates, *[st.floats(0, 1)] * 4)

SETTLED = {
    "activity": r"go (\w+) (?:with me|together|instead)",
    "day": r"(?:How about|do it|no,) this (\w+)",
    "time": r"(?:start|no,) at (\w+)",
    "place": r"meet (?:me )?at the (\w+)",
    "item": r"bring (?:a good|the) (\w+)",
    "guest": r"invite my (\w+)",
}
"""An independent reading of the dialogue: what was settled last holds, what was settled before it was taken back."""


@pytest.fixture(scope="module")
def world() -> DialogueWorld:
    return DialogueWorld()


def facts_of(seed: int) -> tuple[random.Random, Facts]:
    rng = random.Random(seed)
    return rng, draw_facts(rng, DIALOGUE, rng.randint(1, 3), 0.5, 0.5)


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


def test_it_has_every_seam(world: DialogueWorld) -> None:
    assert isinstance(world, Task)
    assert isinstance(world, GoldTask)
    assert isinstance(world, HasOrigin)
    assert world.origin.kind == "generated"
    assert re.fullmatch(r"[0-9a-f]{64}", world.origin.sha256)


def test_sizes_and_ids(world: DialogueWorld) -> None:
    assert [len(world.examples(split)) for split in ("sft", "train", "test")] == [2000, 512, 256]
    assert [len(world.pairs(split)) for split in ("sft", "train", "test")] == [0, 1500, 256]
    assert world.examples("test")[17].id == "test-17"
    assert all(
        len({row.id for row in world.examples(split)}) == len(world.examples(split)) for split in ("sft", "test")
    )


@LAW
@given(SEEDS)
def test_a_perfect_summary_scores_exactly_1_and_an_empty_one_0(seed: int) -> None:
    rng, facts = facts_of(seed)
    assert gold(DIALOGUE, facts.truth, perfect_summary(rng, DIALOGUE, facts)).value == 1.0
    assert gold(DIALOGUE, facts.truth, "").value == gold(DIALOGUE, facts.truth, " \n").value == 0.0


@LAW
@given(SEEDS, st.sampled_from(["drop", "wrong", "unsupported", "filler", "duplicates", "malformed"]))
def test_every_corruption_lowers_gold_and_is_counted(seed: int, corruption: str) -> None:
    rng, facts = facts_of(seed)
    sentences = perfect_summary(rng, DIALOGUE, facts).split(". ")
    sentences[-1] = sentences[-1].removesuffix(".")
    kind = rng.choice([kind for kind in DIALOGUE.kinds if kind not in facts.truth])
    stated = DIALOGUE.kinds[kind].statements[0].format(DIALOGUE.kinds[kind].values[0]).removesuffix(".")
    added = {
        "unsupported": stated,
        "filler": DIALOGUE.fillers[0].removesuffix("."),
        "duplicates": sentences[0],
        "malformed": "They will go go",
    }
    if corruption in added:
        sentences.insert(rng.randint(0, len(sentences)), added[corruption])
    elif corruption == "drop":
        sentences.pop()
    else:
        value = facts.truth["activity"]
        other = next(other for other in DIALOGUE.kinds["activity"].values if other != value)
        sentences[0] = sentences[0].replace(value, other)
    utility = gold(DIALOGUE, facts.truth, ". ".join(sentences) + ".")
    assert utility.value < 1
    counted = {name: count for name, count in utility.parts.items() if count and name != "correct"}
    assert counted == ({} if corruption == "drop" else {corruption: 1})
    missing = corruption in ("drop", "wrong")
    assert utility.parts["correct"] == len(facts.truth) - missing


def test_gold_by_hand() -> None:
    truth = {"activity": "hiking", "day": "friday"}
    text = "They will go hiking together. The plan is to go hiking. It will happen this monday."
    text += " They will meet at the castle. They had a nice talk. They will"  # unsupported, filler, malformed
    utility = gold(DIALOGUE, truth, text)
    assert utility.value == pytest.approx((1 - 1 - 1) / 2 - 0.1 * 2 - 0.2)
    assert utility.parts == dict.fromkeys(("correct", "wrong", "unsupported", "filler", "duplicates", "malformed"), 1)
    assert gold(DIALOGUE, truth, "...").parts["malformed"] == 3
    assert gold(DIALOGUE, truth, "They will go hiking together").parts["malformed"] == 1  # cut before its full stop


@LAW
@given(st.one_of(st.text(), st.text(alphabet="They will go hiking together.\x00\u2028\n{}%", max_size=200)))
def test_any_text_has_a_utility(text: str) -> None:
    example = Example("test-0", "", facts={"truth": {"activity": "hiking"}})
    utility = SMALL.utility(example, text)
    assert utility.value <= 1
    assert bool(text.replace(".", "").split() or "." in text) == any(utility.parts.values())


@LAW
@given(SEEDS, st.integers(60, 220), st.integers(0, 5))
def test_the_dialogue_settles_exactly_the_facts(seed: int, length: int, count: int) -> None:
    rng = random.Random(seed)
    facts = draw_facts(rng, DIALOGUE, count, 0.5, 0.5)
    prompt = write_dialogue(rng, DIALOGUE, facts, length)
    settled = {kind: re.findall(pattern, prompt) for kind, pattern in SETTLED.items()}
    assert {kind: found[-1] for kind, found in settled.items() if found} == facts.truth
    assert {kind: found[0] for kind, found in settled.items() if len(set(found)) > 1} == facts.distractors
    assert all(f" {value}" in prompt for value in facts.mentioned.values())
    assert not set(facts.mentioned) & set(facts.truth)
    assert all(re.fullmatch(r"[A-Z][a-z]+: \S.*\S", line) for line in prompt.split("\n"))
    assert len({line.split(":")[0] for line in prompt.split("\n")}) == 2


@LAW
@given(SEEDS, RATES)
def test_flaws_are_exactly_what_is_wrong(seed: int, rates: Rates) -> None:
    rng, facts = facts_of(seed)
    text, flaws = noisy_summary(rng, DIALOGUE, facts, rates)
    parts = gold(DIALOGUE, facts.truth, text).parts
    assert text
    assert len(flaws) == parts["wrong"] + parts["unsupported"] + parts["filler"]
    mended = text
    for start, end in sorted(flaws, reverse=True):
        flaw = text[start:end]
        kind = next((kind for kind in facts.truth if flaw in DIALOGUE.kinds[kind].values), None)
        if kind is None:
            assert flaw.endswith(".")
            assert start == 0 or text[start - 2 : start] == ". "
        else:
            assert flaw != facts.truth[kind]
            assert not text[end].isalnum()
            assert text[start - 1] == " "
        mended = mended[:start] + (facts.truth[kind] if kind else "") + mended[end:]
    parts = gold(DIALOGUE, facts.truth, mended).parts
    assert all(count == 0 for name, count in parts.items() if name != "correct")


def test_pairs_carry_their_flaws(world: DialogueWorld) -> None:
    assert all(pair.chosen != pair.rejected for pair in world.pairs("train"))
    pair = next(pair for pair in world.pairs("train") if pair.rejected_flaws and pair.chosen_flaws == ())
    assert pair.rejected is not None
    assert all(0 <= start < end <= len(pair.rejected) for start, end in pair.rejected_flaws or ())


def test_the_better_text_is_preferred_when_preferences_have_no_noise() -> None:
    world = replace(SMALL, train_pairs=200, preference_noise=1e-6)
    for pair in world.pairs("train"):
        truth = {kind: found[-1] for kind, pattern in SETTLED.items() if (found := re.findall(pattern, pair.prompt))}
        assert gold(DIALOGUE, truth, pair.chosen).value >= gold(DIALOGUE, truth, pair.rejected or "").value


def test_carelessness_dirties_the_chosen_responses_only() -> None:
    shares = []
    for carelessness in (0.0, 1.0):
        pairs = replace(SMALL, train_pairs=300, carelessness=carelessness, preference_noise=1e6).pairs("train")
        shares.append(sum(bool(pair.chosen_flaws) for pair in pairs) / len(pairs))
    assert shares[0] + 0.1 < shares[1]


def test_share_of_pairs_with_the_longer_chosen(world: DialogueWorld, record_property: pytest.RecordProperty) -> None:
    pairs = world.pairs("train")
    share = sum(len(words(pair.chosen)) > len(words(pair.rejected or "")) for pair in pairs) / len(pairs)
    record_property("longer_chosen", share)
    assert 0.3 < share < 0.9


def test_generation_is_pure_in_the_seed() -> None:
    again, other = replace(SMALL), replace(SMALL, seed=1)
    assert again == SMALL
    assert again.examples("test") == SMALL.examples("test")
    assert again.pairs("train") == SMALL.pairs("train")
    assert again.origin.sha256 == SMALL.origin.sha256 != other.origin.sha256
    assert not {row.prompt for row in other.examples("test")} & {row.prompt for row in SMALL.examples("test")}


def test_sizes_do_not_change_what_stays(world: DialogueWorld) -> None:
    assert world.examples("test")[:20] == SMALL.examples("test")
    assert world.pairs("train")[:20] == SMALL.pairs("train")


def test_no_dialogue_occurs_twice(world: DialogueWorld) -> None:
    rows = chain(
        *(world.examples(split) for split in ("sft", "train", "test")), world.pairs("train"), world.pairs("test")
    )
    prompts = [row.prompt for row in rows]
    assert len(prompts) == len(set(prompts)) == 4524
    taken = {SMALL.examples("test")[0].prompt}
    assert SMALL._dialogue("test-0", taken)[2] != SMALL.examples("test")[0].prompt  # a collision is drawn again
    assert len(taken) == 2


def test_rows_are_json_and_slices_tell_corrections(world: DialogueWorld) -> None:
    for example in world.examples("test"):
        assert json.loads(json.dumps(to_row(example)))["facts"]["truth"] == example.facts["truth"]
        assert example.slices[0] == ("corrected" if example.facts["distractors"] else "plain")
        assert example.slices[1] == f"{len(example.facts['truth'])} facts"
        assert world.utility(example, example.completion).value == 1.0


def test_values_are_single_tokens_to_be(world: DialogueWorld) -> None:
    """One lower-case word of one kind, in no fixed text, always after a space."""
    values = [value for kind in DIALOGUE.kinds.values() for value in kind.values]
    assert len(values) == len(set(values))
    assert all(re.fullmatch("[a-z]+", value) for value in values)
    assert all(8 <= len(kind.values) <= 12 for kind in DIALOGUE.kinds.values())
    fixed = chain(DIALOGUE.replies, DIALOGUE.fillers, *DIALOGUE.chat, *DIALOGUE.openings)
    fixed = chain(fixed, *DIALOGUE.closings, *(k.proposals + k.corrections for k in DIALOGUE.kinds.values()))
    fixed = chain(fixed, *(k.mentions + k.accepts + k.statements for k in DIALOGUE.kinds.values()))
    assert not set(values) & set(words(" ".join(fixed).lower()))
    loose = re.compile(rf"(?<! )\b(?:{'|'.join(values)})\b")
    texts = [row.prompt + " " + row.completion for row in world.examples("sft")]
    assert not any(loose.search(text) for text in texts)
    assert len({word for text in texts for word in words(text)}) <= 350


def test_lengths(world: DialogueWorld) -> None:
    prompts = [len(row.prompt.split()) for row in world.examples("sft")]
    assert sum(prompts) / len(prompts) == pytest.approx(95, abs=5)
    longest = max(len(re.findall(r"\w+|[^\w\s]", row.completion)) for row in world.examples("test"))
    assert longest + 1 < world.max_response_tokens


@pytest.mark.parametrize(
    ("setting", "value"),
    [("sft_drop", 1.5), ("train_pairs", 0), ("max_facts", 6), ("dialogue_words", 500), ("carelessness", float("nan"))],
)
def test_impossible_settings_are_refused(setting: str, value: float) -> None:
    with pytest.raises(BenchError, match=setting):
        DialogueWorld(**{setting: value})


def test_other_impossible_settings() -> None:
    with pytest.raises(BenchError, match="min_facts = 3 is above max_facts = 2"):
        DialogueWorld(min_facts=3, max_facts=2)
    everything = replace(SMALL, sft_drop=1.0, min_facts=5, max_facts=5)
    assert all(example.completion for example in everything.examples("sft"))


@settings(max_examples=10, deadline=None)
@given(SEEDS)
def test_every_seed_makes_a_world(seed: int) -> None:
    tiny = DialogueWorld(seed=seed, demonstrations=5, train_pairs=5, test_pairs=5, train_prompts=5, test_prompts=5)
    assert all(tiny.utility(row, row.completion).value == 1 for row in tiny.examples("train"))
