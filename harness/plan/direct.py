"""The stages of DPO and of SFT on the chosen responses, planned as optimisers: `--optimizer dpo`.

They use no reward model, so all arms of a seed share one training; an arm's reward model says what it thinks of the
result, and stands beside PPO with the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.pipeline.stage import Stage
from rlhf_bench.harness.plan import arms
from rlhf_bench.harness.plan.arms import Ground
from rlhf_bench.harness.plan.shared import H, safe_label

CODE = {
    "direct": (f"{H}.training.trl", f"{H}.models.placement", f"{H}.models.lora"),
    "written": (f"{H}.stages.ppo", f"{H}.stages.evaluation", f"{H}.ppo.scoring", f"{H}.stages.reward"),
}
"""As in plan/shared.py."""


def direct(ground: Ground, method: str) -> dict[str, Stage]:
    """Training on the pairs, what its policy writes, and the proxy reward of the baseline."""
    if ground.tasks.optimised is not ground.tasks.home:
        seen = f"--optimizer {method} learns from the pairs of {ground.tasks.home.name!r}, not from prompts."
        raise BenchError(seen, "Leave --train-prompts out.")
    settings, seed = ground.settings, ground.stages["sft"].params["seed"]
    chosen = settings.group(method.replace("-", "_"))
    trained = Stage(
        "direct",
        f"{safe_label(ground.tasks.home.name)}-{method}-s{seed}",
        f"{H}.stages.direct:direct",
        {"method": method, "settings": chosen, "seed": seed},
        {"sft": ground.stages["sft"], "pairs": ground.stages["pairs"]},
        {},
        CODE["direct"],
        cost=float(chosen["epochs"]),
        family=f"{ground.family} {method}",
    )
    temperature = {"temperature": settings.ppo.temperature}
    generations = Stage(
        "written",
        ground.label(ground.tasks.label),
        f"{H}.stages.direct:written",
        {**ground.common, "ppo": temperature, "eval": settings.group("eval")},
        {**arms.held_out_inputs(ground), "direct": trained},
        {"micro_batch": settings.ppo.micro_batch},
        CODE["written"],
        (ground.arm.code,),
        cost=2.0 * (settings.eval.prompts or 1000),
        family=ground.family,
    )
    return {"direct": trained, "generations": generations, "proxy": arms.proxy(ground, generations)}


OPTIMIZERS: Mapping[str, Callable[[Ground], Mapping[str, Stage]]] = {
    **arms.OPTIMIZERS,
    "dpo": partial(direct, method="dpo"),
    "sft-chosen": partial(direct, method="sft-chosen"),
}
"""Every optimiser there is."""
