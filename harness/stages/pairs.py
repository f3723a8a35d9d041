"""The stage that makes the preference pairs every reward model of a run learns from and is tested on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.models import policies
from rlhf_bench.harness.nouns import Pair, Split, to_row
from rlhf_bench.harness.pipeline.context import Context
from rlhf_bench.harness.sampling.rollout import make_generator, sample
from rlhf_bench.harness.stages.prompts import load_task
from rlhf_bench.harness.text.templates import encode, encode_prompts


def pairs(context: Context) -> Mapping[str, Any]:
    """pairs.train.jsonl and pairs.test.jsonl: filtered once for all reward models, with samples of the SFT policy where
    the task leaves the rejected response to it.  Pairs with equal responses teach nothing: dropped and counted.
    """
    p = context.params
    task = load_task(p)
    tokenizer = policies.load_tokenizer(context.inputs["sft"])
    context_tokens = policies.context_of(context.inputs["sft"])
    room = context_tokens - task.max_response_tokens if context_tokens else math.inf
    longest = min(p["data"]["max_prompt_tokens"] or math.inf, room)
    held_out = {example.prompt for example in task.examples("test")}
    figures: dict[str, Any] = {}
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        found = list(task.pairs(split))
        found = found[: p["data"]["limit"]] if p["data"]["limit"] else found
        _check_pairs(p["task"]["name"], split, found)
        leaked = sum(pair.prompt in held_out for pair in found) if split == "train" else 0
        if leaked:
            raise BenchError(f"{leaked} training pairs of {p['task']['name']!r} are about held-out test prompts.")
        fitting = _fit(tokenizer, found, longest, task.max_response_tokens)
        complete = _sample_rejected(context, fitting, split, task.max_response_tokens)
        kept = [pair for pair in complete if pair.chosen.strip() != (pair.rejected or "").strip()]
        if split == "train":
            kept = by_overlap(kept, p["pairs"]["overlap"])
        if not kept:
            raise BenchError(
                f"No usable {split} pairs of {p['task']['name']!r} are left of {len(found)} "
                f"({len(found) - len(fitting)} too long, {len(complete) - len(kept)} with equal responses).",
                f"They need prompts of at most {longest} and responses of at most {task.max_response_tokens} tokens; "
                f"--set {p['task']['name']}.response_tokens=N allows longer ones.",
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
    """Lexical overlap of chosen and rejected: shared distinct words over all distinct words (Jaccard), in [0, 1]."""
    chosen, rejected = (set(text.lower().split()) for text in (pair.chosen, pair.rejected or ""))
    return len(chosen & rejected) / max(1, len(chosen | rejected))


THIRDS = ("low", "middle", "high")


def by_overlap(found: Sequence[Pair], which: str) -> list[Pair]:
    """The third of the pairs with low, middle or high overlap, or all of them; in their order."""
    return [pair for pair, third in zip(found, thirds(found), strict=True) if which in ("all", third)]


def thirds(found: Sequence[Pair]) -> list[str]:
    """In which third of the pairs each one's overlap lies; ties are broken by a hash of the id, so by nothing."""
    ranked = sorted(range(len(found)), key=lambda i: (overlap(found[i]), store.content_key(found[i].id), i))
    places = {at: THIRDS[rank * 3 // len(found)] for rank, at in enumerate(ranked)}
    return [places[at] for at in range(len(found))]


def _check_pairs(name: str, split: str, found: Sequence[Pair]) -> None:
    if not found:
        raise BenchError(
            f"The task {name!r} has no {split} pairs.", "Reward models learn from train, are tested on test."
        )
    empty = [pair.id for pair in found if not pair.chosen.strip() or not pair.prompt.strip()]
    if empty:
        raise BenchError(
            f"{len(empty)} {split} pairs of {name!r} have an empty prompt or chosen text, e.g. {empty[0]!r}."
        )


def _fit(tokenizer: Any, found: Sequence[Pair], longest: float, max_response: int) -> list[Pair]:
    """Pairs whose prompt and responses have no more tokens than the run and the policy's context allow."""
    prompts = encode_prompts(tokenizer, [pair.prompt for pair in found])
    chosen = encode(tokenizer, [pair.chosen for pair in found])
    rejected = encode(tokenizer, [pair.rejected or "" for pair in found])
    return [
        pair
        for pair, p, c, r in zip(found, prompts, chosen, rejected, strict=True)
        if len(p) <= longest and max(len(c), len(r)) < max_response
    ]


def _sample_rejected(context: Context, found: Sequence[Pair], split: str, max_response: int) -> list[Pair]:
    missing = [i for i, pair in enumerate(found) if pair.rejected is None]
    complete = list(found)
    if not missing:
        return complete
    p = context.params
    model, tokenizer = policies.load_sampler(context.inputs["sft"], context.device)
    for number, start in enumerate(range(0, len(missing), p["eval"]["batch"])):
        rows = missing[start : start + p["eval"]["batch"]]
        generator = make_generator("rejected", split, p["seed"], number)
        prompts = [found[i].prompt for i in rows]
        rollout = sample(model, tokenizer, prompts, max_response, generator=generator, temperature=p["temperature"])
        for i, text in zip(rows, rollout.responses, strict=True):
            complete[i] = replace(found[i], rejected=text)
        context.progress(min(start + len(rows), len(missing)), len(missing))
    return complete


def pair_row(pair: Pair) -> dict[str, Any]:
    """As stored.  No flaws at all is kept: it says the text is known to be clean, which None does not."""
    flaws = {"chosen_flaws": pair.chosen_flaws, "rejected_flaws": pair.rejected_flaws}
    return to_row(pair) | {name: spans for name, spans in flaws.items() if spans is not None}


def read_pairs(folder: Path, split: str) -> list[Pair]:
    """Pairs that the stage above stored."""

    def spans(value: Any) -> Any:
        return None if value is None else tuple(tuple(span) for span in value)

    return [
        Pair(
            row["id"],
            row["prompt"],
            row["chosen"],
            row.get("rejected", ""),
            spans(row.get("chosen_flaws")),
            spans(row.get("rejected_flaws")),
        )
        for row in store.read_rows(folder / f"pairs.{split}.jsonl")
    ]
