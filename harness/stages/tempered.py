"""The stage that samples the SFT policy at lower temperatures: what being surer is worth, without any training.

A control of every arm: an optimised policy is surer than the SFT policy, and part of its gain may be no more than that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_bench.harness import store
from rlhf_bench.harness.models import policies
from rlhf_bench.harness.nouns import Generation, to_row
from rlhf_bench.harness.pipeline.context import Context, StageFigures
from rlhf_bench.harness.sampling.rollout import make_generator
from rlhf_bench.harness.stages.evaluation import Evaluation, kl_terms, sample_batches, to_generations

if TYPE_CHECKING:
    from rlhf_bench.harness.forward.types import CausalLM
    from rlhf_bench.harness.text.types import Tokenizer


def tempered(context: Context) -> StageFigures:
    """Let the SFT policy answer the held-out prompts at every temperature.

    Reads: sft (the policy), prompts (examples.test.jsonl).
    Writes: generations.jsonl (sampled; `iteration` is the place of the temperature, from 1).
    Parameters: temperatures (falling, parts of `temperature`), eval, temperature, max_response, seed.

    Greedy decoding is the same at every temperature, so the baseline has it.  Resumable after each temperature.
    """
    p, files = context.params, temperature_files(context)
    missing = [number for number, path in enumerate(files) if not path.exists()]
    if missing:
        model, tokenizer = policies.load_sampler(context.inputs["sft"], context.device)
        evaluation = Evaluation.of(context, p["temperature"])
        for number in missing:
            found = tempered_generations(model, tokenizer, evaluation, p["temperatures"][number], number + 1)
            store.write_rows(files[number], map(to_row, found))
            context.progress(number + 1, len(files))
    rows = [row for path in files for row in store.read_rows(path)]
    store.write_rows(context.work / "generations.jsonl", rows)
    return {"generations": len(rows)}


def temperature_files(context: Context) -> Sequence[Path]:
    """The file of each temperature in `scratch`, in their order."""
    return [context.scratch / f"temperature.{number}.jsonl" for number in range(len(context.params["temperatures"]))]


def tempered_generations(
    model: CausalLM, tokenizer: Tokenizer, evaluation: Evaluation, share: float, iteration: int
) -> list[Generation]:
    """One sample of every prompt at `share` of the evaluation's temperature, with its KL to the policy at all of it.

    KL is as of every trained policy (`kl_terms`); 0 at a share of 1, which is the SFT policy itself.
    """
    import torch

    temperature = evaluation.temperature * share
    # Without the temperature: all of them have the same random numbers, so that they differ by it alone.  Not the
    # baseline's, because a win rate against its own samples would be of pairs that are too much alike.
    batches = sample_batches(
        model,
        tokenizer,
        replace(evaluation, temperature=temperature),
        "sample",
        lambda number: make_generator("sft-tempered", evaluation.seed, number),
    )
    found = []
    for batch, rollout in batches:
        rows = to_generations(batch, rollout, iteration, "sample")
        kls = [0.0] * len(rows)
        if share != 1:
            pair = temperature, evaluation.temperature
            with torch.no_grad():
                kls = kl_terms(model, model, rollout, pair, evaluation.top_p)
        found += [replace(row, kl=kl) for row, kl in zip(rows, kls, strict=True)]
    return found
