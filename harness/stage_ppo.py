"""The stage that trains a policy against a reward model and stores what it writes at the fixed checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhf_bench.harness import policies, store
from rlhf_bench.harness.actors import Actors, make_actors
from rlhf_bench.harness.evaluation import decodings, policy_generations
from rlhf_bench.harness.nouns import to_row
from rlhf_bench.harness.ppo import PPORun, checkpoints, train
from rlhf_bench.harness.settings import EvalSettings, PPOSettings
from rlhf_bench.harness.stage import Context
from rlhf_bench.harness.stage_policy import held_out, read_examples
from rlhf_bench.harness.stage_reward import load_reward_model


def ppo(context: Context) -> Mapping[str, Any]:
    """policy/ (standard layout), steps.jsonl, and generations.jsonl of all checkpoints.

    Resumable at any moment: state and generations are written aside and renamed, and a checkpoint's evaluation is
    redone from the same random numbers when it was not complete.
    """
    p = context.params
    settings = PPOSettings(**p["ppo"])
    actors = make_actors(context.inputs["sft"], context.device, settings.lr, settings.critic_lr)
    run = PPORun(
        actors=actors,
        reward_model=load_reward_model(p, context.inputs.get("reward"), context.device),
        examples=read_examples(context.inputs["sft"], "train"),
        settings=settings,
        scale=store.read_json(context.inputs["scale"] / "scale.json")["scale"],
        max_new=p["max_response"],
        seed=p["seed"],
        scratch=context.scratch,
        evaluate=lambda iteration: _evaluate(context, run, actors, iteration),
        progress=context.progress,
    )
    rows = train(run)
    store.write_rows(context.work / "steps.jsonl", rows)
    stored = [store.read_rows(_checkpoint(context, i)) for i in checkpoints(settings)]
    store.write_rows(context.work / "generations.jsonl", [row for part in stored for row in part])
    policies.save_model(actors.policy, actors.tokenizer, context.work / "policy")
    return {"reward": rows[-1]["reward"], "kl": rows[-1]["kl"]}


def _checkpoint(context: Context, iteration: int) -> Any:
    return context.scratch / f"generations.{iteration}.jsonl"


def _evaluate(context: Context, run: PPORun, actors: Actors, iteration: int) -> None:
    """Sampled responses at every checkpoint, greedy ones and token rewards at the last."""
    p = context.params
    settings = EvalSettings(**p["eval"])
    last = iteration == run.settings.iterations
    rows = []
    for decoding in decodings(settings) if last else ["sample"]:
        generations = policy_generations(
            actors.policy,
            actors.reference,
            actors.tokenizer,
            run.reward_model,
            held_out(context.inputs["sft"], settings),
            run.max_new,
            settings,
            run.settings.temperature,
            run.seed,
            iteration,
            decoding,  # type: ignore[arg-type]
            detailed=last,
        )
        rows += [to_row(generation) for generation in generations]
    store.write_rows(_checkpoint(context, iteration), rows)
