"""The stage that optimises against a reward model by best-of-n: the pool's samples, scored, the best kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_bench.harness import store
from rlhf_bench.harness.models import policies
from rlhf_bench.harness.nouns import Example, Generation, to_row
from rlhf_bench.harness.pipeline.context import Context
from rlhf_bench.harness.ppo.scoring import NamedRewardModel, diagnose
from rlhf_bench.harness.settings import EvalSettings
from rlhf_bench.harness.stages.pool import draw_file, stored_rollout
from rlhf_bench.harness.stages.prompts import held_out
from rlhf_bench.harness.stages.reward import scorer_of
from rlhf_bench.harness.statistics.best_of_n import check_ns, kl_bound, picks

Row = dict[str, Any]


def best_of_n(context: Context) -> Mapping[str, Any]:
    """generations.jsonl: the best of n samples at every n (as `iteration`, the analytic KL bound as `kl`);
    pool.jsonl: per prompt the rewards of all samples, gold utilities where the task knows them, and diagnostics.

    `params["best_of_n"]` holds `n` (a list), `pool` (samples per prompt) and `independent`.  Best-of-n takes the first
    n samples of the pool.  Unless `independent`, the first sample is the baseline's own: at n = 1 every judge finds the
    baseline against itself, and changes are paired most closely.  A win rate against that baseline is then higher than
    against an independent one (with a perfect reward model and n = 2: .75, not .67); `best_of_n.win_rate` of the pool
    is free of this.  Resumable after each draw.
    """
    p = context.params
    size = int(p["best_of_n"]["pool"])
    ns = check_ns(p["best_of_n"]["n"], size)
    examples = held_out(context.inputs["prompts"], EvalSettings(**p["eval"]))
    draws = _scored(context, examples, size)
    rewards = [[draw[row]["reward"] for draw in draws] for row in range(len(examples))]
    generations = [
        _generation(example, draws[index][row], n)
        for n in ns
        for row, (example, index) in enumerate(zip(examples, picks(rewards, n).tolist(), strict=True))
    ]
    store.write_rows(context.work / "pool.jsonl", [_pool_row(e, [d[i] for d in draws]) for i, e in enumerate(examples)])
    store.write_rows(context.work / "generations.jsonl", map(to_row, generations))
    last = [g.reward for g in generations if g.iteration == ns[-1] and g.reward is not None]
    return {"samples": size * len(examples), "reward": sum(last) / len(last), "kl_bound": kl_bound(ns[-1])}


def _scored(context: Context, examples: Sequence[Example], size: int) -> list[list[Row]]:
    """The pool's rows with reward and figures, draw by draw; what an interrupted run scored is in `scratch`."""
    missing = [number for number in range(size) if not draw_file(context.scratch, number).exists()]
    if missing:
        tokenizer, scorer = policies.load_tokenizer(context.inputs["sft"]), scorer_of(context)
        for number in missing:
            rows = _score(context, tokenizer, scorer, examples, number)
            store.write_rows(draw_file(context.scratch, number), rows)
            context.progress(number + 1, size)
    return [
        [{**row, **scored} for row, scored in zip(_drawn(context, number), _again(context, number), strict=True)]
        for number in range(size)
    ]


def _drawn(context: Context, number: int) -> list[Row]:
    """Without the token ids, which only scoring needs."""
    rows = store.read_rows(draw_file(context.inputs["pool"], number))
    return [{name: value for name, value in row.items() if name != "ids"} for row in rows]


def _again(context: Context, number: int) -> list[Row]:
    return store.read_rows(draw_file(context.scratch, number))


def _score(
    context: Context, tokenizer: Any, scorer: NamedRewardModel, examples: Sequence[Example], number: int
) -> list[Row]:
    """Reward and figures of one draw's sample of every prompt."""
    drawn = store.read_rows(draw_file(context.inputs["pool"], number))
    size, rows = context.params["eval"]["batch"], list[Row]()
    for start in range(0, len(examples), size):
        prompts = [example.prompt for example in examples[start : start + size]]
        rollout = stored_rollout(tokenizer, prompts, drawn[start : start + size], context.device)
        rewards = scorer.rewards(rollout)
        figures = {name: values.tolist() for name, values in diagnose(scorer, rollout, rewards).items()}
        for at, total in enumerate(rewards.sum(1).tolist()):
            rows.append({"reward": total, "figures": {name: values[at] for name, values in figures.items()}})
    return rows


def _generation(example: Example, row: Row, n: int) -> Generation:
    texts = row["response"], row["tokens"], row["finished"]
    return Generation(example.id, n, "sample", example.prompt, *texts, kl=kl_bound(n), reward=row["reward"])


def _pool_row(example: Example, samples: Sequence[Row]) -> Row:
    """All samples of one prompt, by column; their texts stay in the pool's own folder."""
    columns = {"tokens": "tokens", "finished": "finished", "rewards": "reward"}
    columns |= {"gold": "gold"} if "gold" in samples[0] else {}
    found = {name: [row[key] for row in samples] for name, key in columns.items()}
    figures = {name: [row["figures"][name] for row in samples] for name in samples[0]["figures"]}
    return {"example_id": example.id, **found, "figures": figures}
