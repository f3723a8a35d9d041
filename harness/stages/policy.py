"""Stages that make the SFT policy and its own held-out generations, the baseline of everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.models import policies, tiny_policy
from rlhf_bench.harness.models.lora import for_trainer, merge, require_peft
from rlhf_bench.harness.models.placement import Holding, choose_holding, keep_holding
from rlhf_bench.harness.nouns import Example, to_row
from rlhf_bench.harness.pipeline.context import Context
from rlhf_bench.harness.settings import EvalSettings, SFTSettings
from rlhf_bench.harness.stages.evaluation import baseline_generations
from rlhf_bench.harness.stages.prompts import check_examples, fitting, held_out, limited, load_task
from rlhf_bench.harness.text.chat import choose_form, form_of
from rlhf_bench.harness.text.templates import encode, encode_prompts
from rlhf_bench.harness.training import trl


def sft(context: Context) -> Mapping[str, Any]:
    """The SFT policy, in the standard layout."""
    p = context.params
    task = load_task(p)
    splits = limited(task, ("sft", "train", "test"), p["data"]["limit"])
    check_examples(p["task"]["name"], splits)
    settings = SFTSettings(**p["sft"])
    holding = choose_holding(p["policy"]["settings"], context.device)
    model, tokenizer = _start(p, splits, task.max_response_tokens, context.device, holding)
    commit = getattr(model.config, "_commit_hash", None)
    kept, dropped = fitting(tokenizer, splits, p["data"]["max_prompt_tokens"])
    _check_context(model, tokenizer, kept, task.max_response_tokens)
    completions = _clipped(tokenizer, kept["sft"], task.max_response_tokens)
    rows = _demonstrations(tokenizer, kept["sft"], completions)
    if holding.lora:
        require_peft()
    trained = for_trainer(model, holding, p["seed"]) if holding.lora else model
    figures = trl.train_lm(
        trained,
        tokenizer,
        rows,
        context.progress,
        scratch=context.scratch,
        steps=settings.steps,
        batch=settings.batch,
        lr=settings.lr,
        warmup=settings.warmup,
        save_every=settings.save_every,
        seed=p["seed"],
        device=context.device,
        bf16=holding.half,
        gradient_checkpointing=holding.gradient_checkpointing,
    )
    policies.save_model(merge(model) if holding.lora else model, tokenizer, context.work)
    keep_holding(holding, context.work)
    clipped = sum(row["clipped"] for row in completions)
    return {
        **figures,
        "sft_examples": len(kept["sft"]),
        "sft_dropped": dropped["sft_dropped"],
        "clipped_demonstrations": clipped,
        "parameters": _size(model),
        "dtype": holding.dtype,
        "template": form_of(tokenizer).template,
        **({"commit": commit} if commit else {}),
    }


def _start(
    p: Mapping[str, Any], splits: Mapping[str, Sequence[Example]], max_response: int, device: str, holding: Holding
) -> tuple[Any, Any]:
    """The model and tokenizer that SFT starts from."""
    if p["policy"]["source"] != tiny_policy.TINY:
        form = p["policy"]["settings"]
        tokenizer = policies.load_tokenizer(p["policy"]["source"], form["template"], form["system"])
        if holding.lora:
            return policies.load_frozen(p["policy"]["source"], tokenizer, device, holding), tokenizer
        return policies.load_causal(p["policy"]["source"], tokenizer, device), tokenizer
    demos, size = splits["sft"], p["policy"]["settings"]
    tokenizer = tiny_policy.tiny_tokenizer([e.prompt for e in demos], [e.completion for e in demos], size["vocabulary"])
    if size["system"] or size["template"] == "chat":
        choose_form(tokenizer, size["template"], size["system"])
    kept, _ = fitting(tokenizer, splits, p["data"]["max_prompt_tokens"])
    longest = max(len(row) for split in kept.values() for row in encode_prompts(tokenizer, [e.prompt for e in split]))
    context_length = longest + 2 * max_response + 32  # room for a response and its correction, made to measure
    model = tiny_policy.tiny_model(
        tokenizer, context_length, size["layers"], size["width"], size["heads"], seed=p["seed"]
    )
    return model.to(device), tokenizer


def _check_context(model: Any, tokenizer: Any, kept: Mapping[str, Sequence[Example]], max_response: int) -> None:
    context = policies.context_length(model)
    lengths = [len(row) for split in kept.values() for row in encode_prompts(tokenizer, [e.prompt for e in split])]
    if context is not None and max(lengths) + max_response > context:
        over = sum(length + max_response > context for length in lengths)
        raise BenchError(
            f"{over} of {len(lengths)} prompts do not fit the policy's context of {context} tokens "
            f"(the longest has {max(lengths)}, a response up to {max_response}).",
            f"Drop them with --set data.max_prompt_tokens={context - max_response}.",
        )


def _demonstrations(
    tokenizer: Any, examples: Sequence[Example], completions: Sequence[Mapping[str, Any]]
) -> list[dict[str, list[int]]]:
    prompts = encode_prompts(tokenizer, [e.prompt for e in examples])
    rows = []
    for prompt, row in zip(prompts, completions, strict=True):
        made = trl.demonstration_row(prompt, row["ids"], tokenizer.eos_token_id)
        if row["clipped"]:  # teaching an end in mid-sentence would teach truncated text
            made = {name: ids[:-1] for name, ids in made.items()}
        rows.append(made)
    return rows


def _clipped(tokenizer: Any, examples: Sequence[Example], longest: int) -> list[dict[str, Any]]:
    """Completions cut to the longest response; a cut one has no end-of-sequence token."""
    rows = encode(tokenizer, [e.completion for e in examples])
    return [{"ids": row[: longest - 1], "clipped": len(row) > longest - 1} for row in rows]


def _size(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def baseline(context: Context) -> Mapping[str, Any]:
    """generations.jsonl of the SFT policy on the held-out prompts, sampled and greedy."""
    p = context.params
    settings = EvalSettings(**p["eval"])
    model, tokenizer = policies.load_sampler(context.inputs["sft"], context.device)
    examples = held_out(context.inputs["prompts"], settings)
    generations = baseline_generations(
        model, tokenizer, examples, p["max_response"], settings, p["temperature"], p["seed"], context.progress
    )
    store.write_rows(context.work / "generations.jsonl", map(to_row, generations))
    return {"generations": len(generations)}
