"""Which preset a run has where none is named, and whether one that is named fits what is trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_bench.harness import store
from rlhf_bench.harness.models.adapter_folders import holds_adapter
from rlhf_bench.harness.presets import load_presets

if TYPE_CHECKING:
    from rlhf_bench.harness.settings import Settings

ALL_WEIGHTS, ADAPTERS = "small", "small-lora"
"""Presets of pretrained policies: by what is trained."""
RATES = ("sft.lr", "ppo.lr", "ppo.critic_lr")
"""Learning rates that every preset of a pretrained policy sets, and that adapters need ten times higher or more."""


def choose_preset(policy: str, assignments: Mapping[str, Mapping[str, str]]) -> str:
    """The preset of a run that names none: `tiny`, or of a pretrained policy the one for what is trained.

    Adapters are trained where --set policy.lora asks for them, and where the folder of `policy` is an adapter itself
    and --set does not say otherwise.
    """
    if policy == "tiny":
        return "tiny"
    asked = assignments.get("policy", {}).get("lora", "").strip()
    if asked:
        return ALL_WEIGHTS if asked.strip("0") == "" else ADAPTERS
    folder = Path(policy).expanduser()
    return ADAPTERS if store.is_folder(folder) and holds_adapter(folder) else ALL_WEIGHTS


def misfit(preset: str, policy: str, settings: Settings, assignments: Mapping[str, Mapping[str, str]]) -> str:
    """A sentence on a preset whose learning rates are not for what is trained, naming both; "" where they fit.

    Rates that --set gives are not the preset's; where it gives all of them there is nothing to say.
    """
    adapters = bool(settings.policy.lora)
    own = load_presets()[preset]
    if policy == "tiny":
        return ""
    if preset == "tiny":
        meant = "a policy of random weights"
    elif bool(own.get("policy", {}).get("lora", 0)) == adapters:
        return ""
    else:
        meant = "all weights" if adapters else "adapters"
    rates = [
        f"{name} {settings.group(group)[key]:g}"
        for name in RATES
        for group, _, key in [name.partition(".")]
        if key not in assignments.get(group, {})
    ]
    if not rates:
        return ""
    trained = f"policy.lora={settings.policy.lora} trains adapters" if adapters else "all weights are trained"
    better = ADAPTERS if adapters else ALL_WEIGHTS
    seen = f"The preset {preset} has learning rates for {meant} ({', '.join(rates)}), and {trained}"
    return f"{seen}: see --preset {better}."
