"""The arm of a combination of reward models, and the stages that collect what its members trained.

A member's stages are those of the plain arm of its name, up to its scale: nothing is trained or measured twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rlhf_bench.harness import fingerprint, plugins, store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.pipeline.stage import Stage
from rlhf_bench.harness.plan import arms
from rlhf_bench.harness.plan.combination_names import PLUGIN, is_combination, names_of, parse
from rlhf_bench.harness.plan.shared import H
from rlhf_bench.harness.seams import TrainableRewardModel
from rlhf_bench.harness.seeds import derived_seed

if TYPE_CHECKING:
    from rlhf_bench.harness.settings import Settings

Prepared = Callable[[arms.RewardArm, "Settings"], arms.ArmContext]
"""The context of an arm with these settings, with its stages up to `scale`."""


@dataclass(frozen=True)
class CombinedArm(arms.RewardArm):
    """A combination: `parts` has a place for every training, (the member, which of its trainings, from 0)."""

    parts: tuple[tuple[arms.RewardArm, int], ...] = ()


def trains(arm: arms.RewardArm) -> bool:
    """Whether the reward model is trained, or a member of the combination."""
    if isinstance(arm, CombinedArm):
        return any(trains(member) for member, _ in arm.parts)
    return isinstance(arm.made, TrainableRewardModel)


def open_arm(name: str, settings: Settings) -> arms.RewardArm:
    """The reward model, or combination of reward models, that `name` names, with its settings.

    Raises BenchError as `arms.open_arm` of every member, as `combination_names.parse`, and for an ensemble of what is
    not trained.
    """
    if PLUGIN in names_of(name):
        seen = f"{PLUGIN} does not say what is combined."
        raise BenchError(seen, "Write --rm 'mean(A,B)', 'min(A,B)', 'wsum(A:1,B:.3)' or 'uwo(A*5:.1)'.")
    if not is_combination(name):
        return arms.open_arm(name, settings)
    asked = parse(name)
    opened = {one.name: arms.open_arm(one.name, settings) for one in asked.members}
    parts = []
    for one in asked.members:
        if one.copies > 1 and not isinstance(opened[one.name].made, TrainableRewardModel):
            seen = f"--rm {name!r}: {one.name} is not trained, so that {one.copies} of it are all the same."
            raise BenchError(seen, f"Write {one.name} once.")
        parts += [(opened[one.name], one.weight, at) for at in range(one.copies)]
    members = [{"name": arm.name, "settings": dict(arm.settings), "weight": weight} for arm, weight, _ in parts]
    values = {"how": asked.how, "members": members, "penalty": asked.penalty}
    made = plugins.build("reward-model", PLUGIN, values)
    code = store.content_key([fingerprint.of(PLUGIN.partition(":")[0]), [arm.code for arm in opened.values()]])
    label = asked.text(lambda one: opened[one].label)
    return CombinedArm(PLUGIN, label, values, made, code, tuple((arm, at) for arm, _, at in parts))


def stages(arm: arms.ArmContext, prepared: Prepared) -> dict[str, Stage]:
    """Stages by role: of every member its training (part0, part1, ...) and its scale (scale0, ...), and `reward`, the
    folder that collects them.

    `arm` is the combination's; `prepared` gives a member's, with these settings, as the plain arm of its name has it.
    """
    combination = arm.reward_model
    assert isinstance(combination, CombinedArm)
    # a member is always standardised by its sums; the run's own choice is for the combination
    own_scale = replace(arm.settings, ppo=replace(arm.settings.ppo, normalise="sd", centre="sequence"))
    found: dict[str, Stage] = {}
    for place, (member, number) in enumerate(combination.parts):
        own = _trained_again(prepared(member, own_scale), number)
        found |= {f"part{place}": stage for stage in own.model.values()}
        found[f"scale{place}"] = own.stages["scale"]
    collected = Stage(
        "combined",
        arm.label(arm.tasks.home.name),
        f"{H}.stages.combined:combined",
        {"recipe": combination.label, "rm": combination.params},
        found,
        plugin_code=(combination.code,),
        cost=1.0,
        family=arm.family,
    )
    return {**found, "reward": collected}


def parts(arm: arms.ArmContext, generations: Stage) -> Stage:
    """The stage that measures what each member pays at every checkpoint of PPO."""
    return Stage(
        "parts",
        arm.label(arm.tasks.label),
        f"{H}.stages.combined:parts",
        {**arm.common, "eval": {"batch": arm.settings.eval.batch}},
        {**arms.held_out_inputs(arm), "baseline": arm.stages["baseline"], "generations": generations},
        arm.payload,
        plugin_code=arm.code,
        cost=2.0 * arm.settings.eval.rows,
        family=arm.family,
    )


def _trained_again(member: arms.ArmContext, number: int) -> arms.ArmContext:
    """The member's context with its training of that number, from 0, and the scale of that; 0 is the plain arm's.

    All trainings of an ensemble start from one SFT policy and learn from the same pairs.  Their seeds alone differ,
    which draw heads and order (arXiv 2310.02743).
    """
    if not number:
        return member
    first, scale = member.stages["reward"], member.stages["scale"]
    # the recipe is not part of it: arms of one recipe share all trainings of their ensembles
    seed = derived_seed(first.params["seed"], "ensemble", number)
    trained = replace(first, label=f"{first.label}-{number + 1}", params={**first.params, "seed": seed})
    measured = replace(scale, label=f"{scale.label}-{number + 1}", inputs={**scale.inputs, "reward": trained})
    return replace(member, stages={**member.stages, "reward": trained, "scale": measured})
