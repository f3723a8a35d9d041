"""The stage that scores the SFT baseline, and computes what the rewards consist of before and after optimisation.

The baseline is every arm's; its reward is each arm's own, and begins the curve of proxy against gold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlhf_bench.harness import store
from rlhf_bench.harness.models import policies
from rlhf_bench.harness.nouns import Generation, Rollout
from rlhf_bench.harness.pipeline.context import Context, StageFigures
from rlhf_bench.harness.ppo.scoring import NamedRewardModel
from rlhf_bench.harness.seams import HasDiagnostics
from rlhf_bench.harness.stages.evaluation import read_generations
from rlhf_bench.harness.stages.pool import stored_rollout
from rlhf_bench.harness.stages.reward import scorer_of
from rlhf_bench.harness.text.templates import decode, encode, encode_prompts

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject, Tokenizer


def proxy(context: Context) -> StageFigures:
    """Score the baseline's samples, and compute the reward model's own figures of them and of the last checkpoint's.

    Reads: sft (the tokenizer), baseline and generations (generations.jsonl), prompts (examples.test.jsonl), reward
        (where the reward model is trained), train_prompts (where it reads examples).
    Writes: proxy.jsonl, a row per sampled response of the baseline (iteration 0, with its `reward`) and of the last
        checkpoint: example_id, iteration, and `figures`, the reward model's diagnostics, where it has any.
    Parameters: eval (batch), rm.

    Stored texts are tokenised again.  `retokenised` counts those that then have another number of tokens than was
    sampled (an untrained policy may sample what no tokenizer gives): their rewards per token can differ.
    """
    before = last_samples(read_generations(context.inputs["baseline"] / "generations.jsonl"))
    after = last_samples(read_generations(context.inputs["generations"] / "generations.jsonl"))
    tokenizer, scorer = policies.load_tokenizer(context.inputs["sft"]), scorer_of(context)
    rows = score(context, tokenizer, scorer, before, rewarded=True)
    # The rewards of the last checkpoint are in its generations; without figures there is nothing to add.
    if isinstance(scorer.model, HasDiagnostics):
        rows += score(context, tokenizer, scorer, after, rewarded=False)
    store.write_rows(context.work / "proxy.jsonl", rows)
    counts = [len(ids) for ids in encode(tokenizer, [g.response for g in before])]
    # Of responses that ended by themselves as of truncated ones: neither count includes end-of-sequence.
    other = sum(count != g.tokens for count, g in zip(counts, before, strict=True))
    return {"responses": len(rows), "retokenised": other}


def last_samples(generations: Sequence[Generation]) -> list[Generation]:
    """Those sampled at the last iteration, which is 0 for the baseline; greedy ones are left out."""
    last = max(g.iteration for g in generations)
    return [g for g in generations if g.decoding == "sample" and g.iteration == last]


def score(
    context: Context, tokenizer: Tokenizer, scorer: NamedRewardModel, found: Sequence[Generation], rewarded: bool
) -> list[JsonObject]:
    """Rows of proxy.jsonl in the order of `found`; `rewarded`: with the unscaled sum of the token rewards.

    Raises BenchError where the reward model's `rewards` fail.
    """
    rows: list[JsonObject] = []
    size = context.params["eval"]["batch"]
    for start in range(0, len(found), size):
        part = found[start : start + size]
        rollout = retokenised(tokenizer, part, context.device, policies.context_of(context.inputs["sft"]))
        figures: dict[str, list[float]] = {}
        if isinstance(scorer.model, HasDiagnostics):
            figures = {name: values.tolist() for name, values in scorer.model.diagnostics(rollout).items()}
        sums = scorer.rewards(rollout).sum(1).tolist() if rewarded else []
        for at, one in enumerate(part):
            row: JsonObject = {"example_id": one.example_id, "iteration": one.iteration}
            row |= {"reward": sums[at]} if rewarded else {}
            rows.append(row | {"figures": {name: values[at] for name, values in figures.items()}})
    return rows


def retokenised(tokenizer: Tokenizer, found: Sequence[Generation], device: str, limit: int | None = None) -> Rollout:
    """Stored responses, tokenised again: a Rollout without log-probabilities.

    A truncated response has no end-of-sequence token, unless it has no other.  `limit`: the most tokens of prompt and
    response together that a model reads; a response is cut there, and counts as truncated.  Sampling kept to it, but
    bytes that are no text are stored as replacement characters, which have more tokens than the bytes had.
    """
    prompts = encode_prompts(tokenizer, [g.prompt for g in found])
    rows = []
    for one, prompt, ids in zip(found, prompts, encode(tokenizer, [g.response for g in found]), strict=True):
        end = [tokenizer.eos_token_id] if one.finished or not ids else []  # a response has at least one token
        room = max(1, limit - len(prompt)) if limit else len(ids) + len(end)
        if len(ids) + len(end) > room:
            cut = ids[:room]
            rows.append({"ids": cut, "response": decode(tokenizer, cut), "finished": False})
        else:
            rows.append({"ids": [*ids, *end], "response": one.response, "finished": bool(end)})
    return stored_rollout(tokenizer, [g.prompt for g in found], rows, device)
