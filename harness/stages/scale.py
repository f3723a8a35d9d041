"""The stage that puts a reward model on the common scale, and measures it before anything is optimised."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.models import policies
from rlhf_bench.harness.nouns import Example, Pair
from rlhf_bench.harness.pipeline.context import Context, StageFigures
from rlhf_bench.harness.ppo.arithmetic import Standard, reward_scale
from rlhf_bench.harness.ppo.scoring import NamedRewardModel, diagnose
from rlhf_bench.harness.sampling.rollout import make_generator, sample, text_rollout
from rlhf_bench.harness.seams import GoldTask, MayDecline, Task
from rlhf_bench.harness.settings import PPOSettings
from rlhf_bench.harness.stages.pairs import THIRDS, read_pairs, thirds
from rlhf_bench.harness.stages.prompts import load_task, read_examples
from rlhf_bench.harness.stages.reward import scorer_of
from rlhf_bench.harness.stages.sanity import SANITY, sanity, training_elsewhere

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject, Tokenizer

BATCH = 64
"""Pairs that are scored at once."""


def scale(context: Context) -> StageFigures:
    """Measure a reward model on samples of the SFT policy and on the held-out pairs.

    Reads: sft (the policy), prompts (examples.train.jsonl), pairs (pairs.test.jsonl), reward (where the reward model is
        trained).
    Writes: scale.json: `scale`, `offset` and `token_offset` (arithmetic.Standard), `sft_samples` (diagnostics of the
        samples, with variances and correlations), pair accuracy, and the diagnostics of chosen and rejected responses;
        sanity.json: what a reader looks at before believing the reward (stages/sanity.py).
    Parameters: task, ppo (scale_prompts, scale_samples, temperature, normalise, centre), rm, max_response, seed.

    The scale is the standard deviation of the sequence sum over the samples, or 1 unless `ppo.normalise` is sd.
    """
    p = context.params
    # Only those named above are the run's: the others hold their defaults, so that sweeps over them share the scale.
    settings = PPOSettings(**p["ppo"])
    scorer = scorer_of(context)
    model, tokenizer = policies.load_sampler(context.inputs["sft"], context.device)
    examples = read_examples(context.inputs["prompts"], "train")[: settings.scale_prompts]
    gold_utility = gold_of(load_task(p))
    sums: list[Tensor] = []
    samples: list[dict[str, Tensor]] = []
    gold: list[float] = []
    texts: list[tuple[str, ...]] = []
    for number in range(settings.scale_samples):
        # The same samples for every reward model of a seed: differences of scales are differences of rewards.
        generator = make_generator("scale", p["seed"], number)
        prompts = [e.prompt for e in examples]
        rollout = sample(
            model, tokenizer, prompts, p["max_response"], generator=generator, temperature=settings.temperature
        )
        rewards = scorer.rewards(rollout)
        sums.append(rewards.sum(1))
        texts.append(rollout.responses)
        samples.append(diagnose(scorer, rollout, rewards))
        if gold_utility:
            gold += [gold_utility(e, text) for e, text in zip(examples, rollout.responses, strict=True)]
            if not all(map(math.isfinite, gold)):
                seen = f"The task {p['task']['name']!r} gives a response a true utility that is NaN or infinite."
                raise BenchError(seen, "Its utility must be a finite number for every text.")
        context.progress(number + 1, settings.scale_samples)
    grid = torch.stack(sums, 1)  # [prompts, samples]: variances within prompts are along the rows
    tokens = float(torch.cat([part["length"] for part in samples]).mean())
    # In one order: sums and gold both go sample by sample, and within it prompt by prompt.
    with_gold = correlation(torch.cat(sums), torch.tensor(gold)) if gold else None
    record = {
        **standard(grid.flatten(), tokens, settings)._asdict(),
        "sft_samples": means(samples) | variances(grid, samples) | {"correlation_with_gold": with_gold},
        **pair_figures(scorer, tokenizer, context),
    }
    store.write_json(context.work / "scale.json", record)
    lengths = torch.stack([part["length"] for part in samples], 1)
    trained = {} if "reward" in context.inputs else training_elsewhere(p["rm"]["settings"])
    found = sanity(examples, texts, grid, lengths)
    store.write_json(context.work / SANITY, {**found, **({"trained": trained} if trained else {})})
    return {"scale": record["scale"], "pair_accuracy": record["pair_accuracy"]}


def standard(sums: Tensor, tokens: float, settings: PPOSettings) -> Standard:
    """What `ppo.normalise` and `ppo.centre` do to a reward, from its sums [N] on SFT samples of `tokens` on average."""
    mean = float(sums.mean())
    return Standard(
        scale=reward_scale(sums) if settings.normalise == "sd" else 1.0,
        offset=mean if settings.centre == "sequence" else 0.0,
        # The ratio of means, not the mean of ratios: the sums of the shifted rewards then have the mean 0.
        token_offset=mean / tokens if settings.centre == "token" and tokens else 0.0,
    )


def gold_of(task: Task) -> Callable[[Example, str], float] | None:
    """The task's gold utility as a function to a number, higher is better; None where the task has none."""
    return (lambda example, response: task.utility(example, response).value) if isinstance(task, GoldTask) else None


def correlation(a: Tensor, b: Tensor) -> float | None:
    """Pearson's correlation of two [N], in [-1, 1]; None where one of them does not vary or N < 2."""
    if len(a) < 2 or float(a.std()) < 1e-8 or float(b.std()) < 1e-8:
        return None
    return float(torch.corrcoef(torch.stack([a.float(), b.float()]))[0, 1])


def means(batches: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """The mean of each figure [B] over the responses of all batches."""
    return {name: float(torch.cat([batch[name] for batch in batches]).mean()) for name in batches[0]}


def variances(grid: Tensor, samples: Sequence[Mapping[str, Tensor]]) -> dict[str, float | None]:
    """Variances of the sequence sums [prompts, samples], and their correlation with length in tokens.

    `samples` are the figures of `diagnose` for each column.  `within_prompt_variance`, the mean over prompts of the
    variance among a prompt's samples, is None with one sample per prompt.
    """
    length = torch.cat([part["length"] for part in samples])
    total = torch.cat([part["sum"] for part in samples])
    return {
        # What PPO can learn from: little of it means slow training, at any accuracy (arXiv 2503.15477).
        "within_prompt_variance": float(grid.var(1).mean()) if grid.shape[1] > 1 else None,
        "variance": float(grid.var()) if grid.numel() > 1 else 0.0,
        "correlation_with_length": correlation(length, total),
    }


def pair_figures(scorer: NamedRewardModel, tokenizer: Tokenizer, context: Context) -> JsonObject:
    """Pair accuracy on the held-out pairs, all and by lexical overlap, and the means of both sides' diagnostics.

    A tie counts half.  The accuracy is None where the reward model can score no pair; pairs that it declines are
    counted by reason.
    """
    stored = read_pairs(context.inputs["pairs"], "test")
    found, declined = scorable(scorer, stored)
    right: list[float] = []
    chosen: list[Mapping[str, Tensor]] = []
    rejected: list[Mapping[str, Tensor]] = []
    for start in range(0, len(found), BATCH):
        batch = found[start : start + BATCH]
        sides = []
        for texts, parts in (([q.chosen for q in batch], chosen), ([q.rejected or "" for q in batch], rejected)):
            rollout = text_rollout(tokenizer, [q.prompt for q in batch], texts, context.device)
            rewards = scorer.rewards(rollout)
            parts.append(diagnose(scorer, rollout, rewards))
            sides.append(rewards.sum(1))
        # A tie counts half, so that a constant reward has accuracy .5.
        right += ((sides[0] > sides[1]).float() + 0.5 * (sides[0] == sides[1]).float()).tolist()
    # Thirds are of all stored pairs, so that they are the same for a reward model that declines some.
    own = {pair.id: third for pair, third in zip(stored, thirds(stored), strict=True)}
    by_third = {name: [r for r, q in zip(right, found, strict=True) if own[q.id] == name] for name in THIRDS}
    return {
        "pair_accuracy": sum(right) / len(right) if right else None,
        "pair_accuracy_by_overlap": {name: sum(part) / len(part) for name, part in by_third.items() if part},
        "test_pairs": len(found),
        "chosen": means(chosen) if chosen else {},
        "rejected": means(rejected) if rejected else {},
        **({"declined_pairs": declined} if declined else {}),
    }


def scorable(scorer: NamedRewardModel, pairs: Sequence[Pair]) -> tuple[list[Pair], dict[str, int]]:
    """The pairs that a reward model can score, and why it declines the others (reason -> how many).

    {} for a model that declines nothing.  The prompt alone decides (`MayDecline`).
    """
    model = scorer.model
    if not isinstance(model, MayDecline):
        return list(pairs), {}
    reasons = [model.why_not(pair.prompt) for pair in pairs]
    kept = [pair for pair, reason in zip(pairs, reasons, strict=True) if not reason]
    return kept, dict(Counter(filter(None, reasons)))
