"""A score spread over tokens: segments, coalitions as texts, Shapley credit by brute force, attention by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import Tiny

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.models import policies
from rlhf_bench.harness.nouns import Pair, Rollout
from rlhf_bench.harness.pipeline.context import Context
from rlhf_bench.harness.ppo.scoring import NamedRewardModel
from rlhf_bench.harness.sampling.rollout import text_rollout
from rlhf_bench.harness.stages import credit as stages_credit
from rlhf_bench.harness.stages import spread
from rlhf_bench.reward_models.scalar import ScalarScorer

SHORT, LONG = "Ben will bring a lamp.", "Anna and Ben go hiking together on Sunday at nine with a map."
ASK = "Who comes?"


def of_text(score: Callable[[str], float]) -> NamedRewardModel:
    """A reward model whose score of the decoded tokens, on the last one, is `score`."""

    def rewards(rollout: Rollout) -> torch.Tensor:
        found = torch.zeros(rollout.mask.shape)
        for row, (ids, length) in enumerate(zip(rollout.response_ids, rollout.mask.sum(1).tolist(), strict=True)):
            assert int(ids[length - 1]) == rollout.tokenizer.eos_token_id
            text = rollout.tokenizer.decode(ids[: length - 1])
            assert text == rollout.responses[row]
            found[row, length - 1] = score(text)
        return found

    return NamedRewardModel("of-text", SimpleNamespace(rewards=rewards))  # type: ignore[arg-type]


def uneven(text: str) -> float:
    """A score in which words depend on each other."""
    words = text.split()
    return len(words) ** 1.5 + 3 * ("lamp." in words and "Ben" in words) - 2 * (words[:1] == ["will"]) + 0.25


def words_of(rollout: Rollout, row: int, credit: torch.Tensor) -> list[float]:
    parts = spread.segments(rollout.responses[row], rollout.spans[row][:-1])
    return [float(credit[row, part].sum()) for part in parts]


def made(tiny: Tiny, *texts: str) -> Rollout:
    return text_rollout(tiny.tokenizer, [ASK] * len(texts), texts, "cpu")


# ---- segments --------------------------------------------------------------------------------------------------------


def test_segments_are_words(tiny_gpt2: Tiny) -> None:
    rollout = made(tiny_gpt2, SHORT)
    parts = spread.segments(SHORT, rollout.spans[0][:-1])
    texts = ["".join(SHORT[slice(*rollout.spans[0][t])] for t in part) for part in parts]
    assert texts == ["Ben", " will", " bring", " a", " lamp."]


@given(st.text(st.sampled_from("ab .\nß")), st.integers(0, 9))
def test_every_token_is_in_one_segment(text: str, seed: int) -> None:
    cuts = sorted({0, len(text), *(seed * k % (len(text) + 1) for k in range(5))})
    spans = list(itertools.pairwise(cuts)) + [(len(text), len(text))] * (seed % 2)
    parts = spread.segments(text, spans)
    assert [t for part in parts for t in part] == list(range(len(spans)))
    assert all(parts)


def test_white_space_that_is_a_token_of_its_own_belongs_to_the_word_after_it() -> None:
    spans = [(0, 1), (1, 3), (3, 4), (4, 5), (5, 6), (6, 8), (8, 10)]
    assert spread.segments(" ab  c def", spans) == [[0, 1], [2, 3, 4], [5, 6]]


def test_many_words_are_joined_to_runs_of_nearly_equal_number() -> None:
    spans = [(2 * i, 2 * i + 2) for i in range(61)]
    parts = spread.segments("a " * 61, spans)
    assert len(parts) == spread.SEGMENTS
    assert [t for part in parts for t in part] == list(range(61))
    assert {len(part) for part in parts} <= {2, 3}


# ---- Shapley values --------------------------------------------------------------------------------------------------


def by_all_orders(words: Sequence[str], score: Callable[[str], float]) -> list[float]:
    found = [0.0] * len(words)
    for order in itertools.permutations(range(len(words))):
        joined: set[int] = set()
        for player in order:
            before = "".join(words[i] for i in sorted(joined))
            joined.add(player)
            after = "".join(words[i] for i in sorted(joined))
            found[player] += (score(after) - score(before)) / math.factorial(len(words))
    return found


def test_exact_credit_is_that_of_all_orders(tiny_gpt2: Tiny) -> None:
    rollout = made(tiny_gpt2, SHORT, "Ben")
    credit = spread.by_shapley(of_text(uneven), rollout, ["a", "b"], 0)
    expected = by_all_orders(["Ben", " will", " bring", " a", " lamp."], uneven)
    assert words_of(rollout, 0, credit) == pytest.approx(expected, abs=1e-5)
    assert words_of(rollout, 1, credit) == pytest.approx([uneven("Ben") - uneven("")], abs=1e-5)
    assert not credit[~rollout.mask].any()


def test_a_segment_s_tokens_share_its_value_and_the_end_has_the_empty_response_s_score(tiny_gpt2: Tiny) -> None:
    rollout = made(tiny_gpt2, SHORT)
    (credit,) = spread.by_shapley(of_text(uneven), rollout, ["a"], 0).tolist()
    for part in spread.segments(SHORT, rollout.spans[0][:-1]):
        assert len({credit[t] for t in part}) == 1
    assert credit[len(rollout.spans[0]) - 1] == pytest.approx(uneven(""))
    assert any(len(part) > 1 for part in spread.segments(SHORT, rollout.spans[0][:-1]))


@pytest.mark.parametrize("text", [SHORT, LONG])
def test_credit_sums_to_the_score(tiny_gpt2: Tiny, text: str) -> None:
    rollout = made(tiny_gpt2, text)
    credit = spread.by_shapley(of_text(uneven), rollout, ["a"], 0)
    assert float(credit.sum()) == pytest.approx(uneven(text), abs=1e-4)
    assert sum(words_of(rollout, 0, credit)) == pytest.approx(uneven(text) - uneven(""), abs=1e-4)


def test_equal_words_have_equal_credit(tiny_gpt2: Tiny) -> None:
    rollout = made(tiny_gpt2, " a lamp a map a")
    squared = of_text(lambda text: float(text.split().count("a")) ** 2)
    credit = spread.by_shapley(squared, rollout, ["x"], 0)
    found = words_of(rollout, 0, credit)
    assert found == pytest.approx([3, 0, 3, 0, 3], abs=1e-5)


def test_long_responses_are_sampled_by_the_seed_and_their_name(
    tiny_gpt2: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout = made(tiny_gpt2, LONG, LONG)
    assert len(spread.segments(LONG, rollout.spans[0][:-1])) > spread.EXACT
    first = spread.by_shapley(of_text(uneven), rollout, ["a", "b"], 0)
    again = spread.by_shapley(of_text(uneven), rollout, ["a", "b"], 0)
    other = spread.by_shapley(of_text(uneven), rollout, ["a", "b"], 1)
    assert torch.equal(first, again)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, other)
    # of a sum over words the values are exact in any order
    linear = of_text(lambda text: float(sum(map(len, text.split()))))
    found = words_of(rollout, 0, spread.by_shapley(linear, rollout, ["a", "b"], 0))
    assert found == pytest.approx([len(word) for word in LONG.split()], abs=1e-4)
    # sampled values near those of all coalitions
    text = " ".join(LONG.split()[:9])
    short = made(tiny_gpt2, text)
    sampled = words_of(short, 0, spread.by_shapley(of_text(uneven), short, ["a"], 0))
    monkeypatch.setattr(spread, "EXACT", 9)
    exact = words_of(short, 0, spread.by_shapley(of_text(uneven), short, ["a"], 0))
    assert sampled != exact
    assert sampled == pytest.approx(exact, abs=1.5)


# ---- attention -------------------------------------------------------------------------------------------------------


@pytest.fixture
def scalar(tiny_gpt2: Tiny) -> NamedRewardModel:
    model = policies.load_classifier(tiny_gpt2.folder, tiny_gpt2.tokenizer, "cpu", seed=1, head_std=0.5)
    return NamedRewardModel("scalar", ScalarScorer(model))


def attention_by_hand(model: Any, ids: list[int]) -> torch.Tensor:
    """[C] of the last token of a GPT-2's last layer, the mean over heads: softmax(q k / sqrt(width of a head))."""
    trunk = model.base_model
    inputs: list[torch.Tensor] = []
    block = trunk.h[-1]
    handle = block.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    with torch.no_grad():
        trunk(input_ids=torch.tensor([ids]), use_cache=False)
        handle.remove()
        query, key, _ = block.attn.c_attn(block.ln_1(inputs[0][0])).chunk(3, dim=-1)
    heads = model.config.num_attention_heads
    width = query.shape[-1] // heads
    maps = []
    for head in range(heads):
        own = slice(head * width, (head + 1) * width)
        maps.append(torch.softmax(query[-1, own] @ key[:, own].T / math.sqrt(width), -1))
    return torch.stack(maps).mean(0)


def test_attention_credit_is_the_score_times_the_last_token_s_attention(
    tiny_gpt2: Tiny, scalar: NamedRewardModel
) -> None:
    prompts, texts = [ASK, "Where is it, and who else will be there?", ASK], [SHORT, "Nine.", LONG]
    rollout = text_rollout(tiny_gpt2.tokenizer, prompts, texts, "cpu")
    scores = scalar.rewards(rollout).sum(1)  # before attention changes
    credit = spread.by_attention(scalar, rollout, ["a", "b", "c"], 0)
    assert credit.sum(1).tolist() == pytest.approx(scores.tolist(), rel=1e-4)
    assert len({float(s) for s in scores}) == 3
    for row, (score, length) in enumerate(zip(scores, rollout.mask.sum(1).tolist(), strict=True)):
        prompt = rollout.prompt_ids[row][rollout.prompt_mask[row].bool()].tolist()
        whole = attention_by_hand(scalar.model.model, [*prompt, *rollout.response_ids[row, :length].tolist()])  # type: ignore[attr-defined]
        own = whole[len(prompt) :]
        assert credit[row, :length].tolist() == pytest.approx((own / own.sum() * score).tolist(), rel=1e-3, abs=1e-6)
        assert len(set(own.tolist())) > 1
    assert not credit[~rollout.mask].any()


def test_attention_of_another_reward_model_is_refused(tiny_gpt2: Tiny) -> None:
    with pytest.raises(BenchError, match="'of-text' has no attention credit"):
        spread.by_attention(of_text(uneven), made(tiny_gpt2, SHORT), ["a"], 0)


# ---- the stage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["shapley", "attention", ""])
def test_rows_of_the_stage_hold_the_credit(
    tmp_path: Path, tiny_gpt2: Tiny, scalar: NamedRewardModel, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    pairs = [Pair("p", ASK, "Ben", SHORT, None, ((4, 8),))]
    monkeypatch.setattr(stages_credit, "scorer_of", lambda _: scalar)
    monkeypatch.setattr(stages_credit, "read_pairs", lambda *_: pairs)
    params = {"seed": 3, **({"method": method} if method else {})}
    rollout = made(tiny_gpt2, SHORT)
    score = float(scalar.rewards(rollout).sum())
    stages_credit.credit(Context(params, {"sft": tiny_gpt2.folder, "pairs": tmp_path}, tmp_path, tmp_path, "cpu"))
    (row,) = store.read_rows(tmp_path / "credit.jsonl")
    assert sum(row["rewards"]) + row["end"] == pytest.approx(score, rel=1e-4)
    assert any(row["rewards"]) == bool(method)
