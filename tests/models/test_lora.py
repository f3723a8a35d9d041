"""Adapters: the reference is the base to the bit, merging changes nothing but rounding, resuming is exact."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families import saved_policy

pytest.importorskip("peft", reason="the optional package peft is not installed")

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.models.lora import add_adapter, trainable_parameters
from rlhf_bench.harness.models.placement import Placement, save_placement
from rlhf_bench.harness.models.policies import load_causal, load_tokenizer
from rlhf_bench.harness.nouns import Example, Rollout
from rlhf_bench.harness.ppo.actors import Actors, make_actors, save_policy
from rlhf_bench.harness.ppo.arithmetic import Standard
from rlhf_bench.harness.ppo.loop import train
from rlhf_bench.harness.ppo.run import PPORun
from rlhf_bench.harness.ppo.scoring import NamedRewardModel
from rlhf_bench.harness.sampling.rollout import logprobs, make_generator, sample
from rlhf_bench.harness.settings import PPOSettings

LORA = Placement(lora=4)
EXAMPLES = [Example(str(i), f"Where {'on earth ' * (i % 3)}is {i}?") for i in range(5)]
SMALL = PPOSettings(
    iterations=3, rollouts=8, samples=1, epochs=2, minibatches=2, micro_batch=3,
    lr=3e-3, critic_lr=1e-2, kl=0.1, checkpoints=1, save_every=1, temperature=0.9,
)  # fmt: skip
THIRDS = torch.arange(1000).remainder(3).float()


class Thirds:
    """Rewards by token id alone."""

    def rewards(self, rollout: Rollout) -> torch.Tensor:
        return THIRDS[rollout.response_ids] * rollout.mask


@pytest.fixture(scope="module", params=["gpt2", "qwen2", "gemma"])
def sft(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SFT folder of ours whose policy is held by adapters."""
    folder = saved_policy(request.param, tmp_path_factory.mktemp(request.param))
    save_placement(LORA, folder)
    return folder


def run_of(sft: Path, scratch: Path, iterations: int = 3, critic: str = "own") -> PPORun:
    scratch.mkdir(exist_ok=True)
    settings = replace(SMALL, iterations=iterations, critic=critic)
    actors = make_actors(sft, "cpu", settings.lr, settings.critic_lr, seed=3, shared=critic == "trunk")
    return PPORun(
        actors=actors,
        reward_model=NamedRewardModel("thirds", Thirds(), batch=3),
        examples=EXAMPLES,
        settings=settings,
        standard=Standard(2.0),
        max_new=6,
        seed=7,
        scratch=scratch,
        evaluate=lambda _: None,
        progress=lambda *_: None,
    )


def outputs(model: Any, tokenizer: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.tensor([tokenizer("Where do they meet?")["input_ids"]])).logits
        return found


def test_the_reference_is_the_base_to_the_bit_also_after_training(sft: Path, tmp_path: Path) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer

    run = run_of(sft, tmp_path)
    base = load_causal(sft, run.actors.tokenizer, "cpu")
    before = outputs(base, run.actors.tokenizer)
    assert torch.equal(outputs(run.actors.policy, run.actors.tokenizer), before), "an adapter begins as nothing"
    train(run)
    assert not torch.equal(outputs(run.actors.policy, run.actors.tokenizer), before)
    assert torch.equal(outputs(run.actors.reference, run.actors.tokenizer), before)
    for module in run.actors.policy.modules():
        if isinstance(module, BaseTunerLayer):
            module.enable_adapters(False)
    assert torch.equal(outputs(run.actors.policy, run.actors.tokenizer), before), "adapter off"


def test_only_adapters_and_the_value_head_are_trained(sft: Path, tmp_path: Path) -> None:
    actors = run_of(sft, tmp_path).actors
    assert all("lora_" in name for name, p in actors.policy.named_parameters() if p.requires_grad)
    trained = [name for name, p in actors.critic.named_parameters() if p.requires_grad]
    assert {name for name in trained if "lora_" not in name} == {"head.weight", "head.bias"}
    assert not [p for p in actors.reference.parameters() if p.requires_grad]
    shared = {id(p) for p in actors.reference.parameters()}
    assert {id(p) for p in actors.policy.parameters() if not p.requires_grad} == shared, "one base in memory"
    assert {id(p) for p in actors.critic.parameters() if not p.requires_grad} <= shared


def test_merged_and_unmerged_rollouts_agree(sft: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    run = run_of(sft, tmp_path / "run")
    train(run)
    save_policy(run.actors, sft, tmp_path)
    tokenizer = run.actors.tokenizer
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "policy").eval()
    prompts = [e.prompt for e in EXAMPLES]
    one, two = (
        sample(model, tokenizer, prompts, 8, generator=make_generator("x")) for model in (run.actors.policy, merged)
    )
    assert torch.equal(one.response_ids, two.response_ids)
    with torch.no_grad():
        torch.testing.assert_close(logprobs(run.actors.policy, one), logprobs(merged, one), atol=1e-4, rtol=0)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")  # peft 0.21 asks for it
def test_the_stored_adapter_is_one_that_peft_opens(sft: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    run = run_of(sft, tmp_path / "run", iterations=1)
    train(run)
    save_policy(run.actors, sft, tmp_path)
    assert {p.name for p in (tmp_path / "adapter").iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    opened = PeftModel.from_pretrained(load_causal(sft, run.actors.tokenizer, "cpu"), tmp_path / "adapter").eval()
    assert torch.equal(outputs(opened, run.actors.tokenizer), outputs(run.actors.policy, run.actors.tokenizer))


@pytest.mark.parametrize("critic", ["own", "trunk"])
def test_a_killed_run_goes_on_exactly(sft: Path, tmp_path: Path, critic: str) -> None:
    whole = run_of(sft, tmp_path / "whole", critic=critic)
    rows = train(whole)

    class KilledError(Exception):
        pass

    def stop(done: int, _: int) -> None:
        if done == 2:
            raise KilledError

    with pytest.raises(KilledError):
        train(replace(run_of(sft, tmp_path / "killed", critic=critic), progress=stop))
    again = run_of(sft, tmp_path / "killed", critic=critic)
    assert train(again) == rows
    one, two = trained_tensors(again.actors), trained_tensors(whole.actors)
    assert len(one) == len(two) > 0
    assert all(map(torch.equal, one, two))


def trained_tensors(actors: Actors) -> list[torch.Tensor]:
    """Adapters, value head, and Adam's moments and step counts of both."""
    found = []
    for model, optimizer in ((actors.policy, actors.policy_optimizer), (actors.critic, actors.critic_optimizer)):
        for parameter in trainable_parameters(model):
            found += [parameter.detach(), *(optimizer.state[parameter][m] for m in ("exp_avg", "exp_avg_sq", "step"))]
    return found


def test_targets_that_fit_nothing_are_refused(sft: Path) -> None:
    tokenizer = load_tokenizer(sft)
    with pytest.raises(BenchError, match="fits no layer"):
        add_adapter(load_causal(sft, tokenizer, "cpu"), replace(LORA, lora_targets="nonesuch"), 0)


def test_an_adapter_is_drawn_from_its_seed(sft: Path) -> None:
    tokenizer = load_tokenizer(sft)

    def drawn(seed: int) -> list[torch.Tensor]:
        model = add_adapter(load_causal(sft, tokenizer, "cpu"), LORA, seed)
        return [p for name, p in model.named_parameters() if "lora_A" in name]

    assert all(map(torch.equal, drawn(1), drawn(1)))
    assert not any(map(torch.equal, drawn(1), drawn(2)))
