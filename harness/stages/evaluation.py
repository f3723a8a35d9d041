"""Held-out generations: what a policy writes to prompts it was never trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlhf_bench.harness import store
from rlhf_bench.harness.nouns import Decoding, Example, Generation, Rollout
from rlhf_bench.harness.ppo.scoring import NamedRewardModel
from rlhf_bench.harness.sampling.rollout import logprobs, make_generator, map_batches, rows_of, sample
from rlhf_bench.harness.seams import Progress, no_progress
from rlhf_bench.harness.settings import EvalSettings

AT_ONCE = 32
"""Rows of which logits are computed at once; `eval.batch` is for generation, which keeps those of one token alone."""


def rollouts(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    max_new: int,
    settings: EvalSettings,
    decoding: Decoding,
    temperature: float,
    seed_of: Callable[[int], Any],
    progress: Progress = no_progress,
) -> list[tuple[Sequence[Example], Rollout]]:
    """Batches of responses; `seed_of(batch)` gives the generator of each when sampling."""
    found = []
    for number, start in enumerate(range(0, len(examples), settings.batch)):
        batch = examples[start : start + settings.batch]
        generator = seed_of(number) if decoding == "sample" else None
        prompts = [e.prompt for e in batch]
        found.append((batch, sample(model, tokenizer, prompts, max_new, generator=generator, temperature=temperature)))
        progress(min(start + settings.batch, len(examples)), len(examples))
    return found


def to_generations(batch: Sequence[Example], rollout: Rollout, iteration: int, decoding: Decoding) -> list[Generation]:
    """One Generation per response; `tokens` does not count end-of-sequence."""
    lengths = (rollout.mask.sum(1) - rollout.finished.long()).tolist()
    return [
        Generation(example.id, iteration, decoding, example.prompt, text, length, finished)
        for example, text, length, finished in zip(
            batch, rollout.responses, lengths, rollout.finished.tolist(), strict=True
        )
    ]


def baseline_generations(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    max_new: int,
    settings: EvalSettings,
    temperature: float,
    seed: int,
    progress: Progress = no_progress,
) -> list[Generation]:
    """The SFT policy's responses: iteration 0, sampled, and greedy where settings ask for it."""
    generations = []
    for decoding in decodings(settings):
        batches = rollouts(
            model,
            tokenizer,
            examples,
            max_new,
            settings,
            decoding,
            temperature,
            lambda number: make_generator("baseline", seed, number),
            progress,
        )
        for batch, rollout in batches:
            rows = to_generations(batch, rollout, 0, decoding)
            generations += [replace(row, kl=0.0) if decoding == "sample" else row for row in rows]
    return generations


def decodings(settings: EvalSettings) -> list[Decoding]:
    """How the ends of a run are decoded."""
    return ["sample", "greedy"] if settings.greedy else ["sample"]


def policy_generations(
    policy: Any,
    reference: Any,
    tokenizer: Any,
    reward_model: NamedRewardModel,
    examples: Sequence[Example],
    max_new: int,
    settings: EvalSettings,
    temperature: float,
    seed: int,
    iteration: int,
    decoding: Decoding,
    detailed: bool,
) -> list[Generation]:
    """A checkpoint's responses with KL to the SFT policy and the reward model's sum; `detailed` keeps token rewards."""
    import torch

    generations = []
    batches = rollouts(
        policy,
        tokenizer,
        examples,
        max_new,
        settings,
        decoding,
        temperature,
        lambda number: make_generator("evaluation", seed, iteration, number),
    )
    for number, (batch, rollout) in enumerate(batches):
        rewards = reward_model.rewards(rollout)
        wanted = settings.corrections - number * settings.batch if detailed and decoding == "sample" else 0
        written = _corrections(reward_model, rollout, wanted)
        assert rollout.logprobs is not None
        with torch.no_grad():
            drift = rollout.logprobs - map_batches(
                lambda part: logprobs(reference, part, temperature), rollout, AT_ONCE
            )
        sums, kls = rewards.sum(1).tolist(), drift.sum(1).tolist()
        for row, generation in enumerate(to_generations(batch, rollout, iteration, decoding)):
            length = int(rollout.mask[row].sum())
            generations.append(
                replace(
                    generation,
                    kl=kls[row] if decoding == "sample" else None,
                    reward=sums[row],
                    spans=rollout.spans[row] if detailed else None,
                    token_rewards=tuple(round(x, 5) for x in rewards[row, :length].tolist()) if detailed else None,
                    correction=written[row],
                )
            )
    return generations


def _corrections(reward_model: NamedRewardModel, rollout: Rollout, wanted: int) -> list[str | None]:
    """The reward model's corrections of the first `wanted` responses, None for the others."""
    import torch

    count = min(max(0, wanted), len(rollout.prompts))
    if not count:
        return [None] * len(rollout.prompts)
    ids, batch = torch.arange(count, device=rollout.mask.device), reward_model.batch
    parts = [ids[start : start + batch] for start in range(0, count, batch)]
    found = [text for part in parts for text in reward_model.corrections(rows_of(rollout, part))]
    return [*found, *[None] * (len(rollout.prompts) - count)]


def read_generations(path: Path) -> list[Generation]:
    """Generations that a stage stored."""
    generations = []
    for row in store.read_rows(path):
        row["spans"] = tuple(tuple(span) for span in row["spans"]) if "spans" in row else None
        row["token_rewards"] = tuple(row["token_rewards"]) if "token_rewards" in row else None
        row.setdefault("response", "")  # to_row leaves empty fields out
        generations.append(Generation(**row))
    return generations
