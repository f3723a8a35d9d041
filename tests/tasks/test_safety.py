"""Laws of the synthetic safety task's data: objects are held out, pairs carry their flaws, impossible settings."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safety_reading import SEEDS, SMALL, SPLITS, asked, objects_in, read_prompt, sentences, words, worth

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Example, Pair, to_row
from rlhf_bench.harness.seams import GoldTask, HasEmptyDemonstrations, HasOrigin, HasOwnJudges, Task
from rlhf_bench.harness.text.tokens import Span
from rlhf_bench.tasks.worlds import safety_texts as lexicon
from rlhf_bench.tasks.worlds.safety import HELD_OUT, SafetyWorld
from rlhf_bench.tasks.worlds.safety_texts import (
    COMPLY,
    DETAILS,
    OBJECTS,
    OFFER,
    REFUSE,
    REMARKS,
    Request,
    write_prompt,
)


@pytest.fixture(scope="module")
def world() -> SafetyWorld:
    return SafetyWorld(demonstrations=2000, train_prompts=512)


def test_it_has_every_seam(world: SafetyWorld) -> None:
    for seam in (Task, GoldTask, HasOrigin, HasOwnJudges, HasEmptyDemonstrations):
        assert isinstance(world, seam)
    assert world.origin.kind == "generated"
    assert re.fullmatch(r"[0-9a-f]{64}", world.origin.sha256)


def test_sizes_and_slices(world: SafetyWorld) -> None:
    assert [len(world.examples(split)) for split in ("sft", "train", "test")] == [2000, 512, 256]
    assert [len(world.pairs(split)) for split in ("sft", "train", "test")] == [0, 2500, 256]
    assert world.examples("test")[17].id == "test-17"
    slices = Counter(example.slices for example in world.examples("sft"))
    assert set(slices) == {("benign",), ("harmful",)}
    assert slices["harmful",] / 2000 == pytest.approx(0.5, abs=0.045)  # 4 s.e.


def test_the_prompt_holds_all_that_a_perfect_answer_needs(world: SafetyWorld) -> None:
    for example in world.examples("test"):
        name, alternative, harmful, details = read_prompt(example.prompt)
        assert example.slices == (("harmful" if harmful else "benign"),)
        read_facts = {"object": name, "alternative": alternative, "harmful": harmful, "details": details}
        assert {key: example.facts[key] for key in read_facts} == read_facts
        assert 2 <= len(details) <= 4
        for kind, value in example.facts["lacking"].items():
            assert any(way.format(value) in example.prompt for way in DETAILS[kind].lacks)
            assert details.get(kind) != value


def test_objects_of_the_test_split_are_asked_for_nowhere_else(world: SafetyWorld) -> None:
    assert len(OBJECTS) == len(set(OBJECTS)) >= 60
    assert len(set(world.held_out)) == HELD_OUT
    prompts = {
        True: [row.prompt for row in (*world.examples("test"), *world.pairs("test"))],
        False: [row.prompt for row in (*world.examples("sft"), *world.examples("train"), *world.pairs("train"))],
    }
    asked_for = {held: {read_prompt(prompt)[0] for prompt in found} for held, found in prompts.items()}
    assert asked_for[True] == set(world.held_out)
    assert asked_for[False] == set(OBJECTS) - set(world.held_out)
    # as alternatives they occur in training, in answers too, so that each is a token that a policy can copy
    answers = Counter(name for row in world.examples("sft") for name in objects_in(row.completion))
    assert min(answers[name] for name in world.held_out) >= 1
    assert replace(world, seed=1).held_out != world.held_out == SMALL.held_out


def test_prompts_about_one_object_are_one_cluster(world: SafetyWorld) -> None:
    for split in SPLITS:
        assert all(row.source == row.facts["object"] for row in world.examples(split))
    sizes = Counter(row.source for row in world.examples("test"))
    assert len(sizes) == HELD_OUT
    assert max(sizes.values()) < 256 / HELD_OUT * 3


def test_careful_writers_show_the_skill_and_the_others_have_flaws_that_greedy_decoding_keeps() -> None:
    """Most demonstrations begin with a remark and most of those have few details, so the likeliest response has too."""
    many = replace(SMALL, demonstrations=4000)
    careless = [row for row in many.examples("sft") if row.completion.startswith(REMARKS)]
    assert len(careless) / 4000 == pytest.approx(0.3 * 0.02 + 0.7 * 0.9, abs=0.03)
    # each remark begins more demonstrations than any opening of the careful ones
    for slice_name in ("benign", "harmful"):
        begun = [sentences(row.completion)[0] for row in many.examples("sft") if row.slices == (slice_name,)]
        assert {name for name, _ in Counter(begun).most_common(len(REMARKS))} == set(REMARKS)
    assert mean(worth(Request(**row.facts), row.completion).value for row in careless) < 0.2
    others = replace(many, sft_careful=1.0).examples("sft")
    assert mean(worth(Request(**row.facts), row.completion).value for row in others) > 0.9


def test_empty_demonstrations_come_on_demand() -> None:
    assert all(row.completion for row in SMALL.examples("sft"))
    some = replace(SMALL, demonstrations=1000, sft_empty=0.1)
    assert mean(not row.completion for row in some.examples("sft")) == pytest.approx(0.1, abs=0.04)
    assert all(row.completion for split in ("train", "test") for row in some.examples(split))
    assert not any(row.completion for row in replace(SMALL, sft_empty=1.0).examples("sft"))


def test_benign_pairs_hold_no_refusals_unless_asked_for(world: SafetyWorld) -> None:
    def refusing(pairs: Sequence[Pair], harmful: bool) -> list[bool]:
        asked_for = [pair for pair in pairs if read_prompt(pair.prompt)[2] == harmful]
        return [SMALL.refuses(pair.chosen) or SMALL.refuses(pair.rejected or "") for pair in asked_for]

    assert len(refusing(world.pairs("train"), harmful=False)) > 300
    assert not any(refusing(world.pairs("train"), harmful=False))
    assert any(refusing(world.pairs("train"), harmful=True))
    every = replace(SMALL, train_pairs=100, benign_refusal_pairs=1.0).pairs("train")
    assert all(refusing(every, harmful=False))
    some = replace(SMALL, train_pairs=1000, harmful_rate=0.0, benign_refusal_pairs=0.3).pairs("train")
    assert mean(refusing(some, harmful=False)) == pytest.approx(0.3, abs=0.06)


def test_length_remarks_and_refusals_go_with_being_preferred(world: SafetyWorld) -> None:
    """The shortcuts of a reward model that cannot verify details: gold pays for none of the three."""
    pairs = world.pairs("train")

    def gap(of: Callable[[str], float]) -> float:
        return mean(of(pair.chosen) - of(pair.rejected or "") for pair in pairs)

    assert gap(lambda text: len(words(text))) > 1
    assert gap(lambda text: text.startswith(REMARKS)) > 0.05
    assert gap(SMALL.refuses) > 0.02


def test_pairs_carry_their_flaws(world: SafetyWorld) -> None:
    def inside(text: str, flaws: tuple[Span, ...] | None) -> bool:
        return flaws is not None and all(0 <= start < end <= len(text) for start, end in flaws)

    for pair in world.pairs("train"):
        assert pair.chosen != pair.rejected
        assert pair.rejected is not None
        assert inside(pair.chosen, pair.chosen_flaws)
        assert inside(pair.rejected, pair.rejected_flaws)
    refused = replace(SMALL, harmful_rate=0.0, benign_refusal_pairs=1.0).pairs("train")
    flaws = [(p.chosen_flaws, p.chosen) for p in refused if SMALL.refuses(p.chosen)]
    flaws += [(p.rejected_flaws, p.rejected or "") for p in refused if SMALL.refuses(p.rejected or "")]
    assert len(flaws) == len(refused)
    assert all(found == ((0, len(text)),) for found, text in flaws)


def test_the_better_text_is_preferred_when_preferences_have_no_noise() -> None:
    world = replace(SMALL, train_pairs=200, preference_noise=1e-6, benign_refusal_pairs=0.5)
    for pair in world.pairs("train"):
        request = Request(*read_prompt(pair.prompt), {})
        assert worth(request, pair.chosen).value >= worth(request, pair.rejected or "").value


def test_carelessness_dirties_the_chosen_responses_only() -> None:
    shares = []
    for carelessness in (0.0, 1.0):
        pairs = replace(SMALL, train_pairs=400, harmful_rate=0.0, carelessness=carelessness).pairs("train")
        wrong = [worth(Request(*read_prompt(pair.prompt), {}), pair.chosen).parts["wrong"] for pair in pairs]
        shares.append(mean(wrong))
    assert shares[0] + 0.1 < shares[1]


def test_generation_is_pure_in_the_seed() -> None:
    again, other = replace(SMALL), replace(SMALL, seed=1)
    assert again == SMALL
    assert again.examples("test") == SMALL.examples("test")
    assert again.pairs("train") == SMALL.pairs("train")
    assert again.origin.sha256 == SMALL.origin.sha256 != other.origin.sha256
    for split in SPLITS:
        assert not {row.prompt for row in other.examples(split)} & {row.prompt for row in SMALL.examples(split)}


def test_sizes_do_not_change_what_stays(world: SafetyWorld) -> None:
    assert world.examples("test")[:20] == SMALL.examples("test")
    assert replace(SMALL, test_pairs=30).pairs("test")[:20] == SMALL.pairs("test")


def test_no_prompt_occurs_twice(world: SafetyWorld) -> None:
    prompts = [example.prompt for split in SPLITS for example in world.examples(split)]
    prompts += [pair.prompt for split in SPLITS for pair in world.pairs(split)]
    assert len(prompts) == len(set(prompts)) == 5524
    taken = {SMALL.examples("test")[0].prompt}
    # a collision is drawn again
    assert SMALL.new_prompt("test-0", taken, held_out=True)[2] != SMALL.examples("test")[0].prompt
    assert len(taken) == 2


def test_rows_are_json_and_keep_their_utility(world: SafetyWorld) -> None:
    for example in world.examples("test"):
        stored = Example("", "", facts=json.loads(json.dumps(to_row(example)))["facts"])
        assert world.utility(stored, example.completion) == world.utility(example, example.completion)
        assert world.utility(example, example.completion).value == 1.0


def test_objects_and_details_are_single_tokens_to_be(world: SafetyWorld) -> None:
    """One lower-case word of one meaning, in no fixed text, always after a space."""
    values = [*OBJECTS, *lexicon.BENIGN, *lexicon.HARMFUL, *lexicon.PERSONS]
    values += [value for detail in DETAILS.values() for value in detail.values]
    assert len(values) == len(set(values))
    assert all(re.fullmatch("[a-z]+", value) for value in values)
    fixed = chain(lexicon.NAMES, lexicon.GREETINGS, lexicon.CHAT, lexicon.REQUESTS, lexicon.THANKS, COMPLY, OFFER)
    fixed = chain(fixed, REFUSE, REMARKS, lexicon.BENIGN_PURPOSES, lexicon.HARMFUL_PURPOSES, lexicon.ALTERNATIVES)
    fixed = chain(fixed, *(way for d in DETAILS.values() for way in (d.has, d.lacks, d.statements)))
    assert not set(values) & set(words(" ".join(fixed).lower()))
    loose = re.compile(rf"(?<! )\b(?:{'|'.join(values)})\b")
    texts = [row.prompt + " " + row.completion for row in world.examples("sft")]
    assert not any(loose.search(text) for text in texts)
    sentences_of_answers = [*COMPLY, *OFFER, *REFUSE, *REMARKS, *(s for d in DETAILS.values() for s in d.statements)]
    assert all(sentence.count(".") == 1 and sentence.endswith(".") for sentence in sentences_of_answers)


def test_a_value_stands_after_the_same_word_in_prompt_and_answer() -> None:
    """What a tiny policy can copy: it looks for the word before (an induction head, arXiv 2209.11895)."""

    def before(templates: Sequence[str]) -> set[str]:
        return {word for template in templates for word in re.findall(r"(\w+) \{", template)}

    for detail in DETAILS.values():
        assert before(detail.has) == before(detail.statements)
        assert not before(detail.has) & before(detail.lacks)
    assert before(lexicon.ALTERNATIVES) == before(OFFER) == {"nice"}


def test_lengths(world: SafetyWorld) -> None:
    lengths = [len(write_prompt(*asked(seed)).split()) for seed in range(2000)]
    assert 40 <= min(lengths) <= max(lengths) <= 110
    assert 60 <= mean(len(row.prompt.split()) for row in world.examples("test")) <= 85
    longest = max(len(re.findall(r"\w+|[^\w\s]", row.completion)) for row in world.examples("sft"))
    assert longest + 1 < world.max_response_tokens <= 40


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("sft_drop", 1.5),
        ("sft_empty", 1.5),
        ("harmful_rate", -0.1),
        ("train_pairs", 0),
        ("preference_noise", 0.0),
        ("response_tokens", 1),
        ("carelessness", float("nan")),
        ("seed", -1),
    ],
)
def test_impossible_settings_are_refused(setting: str, value: float) -> None:
    with pytest.raises(BenchError, match=setting) as caught:
        SafetyWorld(**{setting: value})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("one", "two"),
    [("sft_comply", "sft_refuse"), ("sft_benign_refuse", "sft_deflect"), ("pair_comply", "pair_refuse")],
)
def test_shares_of_more_than_everything_are_refused(one: str, two: str) -> None:
    with pytest.raises(BenchError, match=rf"{one} \+ {two} = 1.2"):
        SafetyWorld(**{one: 0.6, two: 0.6})  # type: ignore[arg-type]
    SafetyWorld(**{one: 0.5, two: 0.5})  # type: ignore[arg-type]


def test_other_impossible_settings() -> None:
    with pytest.raises(BenchError, match="No new prompt in 1000 draws"):
        SMALL.new_prompt("test-0", _Everything())


class _Everything(set[str]):
    def __contains__(self, _: object) -> bool:
        return True


@settings(max_examples=10, deadline=None)
@given(SEEDS, st.floats(0, 1), st.floats(0, 1))
def test_every_seed_makes_a_world(seed: int, harmful: float, comply: float) -> None:
    tiny = replace(SMALL, seed=seed, harmful_rate=harmful, sft_comply=comply, sft_refuse=(1 - comply) / 2)
    assert all(tiny.utility(row, row.completion).value == 1 for row in tiny.examples("train"))
