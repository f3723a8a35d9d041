"""Stages of what needs no reward model: DPO, or more SFT, on the very pairs that reward models learn from.

The cheap ways: a report that shows them beside PPO says whether a reward model was worth its trouble.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.models import policies
from rlhf_bench.harness.models.lora import for_trainer, merge, require_peft
from rlhf_bench.harness.models.placement import read_holding
from rlhf_bench.harness.nouns import Pair
from rlhf_bench.harness.pipeline.context import Context
from rlhf_bench.harness.settings import EvalSettings
from rlhf_bench.harness.stages.evaluation import decodings
from rlhf_bench.harness.stages.pairs import read_pairs
from rlhf_bench.harness.stages.ppo import write_generations
from rlhf_bench.harness.stages.reward import scorer_of
from rlhf_bench.harness.text.templates import encode, encode_prompts
from rlhf_bench.harness.training import trl

METHODS = ("dpo", "sft-chosen")


def direct(context: Context) -> Mapping[str, Any]:
    """policy/ in the standard layout, trained on the pairs by `params["method"]`.  Resumes from `scratch`.

    Weights are held as SFT held them: all of them, or adapters on a frozen base, merged in the end.
    """
    p, sft = context.params, context.inputs["sft"]
    if p["method"] not in METHODS:
        raise BenchError(f"Unknown method {p['method']!r}.", f"Known: {', '.join(METHODS)}.")
    holding, tokenizer = read_holding(sft), policies.load_tokenizer(sft)
    if holding.lora:
        require_peft()
    model = (policies.load_frozen if holding.lora else _whole)(sft, tokenizer, context.device, holding)
    trained = for_trainer(model, holding, p["seed"]) if holding.lora else model
    pairs = read_pairs(context.inputs["pairs"], "train")
    settings = dict(p["settings"])
    options: dict[str, Any] = {
        "steps": max(1, settings["epochs"] * len(pairs) // settings["batch"]),
        **{name: settings[name] for name in ("batch", "lr", "warmup", "save_every")},
        "scratch": context.scratch,
        "seed": p["seed"],
        "device": context.device,
        "bf16": holding.half,
        "gradient_checkpointing": holding.gradient_checkpointing,
    }
    if p["method"] == "dpo":
        reference = None if holding.lora else _whole(sft, tokenizer, context.device, holding)
        rows, options = preference_rows(tokenizer, pairs), {**options, "beta": settings["beta"]}
        figures = trl.train_dpo(trained, reference, tokenizer, rows, context.progress, **options)
    else:
        figures = trl.train_lm(trained, tokenizer, chosen_rows(tokenizer, pairs), context.progress, **options)
    policies.save_model(merge(model) if holding.lora else model, tokenizer, context.work / "policy")
    return {**figures, "pairs": len(pairs)}


def _whole(sft: Any, tokenizer: Any, device: str, _holding: Any) -> Any:
    return policies.load_causal(sft, tokenizer, device)


def preference_rows(tokenizer: Any, pairs: Sequence[Pair]) -> list[dict[str, list[int]]]:
    """prompt_ids, chosen_ids and rejected_ids of every pair, in the policy's own form of a prompt."""
    end, prompts = tokenizer.eos_token_id, encode_prompts(tokenizer, [pair.prompt for pair in pairs])
    sides = [encode(tokenizer, texts) for texts in ([q.chosen for q in pairs], [q.rejected or "" for q in pairs])]
    return [
        {"prompt_ids": prompt, "chosen_ids": [*chosen, end], "rejected_ids": [*rejected, end]}
        for prompt, chosen, rejected in zip(prompts, *sides, strict=True)
    ]


def chosen_rows(tokenizer: Any, pairs: Sequence[Pair]) -> list[dict[str, list[int]]]:
    """Every chosen response as a demonstration."""
    end = tokenizer.eos_token_id
    return [
        trl.demonstration_row(row["prompt_ids"], row["chosen_ids"][:-1], end)
        for row in preference_rows(tokenizer, pairs)
    ]


def written(context: Context) -> Mapping[str, Any]:
    """generations.jsonl: what the trained policy writes to the held-out prompts, sampled and greedy, with the rewards
    that the arm's reward model gives it (it had no part in the training)."""
    p, sft = context.params, context.inputs["sft"]
    policy, tokenizer = policies.load_sampler(context.inputs["direct"] / "policy", context.device, sft)
    reference, _ = policies.load_sampler(sft, context.device)
    models = (policy, reference, tokenizer, scorer_of(context))
    ways = decodings(EvalSettings(**p["eval"]))
    path = context.work / "generations.jsonl"
    return {"generations": write_generations(path, context, models, 1, ways, detailed=True)}
