"""Stages of what needs no reward model: DPO, or more SFT, on the pairs that reward models learn from.

They are baselines of PPO: a report that shows them beside it says what a reward model adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.models import policies
from rlhf_bench.harness.models.lora import merge_adapters, require_peft, wrap_for_trainer
from rlhf_bench.harness.models.placement import read_placement
from rlhf_bench.harness.nouns import Pair
from rlhf_bench.harness.pipeline.context import Context, StageFigures
from rlhf_bench.harness.stages.evaluation import Evaluation, decodings, write_generations
from rlhf_bench.harness.stages.pairs import read_pairs
from rlhf_bench.harness.stages.ppo import trained_policy
from rlhf_bench.harness.text.chat import encode_answers
from rlhf_bench.harness.text.templates import encode_prompts
from rlhf_bench.harness.training import trl
from rlhf_bench.harness.training.collate import demonstration_row

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import Tokenizer

METHODS = ("dpo", "sft-chosen")  # names of optimisers, see plan/arms.py


def direct(context: Context) -> StageFigures:
    """Train the SFT policy on the pairs, without a reward model.

    Reads: sft (the policy), pairs (pairs.train.jsonl).
    Writes: policy/ in the standard layout.
    Parameters: method (`METHODS`), settings (the group dpo or sft_chosen), seed.

    All weights are trained, or adapters that are merged in the end, as in SFT.  Resumes from `scratch`.
    """
    p, sft = context.params, context.inputs["sft"]
    if p["method"] not in METHODS:
        raise BenchError(f"Unknown method {p['method']!r}.", f"Known: {', '.join(METHODS)}.")
    placement, tokenizer = read_placement(sft), policies.load_tokenizer(sft)
    if placement.lora:
        require_peft()
        model = policies.load_frozen(sft, tokenizer, context.device, placement)
        # peft's wrapper puts the adapters into `model` itself, where they are trained and at the end merged.
        trained = wrap_for_trainer(model, placement, p["seed"])
    else:
        model = trained = policies.load_causal(sft, tokenizer, context.device)
    pairs = read_pairs(context.inputs["pairs"], "train")
    settings = p["settings"]
    options = trl.TrainOptions(
        scratch=context.scratch,
        # Whole batches alone; at least one step where a task has fewer pairs than a batch.
        steps=max(1, settings["epochs"] * len(pairs) // settings["batch"]),
        batch=settings["batch"],
        lr=settings["lr"],
        warmup=settings["warmup"],
        save_every=settings["save_every"],
        seed=p["seed"],
        device=context.device,
        bf16=placement.half,
        gradient_checkpointing=placement.gradient_checkpointing,
        progress=context.progress,
        micro_batch=settings.get("micro_batch", 0),
    )
    if p["method"] == "dpo":
        # Under adapters TRL computes the reference by the same weights with a copy of the fresh adapter.
        reference = None if placement.lora else policies.load_causal(sft, tokenizer, context.device)
        rows = preference_rows(tokenizer, pairs)
        figures = trl.train_dpo(trained, reference, tokenizer, rows, options, settings["beta"])
    else:
        figures = trl.train_lm(trained, tokenizer, chosen_rows(tokenizer, pairs), options)
    policies.save_model(merge_adapters(model) if placement.lora else model, tokenizer, context.work / "policy")
    return {**figures, "pairs": len(pairs)}


def preference_rows(tokenizer: Tokenizer, pairs: Sequence[Pair]) -> list[dict[str, list[int]]]:
    """prompt_ids, chosen_ids and rejected_ids of every pair, prompts in the policy's own form.

    Responses end with end-of-sequence; a `rejected` that is None counts as the empty response.
    """
    end, prompts = tokenizer.eos_token_id, encode_prompts(tokenizer, [pair.prompt for pair in pairs])
    sides = [
        encode_answers(tokenizer, texts) for texts in ([q.chosen for q in pairs], [q.rejected or "" for q in pairs])
    ]
    return [
        {"prompt_ids": prompt, "chosen_ids": [*chosen, end], "rejected_ids": [*rejected, end]}
        for prompt, chosen, rejected in zip(prompts, *sides, strict=True)
    ]


def chosen_rows(tokenizer: Tokenizer, pairs: Sequence[Pair]) -> list[dict[str, list[int]]]:
    """Every chosen response as a demonstration: rows of `demonstration_row`, in the order of the pairs."""
    return [
        # end-of-sequence is an argument of its own
        demonstration_row(row["prompt_ids"], row["chosen_ids"][:-1], row["chosen_ids"][-1])
        for row in preference_rows(tokenizer, pairs)
    ]


def written(context: Context) -> StageFigures:
    """Let the policy of `direct` answer the held-out prompts.

    Reads: sft (the reference), direct (policy/), prompts (examples.test.jsonl), reward (where the reward model is
        trained), train_prompts (where the reward model reads examples).
    Writes: generations.jsonl (sampled and greedy, with token rewards of a model that had no part in the training).
    Parameters: ppo (temperature), eval, rm, max_response, seed.
    """
    evaluated = trained_policy(context, context.inputs["direct"] / "policy")
    evaluation = Evaluation.of(context, context.params["ppo"]["temperature"])
    path, ways = context.work / "generations.jsonl", decodings(evaluation.settings)
    # Iteration 1: there is one policy, after its training, and 0 is the baseline's.
    return {"generations": write_generations(path, evaluated, evaluation, 1, ways, detailed=True)}
