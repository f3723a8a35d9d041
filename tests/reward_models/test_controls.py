"""The control arms: rewards that are known by hand, and a scalar's score spread evenly under the same training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Tiny, by_hand

from rlhf_bench.harness.checks.conformance import check
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.models.policies import load_classifier
from rlhf_bench.harness.nouns import Rollout
from rlhf_bench.reward_models.controls import Copier, LengthOnly
from rlhf_bench.reward_models.scalar import Scalar, ScalarScorer, uniform


@pytest.fixture
def rollout(tokenizer: Any) -> Rollout:
    """Ended, truncated, empty (end-of-sequence alone), and without any token."""
    end = tokenizer.eos_token_id
    return by_hand(tokenizer, [[40], [41, 42], [43], [44]], [[50, 51, end], [52, 53, 54, 55], [end], []])


def test_length_without_the_end_on_the_last_token(rollout: Rollout) -> None:
    expected = [[0, 0, 2, 0], [0, 0, 0, 4], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert LengthOnly().rewards(rollout).tolist() == expected


def test_length_on_every_token_but_the_end(rollout: Rollout) -> None:
    rewards = LengthOnly(per_token=True).rewards(rollout)
    assert rewards.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert torch.equal(rewards.sum(1), LengthOnly().rewards(rollout).sum(1))


def test_a_copier_pays_every_token(rollout: Rollout) -> None:
    assert Copier().rewards(rollout).tolist() == [[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("name", "settings"),
    [("controls:LengthOnly", {}), ("controls:LengthOnly", {"per_token": True}), ("controls:Copier", {})],
)
def test_controls_keep_the_rules_of_the_seam(name: str, settings: dict[str, Any]) -> None:
    found = check("reward-model", f"rlhf_bench.reward_models.{name}", settings)
    assert [f for f in found if not f.ok] == []
    assert len(found) == 5  # two of any plugin, three of one that gives rewards


# --- scalar-uniform


def test_a_uniform_scalar_spreads_the_score_of_the_same_model(tiny: Tiny, rollout: Rollout) -> None:
    classifier = load_classifier(tiny.folder, tiny.tokenizer, "cpu", seed=3, head_std=0.5)
    last = ScalarScorer(classifier).rewards(rollout)
    spread = ScalarScorer(classifier, "uniform").rewards(rollout)
    assert last.sum(1).abs().min() == 0  # the row without tokens
    assert (last.sum(1)[:3].abs() > 1e-3).all()
    for row, keep in enumerate(rollout.mask):
        score, length = float(last[row].sum()), int(keep.sum())
        assert spread[row][keep].tolist() == pytest.approx([score / length] * length if length else [], rel=1e-5)
        assert not spread[row][~keep].any()


def test_both_scalars_share_one_training(tiny: Tiny, tmp_path: Path) -> None:
    one, other = Scalar(), uniform()
    assert (one.recipe, one.training_settings) == (other.recipe, other.training_settings)
    assert (one.spread, other.spread) == ("last", "uniform")
    load_classifier(tiny.folder, tiny.tokenizer, "cpu", seed=3, head_std=0.5).save_pretrained(tmp_path)
    tiny.tokenizer.save_pretrained(tmp_path)
    assert uniform().load(tmp_path, "cpu").spread == "uniform"
    found = check("reward-model", "rlhf_bench.reward_models.scalar:uniform", {})
    assert [f for f in found if not f.ok] == []


def test_an_unknown_spread_is_refused() -> None:
    with pytest.raises(BenchError, match=r"spread='even' is unknown\. Choose one of: last, uniform\.$"):
        Scalar(spread="even")
