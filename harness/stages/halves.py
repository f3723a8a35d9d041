"""The stages that prepare the pairs of a run with a gold model: its two halves, and the proxies' labels by gold.

Gao et al. (2210.10760) and Coste et al. (2310.02743): the gold model learns from data that no proxy sees, and may label
what the proxies learn from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Pair
from rlhf_bench.harness.pipeline.context import Context, StageFigures
from rlhf_bench.harness.stages.pairs import pair_row, read_pairs

if TYPE_CHECKING:
    from pathlib import Path

    from rlhf_bench.harness.text.types import JsonObject

GOLD, PROXIES = "gold", "proxies"
"""Whose half of the training pairs a folder holds."""
FEWEST = 2
"""The fewest prompts that can be halved."""


def half(context: Context) -> StageFigures:
    """One half of the training pairs, beside all test pairs.

    Reads: pairs (pairs.train.jsonl, pairs.test.jsonl).
    Writes: pairs.train.jsonl (the half), pairs.test.jsonl.
    Parameters: half (GOLD or PROXIES), pairs (of the stage that is halved, for readers), seed (of the split).

    Raises BenchError for pairs of fewer than FEWEST prompts.
    """
    p, found = context.params, read_pairs(context.inputs["pairs"], "train")
    of_gold, of_proxies = halves(found, p["seed"])
    return _write(context, of_gold if p["half"] == GOLD else of_proxies, {"all_train_pairs": len(found)})


def halves(found: Sequence[Pair], seed: int) -> tuple[list[Pair], list[Pair]]:
    """(gold's, the proxies') pairs, each in the order of `found`: random halves by prompt, together all of them.

    A prompt's pairs are all in one half; prompts that differ in white space alone are one.  The halves are as equal in
    pairs as the order of prompts, drawn from the seed, allows.  Raises BenchError for fewer than FEWEST prompts.
    """
    counts: dict[str, int] = {}
    for pair in found:
        counts[prompt_name(pair.prompt)] = counts.get(prompt_name(pair.prompt), 0) + 1
    check_prompts(len(counts))
    order = sorted(counts, key=lambda prompt: hashlib.sha256(json.dumps([seed, prompt]).encode()).digest())
    sizes = list(accumulate(counts[prompt] for prompt in order))
    # at least one prompt in each half
    best = min(range(1, len(order)), key=lambda n: abs(2 * sizes[n - 1] - sizes[-1]))
    own = set(order[:best])
    parts: tuple[list[Pair], list[Pair]] = ([], [])
    for pair in found:
        parts[prompt_name(pair.prompt) not in own].append(pair)
    return parts


def check_prompts(count: int) -> None:
    """Raises BenchError for training pairs of too few prompts."""
    if count < FEWEST:
        raise BenchError(f"The training pairs have {count} prompt: they cannot be halved.", "Give more, or --gold rm:.")


def prompt_name(prompt: str) -> str:
    """A prompt without its differences in white space, by which prompts are told apart."""
    return " ".join(prompt.split())


def relabelled(context: Context) -> StageFigures:
    """The training pairs with the labels of the gold model: where it prefers the rejected response, both are swapped.

    Reads: pairs (pairs.train.jsonl, pairs.test.jsonl), sft and gold (see `gold.scored`).
    Writes: pairs.train.jsonl, pairs.test.jsonl (unchanged), labels.jsonl: per training pair its id and the gold scores
        of what was chosen and rejected before (null where gold does not score).
    Parameters: as `gold.scored`, and pairs (of the stage that is relabelled, for readers).

    Ties, and pairs that the gold model cannot score, keep their order; all are counted.
    """
    from rlhf_bench.harness.stages.gold import GoldText, scored  # here: torch comes with it, and plans import this

    found = read_pairs(context.inputs["pairs"], "train")
    texts = [GoldText(q.prompt, side) for q in found for side in (q.chosen, q.rejected or "")]
    scores = [one.value for one in scored(context, texts)]
    chosen, rejected = scores[::2], scores[1::2]
    kept, counts = relabel(found, chosen, rejected)
    rows = [{"id": q.id, "chosen": c, "rejected": r} for q, c, r in zip(found, chosen, rejected, strict=True)]
    store.write_rows(context.work / "labels.jsonl", rows)
    return _write(context, kept, counts)


def relabel(
    found: Sequence[Pair], chosen: Sequence[float | None], rejected: Sequence[float | None]
) -> tuple[list[Pair], dict[str, float]]:
    """The pairs with the labels of these scores of both sides, and counts: swapped, ties and unscored, and the share
    of swapped pairs."""
    kept, counts = [], {"swapped": 0, "gold_ties": 0, "gold_unscored": 0}
    for pair, first, second in zip(found, chosen, rejected, strict=True):
        if first is None or second is None:
            counts["gold_unscored"] += 1
        elif first == second:
            counts["gold_ties"] += 1
        elif first < second:
            counts["swapped"] += 1
            pair = replace(
                pair,
                chosen=pair.rejected or "",
                rejected=pair.chosen,
                chosen_flaws=pair.rejected_flaws,
                rejected_flaws=pair.chosen_flaws,
            )
        kept.append(pair)
    return kept, {**counts, "swapped_share": counts["swapped"] / max(1, len(found))}


def _write(context: Context, train: Sequence[Pair], more: dict[str, int] | dict[str, float]) -> StageFigures:
    source: Path = context.inputs["pairs"]
    store.write_rows(context.work / "pairs.train.jsonl", map(pair_row, train))
    store.write_rows(context.work / "pairs.test.jsonl", map(pair_row, read_pairs(source, "test")))
    # those of the stage before: a report reads from this one how many pairs were dropped
    before: JsonObject = store.read_json(source / store.MARKER)["figures"]
    longer = sum(len(pair.chosen) > len(pair.rejected or "") for pair in train)
    own = {"train_pairs": len(train), "train_chosen_longer": longer / len(train)}
    return {**before, **own, **more}
