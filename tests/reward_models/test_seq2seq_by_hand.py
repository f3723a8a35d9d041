"""The rewards and diagnostics of each seq2seq arm with a corrector that writes a given text."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_extraction import unpadded
from test_seq2seq_variants import ARMS, Factory
from tiny import by_hand
from torch import Tensor

from rlhf_bench.harness.nouns import Rollout
from rlhf_bench.harness.sampling.rollout import rows_of
from rlhf_bench.reward_models import seq2seq
from rlhf_bench.reward_models.corrector import Layout
from rlhf_bench.reward_models.seq2seq import Seq2Seq, Seq2SeqScorer


class Scripted:
    """A causal model that writes `text`, continuing after the last of its words in the input; counts its calls."""

    def __init__(self, tokenizer: Any, text: list[int]) -> None:
        self.tokenizer, self.text, self.calls = tokenizer, text, 0
        self.marker = list(Layout.of(tokenizer, "plain").marker)
        self.config, self.head = SimpleNamespace(), torch.nn.Identity()

    def modules(self) -> tuple[()]:
        """It has no layers."""
        return ()

    def get_output_embeddings(self) -> torch.nn.Module:
        """Passes hook it to choose the positions whose logits they need."""
        return self.head

    def __call__(self, input_ids: Tensor, past_key_values: Any = None, **options: Any) -> Any:
        self.calls += 1
        seen = input_ids if past_key_values is None else torch.cat([past_key_values, input_ids], 1)
        keep = options.get("logits_to_keep", seen.shape[1])
        logits = torch.zeros(len(seen), keep, len(self.tokenizer))
        for row, ids in enumerate(seen.tolist()):
            for place in range(keep):
                logits[row, place, self._after(ids[: len(ids) - keep + place + 1])] = 4.0
        return SimpleNamespace(logits=self.head(logits), past_key_values=seen)

    def _after(self, ids: list[int]) -> int:
        """The word of `text` after the last one written; after a word that is not in it, the one at the same place."""
        count = len(self.marker)
        begins = next(
            (i + count for i in range(len(ids) - count, -1, -1) if ids[i : i + count] == self.marker), len(ids)
        )
        written = ids[begins:]
        place = self.text.index(written[-1]) + 1 if written and written[-1] in self.text else len(written)
        return self.text[place] if place < len(self.text) else self.tokenizer.eos_token_id


A, B, C, D, X = 260, 261, 262, 263, 264


def scripted(tokenizer: Any, *responses: list[int]) -> tuple[Scripted, Rollout]:
    model = Scripted(tokenizer, [A, B, C, D, tokenizer.eos_token_id])
    return model, by_hand(tokenizer, [[40]] * len(responses), responses)


def rewards_by_hand(tokenizer: Any, factory: Factory, *responses: list[int]) -> list[list[float]]:
    model, rollout = scripted(tokenizer, *responses)
    return unpadded(Seq2SeqScorer(model, tokenizer, factory(positions="plain")).rewards(rollout), rollout)


def test_by_hand_what_each_arm_pays(tokenizer: Any) -> None:
    """The corrector writes A B C D end: see Scripted."""
    end = tokenizer.eos_token_id
    copied, cut, swapped, inserted = [A, B, C, D, end], [A, B], [A, X, C, D, end], [A, X, B, C, D, end]
    short, long, empty, none = [A, B, end], [A, B, C, D, X, X, end], [end], list[int]()
    given = (copied, cut, swapped, inserted, short, long, empty, none)
    expected: dict[str, list[list[float]]] = {
        "token": [
            [1] * 5, [1, 1], [1, -1, 0, 0, 0], [1, -1, -1, 0, 0, 0], [1, 1, -1], [1, 1, 1, 1, -1, -1, 0], [-1], [],
        ],
        "free_running": [
            [1] * 5, [1, 1], [1, -1, 0, 0, 0], [1, -1, -1, -1, -1, -1], [1, 1, -1], [1, 1, 1, 1, -1, -1, -1], [-1], [],
        ],
        "aligned": [
            [1] * 5, [1, 1], [1, -1, 1, 1, 1], [1, -1, 1, 1, 1, 1], [1, 1, -1], [1, 1, 1, 1, -1, -1, 1], [-1], [],
        ],
        # the corrector's logits are 4 for its word and 0 for all others: a margin of -4 nats, 4/5 of the floor
        "graded": [
            [1] * 5, [1, 1], [1, -0.8, 0, 0, 0], [1, -0.8, -0.8, 0, 0, 0], [1, 1, -0.8],
            [1, 1, 1, 1, -0.8, -0.8, 0], [-0.8], [],
        ],
    }  # fmt: skip
    for arm, rows in expected.items():
        got = rewards_by_hand(tokenizer, ARMS[arm], *given)
        assert [len(row) for row in got] == [len(row) for row in rows]
        for row, wanted in zip(got, rows, strict=True):
            assert row == pytest.approx(wanted), arm


def test_free_graded_tokens_after_the_correction_cost_the_floor(tokenizer: Any) -> None:
    end = tokenizer.eos_token_id
    factory = seq2seq.partial(Seq2Seq, score="graded", divergence="free")
    assert rewards_by_hand(tokenizer, factory, [A, B, C, D, X, X, end])[0] == pytest.approx([1] * 4 + [-0.8, -1, -1])


@pytest.mark.parametrize("arm", ARMS)
def test_diagnostics_are_the_same_for_all_arms_and_cost_no_second_pass(tokenizer: Any, arm: str) -> None:
    end = tokenizer.eos_token_id
    model, rollout = scripted(tokenizer, [A, B, C, D, end], [A, B], [A, X, C, end], [end], [A, B])
    expected = {"agreement_until": [1.0, 1.0, 0.25, 0.0, 1.0], "copied": [1.0, 1.0, 0.0, 0.0, 1.0]}
    scorer = Seq2SeqScorer(model, tokenizer, ARMS[arm](positions="plain"))
    for index in torch.arange(4).split(2):  # all but the last, which is one of them again
        scorer.rewards(rows_of(rollout, index))
    calls = model.calls
    assert {name: values.tolist() for name, values in scorer.diagnostics(rollout).items()} == expected
    assert model.calls == calls
    fresh = Seq2SeqScorer(model, tokenizer, ARMS[arm](positions="plain"))
    fresh.rewards(rows_of(rollout, torch.tensor([2])))
    assert {name: values.tolist() for name, values in fresh.diagnostics(rollout).items()} == expected
    assert model.calls > calls


def test_rewards_are_never_remembered(tokenizer: Any) -> None:
    model, rollout = scripted(tokenizer, [A, B])
    scorer = Seq2SeqScorer(model, tokenizer, seq2seq.token(positions="plain"))
    first = scorer.rewards(rollout)
    model.text = [B, A]
    assert not torch.equal(scorer.rewards(rollout), first)
    assert scorer.diagnostics(rollout)["agreement_until"].tolist() == [0.0]


def test_what_is_remembered_stays_small(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seq2seq, "CACHED_DIVERGENCES", 2)
    rows = [[A, B], [A, X], [X], [A], [A, B, C], [A, B, X]]
    model, rollout = scripted(tokenizer, *rows)
    scorer = Seq2SeqScorer(model, tokenizer, seq2seq.token(positions="plain"))
    for row in range(len(rows)):
        scorer.rewards(rows_of(rollout, torch.tensor([row])))
        assert len(scorer._divergences) <= 3
    found = scorer.diagnostics(rollout)["agreement_until"].tolist()
    assert found == pytest.approx([1, 0.5, 0, 1, 1, 2 / 3])
    assert len(scorer._divergences) <= len(rows) + 2
