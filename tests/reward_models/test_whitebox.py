"""White-box rewards: each formula by hand and by a slow reference, laws of the features, and what is refused."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import by_hand

from rlhf_bench.harness import plugins
from rlhf_bench.harness.checks.conformance import check
from rlhf_bench.harness.checks.findings import attempt
from rlhf_bench.harness.checks.reward_model import make_rollout, reward_probes
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Example, Pair, Rollout
from rlhf_bench.harness.ppo.scoring import NamedRewardModel, diagnose
from rlhf_bench.harness.seams import HasDiagnostics, RewardModel, TrainableRewardModel
from rlhf_bench.harness.stages.scale import scorable
from rlhf_bench.harness.text.words import cut_unspaced
from rlhf_bench.reward_models import whitebox
from rlhf_bench.reward_models.features import length_incentive, repetition_penalty, words
from rlhf_bench.reward_models.whitebox import Whitebox, WhiteboxScorer

OPEN = Example("o", "Write about the sea.", slices=("open",))
CLOSED = Example("c", "Who wrote it?", "Anna wrote it.", ("It was Anna.",), slices=("closed",))
SHOWN = {"train": [OPEN, CLOSED], "test": [Example("t", "Tell me of the wind.", slices=("open", "other"))]}

texts = st.text(st.sampled_from(list("abé ñ好.,!?\n\t_-7½🤖\u200d\ud800")), max_size=60)


def slow_words(text: str) -> list[str]:
    """Character by character: a token is a run of word characters or a run of neither word nor space."""

    def kind(c: str) -> str:
        return "space" if c.isspace() else "word" if re.match(r"\w|\u200d", c) and c != "½" else "other"

    found: list[str] = []
    for at, c in enumerate(text):
        if kind(c) == "space":
            continue
        if at and kind(text[at - 1]) == kind(c):
            found[-1] += c
        else:
            found.append(c)
    return found


def slow_repetition(tokens: Sequence[str], n: int) -> float:
    grams = [" ".join(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


class Fixed:
    """A relevance with given results that records its calls."""

    def __init__(self, **dots: float) -> None:
        self.values, self.asked = dots, []  # type: ignore[var-annotated]

    def dots(self, first: Sequence[str], second: Sequence[str], device: str = "cpu") -> Any:  # noqa: ARG002
        self.asked += zip(first, second, strict=True)
        return np.array([self.values[text.split()[0].lower()] for text in first])


def told(settings: Whitebox, **dots: float) -> WhiteboxScorer:
    scorer = settings.with_examples(SHOWN)
    scorer.relevance = Fixed(**dots)  # type: ignore[misc, assignment]
    return scorer


# ---- features -------------------------------------------------------------------------------------------------------


def test_words_by_hand() -> None:
    assert words("Good muffins cost $3.88\nin New_York...  don't!") == [
        *("Good", "muffins", "cost", "$", "3", ".", "88", "in", "New_York", "...", "don", "'", "t", "!")
    ]
    assert words("") == words(" \n\t") == []
    assert words("a\ud800b") == ["a", "?", "b"]


def test_the_words_of_nltk() -> None:
    nltk = pytest.importorskip("nltk.tokenize", reason="nltk is not installed")
    text = "".join(chr(c) + ("b. " if c % 3 else "") for c in range(0x20, 0x2FFF) if chr(c).isprintable())
    assert words(text) == [part for run in nltk.wordpunct_tokenize(text) for part in cut_unspaced(run)]


@given(texts)
def test_words_against_a_slow_reference(text: str) -> None:
    readable = text.replace("\ud800", "?")
    assert words(text) == [part for run in slow_words(readable) for part in cut_unspaced(run)]


def test_length_and_repetition_by_hand() -> None:
    tokens = words("a b c a b c a b")  # abc bca cab abc bca cab: 3 of 6 trigrams differ
    assert length_incentive(tokens) == pytest.approx(0.08)
    assert length_incentive(tokens, unit=4) == 2
    assert repetition_penalty(tokens) == 0.5
    assert repetition_penalty(tokens, 1) == 3 / 8
    assert repetition_penalty(tokens, 8) == repetition_penalty(tokens, 9) == 1
    assert repetition_penalty(["a", "a", "a", "a"]) == 0.5
    assert repetition_penalty([]) == repetition_penalty(["a", "a"]) == 1.0
    assert length_incentive([]) == 0


@given(st.lists(st.sampled_from(["a", "b", ",", "好"]), max_size=40), st.integers(1, 5))
def test_repetition_is_a_share_above_0(tokens: list[str], n: int) -> None:
    found = repetition_penalty(tokens, n)
    assert 0 < found <= 1
    assert found == slow_repetition(tokens, n)
    assert (found == 1) == (len({tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)}) >= len(tokens) - n + 1)


@given(texts, texts, st.floats(0.5, 1e4))
def test_length_is_linear(one: str, other: str, unit: float) -> None:
    both = length_incentive(words(f"{one} {other}"), unit)
    assert both == pytest.approx(length_incentive(words(one), unit) + length_incentive(words(other), unit))
    assert length_incentive(words(one), 2 * unit) == pytest.approx(length_incentive(words(one), unit) / 2)


# ---- formulas -------------------------------------------------------------------------------------------------------

REPEATED = "a b c a b c a b"  # LI .08, RP .5


@pytest.mark.parametrize(
    ("factory", "expected"),
    [
        (whitebox.length, 0.08),
        (whitebox.repetition, 0.5),
        (whitebox.query_relevance, 2.0),
        (whitebox.length_repetition, 0.08 * 0.5),
        (whitebox.length_query_repetition, 0.08 * 2.0 * 0.5),
        (Whitebox, 0.08 * 2.0 * 0.5),
    ],
)
def test_formulas_on_an_open_ended_prompt(factory: Any, expected: float) -> None:
    assert told(factory(), write=2.0).scores([OPEN.prompt], [REPEATED]) == pytest.approx([expected])


def test_formulas_on_a_closed_ended_prompt() -> None:
    scorer = told(Whitebox(), anna=0.7, it=9.0)
    assert scorer.scores([CLOSED.prompt], [REPEATED]) == pytest.approx([0.7 / 3.5 * 5.12 * 0.5])
    assert scorer.relevance.asked == [("Anna wrote it.", REPEATED)]
    assert scorer.scores([CLOSED.prompt], ["a b"]) == pytest.approx([0.7 / 3.5 * 5.12])  # no length in it
    alone = whitebox.reference_relevance().with_examples({"train": [CLOSED]})
    alone.relevance = Fixed(anna=0.7, who=0.0)
    assert alone.scores([CLOSED.prompt], [REPEATED]) == pytest.approx([0.7])


def test_the_best_reference_is_a_setting() -> None:
    prompts, responses = [CLOSED.prompt, OPEN.prompt], ["x y", "x y"]
    best = told(Whitebox(references="best"), anna=0.7, it=1.4, write=3.0)
    assert best.scores(prompts, responses) == pytest.approx([1.4 / 3.5 * 5.12, 0.02 * 3])
    assert told(Whitebox(), anna=0.7, it=1.4, write=3.0).scores(prompts, responses)[0] == pytest.approx(0.2 * 5.12)
    negative = told(Whitebox(references="best"), anna=-0.7, it=-1.4)  # a dot product may be below 0
    assert negative.scores([CLOSED.prompt], ["x"]) == pytest.approx([-0.7 / 3.5 * 5.12])


def test_every_constant_is_a_setting() -> None:
    settings = Whitebox(length_unit=10, ngram=2, relevance_range=2, max_len=30, types="closed")
    scorer = settings.with_examples({"train": [CLOSED]})
    scorer.relevance = Fixed(anna=0.5)
    assert scorer.scores([CLOSED.prompt], ["a b a b"]) == pytest.approx([0.5 / 2 * 30 / 10 * (2 / 3)])
    assert Whitebox(formula="li", length_unit=10).rewards(rollout_of(["p"], ["a b"])).sum() == pytest.approx(0.2)


@given(st.lists(st.tuples(st.sampled_from([OPEN, CLOSED, SHOWN["test"][0]]), texts), min_size=1, max_size=5), st.data())
def test_rows_do_not_know_each_other(rows: list[tuple[Example, str]], data: st.DataObject) -> None:
    scorer = Whitebox().with_examples(SHOWN)
    prompts, responses = [e.prompt for e, _ in rows], [text for _, text in rows]
    found = scorer.scores(prompts, responses)
    order = data.draw(st.permutations(range(len(rows))))
    moved = scorer.scores([prompts[i] for i in order], [responses[i] for i in order])
    assert moved.tolist() == found[list(order)].tolist()
    assert np.isfinite(found).all()
    assert (found >= 0).all()


@pytest.mark.parametrize("formula", ["whitebox", "li", "rp", "qr", "li*rp", "li*qr*rp"])
def test_an_empty_response_is_defined(formula: str) -> None:
    scorer = Whitebox(formula=formula).with_examples(SHOWN)
    found = scorer.scores([OPEN.prompt, CLOSED.prompt], ["", " \n"])
    assert found.tolist() == ([1, 1] if formula == "rp" else [0, 0])  # nothing is repeated in nothing
    rar = Whitebox(formula="rar").with_examples({"train": [CLOSED]})
    assert rar.scores([CLOSED.prompt], [""]).tolist() == [0]


def test_a_very_long_text() -> None:
    scorer, start = Whitebox().with_examples(SHOWN), time.perf_counter()
    (one, two) = scorer.scores([OPEN.prompt, OPEN.prompt], ["sea and wind " * 40_000, "w" * 200_000])
    assert time.perf_counter() - start < 20
    (qr,) = scorer.features([OPEN.prompt], ["sea and wind " * 40_000])["qr_open"]
    assert one == pytest.approx(1200 * qr * 3 / 119_998)
    assert two == 0


# ---- as a reward model ----------------------------------------------------------------------------------------------


def rollout_of(prompts: Sequence[str], responses: Sequence[str]) -> Rollout:
    from rlhf_bench.harness.models.tiny_policy import tiny_tokenizer
    from rlhf_bench.harness.sampling.rollout import text_rollout

    return text_rollout(tiny_tokenizer(prompts, responses, 300), prompts, responses, "cpu")


def test_the_score_sits_on_the_last_token_and_the_features_are_told(tokenizer: Any) -> None:
    end = tokenizer.eos_token_id
    made = by_hand(tokenizer, [[40], [41], [42]], [[50, 51, end], [52, 53, 54, 55], []])
    scorer = whitebox.length()
    rewards = NamedRewardModel("whitebox-li", scorer).rewards(made)
    counts = [len(words(text)) / 100 for text in made.responses]
    assert rewards.nonzero().tolist() == [[0, 2], [1, 3]]
    assert rewards.sum(1).tolist() == pytest.approx([*counts[:2], 0])
    figures = diagnose(NamedRewardModel("whitebox-li", scorer), made, rewards)
    assert figures["li"].tolist() == pytest.approx(counts)
    assert figures["rp"].shape == (3,)


def test_the_seams_it_keeps() -> None:
    for one in (Whitebox(), Whitebox().with_examples(SHOWN)):
        assert isinstance(one, RewardModel)
        assert isinstance(one, HasDiagnostics)
        assert not isinstance(one, TrainableRewardModel)


def test_diagnostics_say_what_was_paid_for() -> None:
    made = rollout_of([OPEN.prompt, CLOSED.prompt, "Imagine the sea."], [REPEATED, "Anna.", "The sea."])
    scorer = Whitebox().with_examples(SHOWN)
    found = scorer.diagnostics(made)
    assert list(found) == ["li", "rp", "closed", "type_by_rule", "qr_open", "rar_closed"]
    assert found["closed"].tolist() == [0, 1, 0]
    assert found["type_by_rule"].tolist() == [0, 0, 1]
    assert (found["qr_open"] > 0).tolist() == [False, False, True]
    assert (found["rar_closed"] > 0).tolist() == [False, True, False]
    assert all(values.dtype == torch.float32 for values in found.values())
    assert list(whitebox.length().with_examples(SHOWN).diagnostics(made)) == ["li", "rp", "qr"]
    assert list(whitebox.length().diagnostics(made)) == ["li", "rp"]


NAMES = ["whitebox", *(f"whitebox-{name}" for name in ("li", "rp", "qr", "rar", "li-rp", "li-qr-rp"))]


@pytest.mark.parametrize("name", NAMES)
def test_the_registered_ones_keep_the_rules_once_they_know_the_examples(name: str) -> None:
    found = check("reward-model", name, {})
    assert [f for f in found if not f.ok] == []
    assert "with_examples gives a scorer" in [f.checked for f in found]
    assert len(found) == 6
    made = plugins.build("reward-model", name, {})
    assert made.formula == name.removeprefix("whitebox-").replace("-", "*")


@pytest.mark.parametrize("name", ["length", "repetition", "length_repetition"])
def test_features_of_the_response_alone_need_no_examples(name: str) -> None:
    made = plugins.build("reward-model", f"rlhf_bench.reward_models.whitebox:{name}", {})
    assert torch.isfinite(made.rewards(make_rollout())).all()


class Shy:
    """Takes examples, and raises an error or returns no scorer."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def with_examples(self, examples: Any) -> Any:
        return self.answer(examples)

    def rewards(self, rollout: Rollout) -> Any:
        return torch.zeros(rollout.mask.shape)


@pytest.mark.parametrize(("answer", "said"), [(lambda e: e["nothing"], "KeyError"), (lambda _: 1, "an? int without")])
def test_a_reward_model_that_fails_on_examples_is_found_out(answer: Any, said: str) -> None:
    probes = list(reward_probes("shy", Shy(answer)))
    assert len(probes) == 1  # nothing else can be asked
    finding = attempt(*probes[0])
    assert not finding.ok
    assert re.search(said, finding.detail)


def test_an_embedding_folder_is_known_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "config.json").write_text("{}")
    first = Whitebox(embedding=str(tmp_path / "one")).content
    (tmp_path / "one").rename(tmp_path / "two")
    assert Whitebox(embedding=str(tmp_path / "two")).content == first != {}
    (tmp_path / "two" / "config.json").write_text("{ }")
    assert Whitebox(embedding=str(tmp_path / "two")).content != first
    assert Whitebox().content == Whitebox(embedding="org/encoder@v1").content == {}  # their names say what they are


def test_pairs_that_cannot_be_scored_are_counted() -> None:
    scorer = NamedRewardModel("whitebox", Whitebox().with_examples(SHOWN))
    pairs = [Pair(str(i), prompt, "a", "b") for i, prompt in enumerate(["Write to me.", "Who came?", CLOSED.prompt])]
    kept, declined = scorable(scorer, pairs)
    assert [pair.id for pair in kept] == ["0", "2"]
    assert declined == {"RAR has no reference answer": 1}
    assert scorable(NamedRewardModel("any", Shy(None)), pairs) == (pairs, {})


# ---- refusals -------------------------------------------------------------------------------------------------------


def refused(call: Any, message: str) -> None:
    with pytest.raises(BenchError, match=message) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("formula", ["", "foo", "li*li", "li*", "li,rp", "LI", "whitebox*rp"])
def test_unknown_formulas(formula: str) -> None:
    refused(lambda: Whitebox(formula=formula), "is unknown. It is whitebox or a product of distinct features")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"types": "column"}, "types='column' is unknown"),
        ({"references": "all"}, "references='all' is unknown"),
        ({"length_unit": 0.0}, "length_unit=0.0"),
        ({"length_unit": float("nan")}, "length_unit=nan"),
        ({"relevance_range": -1.0}, "relevance_range=-1.0"),
        ({"ngram": 0}, "ngram=0"),
        ({"max_len": 0}, "max_len=0"),
        ({"embedding": " "}, "embedding is empty"),
        ({"embedding_batch": 0}, "embedding_batch=0"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    refused(lambda: Whitebox(**settings), message)


def test_no_reference_answers() -> None:
    bare = {"train": [OPEN, Example("c", "Who\nwrote it?", "  ", slices=("closed",))]}
    refused(lambda: Whitebox().with_examples(bare), "1 of 2 prompts: RAR has no reference answer, e.g. 'Who wrote it")
    refused(lambda: Whitebox(formula="rar").with_examples(bare), "2 of 2 prompts: RAR has no reference")
    Whitebox(types="open").with_examples(bare)
    scorer = Whitebox().with_examples(SHOWN)
    assert scorer.why_not("Write to me.") == ""
    assert "RAR has no reference answer" in scorer.why_not("Who came?")
    refused(lambda: scorer.scores(["Write to me.", "Who came?"], ["x", "x"]), "RAR has no reference answer: 'Who came")


def test_unknown_prompt_types() -> None:
    bare = {"train": [OPEN], "test": [Example("x", "Tell me.", slices=("benign",))]}
    message = "1 of 2 prompts: no example says whether it is open-ended or closed-ended, e.g. 'Tell me.'"
    refused(lambda: Whitebox(types="slice").with_examples(bare), message)
    scorer = Whitebox(types="slice").with_examples(SHOWN)
    refused(lambda: scorer.scores(["Tell me."], ["x"]), "no example says whether it is open-ended")


def test_a_lexical_stand_in_without_prompts() -> None:
    made = rollout_of(["Write."], ["r"])
    for unseen in (Whitebox(), Whitebox().with_examples({"test": [OPEN]})):
        scorer = NamedRewardModel("whitebox", unseen)
        refused(lambda scorer=scorer: scorer.rewards(made), "embedding=tfidf has no prompts to be fitted on")
