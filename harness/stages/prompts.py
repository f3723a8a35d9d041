"""The stage that fixes the prompts of a run: those PPO optimises on and those held out, the task's own or another's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_bench.harness import plugins, store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.models import policies
from rlhf_bench.harness.nouns import Example, Split, to_row
from rlhf_bench.harness.pipeline.context import Context
from rlhf_bench.harness.seams import Task
from rlhf_bench.harness.settings import EvalSettings
from rlhf_bench.harness.text.templates import encode_prompts


def load_task(params: Mapping[str, Any]) -> Task:
    """The task that a stage's `params` name; raises BenchError when the object is no Task."""
    spec = params["task"]
    task = plugins.build("task", spec["name"], spec["settings"])
    if not isinstance(task, Task):
        raise BenchError(
            f"The task {spec['name']!r} lacks members of the Task seam.", f"bench check task {spec['name']}"
        )
    return task


def prompts(context: Context) -> Mapping[str, Any]:
    """examples.test.jsonl, and examples.train.jsonl where PPO optimises on them.

    Filtered once, here, so that every arm sees the same ones.  Another task's prompts (out of distribution) must not
    stand in the home task's training data, and those that leave no room for a response are dropped and counted: the
    policy was chosen for the home task.
    """
    p = context.params
    away = p["task"]["sha256"] != p["home"]["sha256"]
    splits = limited(load_task(p), p["splits"], p["data"]["limit"])
    check_examples(p["task"]["name"], splits)
    tokenizer = policies.load_tokenizer(context.inputs["sft"])
    if away:
        _check_unseen(p["task"]["name"], splits, load_task({"task": p["home"]}))
    kept, figures = fitting(tokenizer, splits, p["data"]["max_prompt_tokens"])
    if away:
        kept, unfitting = _with_room(context, tokenizer, kept)
        figures |= unfitting
    for split, examples in kept.items():
        store.write_rows(context.work / f"examples.{split}.jsonl", map(to_row, examples))
        figures[f"{split}_examples"] = len(examples)
    return figures


def limited(task: Task, splits: Iterable[Split], limit: int) -> dict[str, list[Example]]:
    """The examples of each split, the first `limit` of them (0: all)."""
    return {split: list(task.examples(split))[: limit or None] for split in splits}


def check_examples(name: str, splits: Mapping[str, Sequence[Example]]) -> None:
    """Raises BenchError for an empty split or text, and for prompts that are both trained on and held out."""
    for split, examples in splits.items():
        if not examples:
            raise BenchError(f"The task {name!r} has no examples in split {split!r}.")
        empty = [e.id for e in examples if not e.prompt.strip() or (split == "sft" and not e.completion.strip())]
        if empty:
            raise BenchError(
                f"Split {split!r} of {name!r} has {len(empty)} empty prompts or completions, e.g. {empty[0]!r}."
            )
    held_out = {e.prompt for e in splits["test"]}
    shared = {e.prompt for split in ("sft", "train") for e in splits.get(split, ())} & held_out
    if shared:
        raise BenchError(
            f"{len(shared)} prompts of {name!r} stand both in training and in the test split.",
            "Held-out prompts must not be trained on.",
        )


def _check_unseen(name: str, splits: Mapping[str, Sequence[Example]], home: Task) -> None:
    trained = {e.prompt for e in (*home.examples("sft"), *home.examples("train"))}
    trained |= {pair.prompt for pair in home.pairs("train")}
    shared = {e.prompt for e in splits["test"]} & trained
    if shared:
        raise BenchError(
            f"{len(shared)} held-out prompts of {name!r} stand in the training data of the task they are to test.",
            "Held-out prompts must not be trained on.",
        )


def fitting(
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


def _with_room(
    context: Context, tokenizer: Any, splits: Mapping[str, Sequence[Example]]
) -> tuple[dict[str, list[Example]], dict[str, int]]:
    """Prompts that leave room in the policy's context for a response."""
    room = policies.context_of(context.inputs["sft"])
    if room is None:
        return {split: list(examples) for split, examples in splits.items()}, {}
    longest = room - context.params["max_response"]
    kept, dropped = {}, {}
    for split, examples in splits.items():
        rows = encode_prompts(tokenizer, [e.prompt for e in examples])
        kept[split] = [e for e, row in zip(examples, rows, strict=True) if len(row) <= longest]
        dropped[f"{split}_without_room"] = len(examples) - len(kept[split])
        if not kept[split]:
            raise BenchError(
                f"All {len(examples)} {split} prompts of {context.params['task']['name']!r} are too long for the "
                f"policy's context of {room} tokens (the shortest has {min(map(len, rows))}, {longest} fit).",
                "Give shorter prompts, or a policy with a longer context.",
            )
    return kept, dropped


def read_examples(folder: Path, split: str) -> list[Example]:
    """Examples that the prompts stage stored."""
    rows = store.read_rows(folder / f"examples.{split}.jsonl")
    for row in rows:
        row |= {name: tuple(row[name]) for name in ("slices", "references") if name in row}
    return [Example(**row) for row in rows]


def held_out(folder: Path, settings: EvalSettings) -> list[Example]:
    """The test prompts that are evaluated: the first `settings.prompts` of them."""
    examples = read_examples(folder, "test")
    return examples[: settings.prompts] if settings.prompts else examples
