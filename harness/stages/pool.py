"""The stage that draws the samples best-of-n chooses from: many of the SFT policy's responses to each held-out prompt.

Drawn once for a policy and seed: every reward model chooses among the same samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_bench.harness import store
from rlhf_bench.harness.models import policies
from rlhf_bench.harness.nouns import Example, Rollout
from rlhf_bench.harness.pipeline.context import Context, StageFigures
from rlhf_bench.harness.sampling.rollout import make_generator, pad_prompts, thoughts_of
from rlhf_bench.harness.stages.evaluation import Evaluation, sample_batches, to_generations
from rlhf_bench.harness.stages.prompts import load_task
from rlhf_bench.harness.stages.scale import gold_of
from rlhf_bench.harness.text.templates import encode_prompts

if TYPE_CHECKING:
    import torch

    from rlhf_bench.harness.forward.types import CausalLM
    from rlhf_bench.harness.text.types import JsonObject, Row, Tokenizer


def pool(context: Context) -> StageFigures:
    """Draw samples of the SFT policy for every held-out prompt.

    Reads: sft (the policy), prompts (examples.test.jsonl).
    Writes: draw.N.jsonl, the N-th sample of every prompt: token ids, response, tokens, finished, and its gold utility
        where the task knows it (null where undecided).
    Parameters: task, pool (`samples` draws; `independent`), eval, temperature, max_response, seed.

    Unless `independent`, the first draw is the baseline's own, from the same random numbers.  Resumable after each
    draw.
    """
    p = context.params
    evaluation, count = Evaluation.of(context, p["temperature"]), int(p["pool"]["samples"])
    missing = [number for number in range(count) if not draw_file(context.scratch, number).exists()]
    if missing:
        model, tokenizer = policies.load_sampler(context.inputs["sft"], context.device)
        gold = gold_of(load_task(p))
        for number in missing:
            # The baseline's own sample first: at n = 1 best-of-n is then the baseline itself.
            shared = number == 0 and not p["pool"]["independent"]
            rows = draw(model, tokenizer, evaluation, generators(p["seed"], None if shared else number), gold)
            store.write_rows(draw_file(context.scratch, number), rows)
            context.progress(number + 1, count)
    # Copied at the end: `work` is complete or thrown away, `scratch` is kept.
    for number in range(count):
        store.write_rows(draw_file(context.work, number), store.read_rows(draw_file(context.scratch, number)))
    return {"samples": count * len(evaluation.examples)}


def draw_file(folder: Path, number: int) -> Path:
    """The file of the draw `number`, from 0: of samples in the pool's folder, of scores in best-of-n's `scratch`."""
    return folder / f"draw.{number}.jsonl"


def generators(seed: int, number: int | None) -> Callable[[int], torch.Generator]:
    """The generators of the batches of draw `number`, or of the baseline (None).

    Named by seed, draw and batch: a larger pool begins with the draws of a smaller one.
    """
    # The names that `evaluation.baseline_generations` gives its own.
    names = ("baseline", seed) if number is None else ("best-of-n", seed, number)
    return lambda batch: make_generator(*names, batch)


def draw(
    model: CausalLM,
    tokenizer: Tokenizer,
    evaluation: Evaluation,
    generator_of: Callable[[int], torch.Generator],
    gold: Callable[[Example, str], float] | None,
) -> list[JsonObject]:
    """One sample of every prompt, as rows of a draw's file, in the order of the prompts.

    `ids` include end-of-sequence where the response has it, `tokens` does not count it.
    """
    rows: list[JsonObject] = []
    for batch, rollout in sample_batches(model, tokenizer, evaluation, "sample", generator_of):
        lengths, ids = rollout.mask.sum(1).tolist(), rollout.response_ids.tolist()
        for at, (example, one) in enumerate(zip(batch, to_generations(batch, rollout, 0, "sample"), strict=True)):
            row = {"ids": ids[at][: lengths[at]], "response": one.response}
            row |= {"tokens": one.tokens, "finished": one.finished}
            if gold:
                # JSON has no NaN, which is how a task says that it cannot decide.
                value = gold(example, one.response)
                row["gold"] = value if math.isfinite(value) else None
            rows.append(row)
    return rows


def stored_rollout(tokenizer: Tokenizer, prompts: Sequence[str], rows: Sequence[Row], device: str) -> Rollout:
    """Stored samples as the Rollout they were drawn as, to the token; `rows` have `ids`, `response` and `finished`.

    [B, T] with T the longest of them.  Without log-probabilities, which are not stored.
    """
    import torch

    pad = tokenizer.pad_token_id
    ids, mask = pad_prompts(encode_prompts(tokenizer, prompts), pad, device)
    # Padded to the right as the sampler does: one token at least, so that the tensors have a column.
    width = max(1, *(len(row["ids"]) for row in rows)) if rows else 1
    response = torch.tensor([row["ids"] + [pad] * (width - len(row["ids"])) for row in rows], device=device)
    lengths = torch.tensor([len(row["ids"]) for row in rows], device=device)
    kept = torch.arange(width, device=device)[None] < lengths[:, None]
    finished = torch.tensor([row["finished"] for row in rows], dtype=torch.bool, device=device)
    texts = tuple(row["response"] for row in rows)
    thoughts = thoughts_of(tokenizer, [row["ids"] for row in rows])
    return Rollout(tuple(prompts), texts, ids, mask, response, kept, finished, tokenizer, thoughts=thoughts)
