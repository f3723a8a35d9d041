"""The stage that trains a reward model, and the loading of any reward model as a checked scorer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_bench.harness import plugins
from rlhf_bench.harness.errors import BenchError, one_line
from rlhf_bench.harness.nouns import Example
from rlhf_bench.harness.pipeline.context import Context
from rlhf_bench.harness.ppo.scoring import NamedRewardModel
from rlhf_bench.harness.seams import ReadsExamples, RewardModel, TrainableRewardModel, TrainingJob
from rlhf_bench.harness.stages.pairs import read_pairs
from rlhf_bench.harness.stages.prompts import read_examples
from rlhf_bench.harness.training.record import write_record


def reward(context: Context) -> Mapping[str, Any]:
    """A trained reward model, by its own `train`, and which arm it is."""
    p = context.params
    arm = plugins.build("reward-model", p["rm"]["name"], p["rm"]["settings"])
    job = TrainingJob(
        read_pairs(context.inputs["pairs"], "train"),
        context.inputs["sft"],
        context.work,
        context.scratch,
        p["seed"],
        p["max_response"],
        context.device,
        context.progress,
    )
    figures = arm.train(job)
    write_record(context.work, p["rm"]["name"], p["rm"]["settings"])
    return {"recipe": arm.recipe, **figures}


Examples = Mapping[str, Sequence[Example]]
"""Examples by split."""


def load_reward_model(
    params: Mapping[str, Any], folder: Path | None, device: str, examples: Callable[[], Examples] | None = None
) -> NamedRewardModel:
    """The scorer of a stage's `params`, from the folder its training left (None where it needs none).

    `examples` gives those it is shown if it reads any; without, it scores what prompts and responses alone allow.
    """
    spec = params["rm"]
    model: Any = plugins.build("reward-model", spec["name"], spec["settings"])
    if isinstance(model, TrainableRewardModel):
        assert folder is not None
        model = model.load(folder, device)
    if isinstance(model, ReadsExamples) and examples is not None:
        model = _shown(spec["name"], model, examples())
    if not isinstance(model, RewardModel):
        raise BenchError(
            f"The reward model {spec['name']!r} has no rewards(rollout).", f"bench check reward-model {spec['name']}"
        )
    return NamedRewardModel(spec["name"], model, params.get("micro_batch", 64))


def _shown(name: str, model: ReadsExamples, examples: Examples) -> RewardModel:
    try:
        return model.with_examples(examples)
    except BenchError as error:
        raise BenchError(f"The reward model {name!r}: {error.seen}", error.fix) from error
    except Exception as error:
        raise BenchError(f"The reward model {name!r} failed on the examples: {one_line(error)}.") from error


def scorer_of(context: Context) -> NamedRewardModel:
    """A stage's reward model, shown the run's prompts: those PPO optimises on and those held out."""
    inputs = context.inputs
    return load_reward_model(context.params, inputs.get("reward"), context.device, lambda: examples_of(inputs))


def examples_of(inputs: Mapping[str, Path]) -> Examples:
    """Both splits of a stage's prompts; "train" lies in a folder of its own where other prompts are held out."""
    folders = {"train": inputs.get("train_prompts", inputs["prompts"]), "test": inputs["prompts"]}
    return {split: read_examples(folder, split) for split, folder in folders.items()}
