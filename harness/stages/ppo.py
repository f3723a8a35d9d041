"""The stage that trains a policy against a reward model and stores what it writes at the fixed checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlhf_bench.harness import store
from rlhf_bench.harness.models import policies
from rlhf_bench.harness.models.flop import parameters_of, ppo_flop
from rlhf_bench.harness.nouns import Decoding, to_row
from rlhf_bench.harness.pipeline.context import Context
from rlhf_bench.harness.pipeline.trackers import open_trackers
from rlhf_bench.harness.ppo.actors import Actors, make_actors, save_policy
from rlhf_bench.harness.ppo.loop import train
from rlhf_bench.harness.ppo.run import PPORun, checkpoints
from rlhf_bench.harness.ppo.scoring import NamedRewardModel
from rlhf_bench.harness.sampling.engines import open_sampler
from rlhf_bench.harness.settings import EvalSettings, PPOSettings
from rlhf_bench.harness.stages.evaluation import decodings, policy_generations
from rlhf_bench.harness.stages.prompts import held_out, read_examples
from rlhf_bench.harness.stages.reward import scorer_of


def ppo(context: Context) -> Mapping[str, Any]:
    """policy/ (standard layout), steps.jsonl, and generations.jsonl of all checkpoints.

    Resumable at any moment: state and generations are written aside and renamed, and a checkpoint's evaluation is
    redone from the same random numbers when it was not complete.
    """
    p = context.params
    settings = PPOSettings(**p["ppo"])
    shared = settings.critic == "trunk"
    actors = make_actors(context.inputs["sft"], context.device, settings.lr, settings.critic_lr, p["seed"], shared)
    examples = read_examples(context.inputs["prompts"], "train")
    run = PPORun(
        actors=actors,
        reward_model=scorer_of(context),
        examples=examples,
        settings=settings,
        scale=store.read_json(context.inputs["scale"] / "scale.json")["scale"],
        max_new=p["max_response"],
        seed=p["seed"],
        scratch=context.scratch,
        evaluate=lambda iteration: _evaluate(context, run, actors, iteration),
        progress=context.progress,
    )
    asked = [example.prompt for example in examples]
    opened = open_sampler(settings, context.inputs["sft"], actors.tokenizer, asked, run.max_new, context.device)
    with open_trackers(context.tracked) as log, opened as sampler:
        rows = train(replace(run, log=log, sampler=sampler))
    store.write_rows(context.work / "steps.jsonl", rows)
    stored = [store.read_rows(_checkpoint(context, i)) for i in checkpoints(settings)]
    store.write_rows(context.work / "generations.jsonl", [row for part in stored for row in part])
    save_policy(actors, context.inputs["sft"], context.work)
    return {"reward": rows[-1]["reward"], "kl": rows[-1]["kl"], **_work(rows, actors, settings)}


def _work(rows: Sequence[Mapping[str, float]], actors: Actors, settings: PPOSettings) -> dict[str, float]:
    """Tokens of all rollouts, and an estimate of the operations that training on them took."""
    tokens = sum(row["read_tokens"] for row in rows)
    size = parameters_of(actors.policy)
    critic = 0 if settings.critic == "trunk" else size
    return {"tokens": tokens, "flop": ppo_flop(tokens, size, critic, settings.epochs)}


def _checkpoint(context: Context, iteration: int) -> Path:
    return context.scratch / f"generations.{iteration}.jsonl"


def _evaluate(context: Context, run: PPORun, actors: Actors, iteration: int) -> None:
    """Sampled responses at every checkpoint, greedy ones and token rewards at the last."""
    settings = EvalSettings(**context.params["eval"])
    last = iteration == run.settings.iterations
    written: list[Decoding] = decodings(settings) if last else ["sample"]
    models = (actors.policy, actors.reference, actors.tokenizer, run.reward_model)
    write_generations(_checkpoint(context, iteration), context, models, iteration, written, detailed=last)


def write_generations(
    path: Path,
    context: Context,
    models: tuple[Any, Any, Any, NamedRewardModel],
    iteration: int,
    written: Sequence[Decoding],
    detailed: bool,
) -> int:
    """What the policy writes to the held-out prompts, decoded in every way of `written`; returns how many."""
    p = context.params
    policy, reference, tokenizer, reward_model = models
    settings = EvalSettings(**p["eval"])
    examples = held_out(context.inputs["prompts"], settings)
    rows = [
        to_row(generation)
        for decoding in written
        for generation in policy_generations(
            policy,
            reference,
            tokenizer,
            reward_model,
            examples,
            p["max_response"],
            settings,
            p["ppo"]["temperature"],
            p["seed"],
            iteration,
            decoding,
            detailed=detailed,
        )
    ]
    store.write_rows(path, rows)
    return len(rows)


def transfer(context: Context) -> Mapping[str, Any]:
    """generations.jsonl: what the trained policy writes to prompts that it was not optimised on, sampled and greedy."""
    p = context.params
    sft = context.inputs["sft"]
    policy, tokenizer = policies.load_sampler(context.inputs["ppo"] / "policy", context.device, sft)
    reference, _ = policies.load_sampler(sft, context.device)
    written = decodings(EvalSettings(**p["eval"]))
    models = (policy, reference, tokenizer, scorer_of(context))
    path = context.work / "generations.jsonl"
    count = write_generations(path, context, models, p["ppo"]["iterations"], written, detailed=True)
    return {"generations": count}
