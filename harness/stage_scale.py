"""The stage that puts a reward model on the common scale and looks at it before anything is optimised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from rlhf_bench.harness import policies, store
from rlhf_bench.harness.ppo_math import reward_scale
from rlhf_bench.harness.rollout import make_generator, sample, text_rollout
from rlhf_bench.harness.scoring import NamedRewardModel, diagnose
from rlhf_bench.harness.settings import PPOSettings
from rlhf_bench.harness.stage import Context
from rlhf_bench.harness.stage_pairs import read_pairs
from rlhf_bench.harness.stage_policy import read_examples
from rlhf_bench.harness.stage_reward import load_reward_model


def scale(context: Context) -> Mapping[str, Any]:
    """scale.json: what divides the arm's rewards, pair accuracy, and what must be watched in every run (diagnostics).

    The scale is the standard deviation of the sequence sum over samples of the SFT policy on training prompts; no mean
    is taken off.
    """
    p = context.params
    settings = PPOSettings(**p["ppo"])
    scorer = load_reward_model(p, context.inputs.get("reward"), context.device)
    model, tokenizer = policies.load_policy(context.inputs["sft"], context.device)
    prompts = [e.prompt for e in read_examples(context.inputs["sft"], "train")[: settings.scale_prompts]]
    sums, samples = [], []
    for number in range(settings.scale_samples):
        generator = make_generator("scale", p["seed"], number)
        rollout = sample(
            model, tokenizer, prompts, p["max_response"], generator=generator, temperature=settings.temperature
        )
        rewards = scorer.rewards(rollout)
        sums.append(rewards.sum(1))
        samples.append(diagnose(scorer, rollout, rewards))
        context.progress(number + 1, settings.scale_samples)
    grid = torch.stack(sums, 1)  # [prompts, samples]
    record = {
        "scale": reward_scale(grid.flatten()),
        "sft_samples": _means(samples) | _spread(grid, samples),
        **_on_pairs(scorer, tokenizer, context),
    }
    store.write_json(context.work / "scale.json", record)
    return {"scale": record["scale"], "pair_accuracy": record["pair_accuracy"]}


def _means(parts: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, float]:
    return {name: float(torch.cat([part[name] for part in parts]).mean()) for name in parts[0]}


def _spread(grid: torch.Tensor, samples: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, float | None]:
    """Within-prompt variance (what PPO can learn from, arXiv 2503.15477) and the correlation of the sum with length."""
    length = torch.cat([part["length"] for part in samples])
    total = torch.cat([part["sum"] for part in samples])
    constant = float(length.std()) < 1e-8 or float(total.std()) < 1e-8
    correlation = None if constant else float(torch.corrcoef(torch.stack([length, total]))[0, 1])
    within = float(grid.var(1).mean()) if grid.shape[1] > 1 else None
    return {"within_prompt_variance": within, "variance": float(grid.var()), "correlation_with_length": correlation}


def _on_pairs(scorer: NamedRewardModel, tokenizer: Any, context: Context) -> dict[str, Any]:
    """Pair accuracy on the held-out pairs (a tie counts half) and the means over their two sides."""
    found = read_pairs(context.inputs["pairs"], "test")
    right = 0.0
    chosen: list[Mapping[str, torch.Tensor]] = []
    rejected: list[Mapping[str, torch.Tensor]] = []
    for start in range(0, len(found), 64):
        batch = found[start : start + 64]
        sides = []
        for texts, parts in (([q.chosen for q in batch], chosen), ([q.rejected or "" for q in batch], rejected)):
            rollout = text_rollout(tokenizer, [q.prompt for q in batch], texts, context.device)
            rewards = scorer.rewards(rollout)
            parts.append(diagnose(scorer, rollout, rewards))
            sides.append(rewards.sum(1))
        right += float((sides[0] > sides[1]).sum()) + 0.5 * float((sides[0] == sides[1]).sum())
    return {
        "pair_accuracy": right / len(found),
        "test_pairs": len(found),
        "chosen": _means(chosen),
        "rejected": _means(rejected),
    }
