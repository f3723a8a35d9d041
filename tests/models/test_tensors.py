"""Missing, extra and misshapen tensors are refused by name, wherever a policy or a critic is read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES
from ppo_runs import SMALL, make_policy, make_run
from refusals import refusal
from safetensors.torch import load_file, save_file
from tiny import Tiny
from torch import Tensor

from rlhf_bench.harness.models.policies import load_causal, load_classifier, load_policy, load_tokenizer, save_model
from rlhf_bench.harness.models.tensors import check_shapes
from rlhf_bench.harness.ppo.actors import load_state, make_actors, save_state
from rlhf_bench.harness.ppo.loop import train

Tensors = dict[str, Tensor]


def without(tensors: Tensors, name: str) -> Tensors:
    return {key: value for key, value in tensors.items() if key != name}


def with_extra(tensors: Tensors, name: str) -> Tensors:
    return {**tensors, named(with_extra, name): torch.zeros(3)}


def one_row(tensors: Tensors, name: str) -> Tensors:
    """A shape that would be broadcast over the right one without a word."""
    return {**tensors, name: tensors[name][:1].clone()}


def named(fault: Callable[[Tensors, str], Tensors], name: str) -> str:
    """The tensor that an error must name."""
    return f"{name.rpartition('.')[0]}.extra" if fault is with_extra else name


FAULTS = [without, with_extra, one_row]


def damage(file: Path, change: Callable[[Tensors, str], Tensors], name: str) -> None:
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    save_file(change(load_file(file), name), file, metadata)


@pytest.fixture(scope="module", params=["gpt2", "llama", "gemma"])
def sound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FAMILIES[request.param](tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_policys_tensors(sound: Path, tmp_path: Path, fault: Callable[[Tensors, str], Tensors]) -> None:
    names = sorted(load_file(sound / "model.safetensors"))
    for name in names[:: max(1, len(names) // 4)]:
        folder = tmp_path / name
        shutil.copytree(sound, folder)
        damage(folder / "model.safetensors", fault, name)
        assert named(fault, name) in refusal(lambda f=folder: load_policy(f, "cpu"))  # type: ignore[misc]


def test_a_tied_head_is_stored_once(sound: Path) -> None:
    model, _ = load_policy(sound, "cpu")
    if model.config.tie_word_embeddings:
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
        assert "lm_head.weight" not in load_file(sound / "model.safetensors")


def test_a_new_head_is_the_one_part_that_may_be_missing(sound: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(sound)
    made = load_classifier(sound, tokenizer, "cpu", seed=1, head_std=0.5)
    assert "score.weight" in refusal(lambda: load_classifier(sound, tokenizer, "cpu"))  # no head, and none meant
    save_model(made, tokenizer, tmp_path / "saved")
    again = load_classifier(tmp_path / "saved", tokenizer, "cpu")
    assert torch.equal(again.score.weight, made.score.weight)
    said = refusal(lambda: load_causal(tmp_path / "saved", tokenizer, "cpu"))
    assert ("score.weight" if made.config.tie_word_embeddings else "lm_head.weight") in said
    trunk = next(n for n in sorted(load_file(sound / "model.safetensors")) if n.startswith(made.base_model_prefix))
    for number, fault in enumerate(FAULTS):
        folder = tmp_path / str(number)
        shutil.copytree(sound, folder)
        damage(folder / "model.safetensors", fault, trunk)
        call = lambda f=folder: load_classifier(f, tokenizer, "cpu", seed=1, head_std=0.5)  # noqa: E731
        assert named(fault, trunk) in refusal(call)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    "name", ["score.weight", "transformer.wte.weight", "transformer.h.0.attn.c_attn.bias", "transformer.ln_f.weight"]
)
def test_a_reward_models_tensors(
    tiny_gpt2: Tiny, tmp_path: Path, fault: Callable[[Tensors, str], Tensors], name: str
) -> None:
    from rlhf_bench.reward_models.scalar import Scalar

    made = load_classifier(tiny_gpt2.folder, tiny_gpt2.tokenizer, "cpu", seed=1, head_std=0.5)
    save_model(made, tiny_gpt2.tokenizer, tmp_path)
    Scalar().load(tmp_path, "cpu")
    if fault is one_row and name == "score.weight":
        return  # it has one row
    damage(tmp_path / "model.safetensors", fault, name)
    assert named(fault, name) in refusal(lambda: Scalar().load(tmp_path, "cpu"))


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("critic", ["own", "trunk"])
def test_the_state_of_ppo(tmp_path: Path, fault: Callable[[Tensors, str], Tensors], critic: str) -> None:
    policy = make_policy(tmp_path / "policy")
    run = make_run(policy, tmp_path)
    train(run)
    actors = run.actors
    if critic == "trunk":
        actors = make_actors(policy, "cpu", SMALL.lr, SMALL.critic_lr, shared=True)
    path = tmp_path / "state.safetensors"
    save_state(actors, 2, path)
    whole = path.read_bytes()
    names = sorted(load_file(path))
    for name in [*names[:: max(1, len(names) // 8)], "critic/head.weight", "critic/head.bias"]:
        moment = "@" in name
        if (moment and fault is without) or (fault is one_row and not load_file(path)[name].shape[:1] > (1,)):
            continue  # moments may be missing before the first step; one row is the whole tensor
        damage(path, fault, name)
        fresh = make_actors(policy, "cpu", SMALL.lr, SMALL.critic_lr, shared=critic == "trunk")
        assert named(fault, name) in refusal(lambda f=fresh: load_state(f, path))  # type: ignore[misc]
        path.write_bytes(whole)


def test_tied_names_stand_for_each_other() -> None:
    here, shape = Path("x"), (2, 3)
    needed = {"a": shape, "b": shape, "c": shape}
    tied = [frozenset({"a", "b"})]
    check_shapes(here, needed, {"a": shape, "c": shape}, tied)
    check_shapes(here, needed, {"b": shape, "c": shape}, tied)
    assert "lacks a and 1 more" in refusal(lambda: check_shapes(here, needed, {"c": shape}, tied))
    assert "lacks c." in refusal(lambda: check_shapes(here, needed, {"a": shape}, tied))
    assert "a in x is [3, 2]" in refusal(lambda: check_shapes(here, {"a": shape}, {"a": (3, 2)}))


def make(kind: str, tiny: Tiny, scratch: Path, steps: int) -> Any:
    """A training of two kinds of model, under adapters or not, whose checkpoints stay in `scratch`."""
    from rlhf_bench.harness.models.lora import wrap_for_trainer
    from rlhf_bench.harness.models.placement import Placement
    from rlhf_bench.harness.training.trl import TrainOptions, train_lm, train_preferences

    options = TrainOptions(scratch, steps, batch=2, lr=1e-3, warmup=0.0, save_every=2, seed=0, device="cpu")
    rows: list[dict[str, list[int]]] = [{"input_ids": [5, 6, 7, 1], "labels": [-100, 6, 7, 1]}] * 4
    pairs = [{"chosen_ids": [5, 6, 1], "rejected_ids": [5, 7, 1]}] * 4
    if kind == "classifier":
        model = load_classifier(tiny.folder, tiny.tokenizer, "cpu", seed=1, head_std=0.02)
        return train_preferences(model, tiny.tokenizer, pairs, options)
    causal = load_causal(tiny.folder, tiny.tokenizer, "cpu")
    if kind == "adapter":
        causal = wrap_for_trainer(causal.requires_grad_(False), Placement(lora=2), seed=0)
    return train_lm(causal, tiny.tokenizer, rows, options)


@pytest.mark.training
@pytest.mark.parametrize("kind", ["policy", "adapter", "classifier"])
@pytest.mark.parametrize("ended", [True, False], ids=["after the last step", "before"])
def test_a_trainers_checkpoint(tiny_gpt2: Tiny, tmp_path: Path, kind: str, ended: bool) -> None:
    make(kind, tiny_gpt2, tmp_path, 2)
    file = tmp_path / "checkpoint-2" / ("adapter_model.safetensors" if kind == "adapter" else "model.safetensors")
    whole, name = file.read_bytes(), sorted(load_file(file))[1]
    steps = 2 if ended else 4
    for fault in FAULTS:
        damage(file, fault, name)
        said = refusal(lambda: make(kind, tiny_gpt2, tmp_path, steps))
        assert named(fault, name) in said
        assert "checkpoint-2" in said
        file.write_bytes(whole)
    file.write_bytes(whole[:100])
    assert "checkpoint-2" in refusal(lambda: make(kind, tiny_gpt2, tmp_path, steps))
    file.write_bytes(whole)
    assert make(kind, tiny_gpt2, tmp_path, steps)["steps"] == steps


@pytest.mark.training
def test_code_in_a_trainers_checkpoint_does_not_run(tiny_gpt2: Tiny, tmp_path: Path) -> None:
    """Torch's pickled states are read without running what they name."""
    import pickle  # noqa: TID251 - what is to be refused

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "sentinel",)

    make("policy", tiny_gpt2, tmp_path, 2)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        file = tmp_path / "checkpoint-2" / name
        whole = file.read_bytes()
        file.write_bytes(pickle.dumps(Evil(), 2))
        if name == "training_args.bin":  # never read
            assert make("policy", tiny_gpt2, tmp_path, 4)["steps"] == 4
        else:
            assert "cannot be read" in refusal(lambda: make("policy", tiny_gpt2, tmp_path, 4))
            file.write_bytes(whole)
        assert not (tmp_path / "sentinel").exists()
