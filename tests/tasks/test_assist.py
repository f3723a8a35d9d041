"""Laws of the world of questions: gold is exact and counts facts alone, the table can be learned, types are read."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from dataclasses import fields, replace
from itertools import chain
from statistics import mean
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_bench.harness.checks.conformance import check
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Example, Split, Utility, to_row
from rlhf_bench.harness.seams import GoldTask, HasOrigin, Task
from rlhf_bench.harness.slices import declared_type, rule_accuracy, type_by_rule
from rlhf_bench.reward_models.whitebox import Whitebox
from rlhf_bench.tasks.assist import AssistWorld, gold, read
from rlhf_bench.tasks.worlds import assist_texts as lexicon
from rlhf_bench.tasks.worlds.assist_texts import (
    CAREFUL,
    ENOUGH,
    FLAWED,
    KINDS,
    LONGEST,
    PADDING,
    PERFECT,
    SUBJECTS,
    Habits,
    Question,
    draw_question,
    draw_table,
    meanings,
    perfect_answer,
    write_answer,
    write_prompt,
)

SMALL = AssistWorld(demonstrations=20, train_pairs=20, test_pairs=20, train_prompts=20, test_prompts=20)
SEEDS = st.integers(0, 2**32)
RATES = st.floats(0, 1)
HABITS = st.builds(Habits, *[RATES] * len(Habits._fields))
SPLITS: tuple[Split, ...] = ("sft", "train", "test")
TRUTH = {"colour": "red", "material": "wool", "place": "barn", "parts": "two", "time": "noon", "maker": "smith"}
OPEN = Question("open", "kite", "", "", TRUTH)
CLOSED = Question("closed", "kite", "colour", "", TRUTH)
NO_PARTS = dict.fromkeys(gold(OPEN._asdict(), "").parts, 0.0)


@pytest.fixture(scope="module")
def world() -> AssistWorld:
    return AssistWorld()


def asked(seed: int, kind: Literal["open", "closed"] | None = None) -> tuple[random.Random, Question]:
    rng = random.Random(seed)
    return rng, draw_question(rng, draw_table(rng), 0.5 if kind is None else float(kind == "open"), 0.5)


def worth(question: Question, text: str) -> Utility:
    return gold(question._asdict(), text)


def counted(utility: Utility) -> dict[str, float]:
    return {name: count for name, count in utility.parts.items() if count}


def say(kind: str, value: str = "", subject: str = "kite", long: bool = False) -> str:
    return KINDS[kind].statements[long].format(subject=subject, value=value or TRUTH[kind])


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


def test_it_has_every_seam(world: AssistWorld) -> None:
    assert isinstance(world, Task)
    assert isinstance(world, GoldTask)
    assert isinstance(world, HasOrigin)
    assert world.origin.kind == "generated"
    assert re.fullmatch(r"[0-9a-f]{64}", world.origin.sha256)
    assert [finding for finding in check("task", "assist", {}) if not finding.ok] == []


def test_sizes_and_slices(world: AssistWorld) -> None:
    assert [len(world.examples(split)) for split in SPLITS] == [2000, 512, 256]
    assert [len(world.pairs(split)) for split in SPLITS] == [0, 4000, 256]
    slices = Counter(example.slices for example in world.examples("sft"))
    assert set(slices) == {("open",), ("closed",)}
    assert slices["open",] / 2000 == pytest.approx(0.5, abs=0.05)
    for example in chain.from_iterable(world.examples(split) for split in SPLITS):
        request = example.prompt.splitlines()[-1]
        assert example.slices == (example.facts["type"],) == (declared_type(example),)
        assert [word for word in words(request) if word in SUBJECTS] == [example.facts["subject"]]
        assert (example.facts["asked"] == "") == (declared_type(example) == "open")


@given(SEEDS, RATES)
def test_a_perfect_answer_scores_exactly_1_and_an_empty_one_0(seed: int, long: float) -> None:
    rng, question = asked(seed)
    assert worth(question, perfect_answer(rng, question, long)).value == 1.0
    assert worth(question, "") == worth(question, " \n") == Utility(0.0, NO_PARTS)


def test_gold_by_hand_open_ended() -> None:
    all_six = [say(kind) for kind in KINDS]
    for count, value in enumerate([0, 0.25, 0.5, 0.75, 1, 1, 1]):
        assert worth(OPEN, " ".join(all_six[:count])).value == value
    assert counted(worth(OPEN, " ".join(all_six))) == {"right": 4, "extra": 2}
    assert worth(OPEN, say("colour", "blue")).value == -0.25
    both = worth(OPEN, f"{say('colour')} {say('colour', 'blue')} {say('parts')}")
    assert (both.value, counted(both)) == (0.0, {"right": 1, "wrong": 1, "contradicted": 1})
    twice = worth(OPEN, f"{say('colour')} {say('colour', long=True)} {say('colour')}")
    assert (twice.value, counted(twice)) == (pytest.approx(0.25 - 0.2), {"right": 1, "repeated": 2})
    stray = worth(OPEN, f"{say('colour', subject='sled')} {say('colour', subject='sled')} {PADDING[0]} {say('time')}")
    assert counted(stray) == {"right": 1, "strayed": 1, "repeated": 1, "padding": 1}
    assert stray.value == pytest.approx(0.25 - 0.3)
    cut = worth(OPEN, f"{say('colour')} {say('parts')[:-1]}")
    assert (cut.value, counted(cut)) == (pytest.approx(0.05), {"right": 1, "malformed": 1})


def test_gold_by_hand_closed_ended() -> None:
    assert worth(CLOSED, say("colour")).value == worth(CLOSED, say("colour", long=True)).value == 1
    assert worth(CLOSED, say("colour", "blue")).value == -0.5
    assert worth(CLOSED, say("parts")).value == -0.2
    assert worth(CLOSED, say("parts", "nine")).value == -0.5
    assert worth(CLOSED, f"{say('colour')} {say('parts')}").value == pytest.approx(0.8)
    assert worth(CLOSED, f"{say('colour')} {say('colour', 'blue')}").value == -0.5
    more = f"{PADDING[0]} {say('colour')} {say('colour')} {say('parts', subject='sled')} {say('time')} Or"
    assert worth(CLOSED, more).value == pytest.approx(1 - 5 * 0.2)
    assert counted(worth(CLOSED, more)) == {
        **dict.fromkeys(["right", "extra", "strayed", "repeated", "padding", "malformed"], 1)
    }


def sentences(text: str) -> list[str]:
    return re.findall(r"[^. ][^.]*\.", text)


@given(SEEDS, st.sampled_from(["drop", "wrong", "contradict", "repeat", "stray", "pad", "malformed"]))
def test_every_corruption_lowers_it(seed: int, corruption: str) -> None:
    rng, question = asked(seed)
    said = sentences(perfect_answer(rng, question, 0.5))
    at, full = rng.randrange(len(said)), float(len(said))
    meaning = meanings()[said[at]]
    other = rng.choice([value for value in KINDS[meaning.kind].values if value != meaning.value])
    stranger = rng.choice([name for name in SUBJECTS if name != question.subject])
    changed: dict[str, tuple[list[str], dict[str, float]]] = {
        "drop": ([], {"right": full - 1}),
        "wrong": ([say(meaning.kind, other, question.subject)], {"right": full - 1, "wrong": 1}),
        "contradict": (
            [said[at], say(meaning.kind, other, question.subject)],
            {"right": full - 1, "wrong": 1, "contradicted": 1},
        ),
        "repeat": ([said[at], say(meaning.kind, meaning.value, question.subject)], {"right": full, "repeated": 1}),
        "stray": ([said[at], say(meaning.kind, meaning.value, stranger)], {"right": full, "strayed": 1}),
        "pad": ([rng.choice(PADDING), said[at]], {"right": full, "padding": 1}),
        "malformed": ([said[at].removesuffix(".") + " indeed."], {"right": full - 1, "malformed": 1}),
    }
    new, expected = changed[corruption]
    utility = worth(question, " ".join([*said[:at], *new, *said[at + 1 :]]))
    assert utility.value < 1
    assert counted(utility) == {name: count for name, count in expected.items() if count}


@given(SEEDS, HABITS, st.randoms(use_true_random=False))
def test_neither_the_form_nor_the_order_of_sentences_changes_it(
    seed: int, habits: Habits, order: random.Random
) -> None:
    """What length and word order tell of an answer, gold does not look at."""
    rng, question = asked(seed)
    said = sentences(write_answer(rng, question, habits, 0.5).text)
    for long in (False, True):
        found = [meanings()[sentence] for sentence in said]
        told = [say(m.kind, m.value, m.subject, long) if m.kind else text for m, text in zip(found, said, strict=True)]
        order.shuffle(told)
        assert worth(question, " ".join(told)) == worth(question, " ".join(said))


@given(
    SEEDS,
    st.one_of(
        st.text(),
        st.text(alphabet="The kite is red.\x00\u2028\n{}%", max_size=200),
        st.lists(st.sampled_from(sorted(meanings())), max_size=12).map(" ".join),
    ),
)
def test_any_text_has_a_utility_of_at_most_1(seed: int, text: str) -> None:
    _, question = asked(seed)
    utility = worth(question, text)
    assert utility.value <= 1
    full = {"right": float(ENOUGH)} if question.type == "open" else {"right": 1.0}
    clean = {name: count for name, count in counted(utility).items() if name != "extra" or question.type == "closed"}
    assert (utility.value == 1) == (clean == full)
    assert sum(count for name, count in utility.parts.items() if name != "contradicted") <= len(read(text))


@given(SEEDS, HABITS, RATES)
def test_flaws_are_what_should_not_be_there(seed: int, habits: Habits, long: float) -> None:
    """Without the flawed sentences, and with wrong values mended, nothing is left that costs anything."""
    rng, question = asked(seed)
    text, flaws = write_answer(rng, question, habits, long)
    assert read(text)
    assert None not in read(text)
    mended = text
    for start, end in sorted(flaws, reverse=True):
        assert 0 <= start < end <= len(text)
        kind = next((kind for kind, how in KINDS.items() if text[start:end] in how.values), "")
        mended = mended[:start] + (question.truth[kind] if kind else "") + mended[end:]
    left = counted(worth(question, mended))
    assert set(left) <= {"right", "extra"}
    assert "extra" not in left or question.type == "open"
    assert (not flaws) == (text == mended)


def test_every_writer_has_a_flaw_of_its_own(world: AssistWorld) -> None:
    """What the name says, more often than in the careful writer's texts."""

    def parts(habits: Habits) -> dict[str, float]:
        found: Counter[str] = Counter()
        for seed in range(800):
            rng, question = asked(seed)
            utility = worth(question, write_answer(rng, question, habits, world.long).text)
            found.update({**utility.parts, "facts": sum(utility.parts[name] for name in ("right", "extra", "wrong"))})
        return {name: count / 800 for name, count in found.items()}

    careful = parts(CAREFUL)
    for name, part in (
        ("guessing", "wrong"),
        ("padding", "padding"),
        ("repeating", "repeated"),
        ("straying", "strayed"),
    ):
        assert parts(FLAWED[name])[part] > careful[part] + 0.3
    assert parts(FLAWED["terse"])["facts"] < careful["facts"] - 0.5
    assert not counted(Utility(0.0, {n: c for n, c in parts(PERFECT).items() if n not in ("right", "facts")}))


def test_the_table_follows_from_the_demonstrations(world: AssistWorld) -> None:
    """The most frequent value of each kind: what a policy can learn is what the gold asks for."""
    votes: dict[tuple[str, str], Counter[str]] = {(name, kind): Counter() for name in SUBJECTS for kind in KINDS}
    for example in world.examples("sft"):
        for meaning in read(example.completion):
            if meaning and meaning.act == "fact" and meaning.subject == example.facts["subject"]:
                votes[meaning.subject, meaning.kind][meaning.value] += 1
    learned = {key: seen.most_common(1)[0][0] for key, seen in votes.items()}
    assert learned == {(name, kind): world.table[name][kind] for name in SUBJECTS for kind in KINDS}


def test_the_rule_reads_most_types_but_not_all(world: AssistWorld) -> None:
    found = rule_accuracy(world.examples("test"))
    assert found.total_open + found.total_closed == 256
    assert found.accuracy is not None
    assert 0.5 < found.accuracy < 1
    for request, kind in ((lexicon.OPEN_REQUESTS[2], "open"), (lexicon.CLOSED_REQUESTS[1], "closed")):
        assert type_by_rule(request.format("kite", phrase="the colour of the kite")) == kind
    assert type_by_rule(lexicon.OPEN_REQUESTS[-1]) == "closed"  # misread on purpose: real prompts are no easier
    assert type_by_rule(lexicon.CLOSED_REQUESTS[-1]) == "open"


def test_white_box_rewards_find_types_and_references(world: AssistWorld) -> None:
    """As declared, without guessing; every formula can score every held-out pair."""
    examples = {split: world.examples(split) for split in ("train", "test")}
    for formula in ("whitebox", "rar", "li*qr*rp"):
        scorer = Whitebox(formula=formula, types="slice").with_examples(examples)
        assert not any(scorer.why_not(pair.prompt) for pair in world.pairs("test"))
    scorer = Whitebox(types="slice").with_examples(examples)
    held = world.examples("test")[:8]
    found = scorer.features([e.prompt for e in held], [e.completion for e in held])
    assert found["closed"].tolist() == [float(e.facts["type"] == "closed") for e in held]
    assert not found["type_by_rule"].any()
    assert found["rar_closed"].tolist() == pytest.approx(found["closed"].tolist())


def test_references_are_perfect_too(world: AssistWorld) -> None:
    others = [(example, text) for example in world.examples("test") for text in example.references]
    assert len(others) > 100
    for example, text in others:
        assert text != example.completion
        assert world.utility(example, text).value == 1
    assert not any(example.references for example in world.examples("sft"))


def test_pairs(world: AssistWorld) -> None:
    held = [example.prompt for example in world.examples("test")]
    assert [pair.prompt for pair in world.pairs("test")] == held
    few = replace(SMALL, test_pairs=50)
    assert [pair.prompt for pair in few.pairs("test")][20:40] == [example.prompt for example in few.examples("test")]
    for pair in world.pairs("train"):
        assert pair.rejected
        assert pair.chosen != pair.rejected
        for text, flaws in ((pair.chosen, pair.chosen_flaws), (pair.rejected, pair.rejected_flaws)):
            assert all(0 <= start < end <= len(text) for start, end in flaws or ())


def test_preferences_follow_gold_up_to_their_noise() -> None:
    sure = replace(SMALL, test_pairs=300, test_prompts=300, preference_noise=1e-6)
    unsure = replace(sure, preference_noise=1e6)

    def gaps(world: AssistWorld) -> list[float]:
        both = zip(world.examples("test"), world.pairs("test"), strict=True)
        found = [
            worth(Question(**e.facts), p.chosen).value - worth(Question(**e.facts), p.rejected or "").value
            for e, p in both
        ]
        assert all(found)  # texts of equal worth say nothing
        return found

    assert min(gaps(sure)) > 0
    assert mean(gap > 0 for gap in gaps(unsure)) == pytest.approx(0.5, abs=0.12)  # 4 s.e.


def test_generation_is_pure_in_the_seed_and_sizes_change_nothing_else(world: AssistWorld) -> None:
    again, other = replace(SMALL), replace(SMALL, seed=1)
    assert again.examples("test") == SMALL.examples("test") != other.examples("test")
    assert again.pairs("train") == SMALL.pairs("train")
    assert again.origin.sha256 == SMALL.origin.sha256 != other.origin.sha256
    assert world.examples("test")[:20] == SMALL.examples("test")
    assert world.pairs("test")[:20] == SMALL.pairs("test")
    assert SMALL.table == world.table != AssistWorld(seed=1).table


def test_no_prompt_occurs_twice_but_for_held_out_pairs(world: AssistWorld) -> None:
    prompts = [example.prompt for split in SPLITS for example in world.examples(split)]
    prompts += [pair.prompt for pair in world.pairs("train")]
    assert len(prompts) == len(set(prompts)) == 6768
    taken = {SMALL.examples("test")[0].prompt}
    assert SMALL.new_prompt("test-0", taken)[2] != SMALL.examples("test")[0].prompt  # a collision is drawn again
    assert len(taken) == 2


def test_rows_are_json_and_keep_their_utility(world: AssistWorld) -> None:
    for example in world.examples("test"):
        stored = Example("", "", facts=json.loads(json.dumps(to_row(example)))["facts"])
        assert world.utility(stored, example.completion) == world.utility(example, example.completion)
        assert world.utility(example, example.completion).value == 1.0


def test_subjects_and_values_are_single_tokens_to_be(world: AssistWorld) -> None:
    """One lower-case word of one meaning, in no fixed text, always after a space."""
    values = [*SUBJECTS, *(value for how in KINDS.values() for value in how.values)]
    assert len(values) == len(set(values)) == len(SUBJECTS) + 48
    assert all(re.fullmatch("[a-z]+", value) and value[0] not in "aeiou" for value in SUBJECTS + KINDS["maker"].values)
    fixed = chain(lexicon.NAMES, lexicon.GREETINGS, lexicon.CHAT, lexicon.MENTIONS, PADDING, lexicon.OPEN_REQUESTS)
    fixed = chain(fixed, lexicon.CLOSED_REQUESTS, *((h.question, h.phrase, *h.statements) for h in KINDS.values()))
    bare = re.sub(r"\{\w*\}", "", " ".join(fixed).lower())
    assert not set(values) & set(words(bare))
    loose = re.compile(rf"(?<! )\b(?:{'|'.join(values)})\b")
    texts = [row.prompt + " " + row.completion for row in world.examples("sft")]
    assert not any(loose.search(text) for text in texts)
    assert all(sentence.count(".") == 1 and sentence.endswith(".") for sentence in meanings())
    assert len(meanings()) == len(SUBJECTS) * 48 * 2 + len(PADDING)  # no sentence has two meanings


def test_lengths(world: AssistWorld) -> None:
    rng, question = asked(0)
    assert max(len(re.findall(r"\w+|[^\w\s]", write_prompt(rng, question))) for _ in range(500)) < 40
    longest = [max((say(kind, long=long) for long in (False, True)), key=len) for kind in KINDS]
    most = sum(sorted(len(re.findall(r"\w+|[^\w\s]", text)) for text in longest)[-ENOUGH:])
    assert most <= LONGEST
    assert LONGEST + 1 <= world.max_response_tokens <= 48
    texts = [e.completion for e in world.examples("sft")]
    texts += [text for pair in world.pairs("train") for text in (pair.chosen, pair.rejected or "")]
    lengths = [len(re.findall(r"\w+|[^\w\s]", text)) for text in texts]
    assert max(lengths) <= LONGEST
    assert min(lengths) > 0


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("sft_keep", 1.5),
        ("open_rate", -0.1),
        ("train_pairs", 0),
        ("preference_noise", 0.0),
        ("response_tokens", 1),
        ("long", float("nan")),
        ("seed", -1),
    ],
)
def test_impossible_settings_are_refused(setting: str, value: float) -> None:
    with pytest.raises(BenchError, match=setting) as caught:
        AssistWorld(**{setting: value})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_prompts_run_out_with_a_clear_word() -> None:
    with pytest.raises(BenchError, match="No new prompt in 1000 draws"):
        SMALL.new_prompt("test-0", _Everything())


class _Everything(set[str]):
    def __contains__(self, _: object) -> bool:
        return True


@settings(max_examples=10)
@given(SEEDS, st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=12, max_size=12))
def test_every_seed_and_every_rate_makes_a_world(seed: int, rates: list[float]) -> None:
    names = [f.name for f in fields(AssistWorld) if f.name.startswith("sft_")]
    names += ["open_rate", "mention_rate", "long", "careful", "carelessness"]
    tiny = replace(SMALL, seed=seed, **dict(zip(names, rates, strict=True)))
    assert all(tiny.utility(row, row.completion).value == 1 for row in tiny.examples("train"))
    assert all(row.completion for row in tiny.examples("sft"))
