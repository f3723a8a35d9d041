"""The memory and time of PPO as a table: for `bench run --dry-run`, and in one line a preset for `bench doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_bench.harness.cli.status import duration
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.models import memory
from rlhf_bench.harness.models.placement import can_run_concurrently, choose_placement
from rlhf_bench.harness.plan.run_costs import gib
from rlhf_bench.harness.presets import load_presets, make_settings

if TYPE_CHECKING:
    from rlhf_bench.harness.plan.lengths import Lengths
    from rlhf_bench.harness.settings import Settings


def plan_rows(
    policy: str, settings: Settings, response: int, device: str, lengths: Lengths | None = None
) -> list[tuple[str, str, str]]:
    """(role, what, size) of PPO with `policy` on this device, the peak against what is available, and the time.

    `response`: tokens of the longest response.  `lengths`: those of the data: memory is that of the longest prompt,
    time that of prompts and demonstrations of mean length.  Without, a typical prompt is assumed.  Weights are counted
    on the meta device, never loaded; the speed of a matrix product is measured here, for the time.  Raises BenchError
    where the policy's config cannot be read, where no causal model has it, and for a dtype that the device cannot
    compute in.
    """
    ppo = settings.ppo
    placement = choose_placement(settings.group("policy"), device)
    # tokens; 0 sets no limit, so a typical length counts where the data's is not known
    prompt = lengths.longest_prompt if lengths else settings.data.max_prompt_tokens or memory.PROMPT
    assumed = "" if lengths or settings.data.max_prompt_tokens else " (assumed)"
    sizes = memory.sizes_of(memory.config_of(policy), placement, prompt, response)
    # decides as the loop does whether policy and critic learn side by side, which holds both updates in memory
    concurrent = can_run_concurrently(placement, ppo, device)
    plan = memory.make_plan(sizes, placement, ppo, prompt, response, concurrent)
    available, speed = memory.available_bytes(device), memory.measured_speed(device, placement.half)
    # the largest micro-batch whose peak still fits, other settings equal
    peak, largest = plan.peak(ppo.micro_batch, ppo.rollouts), plan.largest_micro_batch(available, ppo.rollouts)
    trained = f"rank {placement.lora} adapters" if placement.lora else "all weights trained"
    longest = f"prompt {prompt}{assumed} + response {response} tokens"
    # not all of it: allocators and the system need the rest
    verdict = "fits" if peak <= memory.SPARE * available else "does NOT fit"
    # of a row: time goes by what rows have, memory by the longest one
    share = min(1.0, (lengths.mean_prompt + lengths.mean_response) / (prompt + response)) if lengths else 1.0
    # at the share of a matrix product's speed that PPO reaches
    seconds = share * plan.flops / (memory.SPEED_SHARE * speed)
    basis = f"at {memory.SPEED_SHARE:.0%} of a matrix product's {speed / 1e12:.2g} TFLOP/s, measured here"
    return [
        (policy, f"{trained}, {placement.dtype}, {longest}", f"{sizes.total:,}"),
        *((need.role, need.what, gib(need.bytes)) for need in plan.needs),
        ("sampling", f"cache and logits of {ppo.rollouts} rows", gib(ppo.rollouts * plan.sampled)),
        ("update", f"a micro-batch of {ppo.micro_batch} rows", gib(ppo.micro_batch * plan.row)),
        ("peak", f"{verdict} in {gib(available)}", gib(peak)),
        ("largest", "ppo.micro_batch", str(largest) if largest else "none: not one row fits"),
        ("PPO", basis, f"about {duration(seconds)}"),
    ]


def preset_rows(device: str) -> list[tuple[str, str]]:
    """(what, found) of every preset that names a real policy: what its peak is, and whether it fits here.

    A policy whose config cannot be read here is "unknown", with the reason.
    """
    rows = []
    for name, groups in load_presets().items():
        policy = groups.get("preset", {}).get("policy", "tiny")
        if policy == "tiny":
            continue
        settings = make_settings(name, {}, frozenset())
        try:
            # no task is given: a response of typical length stands for its longest one
            found = {row[0]: row for row in plan_rows(policy, settings, memory.RESPONSE, device)}
        except BenchError as error:
            rows.append((f"preset {name}", f"unknown: {error.seen}"))
            continue
        peak, largest, time = found["peak"], found["largest"], found["PPO"]
        rows.append((f"preset {name}", f"{peak[2]}, {peak[1]}; largest ppo.micro_batch {largest[2]}; PPO {time[2]}"))
    return rows
