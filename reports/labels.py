"""What the arms of a report are called."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from rlhf_bench.harness import plugins
from rlhf_bench.harness.results.arms import Arm
from rlhf_bench.harness.seeds import layers_asked
from rlhf_bench.reports.cell_records import optimizer_of
from rlhf_bench.reports.setups import OPTIMISING, values_of

SHOWN = 4
"""Settings of a label at most: with more nobody reads it."""


def labels_of(arms: Sequence[Arm]) -> dict[str, str]:
    """Arm key -> the reward model's name, with what tells it from the other arms shown: policy, optimiser, settings.

    Settings are those that some arm was given by hand, with the values that each arm was computed with: what all arms
    of its task have in common is left out, whether by hand or by default, for the task stands beside the label; and so
    are the one default of arms of one reward model and optimiser, and what an arm does not use.  PPO, the usual
    optimiser, is not named.  Of more than SHOWN settings those that tell arms of one reward model and optimiser apart
    come first, and the others are counted.  A label is unique on its task.
    """
    rms = {*plugins.available("reward-model"), *(arm.reward_model for arm in arms)}
    settings = settings_of(arms, rms)
    common = {
        task: shared_by([arm for arm in arms if arm.task == task], settings, rms) for task in {a.task for a in arms}
    }
    kinds = {arm.key: (arm.task, arm.reward_model, optimizer_of(arm.cells[0])) for arm in arms}
    layers = {arm.key: " x ".join(layers_asked(arm.seeds[0])) for arm in arms}
    policies = {arm.key: str(arm.cells[0].record.get("policy", "")) for arm in arms}
    labels = {}
    for arm in arms:
        same = [other for other in arms if kinds[other.key] == kinds[arm.key]]
        alike = [settings[other.key] for other in same]
        own = [
            (name, value)
            for name, value in settings[arm.key].items()
            if (name, value) not in common[arm.task] and value != NOT_USED and default_of(name, same, settings) != value
        ]
        # stable: in the order in which they were given otherwise
        own.sort(key=lambda item: all(other.get(item[0]) == item[1] for other in alike))
        shown = [f"{short(name, arm.reward_model)}={value}" for name, value in own[:SHOWN]]
        shown += [f"{len(own) - SHOWN} more"] if len(own) > SHOWN else []
        optimizer = kinds[arm.key][2]
        # a control without a reward model has its own name for one
        shown = [optimizer, *shown] if optimizer not in ("ppo", arm.reward_model) else shown
        shown = [policies[arm.key], *shown] if len(set(policies.values())) > 1 else shown
        if layers[arm.key] and len(set(layers.values())) > 1:  # beside arms with plain seeds, or other layers
            shown.append(f"{layers[arm.key]} seeds")
        labels[arm.key] = f"{arm.reward_model} ({', '.join(shown)})" if shown else arm.reward_model
    shown_as = Counter((arm.task, labels[arm.key]) for arm in arms)
    for arm in arms:
        if shown_as[arm.task, labels[arm.key]] > 1:  # arms that still look alike, such as other data of one task
            labels[arm.key] += f" #{arm.key[:6]}"
    return labels


def shared_by(
    arms: Sequence[Arm], settings: Mapping[str, Mapping[str, str]], rms: Collection[str]
) -> set[tuple[str, str]]:
    """(setting, value) of what all arms that a setting is of share, which tells none of them apart."""
    items = {item for arm in arms for item in settings[arm.key].items()}
    return {
        (name, value)
        for name, value in items
        if all(
            settings[arm.key].get(name, "") in (value, NOT_USED) for arm in arms if is_of(name, arm.reward_model, rms)
        )
    }


def default_of(name: str, arms: Sequence[Arm], settings: Mapping[str, Mapping[str, str]]) -> str | None:
    """The value that all arms have which were not given the setting by hand; None where there is no such one value.

    Presets differ in their defaults, so that arms of several commands may have several.
    """
    plain = {settings[arm.key].get(name) for arm in arms if name not in arm.cells[0].record["differing"]}
    return plain.pop() if len(plain) == 1 else None


NOT_USED = "\0"
"""Stands for the value of a setting that an arm does not use; no text of --set contains it."""


def settings_of(arms: Sequence[Arm], rms: Collection[str]) -> dict[str, dict[str, str]]:
    """Arm key -> the values of the settings that any arm was given by hand, as far as they are this arm's.

    NOT_USED for those of another optimiser.  Where no record says what an arm was computed with, those by hand alone.
    `rms` are the names of all known reward models.
    """
    names = dict.fromkeys(name for arm in arms for name in arm.cells[0].record["differing"])
    found = {}
    for arm in arms:
        by_hand: Mapping[str, str] = arm.cells[0].record["differing"]
        known = values_of(arm.cells[0])
        own = {}
        for name in (name for name in names if is_of(name, arm.reward_model, rms)):
            group, _, key = name.rpartition(".")
            # a pattern's value is the reward model's own
            full = f"{arm.reward_model}.{key}" if fnmatch.fnmatchcase(arm.reward_model, group) else name
            if known is not None and full in known:
                own[name] = known[full]
            elif known is not None and group in OPTIMISING:
                own[name] = NOT_USED
            elif name in by_hand:
                own[name] = by_hand[name]
        found[arm.key] = own
    return found


def is_of(name: str, reward_model: str, rms: Collection[str]) -> bool:
    """Whether a setting is of a reward model's arms: one of its own, by name or pattern, or one of no reward model."""
    group = name.rpartition(".")[0]
    return fnmatch.fnmatchcase(reward_model, group) or not any(fnmatch.fnmatchcase(rm, group) for rm in rms)


def short(name: str, reward_model: str) -> str:
    """A setting beside its reward model's name, which need not be said again."""
    group, _, key = name.rpartition(".")
    return key if fnmatch.fnmatchcase(reward_model, group) else name
