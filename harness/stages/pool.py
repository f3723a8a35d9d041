"""The stage that draws the samples best-of-n chooses from: many of the SFT policy's responses to each held-out prompt.

Drawn once for a policy and seed: every reward model chooses among the same samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_bench.harness import store
from rlhf_bench.harness.models import policies
from rlhf_bench.harness.nouns import Example, Rollout
from rlhf_bench.harness.pipeline.context import Context
from rlhf_bench.harness.sampling.rollout import make_generator, pad_prompts
from rlhf_bench.harness.settings import EvalSettings
from rlhf_bench.harness.stages.evaluation import rollouts, to_generations
from rlhf_bench.harness.stages.prompts import held_out, load_task
from rlhf_bench.harness.stages.scale import gold_of
from rlhf_bench.harness.text.templates import encode_prompts

Row = dict[str, Any]


def pool(context: Context) -> Mapping[str, Any]:
    """draw.N.jsonl: the N-th sample of every prompt: its token ids, response, tokens, finished, and its gold utility
    where the task knows it (null where undecided).

    `params["pool"]` holds `samples` (draws) and `independent`.  Unless `independent`, the first draw is the baseline's
    own, from the same random numbers.  Resumable after each draw.
    """
    p = context.params
    settings, count = EvalSettings(**p["eval"]), int(p["pool"]["samples"])
    examples = held_out(context.inputs["prompts"], settings)
    missing = [number for number in range(count) if not draw_file(context.scratch, number).exists()]
    if missing:
        policy = policies.load_sampler(context.inputs["sft"], context.device)
        worth = gold_of(load_task(p))
        for number in missing:
            store.write_rows(draw_file(context.scratch, number), _draw(context, policy, examples, number, worth))
            context.progress(number + 1, count)
    for number in range(count):
        store.write_rows(draw_file(context.work, number), store.read_rows(draw_file(context.scratch, number)))
    return {"samples": count * len(examples)}


def draw_file(folder: Path, number: int) -> Path:
    """Where a draw lies."""
    return folder / f"draw.{number}.jsonl"


def _draw(
    context: Context,
    policy: tuple[Any, Any],
    examples: Sequence[Example],
    number: int,
    worth: Callable[[Example, str], float] | None,
) -> list[Row]:
    p = context.params
    shared = number == 0 and not p["pool"]["independent"]

    def seed_of(batch: int) -> Any:
        if shared:
            return make_generator("baseline", p["seed"], batch)
        return make_generator("best-of-n", p["seed"], number, batch)

    settings = EvalSettings(**p["eval"])
    rows: list[Row] = []
    found = rollouts(*policy, examples, p["max_response"], settings, "sample", p["temperature"], seed_of)
    for batch, rollout in found:
        lengths, ids = rollout.mask.sum(1).tolist(), rollout.response_ids.tolist()
        for at, (example, one) in enumerate(zip(batch, to_generations(batch, rollout, 0, "sample"), strict=True)):
            row = {"ids": ids[at][: lengths[at]], "response": one.response}
            row |= {"tokens": one.tokens, "finished": one.finished}
            rows.append(row | ({"gold": _decided(worth(example, one.response))} if worth else {}))
    return rows


def _decided(value: float) -> float | None:
    """None for a gold utility that is no finite number."""
    return value if math.isfinite(value) else None


def stored_rollout(tokenizer: Any, prompts: Sequence[str], rows: Sequence[Row], device: str) -> Rollout:
    """Stored samples as the Rollout they were drawn as, to the token."""
    import torch

    ids, mask = pad_prompts(encode_prompts(tokenizer, prompts), tokenizer.pad_token_id, device)
    width = max(1, *(len(row["ids"]) for row in rows)) if rows else 1
    pad = tokenizer.pad_token_id
    response = torch.tensor([row["ids"] + [pad] * (width - len(row["ids"])) for row in rows], device=device)
    lengths = torch.tensor([len(row["ids"]) for row in rows], device=device)
    kept = torch.arange(width, device=device)[None] < lengths[:, None]
    finished = torch.tensor([row["finished"] for row in rows], dtype=torch.bool, device=device)
    texts = tuple(row["response"] for row in rows)
    return Rollout(tuple(prompts), texts, ids, mask, response, kept, finished, tokenizer)
