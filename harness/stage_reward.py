"""The stage that trains a reward model, and the loading of any reward model as a checked scorer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf_bench.harness import plugins
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.scoring import NamedRewardModel
from rlhf_bench.harness.seams import RewardModel, TrainableRewardModel, TrainingJob
from rlhf_bench.harness.stage import Context
from rlhf_bench.harness.stage_pairs import read_pairs


def reward(context: Context) -> Mapping[str, Any]:
    """A trained reward model, by its own `train`."""
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
    return {"recipe": arm.recipe, **arm.train(job)}


def load_reward_model(params: Mapping[str, Any], folder: Path | None, device: str) -> NamedRewardModel:
    """The scorer of a stage's `params`, from the folder its training left (None where it needs none)."""
    spec = params["rm"]
    model: Any = plugins.build("reward-model", spec["name"], spec["settings"])
    if isinstance(model, TrainableRewardModel):
        assert folder is not None
        model = model.load(folder, device)
    if not isinstance(model, RewardModel):
        raise BenchError(
            f"The reward model {spec['name']!r} has no rewards(rollout).", f"bench check reward-model {spec['name']}"
        )
    return NamedRewardModel(spec["name"], model, params.get("micro_batch", 64))
