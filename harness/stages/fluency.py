"""The stage that measures every evaluated response as text: how likely the base policy finds it, and how it repeats.

No reward model and no judge sees that a response is no language.  These two numbers do: a policy that found a way to be
paid for word salad is far less likely under the model that it began as, and one that was paid for saying a thing twice
repeats its n-grams.  The stage writes what a judge writes, so reports show its measures as they show a judge's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_bench.harness import store
from rlhf_bench.harness.hub import is_hub_id, split_revision
from rlhf_bench.harness.models import policies, tiny_policy
from rlhf_bench.harness.models.micro_batch import MicroBatchLimit
from rlhf_bench.harness.models.placement import apply_placement, read_placement
from rlhf_bench.harness.nouns import Generation, Measure, Verdict
from rlhf_bench.harness.pipeline.context import Context, StageFigures
from rlhf_bench.harness.sampling.rollout import logprobs, map_batches
from rlhf_bench.harness.stages.evaluation import LOGIT_ROWS
from rlhf_bench.harness.stages.judge import read_cases, undecided, verdict_row
from rlhf_bench.harness.stages.proxy import retokenised
from rlhf_bench.harness.text.words import spaced_words

if TYPE_CHECKING:
    from rlhf_bench.harness.forward.types import CausalLM
    from rlhf_bench.harness.text.types import Row, Tokenizer

DOING = "measuring perplexity"
GRAM = 4
"""Words of the n-grams whose repetition is counted."""


def fluency(context: Context) -> StageFigures:
    """Score every stored response, and the baseline's to the same prompt.

    Reads: sft (the tokenizer, and the policy where there is no base), prompts (examples.test.jsonl), baseline and
        generations (generations.jsonl).
    Writes: verdicts.jsonl and measures.json, as the stage `verdicts`.
    Parameters: judge (the name alone), policy (as of the stage `sft`), seed.

    Raises BenchError where the base policy cannot be loaded.
    """
    sft, policy = context.inputs["sft"], context.params["policy"]
    cases = read_cases(context)
    responses = [response for case in cases for response in (case.generation, case.baseline)]
    model, tokenizer = load_base(sft, policy, context.device)
    perplexity = log_perplexities(model, tokenizer, responses, context)
    name = perplexity_name(policy)
    rows = []
    for at, case in enumerate(cases):
        after, before = perplexity[2 * at : 2 * at + 2]
        repeats = [repetition(one.response) for one in (case.generation, case.baseline)]
        known = after is not None and before is not None
        values = {
            name: after,
            f"{name}_change": after - before if after is not None and before is not None else None,
            "repetition": repeats[0],
            "repetition_change": repeats[0] - repeats[1],
        }
        rows.append(verdict_row(case, Verdict(values, "" if known else "the model gives no finite probability")))
    store.write_rows(context.work / "verdicts.jsonl", rows)
    store.write_json(context.work / "measures.json", [asdict(one) for one in measures(policy)])
    return {"cases": len(cases), "undecided": len(undecided(rows))}


def perplexity_name(policy: Row) -> str:
    """log_perplexity, which is under the base policy; log_perplexity_sft for the policy `tiny`, which has no base."""
    return "log_perplexity_sft" if policy["source"] == tiny_policy.TINY else "log_perplexity"


def measures(policy: Row) -> list[Measure]:
    """What the numbers of a policy's responses mean."""
    name = perplexity_name(policy)
    of = "SFT policy, since the policy has no pretrained base" if name.endswith("_sft") else "pretrained base policy"
    title = "log-perplexity under " + ("SFT" if name.endswith("_sft") else "base")
    what = f"mean negative log-probability of a response token, end-of-sequence included, in nats, under the {of}"
    grams = f"share of a response's {GRAM}-grams of words that stood in it before"
    less = "minus that of the SFT baseline's response to the same prompt"
    return [
        Measure(name, "level", what, title=title, format="nats", shown=("headline", "curves")),
        Measure(f"{name}_change", "change", f"{what}; {less}", title=f"{title}, change", format="nats", shown=()),
        Measure("repetition", "level", grams, title="repetition", format="share", shown=("headline", "curves")),
        Measure("repetition_change", "change", f"{grams}; {less}", limit=1.0, title="repetition change",
                format="share", shown=()),
    ]  # fmt: skip


def load_base(sft: Path, policy: Row, device: str) -> tuple[CausalLM, Tokenizer]:
    """The model that SFT began from, with the SFT policy's tokenizer and precision; the SFT policy for `tiny`.

    A hub id is loaded at the commit that SFT loaded.  Raises BenchError where it cannot be loaded.
    """
    source = policy["source"]
    if source == tiny_policy.TINY:
        return policies.load_sampler(sft, device)
    if is_hub_id(source) and not Path(source).is_dir() and not split_revision(source)[1]:
        marker = sft / store.MARKER
        commit = store.read_json(marker)["figures"].get("commit") if marker.is_file() else None
        source = f"{source}@{commit}" if commit else source
    placement, tokenizer = read_placement(sft), policies.load_tokenizer(sft)
    return apply_placement(policies.load_frozen(source, tokenizer, device, placement), placement), tokenizer


def log_perplexities(
    model: CausalLM, tokenizer: Tokenizer, responses: Sequence[Generation], context: Context
) -> list[float | None]:
    """For each response the mean of -log p over its tokens given its prompt, in nats; None where it is not finite.

    Texts are tokenised again, and measured as far as the model can read them.  End-of-sequence counts as a token of a
    response that ended; an empty one has it alone.
    """
    import torch

    # by prompt: one batch of responses to a prompt computes the prompt once
    found: dict[tuple[str, str, bool], float | None] = {}
    wanted = sorted({(one.prompt, one.response, one.finished) for one in responses})
    known = {(one.prompt, one.response, one.finished): one for one in responses}
    limit, size = MicroBatchLimit(), 16 * LOGIT_ROWS
    for start in range(0, len(wanted), size):
        part = wanted[start : start + size]
        rollout = retokenised(tokenizer, [known[key] for key in part], context.device, policies.context_length(model))
        with torch.no_grad():
            sums = map_batches(lambda rows: logprobs(model, rows), rollout, LOGIT_ROWS, limit=limit, doing=DOING).sum(1)
        means = (-sums / rollout.mask.sum(1)).tolist()
        found |= {key: mean if math.isfinite(mean) else None for key, mean in zip(part, means, strict=True)}
        context.progress(min(start + size, len(wanted)), len(wanted))
    return [found[one.prompt, one.response, one.finished] for one in responses]


def repetition(response: str) -> float:
    """Share of the n-grams of GRAM words that stood in the response before: 1 - distinct / all (seq-rep-n of Welleck
    et al. 2020, arXiv 1908.04319); 0 for a response of fewer words."""
    from rlhf_bench.harness.statistics.collapse import distinct_grams  # here: scipy comes with it

    distinct, total = distinct_grams([spaced_words(response)], GRAM)
    return 1 - distinct / total if total else 0.0
