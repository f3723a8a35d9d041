"""The stage that optimises against a reward model by best-of-n: samples of the SFT policy, scored, the best kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlhf_bench.harness import policies, store
from rlhf_bench.harness.best_of_n import check_ns, kl_bound, picks
from rlhf_bench.harness.cells import Array
from rlhf_bench.harness.evaluation import rollouts, to_generations
from rlhf_bench.harness.nouns import Example, Generation, to_row
from rlhf_bench.harness.rollout import make_generator
from rlhf_bench.harness.scoring import NamedRewardModel, diagnose
from rlhf_bench.harness.settings import EvalSettings
from rlhf_bench.harness.stage import Context
from rlhf_bench.harness.stage_prompts import held_out, load_task
from rlhf_bench.harness.stage_reward import scorer_of
from rlhf_bench.harness.stage_scale import gold_of

Row = dict[str, Any]


def best_of_n(context: Context) -> Mapping[str, Any]:
    """generations.jsonl: the best of n samples at every n (as `iteration`, the analytic KL bound as `kl`);
    pool.jsonl: per prompt all samples with their rewards, gold utilities where the task knows them, and diagnostics.

    `params["best_of_n"]` holds `n` (a list), `pool` (samples per prompt) and `independent`.  Best-of-n takes the first
    n samples of the pool.  Unless `independent`, the first sample is the baseline's own, from the same random numbers:
    at n = 1 every judge finds the baseline against itself, and changes are paired most closely.  A win rate against
    that baseline is then higher than against an independent one (with a perfect reward model and n = 2: .75, not .67);
    `best_of_n.win_rate` of the pool is free of this.  Resumable after each sample.
    """
    p = context.params
    settings = EvalSettings(**p["eval"])
    pool = int(p["best_of_n"]["pool"])
    ns = check_ns(p["best_of_n"]["n"], pool)
    examples = held_out(context.inputs["prompts"], settings)
    draws = _draws(context, examples, settings, pool)
    rewards = [[draw[row]["reward"] for draw in draws] for row in range(len(examples))]
    generations = [
        _generation(example, draws[index][row], n)
        for n in ns
        for row, (example, index) in enumerate(zip(examples, picks(rewards, n).tolist(), strict=True))
    ]
    store.write_rows(context.work / "pool.jsonl", [_pool_row(e, [d[i] for d in draws]) for i, e in enumerate(examples)])
    store.write_rows(context.work / "generations.jsonl", map(to_row, generations))
    last = [g.reward for g in generations if g.iteration == ns[-1] and g.reward is not None]
    return {"samples": pool * len(examples), "reward": sum(last) / len(last), "kl_bound": kl_bound(ns[-1])}


def _draws(context: Context, examples: Sequence[Example], settings: EvalSettings, pool: int) -> list[list[Row]]:
    """One sample per prompt and draw, from the scratch folder where an interrupted run left it."""
    missing = [number for number in range(pool) if not _draw_file(context, number).exists()]
    if missing:
        policy = policies.load_sampler(context.inputs["sft"], context.device)
        scorer = scorer_of(context)
        for number in missing:
            rows = _draw(context, policy, scorer, examples, settings, number)
            store.write_rows(_draw_file(context, number), rows)
            context.progress(number + 1, pool)
    return [store.read_rows(_draw_file(context, number)) for number in range(pool)]


def _draw_file(context: Context, number: int) -> Path:
    return context.scratch / f"draw.{number}.jsonl"


def _draw(
    context: Context,
    policy: tuple[Any, Any],
    scorer: NamedRewardModel,
    examples: Sequence[Example],
    settings: EvalSettings,
    number: int,
) -> list[Row]:
    """The draw's sample of every prompt: text, tokens, finished, reward, figures, gold where there is one."""
    p = context.params
    shared = number == 0 and not p["best_of_n"]["independent"]

    def seed_of(batch: int) -> Any:
        if shared:
            return make_generator("baseline", p["seed"], batch)
        return make_generator("best-of-n", p["seed"], number, batch)

    found = rollouts(*policy, examples, p["max_response"], settings, "sample", p["temperature"], seed_of)
    worth = gold_of(load_task(p))
    rows = []
    for batch, rollout in found:
        rewards = scorer.rewards(rollout)
        figures = {name: values.tolist() for name, values in diagnose(scorer, rollout, rewards).items()}
        sums = rewards.sum(1).tolist()
        for at, (example, one) in enumerate(zip(batch, to_generations(batch, rollout, 0, "sample"), strict=True)):
            row = {"response": one.response, "tokens": one.tokens, "finished": one.finished, "reward": sums[at]}
            row["figures"] = {name: values[at] for name, values in figures.items()}
            rows.append(row | ({"gold": _decided(worth(example, one.response))} if worth else {}))
    return rows


def _decided(value: float) -> float | None:
    """None for a gold utility that is no finite number."""
    return value if math.isfinite(value) else None


def _generation(example: Example, row: Row, n: int) -> Generation:
    texts = row["response"], row["tokens"], row["finished"]
    return Generation(example.id, n, "sample", example.prompt, *texts, kl=kl_bound(n), reward=row["reward"])


def _pool_row(example: Example, samples: Sequence[Row]) -> Row:
    """All samples of one prompt, by column."""
    names = [name for name in samples[0] if name != "figures"]
    columns = {f"{name}s" if name == "reward" else name: [row[name] for row in samples] for name in names}
    figures = {name: [row["figures"][name] for row in samples] for name in samples[0]["figures"]}
    return {"example_id": example.id, **columns, "figures": figures}


class Pool(NamedTuple):
    """A stored pool: example ids [P], rewards [P, N], gold [P, N] (NaN undecided) or None where the task has none."""

    examples: tuple[str, ...]
    rewards: Array
    gold: Array | None


def read_pool(folder: Path) -> Pool:
    """The pool that the stage above stored."""
    rows = store.read_rows(folder / "pool.jsonl")
    rewards = np.array([row["rewards"] for row in rows], dtype=np.float64)
    gold = np.array([row["gold"] for row in rows], dtype=np.float64) if "gold" in rows[0] else None
    return Pool(tuple(row["example_id"] for row in rows), rewards, gold)
