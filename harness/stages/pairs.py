"""The stage that makes the preference pairs every reward model of a run learns from and is tested on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.models import policies
from rlhf_bench.harness.nouns import Pair, Split, to_row, with_turns
from rlhf_bench.harness.pipeline.context import Context, StageFigures
from rlhf_bench.harness.sampling.rollout import make_generator, sample
from rlhf_bench.harness.stages.prompts import load_task
from rlhf_bench.harness.text.chat import encode_answers
from rlhf_bench.harness.text.templates import encode_prompts
from rlhf_bench.harness.text.tokens import Span
from rlhf_bench.harness.text.words import spaced_words

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject, Tokenizer


def pairs(context: Context) -> StageFigures:
    """Filter the task's pairs once for all reward models, and sample the rejected responses that it does not give.

    Reads: sft (the policy).
    Writes: pairs.train.jsonl, pairs.test.jsonl.
    Parameters: task, data (limit, max_prompt_tokens), pairs (overlap, test), eval (batch), temperature, seed.

    Pairs that are too long, and pairs with equal responses, which teach nothing, are dropped and counted.  Raises
    BenchError where no pair of a split is left, or training pairs are about held-out prompts.
    """
    p = context.params
    task, name = load_task(p), p["task"]["name"]
    tokenizer = policies.load_tokenizer(context.inputs["sft"])
    context_tokens = policies.context_of(context.inputs["sft"])
    # The prompt and the longest response must fit the context of a reward model that starts from the policy.
    room = context_tokens - task.max_response_tokens if context_tokens else math.inf
    longest = min(p["data"]["max_prompt_tokens"] or math.inf, room)
    held_out = {example.prompt for example in task.examples("test")}
    figures: JsonObject = {}
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        found = list(task.pairs(split))
        # The limit counts the task's pairs, before any is dropped.
        found = found[: p["data"]["limit"]] if p["data"]["limit"] else found
        check_pairs(name, split, found)
        # Test pairs may be about held-out prompts: nothing is trained on them.
        leaked = sum(pair.prompt in held_out for pair in found) if split == "train" else 0
        if leaked:
            raise BenchError(f"{leaked} training pairs of {name!r} are about held-out test prompts.")
        fitting = fitting_pairs(tokenizer, found, longest, task.max_response_tokens)
        complete = sample_rejected(context, fitting, split, task.max_response_tokens)
        kept = [pair for pair in complete if pair.chosen.strip() != (pair.rejected or "").strip()]
        if split == "train":  # test pairs are the same under every setting, so accuracies compare
            kept = by_overlap(kept, p["pairs"]["overlap"])
        elif most := p["pairs"].get("test"):  # a record of before has no such setting
            kept = kept[:most]
        if not kept:
            raise BenchError(
                f"No usable {split} pairs of {name!r} are left of {len(found)} "
                f"({len(found) - len(fitting)} too long, {len(complete) - len(kept)} with equal responses).",
                f"They need prompts of at most {longest} and responses of at most {task.max_response_tokens} tokens; "
                f"--set {name}.response_tokens=N allows longer ones.",
            )
        store.write_rows(context.work / f"pairs.{split}.jsonl", map(pair_row, kept))
        longer = sum(len(pair.chosen) > len(pair.rejected or "") for pair in kept)
        figures |= {
            f"{split}_pairs": len(kept),
            f"{split}_too_long": len(found) - len(fitting),
            f"{split}_equal": len(complete) - len(kept),
            f"{split}_chosen_longer": longer / len(kept),
        }
    return figures


def overlap(pair: Pair) -> float:
    """Lexical overlap of chosen and rejected: shared distinct words over all distinct words (Jaccard), in [0, 1].

    Words are lower case, separated by white space; in scripts without spaces every character is one (text/words.py).
    0 where neither text has a word.
    """
    chosen, rejected = (set(spaced_words(text.lower())) for text in (pair.chosen, pair.rejected or ""))
    return len(chosen & rejected) / max(1, len(chosen | rejected))


THIRDS = ("low", "middle", "high")


def by_overlap(found: Sequence[Pair], which: str) -> list[Pair]:
    """The third `which` of the pairs by their overlap (one of THIRDS), or "all" of them; in their order.

    With fewer than three pairs some thirds are empty.
    """
    return [pair for pair, third in zip(found, thirds(found), strict=True) if which in ("all", third)]


def thirds(found: Sequence[Pair]) -> list[str]:
    """The third (one of THIRDS) of each pair's overlap among all of `found`, in their order.

    Thirds differ by one pair at most in size.
    """
    # Ties are broken by a hash of the id, so that the order of a task's pairs does not decide.
    ranked = sorted(range(len(found)), key=lambda i: (overlap(found[i]), store.content_key(found[i].id), i))
    places = {at: THIRDS[rank * 3 // len(found)] for rank, at in enumerate(ranked)}
    return [places[at] for at in range(len(found))]


def check_pairs(name: str, split: str, found: Sequence[Pair]) -> None:
    """Raises BenchError for a split without pairs, and for empty prompts or chosen responses.

    An empty `rejected` is allowed: an empty response is a response.  `name` is the task's, for the message.
    """
    if not found:
        raise BenchError(
            f"The task {name!r} has no {split} pairs.", "Reward models learn from train, are tested on test."
        )
    empty = [pair.id for pair in found if not pair.chosen.strip() or not pair.prompt.strip()]
    if empty:
        raise BenchError(
            f"{len(empty)} {split} pairs of {name!r} have an empty prompt or chosen text, e.g. {empty[0]!r}."
        )


def fitting_pairs(tokenizer: Tokenizer, found: Sequence[Pair], longest: float, max_response: int) -> list[Pair]:
    """The pairs whose prompt has at most `longest` tokens, and whose responses leave room for end-of-sequence.

    `max_response` counts end-of-sequence.  A `rejected` that is None is sampled later, and fits by its length limit.
    """
    # All texts of a kind in one call: tokenising them one by one takes many times as long.
    prompts = encode_prompts(tokenizer, [pair.prompt for pair in found])
    chosen = encode_answers(tokenizer, [pair.chosen for pair in found])
    rejected = encode_answers(tokenizer, [pair.rejected or "" for pair in found])
    return [
        pair
        for pair, p, c, r in zip(found, prompts, chosen, rejected, strict=True)
        if len(p) <= longest and max(len(c), len(r)) < max_response  # less: end-of-sequence is a token, too
    ]


def sample_rejected(context: Context, found: Sequence[Pair], split: str, max_response: int) -> list[Pair]:
    """The pairs, with a sample of the SFT policy in place of every `rejected` that is None.

    A sample has at most `max_response` tokens, end-of-sequence included.  No model is loaded where none is missing.
    """
    missing = [i for i, pair in enumerate(found) if pair.rejected is None]
    complete = list(found)
    if not missing:
        return complete
    p = context.params
    model, tokenizer = policies.load_sampler(context.inputs["sft"], context.device)
    for number, start in enumerate(range(0, len(missing), p["eval"]["batch"])):
        rows = missing[start : start + p["eval"]["batch"]]
        # Named by split and batch, so a pair's sample does not depend on the other split.
        generator = make_generator("rejected", split, p["seed"], number)
        prompts = [found[i].prompt for i in rows]
        rollout = sample(model, tokenizer, prompts, max_response, generator=generator, temperature=p["temperature"])
        for i, text in zip(rows, rollout.responses, strict=True):
            complete[i] = replace(found[i], rejected=text)
        context.progress(min(start + len(rows), len(missing)), len(missing))
    return complete


def pair_row(pair: Pair) -> JsonObject:
    """A row of pairs.SPLIT.jsonl, which `read_pairs` reads: flaws are lists of [start, end) characters."""
    # An empty list of flaws is kept: the text is known to have none, while without a list nothing is known.
    flaws = {"chosen_flaws": pair.chosen_flaws, "rejected_flaws": pair.rejected_flaws}
    return to_row(pair) | {name: spans for name, spans in flaws.items() if spans is not None}


def read_pairs(folder: Path, split: str) -> list[Pair]:
    """The pairs of a split that the stage `pairs` stored in `folder`, each with a `rejected` text.

    Raises BenchError where the file is missing or damaged.
    """

    def spans(value: Sequence[Sequence[int]] | None) -> tuple[Span, ...] | None:
        return None if value is None else tuple((start, end) for start, end in value)

    return [
        Pair(
            row["id"],
            row["prompt"],
            row["chosen"],
            row.get("rejected", ""),  # `to_row` leaves an empty response out
            spans(row.get("chosen_flaws")),
            spans(row.get("rejected_flaws")),
        )
        for row in map(with_turns, store.read_rows(folder / f"pairs.{split}.jsonl"))
    ]
