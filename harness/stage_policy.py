"""Stages that make the SFT policy and its own held-out generations, the baseline of everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_bench.harness import plugins, policies, store, training
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.evaluation import baseline_generations
from rlhf_bench.harness.nouns import Example, to_row
from rlhf_bench.harness.seams import Task
from rlhf_bench.harness.settings import EvalSettings, SFTSettings
from rlhf_bench.harness.stage import Context
from rlhf_bench.harness.text import encode, encode_prompts


def load_task(params: Mapping[str, Any]) -> Task:
    """The task that a stage's `params` name; raises BenchError when the object is no Task."""
    spec = params["task"]
    task = plugins.build("task", spec["name"], spec["settings"])
    if not isinstance(task, Task):
        raise BenchError(
            f"The task {spec['name']!r} lacks members of the Task seam.", f"bench check task {spec['name']}"
        )
    return task


def sft(context: Context) -> Mapping[str, Any]:
    """The SFT policy (standard layout), and the prompts of the run: examples.train.jsonl and examples.test.jsonl.

    Prompts are filtered once, here, so that every arm sees the same ones.
    """
    p = context.params
    task = load_task(p)
    splits = {split: _limited(task.examples(split), p["data"]["limit"]) for split in ("sft", "train", "test")}
    _check_examples(p["task"]["name"], splits)
    settings = SFTSettings(**p["sft"])
    model, tokenizer = _start(p, splits, task.max_response_tokens, context.device)
    kept, dropped = _fitting(tokenizer, splits, p["data"]["max_prompt_tokens"])
    _check_context(model, tokenizer, kept, task.max_response_tokens)
    completions = _clipped(tokenizer, kept["sft"], task.max_response_tokens)
    rows = _demonstrations(tokenizer, kept["sft"], completions)
    figures = training.train_lm(
        model,
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
    )
    policies.save_model(model, tokenizer, context.work)
    for split in ("train", "test"):
        store.write_rows(context.work / f"examples.{split}.jsonl", map(to_row, kept[split]))
    counts = {f"{split}_examples": len(kept[split]) for split in kept}
    clipped = sum(row["clipped"] for row in completions)
    return {**figures, **counts, **dropped, "clipped_demonstrations": clipped, "parameters": _size(model)}


def _limited(examples: Sequence[Example], limit: int) -> list[Example]:
    return list(examples[:limit] if limit else examples)


def _check_examples(name: str, splits: Mapping[str, Sequence[Example]]) -> None:
    for split, examples in splits.items():
        if not examples:
            raise BenchError(f"The task {name!r} has no examples in split {split!r}.")
        empty = [e.id for e in examples if not e.prompt.strip() or (split == "sft" and not e.completion.strip())]
        if empty:
            raise BenchError(
                f"Split {split!r} of {name!r} has {len(empty)} empty prompts or completions, e.g. {empty[0]!r}."
            )
    held_out = {e.prompt for e in splits["test"]}
    shared = {e.prompt for split in ("sft", "train") for e in splits[split]} & held_out
    if shared:
        raise BenchError(
            f"{len(shared)} prompts of {name!r} stand both in training and in the test split.",
            "Held-out prompts must not be trained on.",
        )


def _start(
    p: Mapping[str, Any], splits: Mapping[str, Sequence[Example]], max_response: int, device: str
) -> tuple[Any, Any]:
    """The model and tokenizer that SFT starts from."""
    if p["policy"]["source"] != policies.TINY:
        tokenizer = policies.load_tokenizer(p["policy"]["source"])
        return policies.load_causal(p["policy"]["source"], tokenizer, device), tokenizer
    demos, size = splits["sft"], p["policy"]["settings"]
    tokenizer = policies.tiny_tokenizer([e.prompt for e in demos], [e.completion for e in demos], size["vocabulary"])
    kept, _ = _fitting(tokenizer, splits, p["data"]["max_prompt_tokens"])
    longest = max(len(row) for split in kept.values() for row in encode_prompts(tokenizer, [e.prompt for e in split]))
    context_length = longest + 2 * max_response + 32  # room for a response and its correction, made to measure
    model = policies.tiny_model(tokenizer, context_length, size["layers"], size["width"], size["heads"], seed=p["seed"])
    return model.to(device), tokenizer


def _fitting(
    tokenizer: Any, splits: Mapping[str, Sequence[Example]], longest: int
) -> tuple[dict[str, list[Example]], dict[str, int]]:
    """Examples whose prompt has at most `longest` tokens in the template (0: all), and how many were dropped."""
    kept, dropped = {}, {}
    for split, examples in splits.items():
        rows = encode_prompts(tokenizer, [e.prompt for e in examples]) if longest else [[]] * len(examples)
        kept[split] = [e for e, row in zip(examples, rows, strict=True) if len(row) <= longest or not longest]
        dropped[f"{split}_dropped"] = len(examples) - len(kept[split])
        if not kept[split]:
            raise BenchError(
                f"data.max_prompt_tokens={longest} drops all {len(examples)} prompts of split {split!r}.", "Raise it."
            )
    return kept, dropped


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
        made = training.demonstration_row(prompt, row["ids"], tokenizer.eos_token_id)
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


def read_examples(folder: Path, split: str) -> list[Example]:
    """Examples that the sft stage stored."""
    rows = store.read_rows(folder / f"examples.{split}.jsonl")
    for row in rows:
        row |= {name: tuple(row[name]) for name in ("slices", "references") if name in row}
    return [Example(**row) for row in rows]


def held_out(folder: Path, settings: EvalSettings) -> list[Example]:
    """The test prompts that are evaluated: the first `settings.prompts` of them."""
    examples = read_examples(folder, "test")
    return examples[: settings.prompts] if settings.prompts else examples


def baseline(context: Context) -> Mapping[str, Any]:
    """generations.jsonl of the SFT policy on the held-out prompts, sampled and greedy."""
    p = context.params
    settings = EvalSettings(**p["eval"])
    model, tokenizer = policies.load_policy(context.inputs["sft"], context.device)
    examples = held_out(context.inputs["sft"], settings)
    generations = baseline_generations(
        model, tokenizer, examples, p["max_response"], settings, p["temperature"], p["seed"], context.progress
    )
    store.write_rows(context.work / "generations.jsonl", map(to_row, generations))
    return {"generations": len(generations)}
