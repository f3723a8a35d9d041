"""The stage that asks a reward model about the SFT baseline, and about both ends of PPO what their rewards are made of.

The baseline is every arm's; its reward is each arm's own, and begins the curve of proxy against gold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_bench.harness import store
from rlhf_bench.harness.models import policies
from rlhf_bench.harness.nouns import Generation, Rollout
from rlhf_bench.harness.pipeline.context import Context
from rlhf_bench.harness.ppo.scoring import Diagnosing, NamedRewardModel
from rlhf_bench.harness.stages.evaluation import read_generations
from rlhf_bench.harness.stages.pool import stored_rollout
from rlhf_bench.harness.stages.reward import scorer_of
from rlhf_bench.harness.text.templates import encode


def proxy(context: Context) -> Mapping[str, Any]:
    """proxy.jsonl: a row per sampled response of the baseline (iteration 0, with its `reward`) and of the last
    checkpoint: example_id, iteration, and `figures`, the reward model's diagnostics, where it has any.

    Stored texts are tokenised again; how many then have another number of tokens than was sampled is counted (an
    untrained policy may write what no tokenizer would): a reward per token can differ on those.
    """
    before = _sampled(read_generations(context.inputs["baseline"] / "generations.jsonl"))
    after = _sampled(read_generations(context.inputs["generations"] / "generations.jsonl"))
    tokenizer, scorer = policies.load_tokenizer(context.inputs["sft"]), scorer_of(context)
    rows = _rows(context, tokenizer, scorer, before, rewarded=True)
    if isinstance(scorer.model, Diagnosing):
        rows += _rows(context, tokenizer, scorer, after, rewarded=False)
    store.write_rows(context.work / "proxy.jsonl", rows)
    counts = [len(ids) for ids in encode(tokenizer, [g.response for g in before])]
    other = sum(count != g.tokens for count, g in zip(counts, before, strict=True))
    return {"responses": len(rows), "retokenised": other}


def _sampled(found: Sequence[Generation]) -> list[Generation]:
    """Those sampled at the last iteration."""
    last = max(g.iteration for g in found)
    return [g for g in found if g.decoding == "sample" and g.iteration == last]


def _rows(
    context: Context, tokenizer: Any, scorer: NamedRewardModel, found: Sequence[Generation], rewarded: bool
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    size = context.params["eval"]["batch"]
    for start in range(0, len(found), size):
        part = found[start : start + size]
        rollout = _as_rollout(tokenizer, part, context.device)
        figures: dict[str, list[float]] = {}
        if isinstance(scorer.model, Diagnosing):
            figures = {name: values.tolist() for name, values in scorer.model.diagnostics(rollout).items()}
        sums = scorer.rewards(rollout).sum(1).tolist() if rewarded else []
        for at, one in enumerate(part):
            row: dict[str, Any] = {"example_id": one.example_id, "iteration": one.iteration}
            row |= {"reward": sums[at]} if rewarded else {}
            rows.append(row | {"figures": {name: values[at] for name, values in figures.items()}})
    return rows


def _as_rollout(tokenizer: Any, found: Sequence[Generation], device: str) -> Rollout:
    """Stored responses, tokenised again; one that was cut off has no end-of-sequence token."""
    rows = []
    for one, ids in zip(found, encode(tokenizer, [g.response for g in found]), strict=True):
        end = [tokenizer.eos_token_id] if one.finished or not ids else []
        rows.append({"ids": [*ids, *end], "response": one.response, "finished": bool(end)})
    return stored_rollout(tokenizer, [g.prompt for g in found], rows, device)
