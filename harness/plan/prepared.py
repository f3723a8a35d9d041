"""An arm up to its reward: the stages that train its reward model, if any, and put the reward on its scale."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rlhf_bench.harness.plan import arms, combinations
from rlhf_bench.harness.plan.gold import GoldRun
from rlhf_bench.harness.plan.shared import shared_stages
from rlhf_bench.harness.plan.tasks import Tasks
from rlhf_bench.harness.seeds import Seed, of_reward
from rlhf_bench.harness.text.types import Row

if TYPE_CHECKING:
    from rlhf_bench.harness.settings import Settings


def prepared(
    tasks: Tasks, arm: arms.RewardArm, seed: Seed, policy: Row, settings: Settings, by_gold: GoldRun | None = None
) -> arms.ArmContext:
    """The context of an arm with its stages up to `scale`.

    `policy` is what `policy_identity` returns.  In a run with a gold model (`by_gold`) the proxies learn from its
    pairs, and what pays the true utility pays its score.
    """
    ceiling = by_gold if arm.reads_utility else None
    arm = ceiling.ceiling if ceiling else arm
    shared = shared_stages(tasks, seed, policy, settings)
    combined = isinstance(arm, combinations.CombinedArm)
    trains = combinations.trains(arm)
    # a reward model that is not trained has no seed of its own
    trainer = of_reward(seed) if trains else seed
    start = shared if trainer == seed else shared_stages(tasks, trainer, policy, settings)
    # pairs belong to the reward seed: where a task gives no rejected response, that SFT policy writes it
    shared = {**shared, "pairs": by_gold.pairs if by_gold else start["pairs"]}
    family = f"{tasks.home.name} {policy['name']}"
    context = arms.ArmContext(tasks, arm, shared, settings, family, seed, start["sft"])
    # each step plans from the stages before it: scale reads the trained model, the optimiser reads both
    if combined:
        found = combinations.stages(context, lambda one, own: prepared(tasks, one, seed, policy, own, by_gold))
        context = replace(context, stages={**context.stages, **found})
    elif trains:
        trained = ceiling.model["gold"] if ceiling else arms.training(context)
        context = replace(context, stages={**context.stages, "reward": trained})
    return replace(context, stages={**context.stages, "scale": arms.scale(context)})
