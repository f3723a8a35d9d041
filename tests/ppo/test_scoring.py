"""Whatever a reward model returns is checked, and blamed on it by name; batches change nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Tiny, by_hand
from torch import Tensor

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.models.policies import load_classifier, load_tokenizer
from rlhf_bench.harness.nouns import Rollout
from rlhf_bench.harness.ppo.scoring import NamedRewardModel, diagnose
from rlhf_bench.harness.seams import RewardModel, TrainableRewardModel
from rlhf_bench.reward_models.scalar import Scalar, ScalarScorer
from rlhf_bench.reward_models.seq2seq import token


class Fake:
    """A reward model that does what it is told."""

    def __init__(self, answer: Callable[[Rollout], Any]) -> None:
        self.answer = answer

    def rewards(self, rollout: Rollout) -> Tensor:
        return self.answer(rollout)  # type: ignore[no-any-return]


def ids_as_rewards(rollout: Rollout) -> Tensor:
    return torch.where(rollout.mask, rollout.response_ids.float() + rollout.prompt_mask.sum(1, keepdim=True), 0.0)


@pytest.fixture
def rollout(tokenizer: Any) -> Rollout:
    end = tokenizer.eos_token_id
    prompts = [[40], [41, 42, 43], [44, 45], [46] * 6, [47]]
    return by_hand(tokenizer, prompts, [[50, end], [51, 52, 53], [end], [54, 55, 56, 57, end], [58]])


def test_good_rewards_pass_through(rollout: Rollout) -> None:
    rewards = NamedRewardModel("good", Fake(ids_as_rewards)).rewards(rollout)
    assert torch.equal(rewards, ids_as_rewards(rollout))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64, torch.bool])
def test_rewards_become_float32(rollout: Rollout, dtype: torch.dtype) -> None:
    rewards = NamedRewardModel("typed", Fake(lambda r: r.mask.to(dtype))).rewards(rollout)
    assert rewards.dtype == torch.float32
    assert torch.equal(rewards, rollout.mask.float())


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 64])
def test_any_batch_size_gives_the_same(rollout: Rollout, batch: int) -> None:
    assert torch.equal(NamedRewardModel("good", Fake(ids_as_rewards), batch).rewards(rollout), ids_as_rewards(rollout))


def test_it_is_asked_in_batches_without_gradients(rollout: Rollout) -> None:
    asked = []

    def answer(part: Rollout) -> Tensor:
        asked.append((len(part.prompts), torch.is_grad_enabled()))
        return part.mask.float()

    NamedRewardModel("good", Fake(answer), batch=2).rewards(rollout)
    assert asked == [(2, False), (2, False), (1, False)]


def test_a_response_that_repeats_is_asked_for_once(tokenizer: Any) -> None:
    """The same prompt, tokens and end; a response that was cut off, or answers another prompt, is another one."""
    end = tokenizer.eos_token_id
    prompts = [[40], [41], [40], [40], [41], [40], [40]]
    responses = [[50, end], [50, end], [50, end], [50], [51, 52, 53], [50], [50, end]]
    rollout = by_hand(tokenizer, prompts, responses, extra_right=2)
    cut = replace(rollout, finished=torch.tensor([True, True, True, False, False, False, False]))
    asked: list[tuple[str, tuple[int, ...], bool]] = []

    def answer(part: Rollout) -> Tensor:
        ids = [tuple(row[keep].tolist()) for row, keep in zip(part.response_ids, part.mask, strict=True)]
        asked.extend(zip(part.prompts, ids, part.finished.tolist(), strict=True))
        return ids_as_rewards(part)

    rewards = NamedRewardModel("model", Fake(answer), batch=2).rewards(cut)
    assert torch.equal(rewards, ids_as_rewards(cut))
    one, two = cut.prompts[:2]
    different = [(one, (50, end), True), (two, (50, end), True), (one, (50,), False), (two, (51, 52, 53), False)]
    assert sorted(asked) == sorted([*different, (one, (50, end), False)])


def outside(rollout: Rollout) -> Tensor:
    return torch.ones(rollout.mask.shape)


def with_one(value: float) -> Callable[[Rollout], Tensor]:
    def answer(rollout: Rollout) -> Tensor:
        rewards = rollout.mask.double()
        rewards[0, 0] = value
        return rewards

    return answer


def failing(error: BaseException) -> Callable[[Rollout], Tensor]:
    def answer(_: Rollout) -> Tensor:
        raise error

    return answer


FAULTS: dict[str, tuple[Callable[[Rollout], Any], str]] = {
    "one per response": (lambda r: r.mask.float().sum(1), r"shape \[5\]"),
    "too wide": (lambda r: torch.zeros(len(r.mask), r.mask.shape[1] + 1), r"shape \[5, 6\].*\[5, 5\]"),
    "too few rows": (lambda r: r.mask[1:].float(), "shape"),
    "nan": (with_one(float("nan")), "1 rewards that are NaN or infinite"),
    "inf": (with_one(float("inf")), "1 rewards that are NaN or infinite"),
    "minus inf": (with_one(float("-inf")), "NaN or infinite"),
    "too large for float32": (with_one(1e300), "NaN or infinite"),
    "nan outside the mask": (lambda r: torch.where(r.mask, 1.0, torch.nan), "NaN or infinite"),
    "outside the mask": (outside, "outside the response mask"),
    "a list": (lambda r: r.mask.float().tolist(), "returned a list"),
    "an array": (lambda r: r.mask.float().numpy(), "returned a ndarray"),
    "nothing": (lambda _: None, "returned a NoneType"),
    "an exception": (failing(KeyError("no such thing\nsecond line")), "failed while scoring: KeyError"),
    "an exception without text": (failing(RuntimeError()), "failed while scoring: RuntimeError"),
    "an exit": (failing(SystemExit(2)), "failed while scoring: SystemExit"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_that_names_the_model(rollout: Rollout, fault: str) -> None:
    answer, message = FAULTS[fault]
    with pytest.raises(BenchError, match=message) as caught:
        NamedRewardModel("culprit", Fake(answer)).rewards(rollout)
    assert "'culprit'" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_an_interrupt_and_a_models_own_error_pass(rollout: Rollout) -> None:
    for error in (KeyboardInterrupt(), BenchError("The service is down.")):
        with pytest.raises(type(error)) as caught:
            NamedRewardModel("model", Fake(failing(error))).rewards(rollout)
        assert caught.value is error


def test_what_every_run_watches(rollout: Rollout) -> None:
    class Telling(Fake):
        def diagnostics(self, rollout: Rollout) -> Mapping[str, Tensor]:
            return {"rows": torch.ones(len(rollout.prompts), dtype=torch.int64)}

    rewards = torch.where(rollout.mask, 1.0, 0.0)
    rewards[3, :3] = torch.tensor([-1.0, 0.0, -1.0])
    plain = diagnose(NamedRewardModel("m", Fake(outside)), rollout, rewards)
    assert plain["sum"].tolist() == [2, 3, 1, 0, 1]
    assert plain["length"].tolist() == [2, 3, 1, 5, 1]
    torch.testing.assert_close(plain["positive_share"], torch.tensor([1, 1, 1, 2 / 5, 1]))
    torch.testing.assert_close(plain["negative_share"], torch.tensor([0, 0, 0, 2 / 5, 0]))
    told = diagnose(NamedRewardModel("m", Telling(outside)), rollout, rewards)
    assert told["rows"].dtype == torch.float32
    assert set(told) == {*plain, "rows"}


CPU = "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried 9"


class Narrow:
    """A reward model for which the CPU's memory ends at `most` rows."""

    def __init__(self, most: int) -> None:
        self.most, self.seen = most, list[int]()

    def fits(self, rollout: Rollout) -> Rollout:
        self.seen.append(len(rollout.prompts))
        if self.seen[-1] > self.most:
            raise RuntimeError(CPU)
        return rollout

    def rewards(self, rollout: Rollout) -> Tensor:
        return ids_as_rewards(self.fits(rollout))

    def diagnostics(self, rollout: Rollout) -> Mapping[str, Tensor]:
        return {"first": self.fits(rollout).response_ids[:, 0]}

    def corrections(self, rollout: Rollout) -> list[str]:
        return [str(row) for row in self.fits(rollout).response_ids[:, 0].tolist()]


def test_what_the_memory_does_not_hold_is_scored_corrected_and_diagnosed_in_parts(
    rollout: Rollout, capsys: pytest.CaptureFixture[str]
) -> None:
    wide, narrow = (NamedRewardModel("m", Narrow(most)) for most in (64, 2))
    rewards = narrow.rewards(rollout)
    assert torch.equal(rewards, wide.rewards(rollout))
    assert narrow.corrections(rollout) == wide.corrections(rollout)
    one, other = (diagnose(scorer, rollout, rewards) for scorer in (narrow, wide))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert capsys.readouterr().err.splitlines() == ["Out of memory with 5 rows at once: going on with 2."]
    assert narrow.model.seen[0] == 5
    assert max(narrow.model.seen[1:]) == 2


def test_a_row_that_the_memory_does_not_hold_is_told_with_its_tokens(rollout: Rollout) -> None:
    longest = int((rollout.prompt_mask.sum(1) + rollout.mask.sum(1)).max())
    scorer = NamedRewardModel("wide", Narrow(0))
    for call in (scorer.rewards, scorer.corrections, lambda part: diagnose(scorer, part, part.mask.float())):
        with pytest.raises(BenchError) as caught:
            call(rollout)
        assert f"scoring with the reward model 'wide' with a single row of {longest} tokens" in caught.value.seen
        assert "data.max_prompt_tokens" in caught.value.fix


# --- the scalar reward model


def test_the_built_in_models_have_their_seams(tiny_gpt2: Tiny, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny_gpt2.folder)
    load_classifier(tiny_gpt2.folder, tokenizer, "cpu", seed=3, head_std=0.5).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    for trainable, folder in ((Scalar(), tmp_path), (token(), tiny_gpt2.folder)):
        assert isinstance(trainable, TrainableRewardModel)
        assert isinstance(trainable.load(folder, "cpu"), RewardModel)


def test_a_scalar_score_is_the_classifiers_of_the_unpadded_row(tiny: Tiny, rollout: Rollout, tmp_path: Path) -> None:
    """Scores sit on the last token; the library's own pooling agrees where no pad token was sampled."""
    tokenizer = load_tokenizer(tiny.folder)
    classifier = load_classifier(tiny.folder, tokenizer, "cpu", seed=3, head_std=0.5)
    scored = NamedRewardModel("scalar", ScalarScorer(classifier), batch=2).rewards(rollout)
    for row, (keep, response) in enumerate(zip(rollout.mask, rollout.response_ids, strict=True)):
        ids = [*rollout.prompt_ids[row][rollout.prompt_mask[row].bool()].tolist(), *response[keep].tolist()]
        with torch.no_grad():
            expected = float(classifier(input_ids=torch.tensor([ids])).logits)
        last = int(keep.sum()) - 1
        assert float(scored[row, last]) == pytest.approx(expected, rel=1e-4, abs=1e-4)
        assert torch.nonzero(scored[row]).flatten().tolist() == [last]
    classifier.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    torch.testing.assert_close(Scalar().load(tmp_path, "cpu").rewards(rollout), scored, rtol=1e-4, atol=1e-4)


def test_a_scalar_score_counts_sampled_pad_tokens(tiny: Tiny) -> None:
    tokenizer = tiny.tokenizer
    scorer = ScalarScorer(load_classifier(tiny.folder, tokenizer, "cpu", seed=3, head_std=0.5))
    pad = tokenizer.pad_token_id
    short, long = by_hand(tokenizer, [[40]], [[50]]), by_hand(tokenizer, [[40]], [[50, pad]])
    assert float(scorer.rewards(long)[0, 1]) != pytest.approx(float(scorer.rewards(short)[0, 0]), abs=1e-3)


def test_a_fresh_head_is_drawn_from_its_seed(tiny: Tiny) -> None:
    tokenizer = load_tokenizer(tiny.folder)
    heads = [load_classifier(tiny.folder, tokenizer, "cpu", seed=s, head_std=0.02).score.weight for s in (0, 0, 1)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"batch": 0}, {"lr": 0.0}, {"save_every": 0}])
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BenchError):
        Scalar(**wrong)
