"""The stage that puts a reward model on the common scale and looks at it before anything is optimised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from rlhf_bench.harness import store
from rlhf_bench.harness.models import policies
from rlhf_bench.harness.nouns import Example, Pair
from rlhf_bench.harness.pipeline.context import Context
from rlhf_bench.harness.ppo.arithmetic import reward_scale
from rlhf_bench.harness.ppo.scoring import NamedRewardModel, diagnose
from rlhf_bench.harness.sampling.rollout import make_generator, sample, text_rollout
from rlhf_bench.harness.seams import GoldTask, MayDecline, Task
from rlhf_bench.harness.settings import PPOSettings
from rlhf_bench.harness.stages.pairs import THIRDS, read_pairs, thirds
from rlhf_bench.harness.stages.prompts import load_task, read_examples
from rlhf_bench.harness.stages.reward import scorer_of


def scale(context: Context) -> Mapping[str, Any]:
    """scale.json: what divides the arm's rewards, pair accuracy, and what must be watched in every run (diagnostics).

    The scale is the standard deviation of the sequence sum over samples of the SFT policy on training prompts, or 1
    where rewards are taken as they come; no mean is taken off.
    """
    p = context.params
    settings = PPOSettings(**p["ppo"])
    scorer = scorer_of(context)
    model, tokenizer = policies.load_sampler(context.inputs["sft"], context.device)
    examples = read_examples(context.inputs["prompts"], "train")[: settings.scale_prompts]
    worth = gold_of(load_task(p))
    sums, samples, gold = [], [], []
    for number in range(settings.scale_samples):
        generator = make_generator("scale", p["seed"], number)
        prompts = [e.prompt for e in examples]
        rollout = sample(
            model, tokenizer, prompts, p["max_response"], generator=generator, temperature=settings.temperature
        )
        rewards = scorer.rewards(rollout)
        sums.append(rewards.sum(1))
        samples.append(diagnose(scorer, rollout, rewards))
        gold += [worth(e, text) for e, text in zip(examples, rollout.responses, strict=True)] if worth else []
        context.progress(number + 1, settings.scale_samples)
    grid = torch.stack(sums, 1)  # [prompts, samples]
    spread = reward_scale(grid.flatten())
    figures = _means(samples) | _spread(grid, samples) | {"correlation_with_gold": _with_gold(sums, gold)}
    record = {
        "scale": spread if settings.normalise == "sd" else 1.0,
        "sft_samples": figures,
        **_on_pairs(scorer, tokenizer, context),
    }
    store.write_json(context.work / "scale.json", record)
    return {"scale": record["scale"], "pair_accuracy": record["pair_accuracy"]}


def gold_of(task: Task) -> Callable[[Example, str], float] | None:
    """The task's gold utility as a number, None where it has none."""
    return (lambda example, response: task.utility(example, response).value) if isinstance(task, GoldTask) else None


def _with_gold(sums: Sequence[torch.Tensor], gold: Sequence[float]) -> float | None:
    """Correlation of the reward's sum with gold over the SFT samples, None where there is no gold or no variance."""
    return correlation(torch.cat(list(sums)), torch.tensor(gold)) if gold else None


def correlation(a: torch.Tensor, b: torch.Tensor) -> float | None:
    """Pearson's, None where one of the two does not vary or there is one point."""
    if len(a) < 2 or float(a.std()) < 1e-8 or float(b.std()) < 1e-8:
        return None
    return float(torch.corrcoef(torch.stack([a.float(), b.float()]))[0, 1])


def _means(parts: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, float]:
    return {name: float(torch.cat([part[name] for part in parts]).mean()) for name in parts[0]}


def _spread(grid: torch.Tensor, samples: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, float | None]:
    """Within-prompt variance (what PPO can learn from, arXiv 2503.15477) and the correlation of the sum with length."""
    length = torch.cat([part["length"] for part in samples])
    total = torch.cat([part["sum"] for part in samples])
    within = float(grid.var(1).mean()) if grid.shape[1] > 1 else None
    return {
        "within_prompt_variance": within,
        "variance": float(grid.var()) if grid.numel() > 1 else 0.0,
        "correlation_with_length": correlation(length, total),
    }


def _on_pairs(scorer: NamedRewardModel, tokenizer: Any, context: Context) -> dict[str, Any]:
    """Pair accuracy on the held-out pairs (a tie counts half), by lexical overlap too, and the means of both sides.

    None where the reward model can score no pair; those it declines are counted, by reason.
    """
    stored = read_pairs(context.inputs["pairs"], "test")
    found, declined = scorable(scorer, stored)
    right: list[float] = []
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
        right += ((sides[0] > sides[1]).float() + 0.5 * (sides[0] == sides[1]).float()).tolist()
    own = {pair.id: third for pair, third in zip(stored, thirds(stored), strict=True)}
    by_third = {name: [r for r, q in zip(right, found, strict=True) if own[q.id] == name] for name in THIRDS}
    return {
        "pair_accuracy": sum(right) / len(right) if right else None,
        "pair_accuracy_by_overlap": {name: sum(part) / len(part) for name, part in by_third.items() if part},
        "test_pairs": len(found),
        "chosen": _means(chosen) if chosen else {},
        "rejected": _means(rejected) if rejected else {},
        **({"declined_pairs": declined} if declined else {}),
    }


def scorable(scorer: NamedRewardModel, found: Sequence[Pair]) -> tuple[list[Pair], dict[str, int]]:
    """The pairs that a reward model can score, and why not the others (reason -> how many)."""
    model = scorer.model
    if not isinstance(model, MayDecline):
        return list(found), {}
    reasons = [model.why_not(pair.prompt) for pair in found]
    kept = [pair for pair, reason in zip(found, reasons, strict=True) if not reason]
    return kept, dict(Counter(filter(None, reasons)))
