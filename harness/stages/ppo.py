"""The stages that train a policy against a reward model, and that let it answer prompts of another task."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rlhf_bench.harness import store
from rlhf_bench.harness.models import policies
from rlhf_bench.harness.models.flop import parameters_of, ppo_flop
from rlhf_bench.harness.pipeline.context import Context, StageFigures
from rlhf_bench.harness.pipeline.trackers import open_trackers
from rlhf_bench.harness.ppo.actors import make_actors, save_policy
from rlhf_bench.harness.ppo.arithmetic import Standard
from rlhf_bench.harness.ppo.loop import train
from rlhf_bench.harness.ppo.run import PPORun, checkpoints
from rlhf_bench.harness.sampling.engines import open_sampler
from rlhf_bench.harness.settings import PPOSettings
from rlhf_bench.harness.stages.evaluation import EvaluatedPolicy, Evaluation, decodings, write_generations
from rlhf_bench.harness.stages.prompts import read_examples
from rlhf_bench.harness.stages.reward import scorer_of


def ppo(context: Context) -> StageFigures:
    """Train the SFT policy against a reward model by PPO.

    Reads: sft (the policy), prompts (examples.train.jsonl, and examples.test.jsonl to evaluate on), scale (scale.json),
        reward (where the reward model is trained).
    Writes: policy/ in the standard layout (under adapters also adapter/), steps.jsonl (a row per iteration),
        generations.jsonl (sampled and greedy at every checkpoint; token rewards at the last).
    Parameters: ppo, eval, rm, max_response, seed.

    Resumable at any moment: state and generations are written aside and renamed, and a checkpoint's evaluation is
    redone from the same random numbers when it was not complete.
    """
    p, inputs = context.params, context.inputs
    settings = PPOSettings(**p["ppo"])
    shared = settings.critic == "trunk"
    actors = make_actors(inputs["sft"], context.device, settings.lr, settings.critic_lr, p["seed"], shared)
    examples, measured = read_examples(inputs["prompts"], "train"), store.read_json(inputs["scale"] / "scale.json")
    run = PPORun(
        actors=actors,
        reward_model=scorer_of(context),
        examples=examples,
        settings=settings,
        standard=Standard(*(measured[name] for name in Standard._fields)),
        max_new=p["max_response"],
        seed=p["seed"],
        scratch=context.scratch,
        # `run` is bound when the function is called, after this statement.
        evaluate=lambda iteration: evaluate_checkpoint(context, run, iteration),
        progress=context.progress,
    )
    prompts = [example.prompt for example in examples]
    opened = open_sampler(settings, inputs["sft"], actors.tokenizer, prompts, run.max_new, context.device)
    # `replace` makes a copy over the same models: the evaluation, which refers to `run`, sees the trained policy.
    with open_trackers(context.tracked) as log, opened as sampler:
        rows = train(replace(run, log=log, sampler=sampler))
    store.write_rows(context.work / "steps.jsonl", rows)
    # Evaluations were written as they were made: a resumed run does not repeat those before its state.
    stored = [store.read_rows(checkpoint_file(context, i)) for i in checkpoints(settings)]
    store.write_rows(context.work / "generations.jsonl", [row for part in stored for row in part])
    save_policy(actors, inputs["sft"], context.work)
    # Work: tokens of all rollouts, and an estimate of the operations on them; a critic on the trunk adds none.
    tokens, size = sum(row["read_tokens"] for row in rows), parameters_of(actors.policy)
    flop = ppo_flop(tokens, size, 0 if shared else size, settings.epochs)
    return {"reward": rows[-1]["reward"], "kl": rows[-1]["kl"], "tokens": tokens, "flop": flop}


def evaluate_checkpoint(context: Context, run: PPORun, iteration: int) -> None:
    """Write the generations of a checkpoint to `scratch`: sampled, and greedy ones where `eval.greedy`.

    Called by the loop, with `iteration` from 1.  Greedy ones at every checkpoint: without them greedy decoding has no
    frontier, and so no comparison at equal KL.  The last checkpoint is in detail: with token rewards and corrections.
    """
    evaluation = Evaluation.of(context, run.settings.temperature)
    last = iteration == run.settings.iterations
    ways = decodings(evaluation.settings)
    evaluated = EvaluatedPolicy(run.actors.policy, run.actors.reference, run.actors.tokenizer, run.reward_model)
    write_generations(checkpoint_file(context, iteration), evaluated, evaluation, iteration, ways, detailed=last)


def checkpoint_file(context: Context, iteration: int) -> Path:
    """The file of a checkpoint's generations in `scratch`, until all are written to one in `work`."""
    return context.scratch / f"generations.{iteration}.jsonl"


def transfer(context: Context) -> StageFigures:
    """Let the trained policy answer prompts that it was not optimised on.

    Reads: sft (the reference), ppo (policy/), prompts (examples.test.jsonl), reward (where the reward model is
        trained), train_prompts (where the reward model reads examples).
    Writes: generations.jsonl (sampled and greedy, with token rewards).
    Parameters: ppo (iterations, temperature), eval, rm, max_response, seed.
    """
    p = context.params
    evaluated = trained_policy(context, context.inputs["ppo"] / "policy")
    evaluation = Evaluation.of(context, p["ppo"]["temperature"])
    path, ways = context.work / "generations.jsonl", decodings(evaluation.settings)
    # The number of iterations, because the policy is that after the last one.
    count = write_generations(path, evaluated, evaluation, p["ppo"]["iterations"], ways, detailed=True)
    return {"generations": count}


def trained_policy(context: Context, folder: Path) -> EvaluatedPolicy:
    """The policy in `folder`, held as the SFT policy of the stage is, with that policy and the reward model.

    Raises BenchError where one of the three cannot be loaded.
    """
    sft = context.inputs["sft"]
    policy, tokenizer = policies.load_sampler(folder, context.device, sft)
    reference, _ = policies.load_sampler(sft, context.device)  # its tokenizer is the policy's
    return EvaluatedPolicy(policy, reference, tokenizer, scorer_of(context))
