"""Sampling draws from the policy's own distribution, and log-probabilities are those of a plain forward pass."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import CONTEXT, SENTENCES, Tiny, by_hand, other_padding
from torch import Tensor

from rlhf_bench.harness.nouns import Rollout
from rlhf_bench.harness.sampling.decoding import choose_tokens
from rlhf_bench.harness.sampling.rollout import (
    batches_by_length,
    full_inputs,
    logprobs,
    make_generator,
    make_rollout,
    map_batches,
    rows_of,
    sample,
    text_rollout,
)
from rlhf_bench.harness.text.templates import decode, encode_prompts

PROMPTS = ["Who?", "Where do Anna and Ben meet on Sunday, and when?", "What will Ben bring to the station?", "naß"]


def plain_logits(model: Any, ids: list[int]) -> Tensor:
    """Logits [n, V] of one row: no padding, no cache, no position ids."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()


def rows(rollout: Rollout) -> list[list[int]]:
    return [ids[keep].tolist() for ids, keep in zip(rollout.response_ids, rollout.mask, strict=True)]


# --- the law of one draw

distributions = st.lists(st.one_of(st.floats(-6, 6), st.just(-math.inf)), min_size=1, max_size=12).filter(
    lambda logits: max(logits) > -math.inf
)


@given(distributions, st.sampled_from([0.3, 1.0, 2.5]))
def test_the_middle_of_every_step_of_the_distribution_gives_its_token(logits: list[float], temperature: float) -> None:
    shares = (torch.tensor(logits, dtype=torch.float64) / temperature).softmax(0)
    likely = torch.nonzero(shares > 1e-5).squeeze(1)
    middles = (shares.cumsum(0) - shares / 2)[likely].float()
    drawn = choose_tokens(torch.tensor(logits).expand(len(likely), -1) / temperature, middles)[0]
    assert drawn.tolist() == likely.tolist()


@given(distributions, st.sampled_from([0.3, 1.0, 2.5]))
def test_the_ends_of_the_unit_interval_give_a_possible_token(logits: list[float], temperature: float) -> None:
    ends = torch.tensor([0.0, 0.99999994])  # what torch.rand can return: 1 - 2^-24 is the largest
    first, last = choose_tokens(torch.tensor(logits).expand(2, -1) / temperature, ends)[0].tolist()
    shares = (torch.tensor(logits) / temperature).softmax(0)
    possible = torch.nonzero(shares).squeeze(1).tolist()
    assert (first, last) == (possible[0], last)
    assert last in possible
    assert float(shares[last + 1 :].sum()) < 1e-5


def test_frequencies_of_a_fixed_distribution() -> None:
    logits = torch.tensor([-math.inf, 0.5, 2.0, -math.inf, -3.0, 1.0, -math.inf])
    shares, draws = (logits / 0.7).softmax(0), 40_000
    uniforms = torch.rand(draws, generator=make_generator("frequencies"))
    counts = torch.bincount(choose_tokens(logits.expand(draws, -1) / 0.7, uniforms)[0], minlength=len(shares))
    sigma = (draws * shares * (1 - shares)).sqrt()
    assert ((counts - draws * shares).abs() <= 4 * sigma).all()
    assert not counts[shares == 0].any()


def test_frequencies_of_a_policy(tiny: Tiny) -> None:
    draws, temperature = 3000, 1.5
    (prompt,) = encode_prompts(tiny.tokenizer, PROMPTS[:1])
    shares = (plain_logits(tiny.model, prompt)[-1] / temperature).softmax(0)
    generator = make_generator("policy")
    rollout = sample(tiny.model, tiny.tokenizer, PROMPTS[:1] * draws, 1, generator=generator, temperature=temperature)
    counts = torch.bincount(rollout.response_ids[:, 0], minlength=len(shares))
    common = draws * shares > 20  # rarer ones are far from normal
    assert common.sum() > 3
    sigma = (draws * shares * (1 - shares)).sqrt()
    assert ((counts - draws * shares).abs() <= 4 * sigma)[common].all()


# --- responses


def test_greedy_is_the_argmax_of_each_step(tiny: Tiny) -> None:
    rollout = sample(tiny.model, tiny.tokenizer, PROMPTS, 12)
    for prompt, response in zip(encode_prompts(tiny.tokenizer, PROMPTS), rows(rollout), strict=True):
        written: list[int] = []
        while len(written) < 12 and tiny.tokenizer.eos_token_id not in written:
            written.append(int(plain_logits(tiny.model, prompt + written)[-1].argmax()))
        assert response == written


def test_a_response_depends_on_no_other_row(tiny: Tiny) -> None:
    def first(count: int, max_new: int = 10) -> list[list[int]]:
        return rows(sample(tiny.model, tiny.tokenizer, PROMPTS[:count], max_new, generator=make_generator("rows")))

    everything = first(4)
    assert first(1) == everything[:1]
    assert first(2) == everything[:2]
    greedy = rows(sample(tiny.model, tiny.tokenizer, PROMPTS, 10))
    for index, prompt in enumerate(PROMPTS):
        assert rows(sample(tiny.model, tiny.tokenizer, [prompt], 10)) == greedy[index : index + 1]


def test_an_equal_generator_gives_an_equal_rollout(tiny_gpt2: Tiny) -> None:
    def draw(*parts: object) -> Rollout:
        return sample(tiny_gpt2.model, tiny_gpt2.tokenizer, PROMPTS, 10, generator=make_generator(*parts))

    assert rows(draw("a", 1)) == rows(draw("a", 1))
    assert draw("a", 1).responses == draw("a", 1).responses
    assert rows(draw("a", 1)) != rows(draw("a", 2))
    assert rows(draw("a", 1)) != rows(draw("b", 1))


def test_sampling_does_not_change_the_global_random_state(tiny_gpt2: Tiny) -> None:
    before = torch.random.get_rng_state()
    sample(tiny_gpt2.model, tiny_gpt2.tokenizer, PROMPTS, 3, generator=make_generator(1))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_rollout_says_how_each_response_ended(tiny: Tiny) -> None:
    end = tiny.tokenizer.eos_token_id
    generator = make_generator("ends")
    rollout = sample(tiny.model, tiny.tokenizer, PROMPTS * 20, 25, generator=generator, temperature=3.0)
    ended = [response[-1] == end for response in rows(rollout)]
    assert rollout.finished.tolist() == ended
    assert any(ended)
    assert not all(ended)
    for response, finished, text in zip(rows(rollout), ended, rollout.responses, strict=True):
        assert end not in response[:-1]
        assert len(response) == 25 or finished
        assert text == decode(tiny.tokenizer, response)
    assert (rollout.response_ids[~rollout.mask] == tiny.tokenizer.pad_token_id).all()


TOKENS = st.lists(st.lists(st.sampled_from([0, 1, 20, 50, 90]), min_size=5, max_size=5), min_size=1, max_size=4)


@given(TOKENS)
def test_a_response_ends_with_its_first_end_of_sequence(tokenizer: Any, table: list[list[int]]) -> None:
    """Pad tokens (id 0 here) that a policy samples before the end are ordinary tokens."""
    end = tokenizer.eos_token_id
    expected = [row[: row.index(end) + 1] if end in row else row for row in table]
    ones = torch.ones(len(table), 1, dtype=torch.long)
    rollout = make_rollout(tokenizer, ["x"] * len(table), ones, ones, torch.tensor(table))
    assert rows(rollout) == expected
    assert rollout.finished.tolist() == [end in row for row in table]
    assert rollout.mask.shape[1] == max(map(len, expected))
    assert list(rollout.responses) == [decode(tokenizer, row) for row in expected]
    assert (rollout.response_ids[~rollout.mask] == tokenizer.pad_token_id).all()


@given(st.lists(st.tuples(st.text(max_size=8), st.text(max_size=12)), min_size=1, max_size=4))
def test_given_texts_round_trip(tokenizer: Any, texts: list[tuple[str, str]]) -> None:
    prompts, responses = zip(*texts, strict=True)
    rollout = text_rollout(tokenizer, prompts, responses, "cpu")
    assert (rollout.prompts, rollout.responses) == (prompts, responses)
    assert rollout.finished.all()
    assert rollout.logprobs is None, "they were not sampled"
    for text, response in zip(responses, rows(rollout), strict=True):
        assert response[-1] == tokenizer.eos_token_id
        assert decode(tokenizer, response) == text
    for prompt, ids, mask in zip(prompts, rollout.prompt_ids, rollout.prompt_mask.bool(), strict=True):
        assert ids[mask].tolist() == encode_prompts(tokenizer, [prompt])[0]
        assert mask.tolist() == sorted(mask.tolist())  # padding at the left


def test_spans_are_read_off_the_unpadded_rows(tokenizer: Any) -> None:
    rollout = text_rollout(tokenizer, ["a", "b"], [SENTENCES[3], ""], "cpu")
    assert [len(spans) for spans in rollout.spans] == rollout.mask.sum(1).tolist()
    assert "".join(SENTENCES[3][start:end] for start, end in rollout.spans[0]) == SENTENCES[3]
    assert rollout.spans[1] == ((0, 0),)


# --- log-probabilities


@pytest.fixture(scope="module")
def rollout(tiny: Tiny) -> Rollout:
    generator = make_generator("logprobs")
    return sample(tiny.model, tiny.tokenizer, PROMPTS * 4, 10, generator=generator, temperature=3.0)


def test_logprobs_are_those_of_single_rows(tiny: Tiny, rollout: Rollout) -> None:
    for temperature in (1.0, 3.0):
        table = logprobs(tiny.model, rollout, temperature).detach()
        assert table.dtype == torch.float32
        assert not table[~rollout.mask].any()
        prompts = encode_prompts(tiny.tokenizer, rollout.prompts)
        for got, keep, prompt, response in zip(table, rollout.mask, prompts, rows(rollout), strict=True):
            plain = plain_logits(tiny.model, prompt + response)[len(prompt) - 1 : -1] / temperature
            expected = plain.log_softmax(-1)[torch.arange(len(response)), torch.tensor(response)]
            torch.testing.assert_close(got[keep], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("greedy", [True, False])
def test_a_rollout_carries_the_logprobs_of_its_draws(tiny: Tiny, temperature: float, greedy: bool) -> None:
    generator = None if greedy else make_generator("drawn")
    rollout = sample(tiny.model, tiny.tokenizer, PROMPTS * 8, 20, generator=generator, temperature=temperature)
    assert rollout.logprobs is not None
    torch.testing.assert_close(
        rollout.logprobs, logprobs(tiny.model, rollout, temperature).detach(), rtol=1e-4, atol=1e-4
    )
    assert not rollout.logprobs[~rollout.mask].any()
    part = rows_of(rollout, torch.tensor([3, 1]))
    assert part.logprobs is not None
    assert torch.equal(part.logprobs, rollout.logprobs[[3, 1]][:, : part.mask.shape[1]])


def test_logprobs_do_not_depend_on_padding(tiny: Tiny, rollout: Rollout) -> None:
    prompts = encode_prompts(tiny.tokenizer, rollout.prompts)
    wider = by_hand(tiny.tokenizer, prompts, rows(rollout), extra_left=6, extra_right=2)
    expected = logprobs(tiny.model, rollout)[rollout.mask]
    for padded in (wider, other_padding(wider)):
        torch.testing.assert_close(logprobs(tiny.model, padded)[padded.mask], expected, rtol=1e-4, atol=1e-4)


def test_some_rows_have_the_logprobs_they_have_among_all(tiny: Tiny, rollout: Rollout) -> None:
    table = logprobs(tiny.model, rollout).detach()
    for index in torch.randperm(len(table), generator=torch.Generator().manual_seed(0)).split(5):
        part = rows_of(rollout, index)
        width = part.mask.shape[1]
        assert part.prompt_mask.sum(1).max() == part.prompt_mask.shape[1]
        assert part.mask.sum(1).max() == width
        assert part.responses == tuple(rollout.responses[i] for i in index.tolist())
        assert part.prompts == tuple(rollout.prompts[i] for i in index.tolist())
        assert rows(part) == [rows(rollout)[i] for i in index.tolist()]
        assert torch.equal(part.finished, rollout.finished[index])
        torch.testing.assert_close(logprobs(tiny.model, part).detach(), table[index, :width], rtol=1e-4, atol=1e-4)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=9), st.integers(1, 10), st.integers(1, 40))
def test_a_budget_of_tokens_bounds_every_part(tokenizer: Any, lengths: list[int], size: int, tokens: int) -> None:
    rollout = by_hand(tokenizer, [[40] * n for n in lengths], [[50]] * len(lengths))
    parts = batches_by_length(rollout, torch.arange(len(lengths)), size, tokens)
    assert sorted(torch.cat(parts).tolist()) == list(range(len(lengths)))
    for part in parts:
        longest = max(lengths[i] + 1 for i in part.tolist())
        assert len(part) == 1 or (len(part) <= size and len(part) * longest <= tokens)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=9), st.integers(1, 10))
def test_batches_hold_every_row_once_and_come_back_in_order(tokenizer: Any, lengths: list[int], size: int) -> None:
    rollout = by_hand(tokenizer, [[40] * n for n in lengths], [[50 + n] * (7 - n) for n in lengths])
    everything = torch.arange(len(lengths))
    parts = batches_by_length(rollout, everything, size)
    assert sorted(torch.cat(parts).tolist()) == everything.tolist()
    assert all(0 < len(part) <= size for part in parts)
    assert torch.equal(
        map_batches(lambda part: (part.response_ids * part.mask).float(), rollout, size),
        (rollout.response_ids * rollout.mask).float(),
    )


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6)), min_size=1, max_size=12), st.integers(1, 40))
def test_responses_to_one_prompt_stay_together(tokenizer: Any, rows: list[tuple[int, int]], tokens: int) -> None:
    rollout = by_hand(tokenizer, [[40 + p] * (p + 1) for p, _ in rows], [[50] * n for _, n in rows])
    index = torch.arange(len(rows)).flip(0)
    for bound in (0, tokens):
        parts = batches_by_length(rollout, index, 4, bound)
        order = [rows[i][0] for part in parts for i in part.tolist()]
        assert sorted(torch.cat(parts).tolist()) == list(range(len(rows)))
        changes = sum(a != b for a, b in pairwise(order))
        assert changes == len(set(order)) - 1
        for part in parts:
            longest = max(sum(rows[i]) + 1 for i in part.tolist())
            assert len(part) == 1 or (len(part) <= 4 and (not bound or len(part) * longest <= bound))


def test_logprobs_can_be_differentiated(tiny_gpt2: Tiny, tokenizer: Any) -> None:
    """One term's gradient is that of the plain log-softmax, and no term reaches the padding."""
    rollout = by_hand(tokenizer, [[40, 41], [50, 51, 52]], [[60, 61, 62], [63]])
    parameter = tiny_gpt2.model.get_input_embeddings().weight
    (gradient,) = torch.autograd.grad(logprobs(tiny_gpt2.model, rollout)[0, 2], parameter)
    logits = tiny_gpt2.model(input_ids=torch.tensor([[40, 41, 60, 61, 62]])).logits[0, 3]
    (expected,) = torch.autograd.grad(logits.log_softmax(-1)[62], parameter)
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-3)


def test_positions_count_the_tokens_of_a_row(tokenizer: Any) -> None:
    ids, mask, positions = full_inputs(by_hand(tokenizer, [[40, 41], [50, 51, 52]], [[60, 61, 62], [63]]))
    assert positions[mask.bool()].tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3]
    assert ids[mask.bool()].tolist() == [40, 41, 60, 61, 62, 50, 51, 52, 63]
    assert int(positions.max()) < CONTEXT
