"""What the arms of a report are called."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from rlhf_bench.harness import plugins
from rlhf_bench.harness.results.arms import Arm
from rlhf_bench.harness.seeds import layers_asked
from rlhf_bench.reports.cell_records import optimizer_of


def labels_of(arms: Sequence[Arm]) -> dict[str, str]:
    """Arm key -> the reward model's name, with the settings by hand that tell it from the other arms shown.

    Settings that all arms have in common are left out; PPO, the usual optimiser, is not named.  A label is unique on
    its task.
    """
    rms = {*plugins.available("reward-model"), *(arm.reward_model for arm in arms)}
    settings = {arm.key: own_settings(arm, rms) for arm in arms}
    items = {item for own in settings.values() for item in own.items()}
    # what all arms that a setting is of share tells none of them apart
    common = {
        (name, value)
        for name, value in items
        if all(settings[arm.key].get(name) == value for arm in arms if is_of(name, arm.reward_model, rms))
    }
    layers = {arm.key: " x ".join(layers_asked(arm.seeds[0])) for arm in arms}
    labels = {}
    for arm in arms:
        own = [(name, value) for name, value in settings[arm.key].items() if (name, value) not in common]
        shown = [f"{short(name, arm.reward_model)}={value}" for name, value in own]
        optimizer = optimizer_of(arm.cells[0])
        # a control without a reward model has its own name for one
        shown = [optimizer, *shown] if optimizer not in ("ppo", arm.reward_model) else shown
        if layers[arm.key] and len(set(layers.values())) > 1:  # beside arms with plain seeds, or other layers
            shown.append(f"{layers[arm.key]} seeds")
        labels[arm.key] = f"{arm.reward_model} ({', '.join(shown)})" if shown else arm.reward_model
    shown_as = Counter((arm.task, labels[arm.key]) for arm in arms)
    for arm in arms:
        if shown_as[arm.task, labels[arm.key]] > 1:  # arms that still look alike, such as other data of one task
            labels[arm.key] += f" #{arm.key[:6]}"
    return labels


def own_settings(arm: Arm, rms: Collection[str]) -> dict[str, str]:
    """The settings by hand that say something about an arm; `rms` are the names of all known reward models."""
    differing: Mapping[str, str] = arm.cells[0].record["differing"]
    return {name: value for name, value in differing.items() if is_of(name, arm.reward_model, rms)}


def is_of(name: str, reward_model: str, rms: Collection[str]) -> bool:
    """Whether a setting is of a reward model's arms: one of its own, by name or pattern, or one of no reward model."""
    group = name.rpartition(".")[0]
    return fnmatch.fnmatchcase(reward_model, group) or not any(fnmatch.fnmatchcase(rm, group) for rm in rms)


def short(name: str, reward_model: str) -> str:
    """A setting beside its reward model's name, which need not be said again."""
    group, _, key = name.rpartition(".")
    return key if fnmatch.fnmatchcase(reward_model, group) else name
