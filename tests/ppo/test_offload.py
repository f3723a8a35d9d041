"""Offloading: which models leave the device, when they are on it, and that no number changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ppo_runs import SMALL, THIRDS, Table, assert_equal, make_policy, make_run, tensors

from rlhf_bench.harness.models.placement import Placement
from rlhf_bench.harness.nouns import Rollout
from rlhf_bench.harness.ppo import offload
from rlhf_bench.harness.ppo.loop import train
from rlhf_bench.harness.ppo.scoring import NamedRewardModel

AWAY = "another device"


class MovableTable(Table):
    """A reward model that records its device, and fails anywhere but on the CPU."""

    place = "cpu"

    def to(self, device: str) -> None:
        self.place = device

    def rewards(self, rollout: Rollout) -> Any:
        assert self.place == "cpu", "called while offloaded"
        return super().rewards(rollout)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return make_policy(tmp_path / "policy")


def test_idle_models_are_offloaded_and_no_number_changes(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = make_run(policy, tmp_path / "plain")
    rows = train(plain)
    monkeypatch.setattr(offload, "OFFLOAD_DEVICE", AWAY)
    model = MovableTable(THIRDS)
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

    def checked(*given: Any, **named: Any) -> Any:
        assert where["reference"] == "cpu", "called while offloaded"
        return forward(*given, **named)

    monkeypatch.setattr(run.actors.reference, "forward", checked)
    assert train(run) == rows
    assert seen == [(AWAY, AWAY)] * SMALL.iterations
    assert evaluated == [("cpu", "cpu")] * SMALL.checkpoints
    assert_equal(tensors(run.actors), tensors(plain.actors))


def test_nothing_is_offloaded_by_default(policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offload, "OFFLOAD_DEVICE", AWAY)
    model = MovableTable(THIRDS)
    train(make_run(policy, tmp_path / "run", reward_model=NamedRewardModel("table", model, batch=3)))
    assert model.place == "cpu"


def test_a_reference_that_shares_the_policys_weights_is_not_offloaded(policy: Path, tmp_path: Path) -> None:
    run = make_run(policy, tmp_path / "run")
    assert offload.offloadable(run.actors, Table(THIRDS)) == [run.actors.reference]
    assert offload.offloadable(replace(run.actors, placement=Placement(lora=4)), Table(THIRDS)) == []
    movable = MovableTable(THIRDS)
    assert offload.offloadable(replace(run.actors, placement=Placement(lora=4)), movable) == [movable]
