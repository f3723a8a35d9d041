"""Training by adapters: interrupted and resumed it is the same, and what is stored is an ordinary model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES

pytest.importorskip("peft", reason="the optional package peft is not installed")

from rlhf_bench.harness.models.placement import Placement, save_placement
from rlhf_bench.harness.models.policies import load_causal, load_tokenizer, save_model
from rlhf_bench.harness.nouns import Pair
from rlhf_bench.harness.seams import TrainingJob
from rlhf_bench.reward_models.scalar import Scalar
from rlhf_bench.reward_models.seq2seq import Seq2Seq, token

pytestmark = [pytest.mark.training, pytest.mark.filterwarnings("default")]  # libraries' own: a run silences them
PAIRS = [Pair(str(i), f"Where is {i}?", f"At {i}, I think.", "No idea.") for i in range(12)]


class KilledError(Exception):
    pass


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def policy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy")
    source = FAMILIES["qwen2"](folder / "source")
    tokenizer = load_tokenizer(source, "auto")
    save_model(load_causal(source, tokenizer, "cpu"), tokenizer, folder / "sft")
    save_placement(Placement(lora=2, dtype=request.param), folder / "sft")
    return folder / "sft"


def job(policy: Path, folder: Path, progress: Callable[[int, int], None]) -> TrainingJob:
    for part in ("out", "scratch"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    return TrainingJob(PAIRS, policy, folder / "out", folder / "scratch", 5, 32, "cpu", progress)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "out" / "model.safetensors")


SETTINGS: dict[str, Any] = {"epochs": 2, "batch": 4, "save_every": 2, "lr": 1e-2}


@pytest.mark.parametrize("arm", [Scalar(**SETTINGS), token(**SETTINGS)], ids=["scalar", "seq2seq"])
def test_an_interrupted_training_ends_as_an_undisturbed_one(
    policy: Path, tmp_path: Path, arm: Scalar | Seq2Seq
) -> None:
    def kill(done: int, _: int) -> None:
        if done == 3:
            raise KilledError

    arm.train(job(policy, tmp_path / "whole", lambda *_: None))
    with pytest.raises(KilledError):
        arm.train(job(policy, tmp_path / "killed", kill))
    arm.train(job(policy, tmp_path / "killed", lambda *_: None))
    one, two = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not [name for name in one if "lora" in name or "base_layer" in name], "an ordinary model"
    start = load_causal(policy, load_tokenizer(policy), "cpu").state_dict()
    changed = [n for n in one if n in start and not torch.equal(one[n].float(), start[n].to(one[n].dtype).float())]
    assert changed
    assert all("proj" in name for name in changed), "adapters sit in the layers' matrices"
    assert arm.load(tmp_path / "whole" / "out", "cpu")


def test_a_scalars_head_is_trained_whole(policy: Path, tmp_path: Path) -> None:
    from rlhf_bench.harness.models.policies import load_classifier

    Scalar(**SETTINGS).train(job(policy, tmp_path, lambda *_: None))
    tokenizer = load_tokenizer(policy)
    fresh = load_classifier(policy, tokenizer, "cpu", seed=5, head_std=Scalar(**SETTINGS).head_std)
    assert not torch.equal(load_classifier(tmp_path / "out", tokenizer, "cpu").score.weight, fresh.score.weight)
