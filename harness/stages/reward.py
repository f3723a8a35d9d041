"""The stage that trains a reward model, and the loading of any reward model as a checked scorer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from rlhf_bench.harness import plugins
from rlhf_bench.harness.errors import BenchError, one_line
from rlhf_bench.harness.faults import machine_fault
from rlhf_bench.harness.nouns import Example
from rlhf_bench.harness.pipeline.context import Context, StageFigures
from rlhf_bench.harness.ppo.scoring import NamedRewardModel
from rlhf_bench.harness.seams import (
    GoldTask,
    ReadsExamples,
    ReadsUtility,
    RewardModel,
    TrainableRewardModel,
    TrainingJob,
)
from rlhf_bench.harness.stages.pairs import read_pairs
from rlhf_bench.harness.stages.prompts import load_task, read_examples
from rlhf_bench.harness.text.types import Row
from rlhf_bench.harness.training.record import trained_on, write_record

T = TypeVar("T")
TRACEBACK = "Set RLHF_BENCH_DEBUG=1 for the traceback."

Examples = Mapping[str, Sequence[Example]]
"""Examples by split."""

TrueUtility = Callable[[str, str], float | None]
"""The true utility of (prompt, response)."""


def reward(context: Context) -> StageFigures:
    """Train a reward model by its own `train`.

    Reads: sft (the policy), pairs (pairs.train.jsonl).
    Writes: what `train` writes (safetensors in the standard layout), reward_model.json (name and settings, and what it
        was trained with).
    Parameters: rm (name, settings), max_response, seed.

    Resumable as far as `train` is, which gets `scratch`.
    """
    p = context.params
    # The plan has this stage for trainable reward models alone.
    arm: TrainableRewardModel = plugins.build("reward-model", p["rm"]["name"], p["rm"]["settings"])
    job = TrainingJob(
        pairs=read_pairs(context.inputs["pairs"], "train"),
        policy=context.inputs["sft"],
        folder=context.work,
        scratch=context.scratch,
        seed=p["seed"],
        max_response_tokens=p["max_response"],
        device=context.device,
        progress=context.progress,
    )
    figures = guarded(p["rm"]["name"], "training", lambda: arm.train(job))
    if not isinstance(figures, Mapping):
        seen = f"The reward model {p['rm']['name']!r} returned a {type(figures).__name__} from train."
        raise BenchError(seen, "Return the figures of its training, such as {}.")
    # Last: a folder with a record has all its weights.
    trained = trained_on(arm.recipe, arm.training_settings, job.seed, job.policy, job.pairs)
    write_record(context.work, p["rm"]["name"], p["rm"]["settings"], trained)
    return {"recipe": arm.recipe, **figures}


def guarded(name: str, doing: str, call: Callable[[], T]) -> T:
    """What a method of the reward model `name` returns.  Raises BenchError, naming it, for whatever it raises.

    Faults of the machine pass, for `run_guarded` to name them.
    """
    try:
        return call()
    except BenchError as error:
        raise BenchError(f"The reward model {name!r}: {error.seen}", error.fix) from error
    except (Exception, SystemExit) as error:  # a plugin may raise anything
        if fault := machine_fault(error, f"The reward model {name!r}, {doing}"):
            raise fault from error
        seen = f"The reward model {name!r} failed while {doing}: {one_line(error)}."
        raise BenchError(seen, TRACEBACK) from error


def load_reward_model(
    params: Row,
    folder: Path | None,
    device: str,
    examples: Callable[[], Examples] | None = None,
    utility: Callable[[], TrueUtility] | None = None,
) -> NamedRewardModel:
    """The scorer of a stage's `params`, from the folder that its training wrote (None where it needs none).

    `examples` gives the examples of both splits to a reward model that reads any, `utility` the true utility to one
    that pays it; without, it scores what prompts and responses alone allow.  Raises BenchError where it cannot be
    built, or is no reward model.
    """
    spec = params["rm"]
    model = plugins.build("reward-model", spec["name"], spec["settings"])
    if isinstance(model, TrainableRewardModel):
        assert folder is not None  # the plan makes the training an input of every stage that scores
        trained, where = model, folder
        model = guarded(spec["name"], "loading", lambda: trained.load(where, device))
    if isinstance(model, ReadsExamples) and examples is not None:
        reading, found = model, examples()
        model = guarded(spec["name"], "reading the examples", lambda: reading.with_examples(found))
    if isinstance(model, ReadsUtility) and utility is not None:
        paying, true = model, utility()
        model = guarded(spec["name"], "taking the true utility", lambda: paying.with_utility(true))
    # After the steps above, each of which may return another object.
    if not isinstance(model, RewardModel):
        raise BenchError(
            f"The reward model {spec['name']!r} has no rewards(rollout).", f"bench check reward-model {spec['name']}"
        )
    return NamedRewardModel(spec["name"], model, params.get("micro_batch", 64))


def scorer_of(context: Context) -> NamedRewardModel:
    """A stage's reward model, with the run's examples: those of the prompts PPO optimises on, and the held-out ones.

    Raises BenchError as `load_reward_model`.
    """
    inputs = context.inputs
    return load_reward_model(
        context.params,
        inputs.get("reward"),
        context.device,
        lambda: examples_of(inputs),
        lambda: utility_of(context),
    )


def utility_of(context: Context) -> TrueUtility:
    """The true utility of a response to a prompt of the stage's examples; None for any other prompt."""
    by_prompt: dict[str, tuple[GoldTask, Example]] = {}
    examples = examples_of(context.inputs)
    for split, spec in {"train": context.params["task"], "test": context.params["evaluated"]}.items():
        task = load_task({"task": spec})
        assert isinstance(task, GoldTask)  # refused by the plan otherwise
        by_prompt |= {example.prompt: (task, example) for example in examples[split]}

    def utility(prompt: str, response: str) -> float | None:
        if prompt not in by_prompt:
            return None
        task, example = by_prompt[prompt]
        return task.utility(example, response).value

    return utility


def examples_of(inputs: Mapping[str, Path]) -> Examples:
    """Both splits of a stage's prompts; "train" has a folder of its own where prompts of another task are held out.

    `inputs` are a stage's, by role.  Raises BenchError where a file is missing or damaged.
    """
    # Every stage gives the same "train": a reward model may count words in it.
    folders = {"train": inputs.get("train_prompts", inputs["prompts"]), "test": inputs["prompts"]}
    return {split: read_examples(folder, split) for split, folder in folders.items()}
