"""Combinations of reward models: what each pays for members made by hand, and that members keep their seams."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import by_hand
from torch import Tensor

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Example, Rollout
from rlhf_bench.harness.ppo.arithmetic import last_tokens
from rlhf_bench.harness.ppo.scoring import NamedRewardModel, diagnose
from rlhf_bench.harness.seams import HasDiagnostics, ReadsExamples, ReadsUtility, RewardModel, TrainableRewardModel
from rlhf_bench.reward_models.combined import Combined, CombinedScorer, Part, combine


class Fake:
    """A reward model that does what it is told."""

    def __init__(self, answer: Callable[[Rollout], Tensor]) -> None:
        self.answer = answer

    def rewards(self, rollout: Rollout) -> Tensor:
        return self.answer(rollout)


def per_token(rollout: Rollout) -> Tensor:
    return torch.where(rollout.mask, (rollout.response_ids % 5).float() - 1.5, 0.0)


def on_last(rollout: Rollout) -> Tensor:
    score = (rollout.response_ids * rollout.mask).sum(1).float() % 7
    return torch.where(last_tokens(rollout.mask), score[:, None], 0.0)


def length(rollout: Rollout) -> Tensor:
    return torch.where(last_tokens(rollout.mask), rollout.mask.sum(1, keepdim=True).float(), 0.0)


MEMBERS = [Part("a", Fake(per_token), 1.0, 2.0, 0.5), Part("b", Fake(on_last), 1.0, 0.1, 3.0)]
MEMBERS += [Part("length", Fake(length), 1.0, 4.0, -1.0)]


@pytest.fixture
def rollout(tokenizer: Any) -> Rollout:
    end = tokenizer.eos_token_id
    prompts = [[40], [41, 42, 43], [44, 45], [46] * 6, [47]]
    return by_hand(tokenizer, prompts, [[50, end], [51, 52, 53], [end], [54, 55, 56, 57, end], [58]])


def rewards(how: str, rollout: Rollout, parts: Sequence[Part] = MEMBERS, penalty: float = 0.0) -> Tensor:
    return NamedRewardModel(how, CombinedScorer(how, parts, penalty)).rewards(rollout)


def weighted(*weights: float) -> list[Part]:
    return [replace(part, weight=weight) for part, weight in zip(MEMBERS, weights, strict=True)]


def standard_sums(rollout: Rollout) -> Tensor:
    raw = [part.model.rewards(rollout).double().sum(1) for part in MEMBERS]
    return torch.stack([(own - part.offset) / part.scale for own, part in zip(raw, MEMBERS, strict=True)])


# ---- laws -----------------------------------------------------------------------------------------------------------


def test_a_weight_of_one_beside_zeros_is_the_member_in_its_own_units(rollout: Rollout) -> None:
    for at, part in enumerate(MEMBERS):
        weights = [float(at == other) for other in range(len(MEMBERS))]
        shift = torch.where(last_tokens(rollout.mask), part.offset, 0.0)
        expected = (part.model.rewards(rollout) - shift) / part.scale
        torch.testing.assert_close(rewards("wsum", rollout, weighted(*weights)), expected, rtol=1e-6, atol=1e-6)


def test_units_of_a_member_change_nothing(rollout: Rollout) -> None:
    """A member in other units has another scale and offset: the combination is the same."""
    other = Part("b", Fake(lambda r: 1000 * on_last(r)), 1.0, 100.0, 3000.0)
    for how in ("mean", "min", "wsum", "uwo"):
        own = rewards(how, rollout, penalty=0.3)
        torch.testing.assert_close(rewards(how, rollout, [MEMBERS[0], other, MEMBERS[2]], 0.3), own)


def test_sums_are_those_of_the_paper(rollout: Rollout) -> None:
    """Per response: mean, minimum, and mean less the coefficient times the variance (Coste et al., eqs. 1 to 3)."""
    sums = standard_sums(rollout)
    expected = {
        "mean": sums.mean(0),
        "min": sums.min(0).values,
        "uwo": sums.mean(0) - 0.3 * ((sums - sums.mean(0)) ** 2).mean(0),
    }
    for how, value in expected.items():
        torch.testing.assert_close(rewards(how, rollout, penalty=0.3).double().sum(1), value, rtol=1e-5, atol=1e-5)


def test_the_minimum_is_never_above_a_member(rollout: Rollout) -> None:
    lowest = rewards("min", rollout).double().sum(1)
    assert bool((lowest <= standard_sums(rollout) + 1e-5).all())


def test_the_minimum_keeps_the_token_rewards_of_one_member(rollout: Rollout) -> None:
    found, sums = rewards("min", rollout), standard_sums(rollout)
    parts = [part.standardised(rollout) for part in MEMBERS]
    for row, at in enumerate(sums.argmin(0).tolist()):
        assert torch.equal(found[row], parts[at][row])


def test_no_penalty_is_the_mean_and_a_penalty_is_on_the_last_token(rollout: Rollout) -> None:
    assert torch.equal(rewards("uwo", rollout), rewards("mean", rollout))
    change = rewards("uwo", rollout, penalty=0.3) - rewards("mean", rollout)
    assert not bool(change[~last_tokens(rollout.mask)].any())
    assert bool((change <= 0).all())


def test_members_that_agree_have_no_penalty(rollout: Rollout) -> None:
    same = [MEMBERS[0], replace(MEMBERS[0], label="again")]
    torch.testing.assert_close(rewards("uwo", rollout, same, 5.0), rewards("mean", rollout, same))


def test_weights_count_in_the_sum_alone(rollout: Rollout) -> None:
    parts = torch.stack([part.standardised(rollout) for part in MEMBERS])
    found = combine("wsum", parts, rollout.mask, [2.0, -0.5, 0.25])
    torch.testing.assert_close(found, 2 * parts[0] - 0.5 * parts[1] + 0.25 * parts[2])
    for how in ("mean", "min", "uwo"):
        assert torch.equal(combine(how, parts, rollout.mask, [9, 9, 9]), combine(how, parts, rollout.mask, [1, 1, 1]))


@pytest.mark.parametrize("how", ["mean", "min", "wsum", "uwo"])
def test_rows_depend_neither_on_other_rows_nor_on_padding(tokenizer: Any, rollout: Rollout, how: str) -> None:
    alone = by_hand(tokenizer, [[44, 45]], [[tokenizer.eos_token_id]], extra_left=3, extra_right=9)
    found = rewards(how, alone, penalty=0.3)
    assert torch.equal(found[0, :1], rewards(how, rollout, penalty=0.3)[2, :1])
    assert not bool(found[0, 1:].any())


# ---- what reports get -----------------------------------------------------------------------------------------------


def test_every_part_is_a_figure_and_the_parts_make_the_sum(rollout: Rollout) -> None:
    scorer = NamedRewardModel("m", CombinedScorer("wsum", weighted(1.0, 0.5, -2.0)))
    figures = diagnose(scorer, rollout, scorer.rewards(rollout))
    assert isinstance(scorer.model, HasDiagnostics)
    whole = figures["part a"] + 0.5 * figures["part b"] - 2 * figures["part length"]
    torch.testing.assert_close(whole, figures["sum"], rtol=1e-5, atol=1e-5)
    assert "disagreement" not in figures


def test_the_minimum_says_who_was_lowest_and_how_far_members_disagree(rollout: Rollout) -> None:
    figures = CombinedScorer("min", MEMBERS).diagnostics(rollout)
    sums = standard_sums(rollout)
    shares = torch.stack([figures[f"lowest {part.label}"] for part in MEMBERS])
    assert torch.equal(shares.argmax(0), sums.argmin(0))
    assert torch.equal(shares.sum(0), torch.ones(len(rollout.prompts)))
    torch.testing.assert_close(figures["disagreement"].double(), sums.var(0, correction=0), rtol=1e-5, atol=1e-5)


# ---- members --------------------------------------------------------------------------------------------------------


def member(name: str, weight: float = 1.0, **settings: object) -> dict[str, object]:
    return {"name": name, "settings": settings, "weight": weight}


def test_a_combination_reads_examples_and_utility_where_a_member_does() -> None:
    plain = Combined("mean", [member("length-only"), member("copier")])
    assert isinstance(plain, TrainableRewardModel)
    assert not isinstance(plain, ReadsExamples | ReadsUtility)
    paying = Combined("mean", [member("length-only"), member("gold")])
    assert isinstance(paying, ReadsUtility)
    reading = Combined("mean", [member("length-only"), member("whitebox-rar")])
    assert isinstance(reading, ReadsExamples)


def test_examples_reach_the_member_that_reads_them(rollout: Rollout) -> None:
    class Reading:
        def with_examples(self, examples: Mapping[str, Sequence[Example]]) -> RewardModel:
            return Fake(lambda r: r.mask.float() * len(examples["test"]))

    scorer = CombinedScorer("mean", [MEMBERS[2], Part("reading", Reading(), 1.0, 1.0, 0.0)])
    with pytest.raises(BenchError, match="The member reading has no rewards"):
        scorer.rewards(rollout)
    assert isinstance(scorer, ReadsExamples)
    shown = scorer.with_examples({"test": [Example("1", "p"), Example("2", "q")]})
    found = NamedRewardModel("m", shown).rewards(rollout)
    torch.testing.assert_close(found, (MEMBERS[2].standardised(rollout) + 2 * rollout.mask) / 2)


def test_a_member_that_fails_is_named(rollout: Rollout) -> None:
    bad = Part("bad", Fake(lambda r: r.mask.float() * float("nan")), 1.0, 1.0, 0.0)
    with pytest.raises(BenchError, match="The reward model 'bad' returned"):
        rewards("mean", rollout, [MEMBERS[0], bad])


def test_a_member_that_declines_makes_the_combination_decline() -> None:
    class Declining(Fake):
        def why_not(self, prompt: str) -> str:
            return "unknown" if prompt == "odd" else ""

    scorer = CombinedScorer("mean", [MEMBERS[0], Part("shy", Declining(per_token), 1.0, 1.0, 0.0)])
    assert scorer.why_not("odd") == "shy: unknown"
    assert not scorer.why_not("even")


def test_all_members_move_to_a_device() -> None:
    class Movable(Fake):
        where = ""

        def to(self, device: str) -> None:
            self.where = device

    moved = Movable(per_token)
    CombinedScorer("mean", [MEMBERS[0], Part("m", moved, 1.0, 1.0, 0.0)]).to("meta")
    assert moved.where == "meta"


def test_scales_are_those_of_the_folder(tmp_path: Path, rollout: Rollout) -> None:
    kept = [{"label": "length-only", "scale": 2.0, "offset": 1.0}, {"label": "copier", "scale": 4.0, "offset": 0.0}]
    store.write_json(tmp_path / "combined.json", {"parts": kept})
    made = Combined("wsum", [member("length-only", 3.0, per_token=False), member("copier", -1.0)])
    scorer = made.load(tmp_path, "cpu")
    assert [(part.label, part.weight, part.scale, part.offset) for part in scorer.parts] == [
        ("length-only", 3.0, 2.0, 1.0),
        ("copier", -1.0, 4.0, 0.0),
    ]
    assert rewards("wsum", rollout, scorer.parts).shape == rollout.mask.shape


def test_members_of_one_name_are_numbered() -> None:
    assert Combined("mean", [member("scalar"), member("copier"), member("scalar")]).labels == [
        "scalar #1",
        "copier",
        "scalar #2",
    ]
