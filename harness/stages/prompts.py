"""The stage that chooses the prompts of a run: those PPO optimises on, and those held out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_bench.harness import plugins, store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.models import policies
from rlhf_bench.harness.nouns import Example, Split, to_row, with_turns
from rlhf_bench.harness.pipeline.context import Context, StageFigures
from rlhf_bench.harness.seams import HasEmptyDemonstrations, Task
from rlhf_bench.harness.text.templates import encode_prompts

if TYPE_CHECKING:
    from rlhf_bench.harness.settings import EvalSettings
    from rlhf_bench.harness.text.types import Row, Tokenizer

Splits = Mapping[str, Sequence[Example]]
"""Examples by split."""


def load_task(params: Row) -> Task:
    """The task that a stage's `params` name; raises BenchError when the object is no Task, and as `plugins.build`."""
    spec = params["task"]
    task = plugins.build("task", spec["name"], spec["settings"])
    if not isinstance(task, Task):
        raise BenchError(
            f"The task {spec['name']!r} lacks members of the Task seam.", f"bench check task {spec['name']}"
        )
    return task


def prompts(context: Context) -> StageFigures:
    """Filter a task's examples once, so that every arm gets the same prompts.

    Reads: sft (the tokenizer and the length of the policy's context).
    Writes: examples.test.jsonl, and examples.train.jsonl where PPO optimises on them.
    Parameters: task, home (the task of the SFT policy), splits, data (limit, max_prompt_tokens), max_response, samples.

    A held-out prompt that repeats is kept once, and the others are counted.  Prompts of another task than `home` (out
    of distribution) that leave no room for a response are dropped and counted: the policy was chosen for the home task.
    Raises BenchError where they are in the home task's training data.
    """
    p = context.params
    # By content: two names of one data set are one task.
    away = p["task"]["sha256"] != p["home"]["sha256"]
    task = load_task(p)
    splits = limited(task, p["splits"], p["data"]["limit"])
    check_examples(p["task"]["name"], splits, writes_nothing(task))
    tokenizer = policies.load_tokenizer(context.inputs["sft"])
    if away:
        check_unseen(p["task"]["name"], splits, load_task({"task": p["home"]}))
    kept, figures = fitting(tokenizer, splits, p["data"]["max_prompt_tokens"])
    # Once each: a prompt that stands twice is no second observation, and a report counts prompts.
    whole, kept["test"] = len(kept["test"]), distinct(kept["test"])
    if whole > len(kept["test"]):
        figures["test_repeated"] = whole - len(kept["test"])
    if away:
        kept, dropped = with_room(context, tokenizer, kept)
        figures |= dropped
    number_of = {split: len(examples) for split, examples in kept.items()}
    kept["test"] = sampled_examples(kept["test"], p.get("samples", 1))
    for split, examples in kept.items():
        store.write_rows(context.work / f"examples.{split}.jsonl", map(to_row, examples))
        figures[f"{split}_examples"] = number_of[split]
    return figures


def distinct(examples: Sequence[Example]) -> list[Example]:
    """The examples whose prompt no earlier one has, by text."""
    first: dict[str, Example] = {}
    for example in examples:
        first.setdefault(example.prompt, example)
    return list(first.values())


def sampled_examples(examples: Sequence[Example], samples: int) -> list[Example]:
    """An example for each of `samples` responses to a prompt, those of a prompt in a row.

    The first keeps its id.  All have a common source, so that they are one cluster of every interval.  Raises
    BenchError for ids that are then taken.
    """
    if samples == 1:
        return list(examples)
    found = [
        replace(
            example,
            id=example.id if number == 1 else f"{example.id}#{number}",
            source=example.source or f"prompt {example.id}",
            sample=number,
        )
        for example in examples
        for number in range(1, samples + 1)
    ]
    if len({example.id for example in found}) < len(found):
        raise BenchError("An example's id ends as that of a further sample does, in #2.", "Set eval.samples=1.")
    return found


def limited(task: Task, splits: Iterable[Split], limit: int) -> dict[str, list[Example]]:
    """The examples of each split, the first `limit` of them (0: all)."""
    return {split: list(task.examples(split))[: limit or None] for split in splits}


def writes_nothing(task: Task) -> bool:
    """Whether some of the task's demonstrations are empty on purpose."""
    return isinstance(task, HasEmptyDemonstrations) and task.sft_empty > 0


def check_examples(name: str, splits: Splits, may_be_empty: bool = False) -> None:
    """Raises BenchError for an empty split or text, and for prompts that are in training and held-out splits.

    `splits` has "test" at least.  `name` is the task's, for the message.  `may_be_empty`: demonstrations may be.
    """
    for split, examples in splits.items():
        if not examples:
            raise BenchError(f"The task {name!r} has no examples in split {split!r}.")
        written = split == "sft" and not may_be_empty
        empty = [e.id for e in examples if not e.prompt.strip() or (written and not e.completion.strip())]
        if empty:
            raise BenchError(
                f"Split {split!r} of {name!r} has {len(empty)} empty prompts or completions, e.g. {empty[0]!r}."
            )
    # By text, not by id: the same prompt under two ids would be trained on all the same.
    held_out = {e.prompt for e in splits["test"]}
    shared = {e.prompt for split in ("sft", "train") for e in splits.get(split, ())} & held_out
    if shared:
        raise BenchError(
            f"{len(shared)} prompts of {name!r} are both in training and in the test split.",
            "Held-out prompts must not be trained on.",
        )


def check_unseen(name: str, splits: Splits, home: Task) -> None:
    """Raises BenchError for held-out prompts that are in the training data of the task `home`.

    Training data are demonstrations, the prompts PPO optimises on, and training pairs.  `name` is the task of `splits`.
    """
    trained = {e.prompt for e in (*home.examples("sft"), *home.examples("train"))}
    # Reward models have seen the prompts of pairs, and PPO optimises what they reward.
    trained |= {pair.prompt for pair in home.pairs("train")}
    shared = {e.prompt for e in splits["test"]} & trained
    if shared:
        raise BenchError(
            f"{len(shared)} held-out prompts of {name!r} are in the training data of the task they are to test.",
            "Held-out prompts must not be trained on.",
        )


def fitting(tokenizer: Tokenizer, splits: Splits, longest: int) -> tuple[dict[str, list[Example]], dict[str, int]]:
    """The examples whose prompt has at most `longest` tokens in the policy's form (0: all), and how many were dropped.

    Raises BenchError where none of a split is left.
    """
    kept, dropped = {}, {}
    for split, examples in splits.items():
        rows = encode_prompts(tokenizer, [e.prompt for e in examples]) if longest else [[]] * len(examples)
        # Without a limit nothing is tokenised: it takes seconds for large tasks.
        kept[split] = [e for e, row in zip(examples, rows, strict=True) if len(row) <= longest or not longest]
        dropped[f"{split}_dropped"] = len(examples) - len(kept[split])
        if not kept[split]:
            raise BenchError(
                f"data.max_prompt_tokens={longest} drops all {len(examples)} prompts of split {split!r}.", "Raise it."
            )
    return kept, dropped


def with_room(
    context: Context, tokenizer: Tokenizer, splits: Splits
) -> tuple[dict[str, list[Example]], dict[str, int]]:
    """The examples whose prompt leaves room in the policy's context for a response, and how many were dropped.

    Raises BenchError where none of a split is left.
    """
    room = policies.context_of(context.inputs["sft"])
    if room is None:  # the policy's configuration names no limit
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
    """The examples of a split that the stage `prompts` stored in `folder`, in the task's order.

    Raises BenchError where the file is missing or damaged.
    """
    rows = store.read_rows(folder / f"examples.{split}.jsonl")
    for row in rows:
        row |= {name: tuple(row[name]) for name in ("slices", "references") if name in row}  # JSON has lists
    return [Example(**with_turns(row)) for row in rows]


def held_out(folder: Path, settings: EvalSettings) -> list[Example]:
    """The test prompts that are evaluated: the first `settings.prompts` (0: all), each `settings.samples` times.

    Raises BenchError as `read_examples`.
    """
    examples = read_examples(folder, "test")
    # The first, not a sample: every arm, seed and stage evaluates the same prompts.
    return examples[: settings.prompts * settings.samples] if settings.prompts else examples
