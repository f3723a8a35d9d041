"""Offloading: who rests, when they are asked, and that it changes no number."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ppo_runs import SMALL, THIRDS, Table, assert_equal, make_policy, make_run, tensors

from rlhf_bench.harness.models.placement import Holding
from rlhf_bench.harness.nouns import Rollout
from rlhf_bench.harness.ppo import offload
from rlhf_bench.harness.ppo.loop import train
from rlhf_bench.harness.ppo.scoring import NamedRewardModel

AWAY = "away"


class Traveller(Table):
    """A reward model that knows where it is, and answers only at home."""

    place = "cpu"

    def to(self, device: str) -> None:
        self.place = device

    def rewards(self, rollout: Rollout) -> Any:
        assert self.place == "cpu", "asked while it rested"
        return super().rewards(rollout)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return make_policy(tmp_path / "policy")


def test_models_rest_while_nobody_asks_and_numbers_stay(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = make_run(policy, tmp_path / "plain")
    rows = train(plain)
    monkeypatch.setattr(offload, "RESTING_PLACE", AWAY)
    model = Traveller(THIRDS)
    seen: list[tuple[str, str]] = []
    run = make_run(
        policy,
        tmp_path / "offloaded",
        replace(SMALL, offload=True),
        reward_model=NamedRewardModel("table", model, batch=3),
        progress=lambda *_: seen.append((model.place, where["reference"])),
        evaluate=lambda _: evaluated.append((model.place, where["reference"])),
    )
    where, evaluated = {"reference": "cpu"}, list[tuple[str, str]]()
    monkeypatch.setattr(run.actors.reference, "to", lambda device: where.update(reference=device))
    forward = run.actors.reference.forward

    def asked(*given: Any, **named: Any) -> Any:
        assert where["reference"] == "cpu", "asked while it rested"
        return forward(*given, **named)

    monkeypatch.setattr(run.actors.reference, "forward", asked)
    assert train(run) == rows
    assert seen == [(AWAY, AWAY)] * SMALL.iterations
    assert evaluated == [("cpu", "cpu")] * SMALL.checkpoints
    assert_equal(tensors(run.actors), tensors(plain.actors))


def test_nobody_rests_unless_asked_for(policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offload, "RESTING_PLACE", AWAY)
    model = Traveller(THIRDS)
    train(make_run(policy, tmp_path / "run", reward_model=NamedRewardModel("table", model, batch=3)))
    assert model.place == "cpu"


def test_a_reference_that_shares_the_policys_weights_stays(policy: Path, tmp_path: Path) -> None:
    run = make_run(policy, tmp_path / "run")
    assert offload.sleepers(run.actors, Table(THIRDS)) == [run.actors.reference]
    assert offload.sleepers(replace(run.actors, holding=Holding(lora=4)), Table(THIRDS)) == []
    traveller = Traveller(THIRDS)
    assert offload.sleepers(replace(run.actors, holding=Holding(lora=4)), traveller) == [traveller]
