"""The stage that optimises against a reward model by best-of-n: the pool's samples, scored, the best kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlhf_bench.harness import store
from rlhf_bench.harness.models import policies
from rlhf_bench.harness.nouns import Example, Generation, to_row
from rlhf_bench.harness.pipeline.context import Context, StageFigures
from rlhf_bench.harness.ppo.scoring import NamedRewardModel, diagnose
from rlhf_bench.harness.settings import EvalSettings
from rlhf_bench.harness.stages.pool import draw_file, stored_rollout
from rlhf_bench.harness.stages.prompts import held_out
from rlhf_bench.harness.stages.reward import scorer_of
from rlhf_bench.harness.statistics.best_of_n import check_ns, kl_bound, picks

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject, Row, Tokenizer


def best_of_n(context: Context) -> StageFigures:
    """Choose the best of the first n samples of every held-out prompt, at every n.

    Reads: sft (the tokenizer), prompts (examples.test.jsonl), pool (draw.N.jsonl), reward (where the reward model is
        trained), train_prompts (where it reads examples).
    Writes: generations.jsonl (the best at every n, with n as `iteration` and the analytic KL bound as `kl`),
        pool.jsonl (per prompt the rewards of all samples, gold utilities where the task knows them, and diagnostics).
    Parameters: best_of_n (`n`, a list; `pool`, samples per prompt), eval, rm.

    Unless the pool is independent, its first sample is the baseline's own: at n = 1 every judge compares the baseline
    with itself, and changes are paired most closely.  A win rate against that baseline is then higher than against an
    independent one (with a perfect reward model and n = 2: .75, not .67); `best_of_n.win_rate` of the pool has no such
    bias.  Resumable after each draw.
    """
    p = context.params
    size = int(p["best_of_n"]["pool"])
    ns = check_ns(p["best_of_n"]["n"], size)
    examples = held_out(context.inputs["prompts"], EvalSettings(**p["eval"]))
    draws = scored_draws(context, examples, size)
    # By prompt, then draw: the draws are stored the other way round, one file for each.
    rewards = [[draw[row]["reward"] for draw in draws] for row in range(len(examples))]
    # picks: for every prompt the index of the best of its first n samples, the earliest of equals.
    generations = [
        to_generation(example, draws[index][row], n)
        for n in ns
        for row, (example, index) in enumerate(zip(examples, picks(rewards, n).tolist(), strict=True))
    ]
    pools = [pool_row(example, [draw[row] for draw in draws]) for row, example in enumerate(examples)]
    store.write_rows(context.work / "pool.jsonl", pools)
    store.write_rows(context.work / "generations.jsonl", map(to_row, generations))
    # Of the largest n: `check_ns` has sorted them.
    last = [g.reward for g in generations if g.iteration == ns[-1] and g.reward is not None]
    return {"samples": size * len(examples), "reward": sum(last) / len(last), "kl_bound": kl_bound(ns[-1])}


def scored_draws(context: Context, examples: Sequence[Example], size: int) -> list[list[JsonObject]]:
    """The rows of every draw with their reward and figures, without token ids.

    The scores of a draw are kept in `scratch`, so an interrupted run computes none twice.
    """
    drawn, scores = context.inputs["pool"], context.scratch
    missing = [number for number in range(size) if not draw_file(scores, number).exists()]
    if missing:  # else no model is loaded: an interrupted run has scored all
        tokenizer, scorer = policies.load_tokenizer(context.inputs["sft"]), scorer_of(context)
        for number in missing:
            rows = score_draw(context, tokenizer, scorer, examples, number)
            store.write_rows(draw_file(scores, number), rows)
            context.progress(number + 1, size)
    found = []
    # The draws' own rows are joined with their scores; ids are for scoring alone.
    for number in range(size):
        pairs = zip(*(store.read_rows(draw_file(folder, number)) for folder in (drawn, scores)), strict=True)
        found.append([{name: value for name, value in row.items() if name != "ids"} | score for row, score in pairs])
    return found


def score_draw(
    context: Context, tokenizer: Tokenizer, scorer: NamedRewardModel, examples: Sequence[Example], number: int
) -> list[JsonObject]:
    """`reward` (the unscaled sum over tokens) and `figures` of draw `number`, a row per prompt in their order.

    Raises BenchError where the reward model fails, and for a damaged draw.
    """
    drawn = store.read_rows(draw_file(context.inputs["pool"], number))
    size = context.params["eval"]["batch"]
    rows: list[JsonObject] = []
    for start in range(0, len(examples), size):
        prompts = [example.prompt for example in examples[start : start + size]]
        rollout = stored_rollout(tokenizer, prompts, drawn[start : start + size], context.device)
        rewards = scorer.rewards(rollout)
        figures = {name: values.tolist() for name, values in diagnose(scorer, rollout, rewards).items()}
        for at, total in enumerate(rewards.sum(1).tolist()):
            rows.append({"reward": total, "figures": {name: values[at] for name, values in figures.items()}})
    return rows


def to_generation(example: Example, row: Row, n: int) -> Generation:
    """The sample chosen at n, as a generation of "iteration" n; `row` is one of `scored_draws`.

    Its KL is the analytic bound in nats (`kl_bound`): best-of-n has no log-probabilities to estimate it from.
    """
    texts = row["response"], row["tokens"], row["finished"]
    return Generation(
        example.id, n, "sample", example.prompt, *texts, kl=kl_bound(n), reward=row["reward"], sample=example.sample
    )


def pool_row(example: Example, samples: Sequence[Row]) -> JsonObject:
    """The row of pool.jsonl of one prompt: its samples by column, in the order of the draws.

    Their texts stay in the pool's own folder.
    """
    # The file's name of a column, and the row's.
    columns = {"tokens": "tokens", "finished": "finished", "rewards": "reward"}
    columns |= {"gold": "gold"} if "gold" in samples[0] else {}  # a task knows the utility of all or of none
    found = {name: [row[key] for row in samples] for name, key in columns.items()}
    figures = {name: [row["figures"][name] for row in samples] for name in samples[0]["figures"]}
    return {"example_id": example.id, **found, "figures": figures}
