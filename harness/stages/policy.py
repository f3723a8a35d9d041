"""The stages that train the SFT policy, and that sample its own held-out generations: the baseline of every arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.forward.transformers_private import commit_hash
from rlhf_bench.harness.models import policies, tiny_policy
from rlhf_bench.harness.models.lora import merge_adapters, require_peft, wrap_for_trainer
from rlhf_bench.harness.models.placement import Placement, choose_placement, save_placement
from rlhf_bench.harness.nouns import Example, to_row
from rlhf_bench.harness.pipeline.context import Context, StageFigures
from rlhf_bench.harness.settings import SFTSettings
from rlhf_bench.harness.stages.evaluation import Evaluation, baseline_generations
from rlhf_bench.harness.stages.prompts import check_examples, fitting, limited, load_task, writes_nothing
from rlhf_bench.harness.text.chat import choose_prompt_format, encode_answers, prompt_format
from rlhf_bench.harness.text.templates import encode_prompts
from rlhf_bench.harness.training import trl
from rlhf_bench.harness.training.collate import demonstration_row

if TYPE_CHECKING:
    from rlhf_bench.harness.forward.types import CausalLM
    from rlhf_bench.harness.text.types import Row, Tokenizer

Splits = Mapping[str, Sequence[Example]]


def sft(context: Context) -> StageFigures:
    """Train the SFT policy on the task's demonstrations.

    Reads: no stage; the task's examples, and the base model unless the policy is `tiny`.
    Writes: the policy in the standard layout, holding.json (adapters and precision, for every later stage).
    Parameters: task, policy (source, settings), sft, data, seed.

    Raises BenchError for examples that cannot be used, and for prompts that do not fit the policy's context.
    """
    p = context.params
    task = load_task(p)
    # All splits, not the demonstrations alone: the policy's context must hold every prompt of the run.
    splits = limited(task, ("sft", "train", "test"), p["data"]["limit"])
    check_examples(p["task"]["name"], splits, writes_nothing(task))
    settings = SFTSettings(**p["sft"])
    placement = choose_placement(p["policy"]["settings"], context.device)
    model, tokenizer = load_start(p, splits, task.max_response_tokens, context.device, placement)
    # The hub's commit, for the record: a name on the hub can point at other weights later.
    commit = commit_hash(model)
    kept, dropped = fitting(tokenizer, splits, p["data"]["max_prompt_tokens"])
    check_context(model, tokenizer, kept, task.max_response_tokens)
    rows, clipped = demonstrations(tokenizer, kept["sft"], task.max_response_tokens)
    if placement.lora:
        require_peft()
    trained = wrap_for_trainer(model, placement, p["seed"]) if placement.lora else model
    options = trl.TrainOptions(
        scratch=context.scratch,
        steps=settings.steps,
        batch=settings.batch,
        lr=settings.lr,
        warmup=settings.warmup,
        save_every=settings.save_every,
        seed=p["seed"],
        device=context.device,
        bf16=placement.half,
        gradient_checkpointing=placement.gradient_checkpointing,
        progress=context.progress,
        micro_batch=settings.micro_batch,
    )
    figures = trl.train_lm(trained, tokenizer, rows, options)
    policies.save_model(merge_adapters(model) if placement.lora else model, tokenizer, context.work)
    # Beside the weights: every later stage reads from it how to train and compute.
    save_placement(placement, context.work)
    return {
        **figures,
        "sft_examples": len(kept["sft"]),
        "sft_dropped": dropped["sft_dropped"],
        "clipped_demonstrations": clipped,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "dtype": placement.dtype,
        "template": prompt_format(tokenizer).template,
        **({"thinking": "apart"} if prompt_format(tokenizer).apart else {}),
        **({"commit": commit} if commit else {}),
    }


def load_start(
    p: Row, splits: Splits, max_response: int, device: str, placement: Placement
) -> tuple[CausalLM, Tokenizer]:
    """The model and tokenizer that SFT starts from: those of `policy.source`, or new ones for the tiny policy.

    `p` are the stage's parameters.  Under adapters the weights of `policy.source` are frozen.  Raises BenchError where
    the model or its tokenizer cannot be loaded or made.
    """
    source, settings = p["policy"]["source"], p["policy"]["settings"]
    if source != tiny_policy.TINY:
        tokenizer = policies.load_tokenizer(source, settings["template"], settings["system"], settings["thinking"])
        if placement.lora:
            return policies.load_frozen(source, tokenizer, device, placement), tokenizer
        return policies.load_causal(source, tokenizer, device), tokenizer
    demos = splits["sft"]
    texts = [e.prompt for e in demos], [e.completion for e in demos]
    tokenizer = tiny_policy.tiny_tokenizer(*texts, settings["vocabulary"])
    # A tokenizer keeps the form of prompts with it; a new one has the plain form unless the settings name another.
    if settings["system"] or settings["template"] == "chat" or settings["thinking"] == "apart":
        choose_prompt_format(tokenizer, settings["template"], settings["system"], thinking=settings["thinking"])
    kept, _ = fitting(tokenizer, splits, p["data"]["max_prompt_tokens"])
    context_length = max(prompt_lengths(tokenizer, kept)) + 2 * max_response + 32  # a response and its correction
    model = tiny_policy.tiny_model(
        tokenizer, context_length, settings["layers"], settings["width"], settings["heads"], seed=p["seed"]
    )
    # Moved last: its weights were drawn on the CPU, so they are the same on every device.
    return model.to(device), tokenizer


def prompt_lengths(tokenizer: Tokenizer, splits: Splits) -> list[int]:
    """Numbers of tokens of every prompt in the policy's form, split by split."""
    return [len(row) for split in splits.values() for row in encode_prompts(tokenizer, [e.prompt for e in split])]


def check_context(model: CausalLM, tokenizer: Tokenizer, splits: Splits, max_response: int) -> None:
    """Raises BenchError where a prompt and the longest response do not fit the policy's context.

    Lengths are in tokens.  A model whose configuration names no context passes.
    """
    # Found now: an error in the middle of PPO would cost everything trained before it.
    context, lengths = policies.context_length(model), prompt_lengths(tokenizer, splits)
    if context is not None and max(lengths) + max_response > context:
        over = sum(length + max_response > context for length in lengths)
        raise BenchError(
            f"{over} of {len(lengths)} prompts do not fit the policy's context of {context} tokens "
            f"(the longest has {max(lengths)}, a response up to {max_response}).",
            f"Drop them with --set data.max_prompt_tokens={context - max_response}.",
        )


def demonstrations(
    tokenizer: Tokenizer, examples: Sequence[Example], longest: int
) -> tuple[list[dict[str, list[int]]], int]:
    """Rows of SFT with completions cut to `longest` tokens, end-of-sequence included; and how many were cut.

    A row has `input_ids` and `labels`; the loss is on the completion alone (`demonstration_row`).
    """
    prompts = encode_prompts(tokenizer, [e.prompt for e in examples])
    completions = encode_answers(tokenizer, [e.completion for e in examples])
    rows, clipped = [], 0
    for prompt, completion in zip(prompts, completions, strict=True):
        row = demonstration_row(prompt, completion[: longest - 1], tokenizer.eos_token_id)
        if len(completion) > longest - 1:
            # Without its end: end-of-sequence in the middle of a sentence would teach truncated responses.
            row, clipped = {name: ids[:-1] for name, ids in row.items()}, clipped + 1
        rows.append(row)
    return rows, clipped


def baseline(context: Context) -> StageFigures:
    """Let the SFT policy answer the held-out prompts.

    Reads: sft (the policy), prompts (examples.test.jsonl).
    Writes: generations.jsonl (iteration 0, sampled, and greedy where `eval.greedy`).
    Parameters: eval, temperature, max_response, seed.
    """
    model, tokenizer = policies.load_sampler(context.inputs["sft"], context.device)
    evaluation = Evaluation.of(context, context.params["temperature"])
    generations = baseline_generations(model, tokenizer, evaluation, context.progress)
    store.write_rows(context.work / "generations.jsonl", map(to_row, generations))
    return {"generations": len(generations)}
