"""Held-out generations: what a policy writes to prompts it was never trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_bench.harness import store
from rlhf_bench.harness.models.micro_batch import limit_of
from rlhf_bench.harness.nouns import Decoding, Example, Generation, Rollout, to_row, with_turns
from rlhf_bench.harness.pipeline.context import Context
from rlhf_bench.harness.ppo.scoring import NamedRewardModel
from rlhf_bench.harness.sampling.rollout import kl_at_positions, logprobs, make_generator, map_batches, rows_of, sample
from rlhf_bench.harness.seams import Progress, no_progress
from rlhf_bench.harness.stages.prompts import held_out

if TYPE_CHECKING:
    import torch

    from rlhf_bench.harness.forward.types import CausalLM
    from rlhf_bench.harness.settings import EvalSettings
    from rlhf_bench.harness.text.types import Tokenizer

LOGIT_ROWS = 32
"""Rows of which logits are computed at once; `eval.batch` is for generation, which keeps those of one token alone."""


@dataclass(frozen=True)
class Evaluation:
    """The held-out prompts of a stage, and how responses to them are sampled.

    `temperature` is `eval.temperature`, or `ppo.temperature` where that is 0: responses are sampled at it, from the
    nucleus of `top_p`, and KL is computed at it.
    """

    examples: Sequence[Example]
    max_new: int  # tokens of the longest response
    settings: EvalSettings
    temperature: float
    seed: int  # of the run

    @classmethod
    def of(cls, context: Context, temperature: float) -> Evaluation:
        """That of a stage with the input `prompts` and the parameters `eval`, `max_response` and `seed`.

        `temperature` is that of rollouts, which `eval.temperature` goes before.
        Raises BenchError where the prompts' file is missing or damaged.
        """
        from rlhf_bench.harness.settings import EvalSettings  # here: reports import this module, without pydantic

        p, settings = context.params, EvalSettings(**context.params["eval"])
        examples = held_out(context.inputs["prompts"], settings)
        return cls(examples, p["max_response"], settings, settings.temperature or temperature, p["seed"])

    @property
    def top_p(self) -> float:
        """`eval.top_p`."""
        return self.settings.top_p


@dataclass(frozen=True)
class EvaluatedPolicy:
    """A trained policy with what it is compared with: the SFT policy, for KL, and the arm's reward model.

    Both policies are on one device; `tokenizer` is that of both.
    """

    policy: CausalLM
    reference: CausalLM
    tokenizer: Tokenizer
    reward_model: NamedRewardModel


def decodings(settings: EvalSettings) -> list[Decoding]:
    """How the policies of a run are decoded."""
    return ["sample", "greedy"] if settings.greedy else ["sample"]


def sample_batches(
    model: CausalLM,
    tokenizer: Tokenizer,
    evaluation: Evaluation,
    decoding: Decoding,
    generator_of: Callable[[int], torch.Generator],
    progress: Progress = no_progress,
) -> list[tuple[Sequence[Example], Rollout]]:
    """Responses to the held-out prompts in batches of `eval.batch`, each beside its examples.

    `generator_of(batch)` gives the random numbers of a batch when sampling.  `progress` counts prompts.
    """
    examples, size = evaluation.examples, evaluation.settings.batch
    if decoding == "greedy":  # all responses to a prompt would be the same one
        examples = [example for example in examples if example.sample in (None, 1)]
    found = []
    for number, start in enumerate(range(0, len(examples), size)):
        batch = examples[start : start + size]
        rollout = sample(
            model,
            tokenizer,
            [e.prompt for e in batch],
            evaluation.max_new,
            generator=generator_of(number) if decoding == "sample" else None,  # None: greedy
            temperature=evaluation.temperature,
            top_p=evaluation.top_p,
        )
        found.append((batch, rollout))
        progress(min(start + size, len(examples)), len(examples))
    return found


def to_generations(batch: Sequence[Example], rollout: Rollout, iteration: int, decoding: Decoding) -> list[Generation]:
    """One Generation per response of a batch, in order; `tokens` does not count end-of-sequence, nor thinking.

    KL and reward are left for the caller, which has the models.
    """
    whole = (rollout.mask.sum(1) - rollout.finished.long()).tolist()  # a truncated response has no such token
    lengths = [count - thought for count, thought in zip(whole, rollout.thoughts or (0,) * len(whole), strict=True)]
    rows = [
        Generation(example.id, iteration, decoding, example.prompt, text, length, finished, sample=example.sample)
        for example, text, length, finished in zip(
            batch, rollout.responses, lengths, rollout.finished.tolist(), strict=True
        )
    ]
    if decoding == "greedy" or rollout.logprobs is None:
        return rows
    sums, drawn = rollout.logprobs.sum(1).tolist(), rollout.mask.sum(1).tolist()
    return [replace(row, logprob=x, drawn=n) for row, x, n in zip(rows, sums, drawn, strict=True)]


def baseline_generations(
    model: CausalLM, tokenizer: Tokenizer, evaluation: Evaluation, progress: Progress = no_progress
) -> list[Generation]:
    """The SFT policy's responses: iteration 0, sampled, and greedy where `eval.greedy`.

    They have no reward: the baseline is every arm's, and the stage `proxy` adds each arm's own.
    """
    generations = []
    for decoding in decodings(evaluation.settings):
        batches = sample_batches(
            model,
            tokenizer,
            evaluation,
            decoding,
            # pool.py repeats these names: the first draw of its pool is the baseline's sample
            lambda number: make_generator("baseline", evaluation.seed, number),
            progress,
        )
        for batch, rollout in batches:
            rows = to_generations(batch, rollout, 0, decoding)
            # The SFT policy is the reference of every KL, so its own is 0.
            generations += [replace(row, kl=0.0) if decoding == "sample" else row for row in rows]
    return generations


def policy_generations(
    evaluated: EvaluatedPolicy, evaluation: Evaluation, iteration: int, decoding: Decoding, detailed: bool
) -> list[Generation]:
    """A checkpoint's responses with KL to the SFT policy in nats and the reward model's unscaled sum.

    `detailed` keeps token rewards, and the reward model's corrections of the first `eval.corrections` samples.
    """
    import torch

    reference, reward_model = evaluated.reference, evaluated.reward_model
    settings, temperature = evaluation.settings, evaluation.temperature
    generations = []
    batches = sample_batches(
        evaluated.policy,
        evaluated.tokenizer,
        evaluation,
        decoding,
        lambda number: make_generator("evaluation", evaluation.seed, iteration, number),
    )
    for number, (batch, rollout) in enumerate(batches):
        rewards = reward_model.rewards(rollout)
        # Corrections are written token by token, which takes as long as sampling: of the first few responses alone.
        wanted = settings.corrections - number * settings.batch if detailed and decoding == "sample" else 0
        corrections = first_corrections(reward_model, rollout, wanted)
        sums: list[float] = rewards.sum(1).tolist()
        kls: Sequence[float | None] = [None] * len(batch)
        if decoding == "sample":  # of greedy responses nothing estimates the KL
            with torch.no_grad():
                kls = kl_terms(evaluated.policy, reference, rollout, (temperature, temperature), evaluation.top_p)
        for row, generation in enumerate(to_generations(batch, rollout, iteration, decoding)):
            length = int(rollout.mask[row].sum())
            generations.append(
                replace(
                    generation,
                    kl=kls[row],
                    reward=sums[row],
                    spans=rollout.spans[row] if detailed else None,
                    # Five decimals: for a reader's eyes, not for computing.
                    token_rewards=tuple(round(x, 5) for x in rewards[row, :length].tolist()) if detailed else None,
                    correction=corrections[row],
                )
            )
    return generations


def kl_terms(
    policy: CausalLM, reference: CausalLM, rollout: Rollout, temperatures: tuple[float, float], top_p: float
) -> list[float]:
    """For each sampled response an estimate of KL(policy || reference) in nats, at a temperature for each of the two.

    From samples of all tokens: the log-ratios of the sampled ones, log pi - log pi_ref, whose mean is the KL.  From
    samples of a nucleus that mean is no KL, and the KL of the nuclei is infinite where one has a token that the other
    lacks: there it is the KL of the two whole distributions at every position, along the sampled texts.
    """
    doing = "comparing with the reference"
    limits = LOGIT_ROWS, 0, limit_of(reference, doing), doing
    if top_p < 1:
        terms = map_batches(lambda part: kl_at_positions(policy, reference, part, temperatures), rollout, *limits)
    else:
        assert rollout.logprobs is not None
        known = map_batches(lambda part: logprobs(reference, part, temperatures[1]), rollout, *limits)
        terms = rollout.logprobs - known  # [B, T], of the sampled tokens
    found: list[float] = terms.sum(1).tolist()
    return found


def first_corrections(reward_model: NamedRewardModel, rollout: Rollout, wanted: int) -> list[str | None]:
    """The reward model's corrections of the first `wanted` responses, None for the others; one entry per response.

    `wanted` may be negative, or above the number of responses.  Raises BenchError where the reward model fails.
    """
    import torch

    count = min(max(0, wanted), len(rollout.prompts))
    ids, batch = torch.arange(count, device=rollout.mask.device), reward_model.batch
    parts = [ids[start : start + batch] for start in range(0, count, batch)]
    found = [text for part in parts for text in reward_model.corrections(rows_of(rollout, part))]
    return [*found, *[None] * (len(rollout.prompts) - count)]


def write_generations(
    path: Path,
    evaluated: EvaluatedPolicy,
    evaluation: Evaluation,
    iteration: int,
    ways: Sequence[Decoding],
    detailed: bool,
) -> int:
    """Write what the policy answers to the held-out prompts, decoded in each of `ways`; returns the number of rows.

    `iteration` is that of the checkpoint, `detailed` as for `policy_generations`.  The file appears when it is whole.
    """
    rows = [
        to_row(generation)
        for decoding in ways
        for generation in policy_generations(evaluated, evaluation, iteration, decoding, detailed)
    ]
    store.write_rows(path, rows)
    return len(rows)


def read_generations(path: Path) -> list[Generation]:
    """The rows that a stage wrote to a generations.jsonl.

    Raises BenchError for a file that is missing or damaged.
    """
    generations = []
    # JSON has lists where the record has tuples, and `to_row` has left empty fields out.
    for row in store.read_rows(path):
        row["spans"] = tuple(tuple(span) for span in row["spans"]) if "spans" in row else None
        row["token_rewards"] = tuple(row["token_rewards"]) if "token_rewards" in row else None
        row.setdefault("response", "")  # the one of them without a default
        generations.append(Generation(**with_turns(row)))
    return generations
