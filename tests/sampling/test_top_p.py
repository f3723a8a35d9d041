"""Nucleus sampling: the same tokens as transformers' own, its log-probabilities, and the KL of what it samples."""

from __future__ import annotations

import pytest
import torch
from tiny import SENTENCES, Tiny
from transformers import TopPLogitsWarper

from rlhf_bench.harness.nouns import Example
from rlhf_bench.harness.sampling import decoding
from rlhf_bench.harness.sampling.decoding import choose_tokens, nucleus
from rlhf_bench.harness.sampling.rollout import kl_at_positions, logprobs, make_generator, sample
from rlhf_bench.harness.settings import EvalSettings
from rlhf_bench.harness.stages.evaluation import Evaluation, baseline_generations, kl_terms
from rlhf_bench.harness.stages.tempered import tempered_generations

PROMPTS = SENTENCES * 3


def logits(rows: int, width: int, spread: float) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(width)) * spread


@pytest.mark.parametrize("top_p", [1e-9, 0.1, 0.5, 0.9, 0.99, 0.9999])
@pytest.mark.parametrize(("width", "spread"), [(7, 1.0), (300, 4.0), (5000, 0.3), (5000, 3.0)])
def test_the_nucleus_is_that_of_transformers(top_p: float, width: int, spread: float) -> None:
    """Also where more tokens than `FIRST` belong to it.

    Equal but for tokens at the very border, where the rounding of a sum in float32 decides.
    """
    given = logits(6, width, spread)
    ours, theirs = nucleus(given, top_p), TopPLogitsWarper(top_p)(None, given.clone())
    shares, places = given.double().softmax(-1).sort(-1, descending=True)
    before = torch.empty_like(shares).scatter_(-1, places, shares.cumsum(-1) - shares)
    clear = (before - top_p).abs() > 1e-5
    assert torch.equal(ours[clear], theirs[clear])
    assert (~clear).sum() <= 6 * (1 + (shares < 1e-5).sum(-1).max())
    assert torch.equal(~ours.isneginf() & clear, (before < top_p) & clear)


def test_the_token_that_crosses_is_kept() -> None:
    given = torch.tensor([[0.1, 0.5, 0.15, 0.25]]).log()
    kept = {p: (~nucleus(given, p).isneginf())[0].tolist() for p in (0.4, 0.6, 0.8)}
    assert kept == {0.4: [False, True, False, False], 0.6: [False, True, False, True], 0.8: [False, True, True, True]}


def test_draws_have_the_renormalised_probabilities() -> None:
    given = torch.tensor([[0.1, 0.5, 0.15, 0.25]]).log()
    steps = (torch.arange(3000) + 0.5) / 3000
    tokens, chosen = choose_tokens(nucleus(given, 0.6).expand(3000, -1), steps)
    assert torch.bincount(tokens, minlength=4).tolist() == [0, 2000, 0, 1000]
    torch.testing.assert_close(chosen.exp(), torch.where(tokens == 1, 2 / 3, 1 / 3))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampled_tokens_lie_in_the_nucleus_and_logprobs_are_of_it(tiny: Tiny, temperature: float) -> None:
    """Against a pass without a cache over the sampled texts, with transformers' own warper."""
    drawn = sample(
        tiny.model, tiny.tokenizer, PROMPTS, 10, generator=make_generator("p"), temperature=temperature, top_p=0.6
    )
    assert drawn.logprobs is not None
    ids = torch.cat([drawn.prompt_ids, drawn.response_ids], 1)
    mask = torch.cat([drawn.prompt_mask, drawn.mask.long()], 1)
    with torch.no_grad():
        tables = tiny.model(ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits
    tables = tables[:, drawn.prompt_ids.shape[1] - 1 : -1][drawn.mask] / temperature
    own = TopPLogitsWarper(0.6)(None, tables).log_softmax(-1).gather(-1, drawn.response_ids[drawn.mask][:, None])
    torch.testing.assert_close(drawn.logprobs[drawn.mask], own.squeeze(1), rtol=1e-3, atol=1e-3)
    whole = logprobs(tiny.model, drawn, temperature)[drawn.mask]
    assert (drawn.logprobs[drawn.mask] >= whole - 1e-3).all()
    assert (drawn.logprobs[drawn.mask] > whole + 0.05).any()


def test_a_top_p_of_1_and_greedy_decoding_change_nothing(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    given = tiny.model, tiny.tokenizer, PROMPTS, 8
    greedy = sample(*given)
    monkeypatch.setattr(decoding, "nucleus", None)  # would raise
    plain = sample(*given, generator=make_generator("p"))
    same = sample(*given, generator=make_generator("p"), top_p=1.0)
    assert torch.equal(plain.response_ids, same.response_ids)
    assert torch.equal(greedy.response_ids, sample(*given, top_p=0.5).response_ids)


# ---- KL of what is sampled ------------------------------------------------------------------------------------------


def test_kl_at_positions_is_the_sum_over_the_vocabulary(tiny_gpt2: Tiny, tiny_llama: Tiny) -> None:
    """By hand, from a pass without packing; the two policies have the same tokenizer."""
    drawn = sample(tiny_gpt2.model, tiny_gpt2.tokenizer, SENTENCES, 6, generator=make_generator("kl"))
    found = kl_at_positions(tiny_gpt2.model, tiny_llama.model, drawn, (0.7, 1.3))
    ids = torch.cat([drawn.prompt_ids, drawn.response_ids], 1)
    mask = torch.cat([drawn.prompt_mask, drawn.mask.long()], 1)
    given = {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    with torch.no_grad():
        one, other = (
            (model(ids, **given).logits[:, drawn.prompt_ids.shape[1] - 1 : -1] / at).log_softmax(-1)
            for model, at in ((tiny_gpt2.model, 0.7), (tiny_llama.model, 1.3))
        )
    by_hand = (one.exp() * (one - other)).sum(-1) * drawn.mask
    torch.testing.assert_close(found, by_hand, rtol=1e-3, atol=1e-3)
    assert kl_at_positions(tiny_gpt2.model, tiny_gpt2.model, drawn, (1.0, 1.0)).abs().max() < 1e-5


def test_both_estimates_have_one_mean_over_samples_of_the_policy_itself(tiny_gpt2: Tiny, tiny_llama: Tiny) -> None:
    """Of whole-distribution samples the log-ratios and the KL at every position estimate the same number."""
    drawn = sample(tiny_gpt2.model, tiny_gpt2.tokenizer, SENTENCES[:1] * 600, 3, generator=make_generator("mean"))
    pair = tiny_gpt2.model, tiny_llama.model
    ratios, positions = (torch.tensor(kl_terms(*pair, drawn, (1.0, 1.0), top_p)) for top_p in (1.0, 0.5))
    gap = ratios - positions
    assert abs(float(gap.mean())) < 4 * float(gap.std()) / 600**0.5
    assert positions.min() >= 0


def test_an_evaluation_follows_its_temperature_and_top_p(tiny_gpt2: Tiny) -> None:
    examples = [Example(f"e{k}", text) for k, text in enumerate(PROMPTS)]
    settings = EvalSettings(greedy=False, batch=len(PROMPTS), top_p=0.5)
    given = tiny_gpt2.model, tiny_gpt2.tokenizer, Evaluation(examples, 8, settings, 0.7, 3)
    drawn = sample(*given[:2], PROMPTS, 8, generator=make_generator("baseline", 3, 0), temperature=0.7, top_p=0.5)
    assert [row.response for row in baseline_generations(*given)] == list(drawn.responses)
    rows = tempered_generations(*given, 0.5, 2)
    cold = sample(*given[:2], PROMPTS, 8, generator=make_generator("sft-tempered", 3, 0), temperature=0.35, top_p=0.5)
    assert [row.response for row in rows] == list(cold.responses)
    kls = kl_at_positions(tiny_gpt2.model, tiny_gpt2.model, cold, (0.35, 0.7)).sum(1).tolist()
    assert [row.kl for row in rows] == pytest.approx(kls, abs=1e-3)
