"""A seq2seq reward model's token rewards: the rule and its teacher-forced pass against slow references."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import Tiny, by_hand, other_padding
from torch import Tensor

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Rollout
from rlhf_bench.harness.sampling.rollout import rows_of
from rlhf_bench.harness.text.templates import CORRECTION, encode
from rlhf_bench.reward_models import seq2seq
from rlhf_bench.reward_models.corrector import Layout, check_context, mapping_rows
from rlhf_bench.reward_models.extraction import (
    divergence,
    graded,
    on_last_token,
    positive_part,
    shuffled,
    spread_evenly,
    token_signs,
)
from rlhf_bench.reward_models.seq2seq import Seq2Seq, Seq2SeqScorer

# --- the rule on given matches


@st.composite
def matched(draw: st.DrawFn) -> tuple[list[list[int]], Tensor, Tensor]:
    """m_t of each response, and the same as padded tensors (padding is drawn too: it must not count)."""
    rows = draw(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=8), min_size=1, max_size=4))
    width = max(map(len, rows)) + draw(st.integers(0, 2))
    padding = draw(st.integers(0, 1))
    matches = torch.tensor([row + [padding] * (width - len(row)) for row in rows]).bool()
    mask = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows])
    return rows, matches, mask


def first_divergence(m: list[int]) -> int:
    return next((t for t, match in enumerate(m) if match == 0), len(m))


def rule(m: list[int]) -> list[float]:
    """arXiv 2409.00162: +1 if t < t*;  -1 if t >= t* and m_t = 0;  0 if t > t* and m_t = 1."""
    star, rewards = first_divergence(m), []
    for t, match in enumerate(m):
        if t < star:
            rewards.append(1.0)
        elif match == 0:
            rewards.append(-1.0)
        else:
            assert t > star
            rewards.append(0.0)
    return rewards


@given(matched())
def test_signs_and_divergence_follow_the_rule(case: tuple[list[list[int]], Tensor, Tensor]) -> None:
    rows, matches, mask = case
    signs = token_signs(matches, mask)
    assert signs.dtype == torch.float32
    assert divergence(matches, mask).tolist() == [first_divergence(row) for row in rows]
    for got, row in zip(signs.tolist(), rows, strict=True):
        assert got == rule(row) + [0.0] * (mask.shape[1] - len(row))


@given(matched())
def test_positive_part_keeps_the_plus_ones_alone(case: tuple[list[list[int]], Tensor, Tensor]) -> None:
    signs = token_signs(*case[1:])
    assert torch.equal(positive_part(signs), (signs == 1).float())


@given(matched(), st.randoms(use_true_random=False))
def test_a_sequence_score_sits_on_the_last_token_alone(
    case: tuple[list[list[int]], Tensor, Tensor], rng: random.Random
) -> None:
    rows, _, mask = case
    scores = torch.tensor([rng.choice((-1, 1)) * rng.uniform(0.1, 3) for _ in rows], dtype=torch.float64)
    rewards = on_last_token(scores, mask)
    assert rewards.dtype == torch.float32
    for got, row, score in zip(rewards, rows, scores.float(), strict=True):
        assert torch.nonzero(got).flatten().tolist() == [len(row) - 1]
        assert got[len(row) - 1] == score


def test_the_last_token_is_the_end_of_sequence_or_the_last_of_a_truncated_response(tokenizer: Any) -> None:
    end = tokenizer.eos_token_id
    rollout = by_hand(tokenizer, [[5]] * 3, [[11, 12, end], [11, 12, 13, 14], [end]])
    rewards = on_last_token(torch.tensor([1.0, 2.0, 3.0]), rollout.mask)
    assert rewards.tolist() == [[0, 0, 1, 0], [0, 0, 0, 2], [3, 0, 0, 0]]
    assert (rollout.response_ids[rewards > 0] == end).tolist() == [True, False, True]


def test_a_response_without_tokens_gets_no_score() -> None:
    mask = torch.tensor([[False, False], [True, False]])
    assert on_last_token(torch.tensor([5.0, 6.0]), mask).tolist() == [[0, 0], [6, 0]]


@given(matched(), st.randoms(use_true_random=False))
def test_an_evenly_spread_score_adds_up_and_is_the_same_on_every_token(
    case: tuple[list[list[int]], Tensor, Tensor], rng: random.Random
) -> None:
    rows, _, mask = case
    scores = [rng.uniform(-3, 3) for _ in rows]
    rewards = spread_evenly(torch.tensor(scores, dtype=torch.float64), mask)
    assert rewards.dtype == torch.float32
    for got, row, score in zip(rewards.tolist(), rows, scores, strict=True):
        assert got[: len(row)] == pytest.approx([score / len(row)] * len(row))
        assert got[len(row) :] == [0.0] * (len(got) - len(row))


def test_a_response_without_tokens_has_nothing_to_spread() -> None:
    mask = torch.tensor([[False, False], [True, True]])
    assert spread_evenly(torch.tensor([5.0, 6.0]), mask).tolist() == [[0, 0], [3, 3]]


def margins_of(rows: list[list[int]], width: int, rng: random.Random) -> tuple[list[list[float]], Tensor]:
    """A margin in nats for every token, 0 where it matches; the padding's is drawn too."""
    drawn = [[0.0 if m else -rng.choice((0.01, 0.5, 2.0, 4.0, 9.0, float("inf"))) for m in row] for row in rows]
    return drawn, torch.tensor([row + [-rng.random()] * (width - len(row)) for row in drawn])


@given(matched(), st.randoms(use_true_random=False), st.sampled_from([-0.3, -1.0, -5.0]))
def test_graded_divergences_cost_their_margin(
    case: tuple[list[list[int]], Tensor, Tensor], rng: random.Random, floor: float
) -> None:
    rows, matches, mask = case
    margins, table = margins_of(rows, mask.shape[1], rng)
    rewards = graded(matches, table, mask, floor)
    assert rewards.dtype == torch.float32
    for got, row, margin in zip(rewards.tolist(), rows, margins, strict=True):
        expected = [1.0 if t < first_divergence(row) else max(g, floor) / abs(floor) for t, g in enumerate(margin)]
        assert got == pytest.approx(expected + [0.0] * (mask.shape[1] - len(row)), abs=1e-6)


@given(matched(), st.randoms(use_true_random=False))
def test_graded_with_the_floor_at_zero_is_the_sign_rule(
    case: tuple[list[list[int]], Tensor, Tensor], rng: random.Random
) -> None:
    rows, matches, mask = case
    _, table = margins_of(rows, mask.shape[1], rng)
    assert torch.equal(graded(matches, table, mask, floor=-1e-3), token_signs(matches, mask))


words = st.text("ab", max_size=3)


@given(matched(), st.data())
def test_shuffling_moves_rewards_within_a_response(case: tuple[list[list[int]], Tensor, Tensor], data: Any) -> None:
    rows, _, mask = case
    prompts, responses = ([data.draw(words) for _ in rows] for _ in range(2))
    rewards = torch.arange(1.0, mask.numel() + 1).view(mask.shape) * mask
    before = rewards.clone()
    moved = shuffled(rewards, mask, prompts, responses)
    assert torch.equal(rewards, before)
    assert not moved[~mask].any()
    for i, row in enumerate(rows):
        assert sorted(moved[i].tolist()) == sorted(rewards[i].tolist())
        alone = shuffled(
            rewards[i : i + 1, : len(row)], mask[i : i + 1, : len(row)], prompts[i : i + 1], [responses[i]]
        )
        assert torch.equal(alone[0], moved[i, : len(row)])  # neither neighbours nor padding change it


def test_every_order_occurs_among_the_shuffles_of_many_texts() -> None:
    mask, rewards = torch.ones(300, 3, dtype=torch.bool), torch.tensor([[1.0, 2.0, 3.0]]).repeat(300, 1)
    one_prompt = shuffled(rewards, mask, ["p"] * 300, [f"r {i}" for i in range(300)])
    one_response = shuffled(rewards, mask, [f"p {i}" for i in range(300)], ["r"] * 300)
    assert len(set(map(tuple, one_prompt.tolist()))) == len(set(map(tuple, one_response.tolist()))) == 6


# --- the matches of a real model

PROMPTS = ([40, 41, 42], [60] * 9, [90, 17, 33, 4, 201, 5], [70], [31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42])
"""Shorter and longer than the marker."""


def position(reuse: bool, prompt: int, body: int, marker: int, place: int) -> int:
    """Position id of the token at `place` of [prompt; body; marker; correction].

    Plain: its place.  Reused: the correction stands where the response stood, and the marker leads up to it.
    """
    correction = place - prompt - body - marker
    if not reuse or place < prompt + body:
        return place
    if correction >= 0:
        return prompt + correction
    return prompt + correction if prompt >= marker else 0


def next_token(tiny: Tiny, reuse: bool, prompt: list[int], body: list[int], written: list[int]) -> int:
    return int(next_logits(tiny, reuse, prompt, body, written).argmax())


def next_logits(tiny: Tiny, reuse: bool, prompt: list[int], body: list[int], written: list[int]) -> Tensor:
    """The corrector's logits [V] after `written`: one row, no padding, no cache, an explicit causal mask."""
    marker = encode(tiny.tokenizer, [CORRECTION])[0]
    ids = [*prompt, *body, *marker, *written]
    positions = [position(reuse, len(prompt), len(body), len(marker), place) for place in range(len(ids))]
    causal = torch.full((len(ids), len(ids)), torch.finfo(torch.float32).min).triu(1)[None, None]
    with torch.no_grad():
        logits: Tensor = tiny.model(
            input_ids=torch.tensor([ids]),
            position_ids=torch.tensor([positions]),
            attention_mask=causal,
            use_cache=False,
        ).logits
    return logits[0, -1]


def without_end(tiny: Tiny, response: list[int]) -> list[int]:
    return response[:-1] if response[-1] == tiny.tokenizer.eos_token_id else response


def greedy_correction(tiny: Tiny, reuse: bool, prompt: list[int], response: list[int]) -> list[int]:
    body, written = without_end(tiny, response), []
    for _ in response:
        written.append(next_token(tiny, reuse, prompt, body, written))
    return written


def teacher_forced(tiny: Tiny, reuse: bool, prompt: list[int], response: list[int]) -> list[bool]:
    body = without_end(tiny, response)
    return [next_token(tiny, reuse, prompt, body, response[:t]) == token for t, token in enumerate(response)]


def cases(tiny: Tiny, reuse: bool) -> tuple[list[list[int]], list[list[int]]]:
    """Prompts and responses, with some of which the corrector agrees: corrections of corrections, some spoilt."""
    rng, end = random.Random(0), tiny.tokenizer.eos_token_id
    prompts, responses = [], []
    for prompt in PROMPTS:
        response = [rng.randrange(2, 300) for _ in range(rng.randint(5, 9))]
        for _ in range(4):
            response = greedy_correction(tiny, reuse, list(prompt), response)
        spoilt = list(response)
        spoilt[len(spoilt) // 2] = 77
        truncated, ended, one, empty = response, [*response, end], response[:1], [end]
        for row in (truncated, spoilt, ended, one, empty):
            prompts.append(list(prompt))
            responses.append(row)
    return prompts, responses


class Corrector:
    """A tiny corrector, its scorer, and the rollout above."""

    def __init__(self, tiny: Tiny, layout: str) -> None:
        self.tiny, self.reuse = tiny, layout == "reuse"
        self.prompts, self.responses = cases(tiny, self.reuse)
        self.rollout = by_hand(tiny.tokenizer, self.prompts, self.responses)
        self.layout = Layout.of(tiny.tokenizer, layout)
        self.scorer = self.reading("token")

    def reading(self, reading: str, summary: str = "sum") -> Seq2SeqScorer:
        settings = Seq2Seq(reading=reading, summary=summary, positions="reuse" if self.reuse else "plain")
        return Seq2SeqScorer(self.tiny.model, self.tiny.tokenizer, settings)

    def matches(self, rollout: Rollout) -> Tensor:
        return self.scorer.compare(rollout).matches


@pytest.fixture(scope="module", params=["plain", "reuse"])
def corrector(tiny: Tiny, request: pytest.FixtureRequest) -> Corrector:
    return Corrector(tiny, request.param)


def unpadded(table: Tensor, rollout: Rollout) -> list[list[Any]]:
    return [row[keep].tolist() for row, keep in zip(table, rollout.mask, strict=True)]


def test_matches_are_those_of_token_by_token_decoding(corrector: Corrector) -> None:
    matches = corrector.matches(corrector.rollout)
    assert not matches[~corrector.rollout.mask].any()
    expected = [
        teacher_forced(corrector.tiny, corrector.reuse, prompt, response)
        for prompt, response in zip(corrector.prompts, corrector.responses, strict=True)
    ]
    assert unpadded(matches, corrector.rollout) == expected
    share = sum(map(sum, expected)) / sum(map(len, expected))
    assert 0.1 < share < 0.9, "the cases must show both"
    assert len(set(map(first_divergence, expected))) > 2


def test_before_the_divergence_greedy_decoding_writes_the_same(corrector: Corrector) -> None:
    stars = divergence(corrector.matches(corrector.rollout), corrector.rollout.mask).tolist()
    for prompt, response, star in zip(corrector.prompts, corrector.responses, stars, strict=True):
        written = greedy_correction(corrector.tiny, corrector.reuse, prompt, response)
        assert written[:star] == response[:star]
        assert star == len(response) or written[star] != response[star]


def test_matches_do_not_depend_on_the_batch(corrector: Corrector) -> None:
    rollout = corrector.rollout
    whole = unpadded(corrector.matches(rollout), rollout)
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))
    for size in (1, 4):
        for index in order.split(size):
            part = rows_of(rollout, index)
            assert unpadded(corrector.matches(part), part) == [whole[i] for i in index.tolist()]


def test_matches_do_not_depend_on_padding(corrector: Corrector) -> None:
    whole = unpadded(corrector.matches(corrector.rollout), corrector.rollout)
    wider = by_hand(corrector.tiny.tokenizer, corrector.prompts, corrector.responses, extra_left=5, extra_right=3)
    assert unpadded(corrector.matches(wider), wider) == whole
    assert unpadded(corrector.matches(other_padding(wider)), wider) == whole


def test_readings(corrector: Corrector) -> None:
    rollout, mask = corrector.rollout, corrector.rollout.mask
    tokens = corrector.reading("token").rewards(rollout)
    assert unpadded(tokens, rollout) == [rule(m) for m in unpadded(corrector.matches(rollout), rollout)]
    assert torch.equal(corrector.reading("positive").rewards(rollout), tokens.clamp(min=0))
    lengths = mask.sum(1)
    last = torch.zeros_like(tokens)
    last[torch.arange(len(lengths)), lengths - 1] = 1.0
    assert torch.equal(corrector.reading("sentence").rewards(rollout), last * tokens.sum(1, keepdim=True))
    mean = last * (tokens.sum(1) / lengths)[:, None]
    torch.testing.assert_close(corrector.reading("sentence", "mean").rewards(rollout), mean)


# --- training rows and settings


@pytest.mark.parametrize("layout", ["plain", "reuse"])
def test_training_rows_are_laid_out_as_the_scorer_reads(tiny_gpt2: Tiny, layout: str) -> None:
    from rlhf_bench.harness.nouns import Pair
    from rlhf_bench.harness.sampling.rollout import text_rollout
    from rlhf_bench.harness.training.collate import IGNORED

    pair = Pair("1", "Where do they meet?", chosen="At the station.", rejected="At the bridge, Anna!")
    corrector = Corrector(tiny_gpt2, layout)
    correction, identity = mapping_rows(corrector.layout, tiny_gpt2.tokenizer, pair)
    rollout = text_rollout(tiny_gpt2.tokenizer, [pair.prompt], [pair.chosen], "cpu")
    ids, mask, positions = corrector.scorer.corrector.inputs(rollout, with_responses=True)
    assert mask.all()
    assert (ids[0].tolist(), positions[0].tolist()) == (identity["input_ids"], identity["position_ids"])
    target = unpadded(rollout.response_ids, rollout)[0]
    for row in (correction, identity):
        assert [x for x in row["labels"] if x != IGNORED] == target
        assert row["labels"][-len(target) :] == row["input_ids"][-len(target) :] == target
        assert len({len(x) for x in row.values()}) == 1


@pytest.mark.parametrize(
    "wrong", [{"reading": "tokens"}, {"positions": "same"}, {"summary": "max"}, {"lr": 0.0}, {"epochs": 0}]
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BenchError):
        seq2seq.Seq2Seq(**wrong)


def test_the_three_arms_share_one_training() -> None:
    arms = [seq2seq.token(), seq2seq.sentence(), seq2seq.token_positive()]
    assert [arm.reading for arm in arms] == ["token", "sentence", "positive"]
    assert len({(arm.recipe, *arm.training_settings.items()) for arm in arms}) == 1


def test_what_was_saved_scores_as_what_was_trained(tiny: Tiny) -> None:
    made, loaded = Corrector(tiny, "reuse"), seq2seq.token().load(tiny.folder, "cpu")
    assert torch.equal(loaded.rewards(made.rollout), made.scorer.rewards(made.rollout))


def test_a_text_too_long_for_the_model_is_refused() -> None:
    check_context(10, 10, "pairs")
    check_context(10, None, "pairs")
    with pytest.raises(BenchError, match=r"pairs needs 11 tokens.*context is 10"):
        check_context(11, 10, "pairs")
