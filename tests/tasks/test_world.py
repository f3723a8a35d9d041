"""Laws of the data of the synthetic summarisation tasks: pure in the seed, no prompt twice, pairs as labelled."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import chain

import pytest
from hypothesis import given, settings
from worlds import REGISTERS, SEEDS, SETTLED, SIZES, SMALL, WORLDS, fixed_texts, words

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import to_row
from rlhf_bench.harness.seams import GoldTask, HasOrigin, Task
from rlhf_bench.tasks.worlds.lexicon import DIALOGUE, Register
from rlhf_bench.tasks.worlds.lexicon_prose import ARTICLE, POST
from rlhf_bench.tasks.worlds.world import DialogueWorld, SummaryWorld, World, gold


@pytest.fixture(scope="module")
def world() -> DialogueWorld:
    return DialogueWorld()


def test_it_has_every_seam(world: DialogueWorld) -> None:
    assert isinstance(world, Task)
    assert isinstance(world, GoldTask)
    assert isinstance(world, HasOrigin)
    assert world.origin.kind == "generated"
    assert re.fullmatch(r"[0-9a-f]{64}", world.origin.sha256)


def test_sizes_and_ids(world: DialogueWorld) -> None:
    assert [len(world.examples(split)) for split in ("sft", "train", "test")] == [8000, 4096, 256]
    assert [len(world.pairs(split)) for split in ("sft", "train", "test")] == [0, 1500, 256]
    assert world.examples("test")[17].id == "test-17"
    assert all(
        len({row.id for row in world.examples(split)}) == len(world.examples(split)) for split in ("sft", "test")
    )


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


@pytest.mark.parametrize("name", WORLDS)
def test_generation_is_pure_in_the_seed(name: str) -> None:
    small = WORLDS[name]
    again, other = replace(small), replace(small, seed=1)
    assert again == small
    assert again.examples("test") == small.examples("test")
    assert again.pairs("train") == small.pairs("train")
    assert again.origin.sha256 == small.origin.sha256 != other.origin.sha256
    assert not {row.prompt for row in other.examples("test")} & {row.prompt for row in small.examples("test")}


def test_the_dialogues_are_those_that_results_were_reported_of() -> None:
    sizes = dict.fromkeys(SIZES, 30)
    assert DialogueWorld(**sizes).origin.sha256.startswith("e3cde8b5d52a39ae")
    longer = DialogueWorld(**sizes, seed=7, min_facts=4, max_facts=4, correction_rate=0.5, dialogue_words=150)
    assert longer.origin.sha256.startswith("b77d15daca4ec76b")


def test_sizes_do_not_change_what_stays(world: DialogueWorld) -> None:
    assert world.examples("test")[:20] == SMALL.examples("test")
    assert world.pairs("train")[:20] == SMALL.pairs("train")


def test_no_dialogue_occurs_twice(world: DialogueWorld) -> None:
    rows = chain(
        *(world.examples(split) for split in ("sft", "train", "test")), world.pairs("train"), world.pairs("test")
    )
    prompts = [row.prompt for row in rows]
    assert len(prompts) == len(set(prompts)) == 14108
    taken = {SMALL.examples("test")[0].prompt}
    assert SMALL.new_prompt("test-0", taken)[2] != SMALL.examples("test")[0].prompt  # a collision is drawn again
    assert len(taken) == 2


def test_rows_are_json_and_slices_tell_corrections(world: DialogueWorld) -> None:
    for example in world.examples("test"):
        assert json.loads(json.dumps(to_row(example)))["facts"]["truth"] == example.facts["truth"]
        assert example.slices[0] == ("corrected" if example.facts["distractors"] else "plain")
        assert example.slices[1] == f"{len(example.facts['truth'])} facts"
        assert world.utility(example, example.completion).value == 1.0


@pytest.mark.parametrize("name", ["dialogue", "post", "article"])
def test_values_are_single_tokens_to_be(name: str) -> None:
    """One lower-case word of one kind, in no fixed text, always after a space."""
    register = REGISTERS[name]
    values = [value for kind in register.kinds.values() for value in (*kind.values, *kind.reserved)]
    assert len(values) == len(set(values))
    assert all(re.fullmatch("[a-z]+", value) for value in values)
    assert all(8 <= len(kind.values) <= 12 for kind in register.kinds.values())
    fixed = " ".join(fixed_texts(register)).lower()
    assert [value for value in values if value in fixed] == []
    loose = re.compile(rf"(?<! )\b(?:{'|'.join(values)})\b")
    texts = [row.prompt + " " + row.completion for row in replace(WORLDS[name], demonstrations=500).examples("sft")]
    assert not any(loose.search(text) for text in texts)
    assert len({word for text in texts for word in words(text)}) <= 350


def test_lengths(world: DialogueWorld) -> None:
    prompts = [len(row.prompt.split()) for row in world.examples("sft")]
    assert sum(prompts) / len(prompts) == pytest.approx(86, abs=5)
    longest = max(len(re.findall(r"\w+|[^\w\s]", row.completion)) for row in world.examples("test"))
    assert longest + 1 < world.max_response_tokens


@pytest.mark.parametrize(
    ("setting", "value"),
    [("sft_drop", 1.5), ("train_pairs", 0), ("max_facts", 6), ("dialogue_words", 500), ("carelessness", float("nan"))],
)
def test_impossible_settings_are_refused(setting: str, value: float) -> None:
    with pytest.raises(BenchError, match=setting):
        DialogueWorld(**{setting: value})


def test_careful_writers_are_a_share_of_the_demonstrations() -> None:
    """The others have every flaw here, so that each demonstration shows who wrote it; pairs and prompts stay."""
    plain = replace(SMALL, demonstrations=400, sft_drop=0.9, sft_filler=1.0, sft_opening=1.0, sft_careful=0.0)
    mixed = replace(plain, sft_careful=0.3)
    assert mixed.pairs("train") == plain.pairs("train")
    assert [e.prompt for e in mixed.examples("sft")] == [e.prompt for e in plain.examples("sft")]
    opened = [example.completion.startswith(DIALOGUE.fillers) for example in mixed.examples("sft")]
    assert all(example.completion.startswith(DIALOGUE.fillers) for example in plain.examples("sft"))
    # a careful writer opens with a filler in less than 2 of 100: binomial, 400 draws, five standard deviations
    assert abs(sum(opened) / 400 - 0.7) < 0.13


@pytest.mark.parametrize("name", ["dialogue", "post"])
def test_empty_demonstrations_come_on_demand(name: str) -> None:
    plain = replace(WORLDS[name], demonstrations=400)
    some = replace(plain, sft_empty=0.1).examples("sft")
    assert all(row.completion for row in plain.examples("sft"))
    assert sum(not row.completion for row in some) / 400 == pytest.approx(0.1, abs=0.06)  # 4 s.e.
    assert [row.prompt for row in some] == [row.prompt for row in plain.examples("sft")]


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


@pytest.mark.parametrize("register", [POST, ARTICLE])
def test_reserved_values_are_mentioned_and_never_stated(register: Register) -> None:
    world = SummaryWorld(register=register, demonstrations=1000)
    reserved = {value for kind in register.kinds.values() for value in kind.reserved}
    assert len(reserved) == 3 * len(register.kinds)
    pairs = [*world.pairs("train"), *world.pairs("test")]
    stated = [row.completion for split in ("sft", "train", "test") for row in world.examples(split)]
    stated += [text for pair in pairs for text in (pair.chosen, pair.rejected or "")]
    assert not reserved & set(words(" ".join(stated)))
    for split in ("sft", "train", "test"):
        assert not any(reserved & {*row.facts["truth"].values()} for row in world.examples(split))
        assert not any(reserved & {*row.facts["distractors"].values()} for row in world.examples(split))
    mentions = words(" ".join(row.prompt for row in world.examples("sft")))
    assert all(mentions.count(value) >= 5 for value in reserved)


@pytest.mark.parametrize("register", [POST, ARTICLE])
def test_unseen_worlds_know_the_reserved_values_only(register: Register) -> None:
    world = replace(WORLDS["unseen post"], register=register)
    usual = {value for kind in register.kinds.values() for value in kind.values}
    for split in ("sft", "train", "test"):
        for row in world.examples(split):
            assert all(value in register.kinds[kind].reserved for kind, value in row.facts["truth"].items())
            assert not usual & {*words(row.prompt), *words(row.completion)}
            assert split == "sft" or world.utility(row, row.completion).value == 1
    for pair in (*world.pairs("train"), *world.pairs("test")):
        assert not usual & {*words(pair.prompt), *words(pair.chosen), *words(pair.rejected or "")}
    assert "unseen objects" in world.origin.description


@pytest.mark.parametrize("name", WORLDS)
def test_no_two_splits_share_a_prompt(name: str) -> None:
    world = replace(WORLDS[name], **dict.fromkeys(SIZES, 150))
    rows = chain(*(world.examples(split) for split in ("sft", "train", "test")), *map(world.pairs, ("train", "test")))
    prompts = [row.prompt for row in rows]
    assert len(prompts) == len(set(prompts)) == 750


def test_posts_and_articles_tell_the_same_facts_in_other_sentences() -> None:
    posts, articles = WORLDS["post"], WORLDS["article"]
    for post, article in zip(posts.examples("test"), articles.examples("test"), strict=True):
        assert post.facts == article.facts
        assert posts.utility(post, article.completion).value == articles.utility(article, post.completion).value == 1
    fillers = POST.fillers + tuple(way for kind in POST.kinds.values() for way in kind.statements)
    assert {*fixed_texts(POST)} & {*fixed_texts(ARTICLE)} == {*fillers, *ARTICLE.names}


def test_articles_use_the_words_of_posts() -> None:
    """A tokenizer made of posts has no token for a word it never saw: such words must stay rare."""
    known = {
        word for row in SummaryWorld(demonstrations=1000).examples("sft") for word in re.findall(r"\S+", row.prompt)
    }
    counted = [word for row in WORLDS["article"].examples("sft") for word in re.findall(r"\S+", row.prompt)]
    assert sum(word in known for word in counted) > 0.9 * len(counted)


def test_what_prose_worlds_refuse() -> None:
    with pytest.raises(BenchError, match="Did you mean 'unseen'"):
        SummaryWorld(objects="unsean")
    with pytest.raises(BenchError, match="words = 300"):
        SummaryWorld(words=300)
    with pytest.raises(NotImplementedError):
        World()
