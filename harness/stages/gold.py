"""The stages that score texts with a gold model: responses of policies, the pool of best-of-n, and the test pairs.

The scores stand in for the true utility that a real task does not know (Gao et al. 2210.10760).  The gold model is a
reward model that the run trained, or a classifier of others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from rlhf_bench.harness import store
from rlhf_bench.harness.models import policies
from rlhf_bench.harness.nouns import Answer, Example, Generation, Scored
from rlhf_bench.harness.pipeline.context import Context, StageFigures
from rlhf_bench.harness.seams import MayDecline
from rlhf_bench.harness.stages.evaluation import read_generations
from rlhf_bench.harness.stages.gold_rows import ROWS
from rlhf_bench.harness.stages.judge import KEEP
from rlhf_bench.harness.stages.pairs import read_pairs
from rlhf_bench.harness.stages.pool import draw_file
from rlhf_bench.harness.stages.prompts import read_examples
from rlhf_bench.harness.stages.proxy import retokenised
from rlhf_bench.harness.stages.reward import load_reward_model, scorer_of
from rlhf_bench.harness.statistics.agreement import pair_accuracy, pearson, same_side
from rlhf_bench.judges.scorers import checked

if TYPE_CHECKING:
    from rlhf_bench.harness.ppo.scoring import NamedRewardModel
    from rlhf_bench.harness.text.types import JsonObject, Row, Tokenizer

PART = 512
"""Texts whose scores are kept at once: an interrupted stage scores no finished part again."""


class GoldText(NamedTuple):
    """A response to be scored.  finished: it ended with end-of-sequence, as the responses of pairs do."""

    prompt: str
    response: str
    finished: bool = True


def scored(context: Context, texts: Sequence[GoldText]) -> list[Scored]:
    """The gold model's score of each text, in order; equal texts are scored once.

    Undecided, with a reason, where a classifier cannot score a text.  Inputs: sft (the tokenizer) and gold (the trained
    model), where the gold model is a reward model.  Parameters: rm (name, settings) of a reward model, or classifier,
    what identifies one, and source, where it is; eval (batch).
    """
    distinct = list(dict.fromkeys(texts))
    files = []
    score: Callable[[Sequence[GoldText]], list[Scored]] | None = None
    for start in range(0, len(distinct), PART):
        file = context.scratch / f"gold.{start // PART}.jsonl"
        if not file.exists():
            score = score or _scorer(context)  # loaded where something is left to score
            found = score(distinct[start : start + PART])
            store.write_rows(file, ({"gold": one.value, "reason": one.reason} for one in found))
        files.append(file)
        context.progress(min(start + PART, len(distinct)), len(distinct))
    rows = [row for file in files for row in store.read_rows(file)]
    known = {text: Scored(row["gold"], row["reason"]) for text, row in zip(distinct, rows, strict=True)}
    return [known[text] for text in texts]


def _scorer(context: Context) -> Callable[[Sequence[GoldText]], list[Scored]]:
    p = context.params
    if "source" in p:
        from rlhf_bench.reward_models.classifier import ClassifierScorer

        classifier = ClassifierScorer(p["source"], batch=p["eval"]["batch"], device=context.device)
        return lambda texts: classifier.scores([Answer(Example("", t.prompt), t.response, t.finished) for t in texts])
    tokenizer = policies.load_tokenizer(context.inputs["sft"])
    model = load_reward_model(p, context.inputs.get("gold"), context.device)
    batch, limit = p["eval"]["batch"], policies.context_of(context.inputs["sft"])
    return lambda texts: [checked(value) for value in sums(model, tokenizer, texts, batch, context.device, limit)]


def sums(
    model: NamedRewardModel,
    tokenizer: Tokenizer,
    texts: Sequence[GoldText],
    batch: int,
    device: str,
    limit: int | None,
) -> list[float]:
    """A reward model's unscaled score of each text: the sum of its rewards per token; `limit` as of `retokenised`."""
    found: list[float] = []
    for start in range(0, len(texts), batch):
        part = [Generation("", 0, "sample", t.prompt, t.response, 0, t.finished) for t in texts[start : start + batch]]
        found += model.rewards(retokenised(tokenizer, part, device, limit)).sum(1).tolist()
    return found


def gold_scores(context: Context) -> StageFigures:
    """Score stored responses.

    Reads: generations (generations.jsonl), and as `scored`.
    Writes: gold.jsonl, a row per response in their order: example_id, iteration, decoding, response, finished, `gold`
        (null where undecided) and `reason`.
    Parameters: cut_off (`eval.cut_off`, left out for keep), and as `scored`.
    """
    found = read_generations(context.inputs["generations"] / "generations.jsonl")
    texts = [read_as(context, GoldText(g.prompt, g.response, g.finished)) for g in found]
    places = [{"example_id": g.example_id, "iteration": g.iteration, "decoding": g.decoding} for g in found]
    return write_rows(context, places, texts)


def gold_pool(context: Context) -> StageFigures:
    """Score the samples that best-of-n chooses from, for every reward model that chooses.

    Reads: pool (draw.N.jsonl), prompts (examples.test.jsonl), and as `scored`.
    Writes: gold.jsonl, a row per sample, draw after draw, prompts in their order: example_id, draw, response, finished,
        `gold` (null where undecided) and `reason`.
    Parameters: samples (draws), prompts (how many are evaluated, 0: all), cut_off (left out for keep), and as `scored`.
    """
    p = context.params
    examples = read_examples(context.inputs["prompts"], "test")[: p["prompts"] or None]
    places: list[Row] = []
    texts: list[GoldText] = []
    for number in range(p["samples"]):
        drawn = store.read_rows(draw_file(context.inputs["pool"], number))
        for example, row in zip(examples, drawn, strict=True):
            places.append({"example_id": example.id, "draw": number})
            texts.append(read_as(context, GoldText(example.prompt, row["response"], row["finished"])))
    return write_rows(context, places, texts)


def read_as(context: Context, text: GoldText) -> GoldText:
    """What is scored of a response: nothing of one that is cut off, where such responses lose."""
    lost = context.params.get("cut_off", KEEP) != KEEP and not text.finished
    return text._replace(response="") if lost else text


def write_rows(context: Context, places: Sequence[Row], texts: Sequence[GoldText]) -> StageFigures:
    """Score texts and write gold.jsonl; `places` name the rows."""
    rows: list[JsonObject] = []
    scores = scored(context, texts)
    for place, text, one in zip(places, texts, scores, strict=True):
        row = {**place, "response": text.response, "finished": text.finished, "gold": one.value}
        rows.append({**row, **({"reason": one.reason} if one.reason else {})})
    store.write_rows(context.work / ROWS, rows)
    return {"responses": len(rows), "undecided": sum(one.value is None for one in scores)}


def gold_pairs(context: Context) -> StageFigures:
    """Score both responses of the test pairs, from which no gold model of a run learns.

    Reads: pairs (pairs.test.jsonl), and as `scored`.
    Writes: gold.jsonl, a row per pair in their order: id, `chosen` and `rejected`, the scores (null where undecided).
    Parameters: as `scored`.

    `pair_accuracy`: the share of pairs whose chosen response scores higher, ties half; null without a scored pair.
    """
    found = read_pairs(context.inputs["pairs"], "test")
    scores = scored(context, [GoldText(q.prompt, side) for q in found for side in (q.chosen, q.rejected or "")])
    both = [(first.value, second.value) for first, second in zip(scores[::2], scores[1::2], strict=True)]
    rows = [{"id": q.id, "chosen": c, "rejected": r} for q, (c, r) in zip(found, both, strict=True)]
    store.write_rows(context.work / ROWS, rows)
    return {"pairs": len(found), "pair_accuracy": pair_accuracy(both), "undecided": sum(None in own for own in both)}


def gold_agreement(context: Context) -> StageFigures:
    """How far a proxy and the gold model agree before anything is optimised.

    Reads: pairs (pairs.test.jsonl), gold_pairs and gold_baseline (gold.jsonl), baseline (generations.jsonl), prompts
        (examples of both splits, where the proxy reads any), sft (the tokenizer), reward (where the proxy is trained).
    Writes: agreement.json: `pairs` (test pairs that both score), `agreement` (the share on which both prefer the same
        response, a tie of either half), `proxy_accuracy` and `gold_accuracy` on these pairs, `samples`, and
        `correlation` (Pearson's, of both scores over the SFT policy's sampled responses to the held-out prompts).
    Parameters: rm, eval (batch).
    """
    batch = context.params["eval"]["batch"]
    tokenizer, proxy = policies.load_tokenizer(context.inputs["sft"]), scorer_of(context)
    rows = zip(
        read_pairs(context.inputs["pairs"], "test"), store.read_rows(context.inputs["gold_pairs"] / ROWS), strict=True
    )
    known = [(q, (row["chosen"], row["rejected"])) for q, row in rows if None not in (row["chosen"], row["rejected"])]
    known = [(q, gold) for q, gold in known if scores_prompt(proxy, q.prompt)]
    texts = [GoldText(q.prompt, side) for q, _ in known for side in (q.chosen, q.rejected or "")]
    limit = policies.context_of(context.inputs["sft"])
    values = sums(proxy, tokenizer, texts, batch, context.device, limit)
    own, gold = list(zip(values[::2], values[1::2], strict=True)), [both for _, both in known]
    baseline = read_generations(context.inputs["baseline"] / "generations.jsonl")
    with_gold = zip(baseline, store.read_rows(context.inputs["gold_baseline"] / ROWS), strict=True)
    # what gold read: nothing of a response that is cut off, where such responses lose
    sampled = [
        (GoldText(g.prompt, row["response"], row["finished"]), row["gold"])
        for g, row in with_gold
        if g.decoding == "sample" and row["gold"] is not None
    ]
    rewards = sums(proxy, tokenizer, [text for text, _ in sampled], batch, context.device, limit)
    found = {
        "pairs": len(known),
        "agreement": same_side(own, gold),
        "proxy_accuracy": pair_accuracy(own),
        "gold_accuracy": pair_accuracy(gold),
        "samples": len(sampled),
        "correlation": pearson(rewards, [value for _, value in sampled]),
    }
    store.write_json(context.work / "agreement.json", found)
    return found


def scores_prompt(model: NamedRewardModel, prompt: str) -> bool:
    """Whether a reward model scores responses to this prompt (`seams.MayDecline`)."""
    return not (isinstance(model.model, MayDecline) and model.model.why_not(prompt))
