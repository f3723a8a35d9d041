"""Laws of the texts of the synthetic summarisation tasks: gold is exact, prompts hold the truth, flaws are labelled."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import LAW, NAMES, REGISTERS, SEEDS, SETTLED, SMALL, settled

from rlhf_bench.harness.nouns import Example
from rlhf_bench.tasks.worlds.lexicon import DIALOGUE, Register
from rlhf_bench.tasks.worlds.lexicon_prose import POST
from rlhf_bench.tasks.worlds.world import gold
from rlhf_bench.tasks.worlds.writers import Facts, Rates, draw_facts, noisy_summary, perfect_summary, write_prompt

RATES = st.builds(Rates, *[st.floats(0, 1)] * 4)


def facts_of(seed: int, register: Register = DIALOGUE) -> tuple[random.Random, Facts]:
    rng = random.Random(seed)
    return rng, draw_facts(rng, register, rng.randint(1, 3), 0.5, 0.5)


@LAW
@given(SEEDS, NAMES)
def test_a_perfect_summary_scores_exactly_1_and_an_empty_one_0(seed: int, name: str) -> None:
    register = REGISTERS[name]
    rng, facts = facts_of(seed, register)
    assert gold(register, facts.truth, perfect_summary(rng, register, facts)).value == 1.0
    assert gold(register, facts.truth, "").value == gold(register, facts.truth, " \n").value == 0.0


@LAW
@given(
    SEEDS,
    NAMES,
    st.sampled_from(["drop", "wrong", "distractor", "unsupported", "filler", "duplicates", "malformed"]),
)
def test_every_corruption_lowers_gold_and_is_counted(seed: int, name: str, corruption: str) -> None:
    register = REGISTERS[name]
    rng, facts = facts_of(seed, register)
    sentences = perfect_summary(rng, register, facts).split(". ")
    sentences[-1] = sentences[-1].removesuffix(".")
    kind = rng.choice([kind for kind in register.kinds if kind not in facts.truth])
    stated = register.kinds[kind].statements[0].format(register.kinds[kind].values[0]).removesuffix(".")
    added = {
        "unsupported": stated,
        "filler": register.fillers[0].removesuffix("."),
        "duplicates": sentences[0],
        "malformed": "They will go go",
    }
    if corruption in added:
        sentences.insert(rng.randint(0, len(sentences)), added[corruption])
    elif corruption == "drop":
        sentences.pop()
    else:
        value = facts.truth["activity"]
        wrong = next(other for other in register.kinds["activity"].values if other != value)
        if corruption == "distractor":
            wrong = facts.distractors.get("activity", wrong)
        sentences[0] = sentences[0].replace(value, wrong)
    utility = gold(register, facts.truth, ". ".join(sentences) + ".")
    assert utility.value < 1
    counted = {name: count for name, count in utility.parts.items() if count and name != "correct"}
    assert counted == ({} if corruption == "drop" else {corruption.replace("distractor", "wrong"): 1})
    missing = corruption in ("drop", "wrong", "distractor")
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
    prompt = write_prompt(rng, DIALOGUE, facts, length)
    read = {kind: re.findall(pattern, prompt) for kind, pattern in SETTLED.items()}
    assert {kind: found[-1] for kind, found in read.items() if found} == facts.truth
    assert {kind: found[0] for kind, found in read.items() if len(set(found)) > 1} == facts.distractors
    assert all(f" {value}" in prompt for value in facts.mentioned.values())
    assert not set(facts.mentioned) & set(facts.truth)
    assert all(re.fullmatch(r"[A-Z][a-z]+: \S.*\S", line) for line in prompt.split("\n"))
    assert len({line.split(":")[0] for line in prompt.split("\n")}) == 2


@LAW
@given(SEEDS, NAMES, st.integers(60, 220), st.integers(0, 5))
def test_every_prompt_tells_a_reader_of_the_templates_the_truth(seed: int, name: str, length: int, count: int) -> None:
    rng, register = random.Random(seed), REGISTERS[name]
    facts = draw_facts(rng, register, count, 0.5, 0.5)
    prompt = write_prompt(rng, register, facts, length)
    read = settled(register, prompt)
    assert {kind: values[-1] for kind, values in read.items()} == facts.truth
    assert {kind: values[0] for kind, values in read.items() if len(values) > 1} == facts.distractors
    assert all(prompt.count(f" {value}") >= 2 for value in facts.truth.values())  # said again once it is settled
    assert all(f" {value}" in prompt for value in facts.mentioned.values())
    assert "{" not in prompt


@LAW
@given(SEEDS, st.sampled_from(["post", "article"]), st.integers(60, 220))
def test_prose_is_as_long_as_asked(seed: int, name: str, length: int) -> None:
    rng = random.Random(seed)
    text = write_prompt(rng, REGISTERS[name], draw_facts(rng, REGISTERS[name], 0, 0, 0), length)
    heads = [len(head.split()) for head in REGISTERS[name].heads]
    assert length + min(heads) - 10 <= len(text.split()) <= length + max(heads) + 10


@LAW
@given(SEEDS, NAMES, RATES)
def test_flaws_are_exactly_what_is_wrong(seed: int, name: str, rates: Rates) -> None:
    register = REGISTERS[name]
    rng, facts = facts_of(seed, register)
    text, flaws = noisy_summary(rng, register, facts, rates)
    parts = gold(register, facts.truth, text).parts
    assert text
    assert len(flaws) == parts["wrong"] + parts["unsupported"] + parts["filler"]
    mended = text
    for start, end in sorted(flaws, reverse=True):
        flaw = text[start:end]
        kind = next((kind for kind in facts.truth if flaw in register.kinds[kind].values), None)
        if kind is None:
            assert flaw.endswith(".")
            assert start == 0 or text[start - 2 : start] == ". "
        else:
            assert flaw != facts.truth[kind]
            assert not text[end].isalnum()
            assert text[start - 1] == " "
        mended = mended[:start] + (facts.truth[kind] if kind else "") + mended[end:]
    parts = gold(register, facts.truth, mended).parts
    assert all(count == 0 for name, count in parts.items() if name != "correct")


@LAW
@given(SEEDS)
def test_a_stale_writer_states_what_was_taken_back(seed: int) -> None:
    rng, facts = facts_of(seed)
    text, flaws = noisy_summary(rng, DIALOGUE, facts, Rates(0, 0, 0, 0, stale=1.0))
    parts = gold(DIALOGUE, facts.truth, text).parts
    assert (parts["wrong"], parts["correct"]) == (
        len(facts.distractors),
        len(facts.truth) - len(facts.distractors),
    )
    assert sorted(text[slice(*flaw)] for flaw in flaws) == sorted(facts.distractors.values())


@LAW
@given(SEEDS)
def test_a_filler_may_open_every_summary(seed: int) -> None:
    rng, facts = facts_of(seed)
    text, flaws = noisy_summary(rng, DIALOGUE, facts, Rates(0, 0, 0, 1, opens=1.0))
    (filler,) = flaws
    assert filler[0] == 0
    assert text[: filler[1]] in DIALOGUE.fillers


def test_a_statement_of_a_reserved_value_is_wrong_and_not_malformed() -> None:
    assert gold(POST, {"activity": "hiking"}, "They will go rowing together.").parts["wrong"] == 1
