"""Which preset a run has where none is named, and what is said of one that does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_bench.harness.plan.preset_choice import RATES, choose_preset, misfit
from rlhf_bench.harness.presets import load_presets, make_settings

Sets = dict[str, dict[str, str]]
LORA: Sets = {"policy": {"lora": "4"}}


def said(preset: str, sets: Sets, policy: str = "owner/name") -> str:
    return misfit(preset, policy, make_settings(preset, sets, frozenset()), sets)


def test_what_is_trained_chooses_the_preset(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    none: Sets = {"policy": {"lora": "0"}}
    assert choose_preset("tiny", LORA) == "tiny"
    assert [choose_preset("owner/name", sets) for sets in ({}, LORA, none)] == ["small", "small-lora", "small"]
    assert [choose_preset(str(tmp_path), sets) for sets in ({}, LORA, none)] == ["small-lora", "small-lora", "small"]


def test_a_rank_by_hand_is_kept() -> None:
    assert make_settings("small-lora", LORA, frozenset()).policy.lora == 4


@pytest.mark.parametrize("preset", [name for name in load_presets() if name != "tiny"])
def test_a_preset_fits_what_it_is_for_and_nothing_else(preset: str) -> None:
    adapters = bool(make_settings(preset, {}, frozenset()).policy.lora)
    other: Sets = {"policy": {"lora": "0" if adapters else "8"}}
    assert not said(preset, {})
    text, rates = said(preset, other), load_presets()[preset]
    assert f"preset {preset} " in text
    assert f"{'small' if adapters else 'small-lora'}." in text
    assert all(f"{name} {rates[name.partition('.')[0]][name.partition('.')[2]]:g}" in text for name in RATES)


def test_rates_by_hand_are_not_the_presets() -> None:
    by_hand = LORA | {"ppo": {"lr": "1e-4", "critic_lr": "1e-4"}}
    assert "ppo.lr" not in said("small", by_hand)
    assert "sft.lr 1e-05" in said("small", by_hand)
    assert not said("small", by_hand | {"sft": {"lr": "1e-4"}})


def test_rates_of_random_weights_are_for_no_pretrained_policy() -> None:
    assert "random weights" in said("tiny", {})
    assert not said("tiny", LORA, policy="tiny")
