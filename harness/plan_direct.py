"""The stages of DPO and of SFT on the chosen responses, planned as optimisers: `--optimizer dpo`.

They use no reward model, so all arms of a seed share one training; an arm's reward model says what it thinks of the
result, and stands beside PPO with the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from rlhf_bench.harness import plan_stages
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.plan_shared import H, safe_label
from rlhf_bench.harness.plan_stages import Ground
from rlhf_bench.harness.stage import Stage

CODE = {
    "direct": (f"{H}.training", f"{H}.holding", f"{H}.lora"),
    "written": (f"{H}.stage_ppo", f"{H}.evaluation", f"{H}.scoring", f"{H}.stage_reward"),
}
"""As in plan_shared.py."""


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
        f"{H}.stage_direct:direct",
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
        f"{H}.stage_direct:written",
        {**ground.common, "ppo": temperature, "eval": settings.group("eval")},
        {**plan_stages.held_out_inputs(ground), "direct": trained},
        {"micro_batch": settings.ppo.micro_batch},
        CODE["written"],
        (ground.arm.code,),
        cost=2.0 * (settings.eval.prompts or 1000),
        family=ground.family,
    )
    return {"direct": trained, "generations": generations, "proxy": plan_stages.proxy(ground, generations)}


OPTIMIZERS: Mapping[str, Callable[[Ground], Mapping[str, Stage]]] = {
    **plan_stages.OPTIMIZERS,
    "dpo": partial(direct, method="dpo"),
    "sft-chosen": partial(direct, method="sft-chosen"),
}
"""Every optimiser there is."""
