"""Weights as people have them: in shards with an index, with a head that is tied to the embeddings."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from refusals import refusal
from tiny import by_hand

from rlhf_bench.harness.models.identity import policy_identity
from rlhf_bench.harness.models.placement import Placement, save_placement
from rlhf_bench.harness.models.policies import load_causal, load_classifier, load_tokenizer, save_model
from rlhf_bench.harness.models.tensors import stored_shapes
from rlhf_bench.harness.nouns import Answer, Example
from rlhf_bench.harness.ppo.actors import load_state, make_actors, save_policy, save_state
from rlhf_bench.harness.presets import make_settings
from rlhf_bench.harness.sampling.rollout import logprobs
from rlhf_bench.reward_models.classifier import ClassifierScorer
from rlhf_bench.reward_models.hub import HubReward

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def config(tokenizer: Any, **more: Any) -> Any:
    from transformers import LlamaConfig

    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **size, **ids, **more)


def shapes(folder: Path) -> Any:
    return stored_shapes(sorted(folder.glob("*.safetensors")))


# ---- shards ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def policy(tokenizer: Any, tmp_path: Path) -> Path:
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    LlamaForCausalLM(config(tokenizer)).save_pretrained(tmp_path / "policy", max_shard_size="8KB")
    tokenizer.save_pretrained(tmp_path / "policy")
    return tmp_path / "policy"


@pytest.fixture
def scorer(tokenizer: Any, tmp_path: Path) -> Path:
    from transformers import LlamaForSequenceClassification

    torch.manual_seed(0)
    model = LlamaForSequenceClassification(config(tokenizer, num_labels=1))
    model.save_pretrained(tmp_path / "scorer", max_shard_size="8KB")
    tokenizer.save_pretrained(tmp_path / "scorer")
    return tmp_path / "scorer"


def whole(folder: Path, load: Callable[..., Any]) -> Path:
    """The same model in one file."""
    made = folder.parent / "whole"
    load(folder).save_pretrained(made)
    for file in folder.glob("*token*"):
        shutil.copy(file, made)
    return made


def identity(folder: Path) -> Any:
    return policy_identity(str(folder), make_settings("tiny", {}, frozenset()))["sha256"]


def test_a_policy_in_shards_is_the_policy_in_one_file(policy: Path) -> None:
    from transformers import AutoModelForCausalLM

    assert len(list(policy.glob("*.safetensors"))) > 2
    found, wanted = (
        load_causal(f, load_tokenizer(f), "cpu").state_dict()
        for f in (policy, whole(policy, AutoModelForCausalLM.from_pretrained))
    )
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in found)


def test_a_reward_model_in_shards_scores_as_in_one_file(scorer: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    answers = [Answer(Example("", "Where?"), "Here.")]
    found, wanted = (
        ClassifierScorer(str(f)).scores(answers)
        for f in (scorer, whole(scorer, AutoModelForSequenceClassification.from_pretrained))
    )
    assert found == wanted
    assert found[0].value is not None


def test_every_shard_and_the_index_are_part_of_the_identity(policy: Path, scorer: Path) -> None:
    before, content = identity(policy), HubReward(str(scorer)).content
    for file in [*policy.glob("*.safetensors"), policy / "model.safetensors.index.json"]:
        kept = file.read_bytes()
        file.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        assert identity(policy) != before, file.name
        file.write_bytes(kept)
    assert identity(policy) == before
    last = max(scorer.glob("*.safetensors"))
    kept = last.read_bytes()
    last.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    assert HubReward(str(scorer)).content != content


def test_a_missing_shard_is_one_line_when_a_run_is_planned(policy: Path, scorer: Path) -> None:
    for folder in (policy, scorer):
        shard = sorted(folder.glob("*.safetensors"))[1]
        shard.unlink()
        calls: list[Callable[[], object]] = [lambda: identity(policy), lambda: load_causal(policy, None, "cpu")]  # type: ignore[arg-type]
        if folder == scorer:
            calls = [lambda: HubReward(str(scorer)), lambda: ClassifierScorer(str(scorer))]
        for call in calls:
            assert f"lacks {shard.name}" in refusal(call)


# ---- tied heads -----------------------------------------------------------------------------------------------------


@pytest.fixture
def tied(tokenizer: Any, tmp_path: Path) -> Path:
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    save_model(LlamaForCausalLM(config(tokenizer, tie_word_embeddings=True)), tokenizer, tmp_path / "tied")
    return tmp_path / "tied"


def is_tied(model: Any) -> bool:
    return model.get_input_embeddings().weight is model.get_output_embeddings().weight


def rollout_of(tokenizer: Any) -> Any:
    return by_hand(tokenizer, [[5, 6, 7], [8, 9]], [[10, 11, 12], [13, 14]])


def test_a_tied_head_is_stored_once_and_tied_again(tied: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tied)
    model = load_causal(tied, tokenizer, "cpu")
    assert is_tied(model)
    save_model(model, tokenizer, tmp_path / "again")
    for folder in (tied, tmp_path / "again"):
        assert EMBEDDING in shapes(folder)
        assert HEAD not in shapes(folder)
    assert is_tied(load_causal(tmp_path / "again", tokenizer, "cpu"))


@pytest.mark.parametrize("critic", ["own", "trunk"])
def test_ppo_keeps_the_tie_of_policy_and_critic(tied: Path, tmp_path: Path, critic: str) -> None:
    actors = make_actors(tied, "cpu", 1e-2, 1e-2, shared=critic == "trunk")
    rollout = rollout_of(actors.tokenizer)
    loss = logprobs(actors.policy, rollout).sum() + actors.critic(rollout).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    actors.policy_optimizer.step()
    actors.critic_optimizer.step()
    save_state(actors, 1, tmp_path / "state.safetensors")
    held = shapes(tmp_path)
    assert f"policy/{HEAD}" not in held
    assert "critic/head.weight" in held
    again = make_actors(tied, "cpu", 1e-2, 1e-2, shared=critic == "trunk")
    load_state(again, tmp_path / "state.safetensors")
    save_policy(again, tied, tmp_path)
    stored = load_causal(tmp_path / "policy", actors.tokenizer, "cpu")
    for model in (again.policy, stored):
        assert is_tied(model)
        assert torch.equal(logprobs(model, rollout), logprobs(actors.policy, rollout))
    assert HEAD not in shapes(tmp_path / "policy")
    assert torch.equal(again.critic(rollout), actors.critic(rollout))


def test_a_classifier_of_a_tied_model_has_its_embeddings_once(tied: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tied)
    model: Any = load_classifier(tied, tokenizer, "cpu", seed=1, head_std=0.02)
    save_model(model, tokenizer, tmp_path / "classifier")
    assert {name for name in shapes(tmp_path / "classifier") if "embed" in name or "head" in name} == {EMBEDDING}
    again: Any = load_classifier(tmp_path / "classifier", tokenizer, "cpu")
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert torch.equal(again(input_ids=ids).logits, model(input_ids=ids).logits)


@pytest.mark.parametrize("targets", ["auto", "lm_head", "lm_head,q_proj"])
def test_an_adapter_on_a_tied_head_leaves_the_embeddings(tied: Path, tmp_path: Path, targets: str) -> None:
    pytest.importorskip("peft", reason="the optional package peft is not installed")
    from rlhf_bench.harness.sampling.rollout import make_generator, sample

    save_placement(Placement(lora=2, lora_targets=targets), tied)
    # the critic has no head, so adapters of the head alone are for a critic on the policy's trunk
    actors = make_actors(tied, "cpu", 1e-2, 1e-2, shared=targets == "lm_head")
    embedding = actors.policy.get_input_embeddings().weight.detach().clone()
    with torch.no_grad():
        for name, parameter in actors.policy.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.5)
    rollout = rollout_of(actors.tokenizer)
    wanted = logprobs(actors.policy, rollout)
    save_policy(actors, tied, tmp_path)
    stored = load_causal(tmp_path / "policy", actors.tokenizer, "cpu")
    torch.testing.assert_close(logprobs(stored, rollout), wanted, atol=1e-4, rtol=0)
    assert torch.equal(stored.get_input_embeddings().weight, embedding)
    assert is_tied(stored) == (targets == "auto")
    assert (HEAD in shapes(tmp_path / "policy")) == (targets != "auto")
    drawn = sample(actors.policy, actors.tokenizer, ["Where?"], 6, generator=make_generator("x"))
    assert torch.equal(actors.policy.get_input_embeddings().weight, embedding)
    torch.testing.assert_close(logprobs(stored, drawn), drawn.logprobs, atol=1e-4, rtol=0)
