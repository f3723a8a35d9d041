"""Adapters merged while sampling: what is sampled, that nothing else sees it, and that nothing is left of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families import saved_policy
from tiny import Tiny

pytest.importorskip("peft", reason="the optional package peft is not installed")

from peft.tuners.tuners_utils import BaseTunerLayer

from rlhf_bench.harness.models.lora import merged_for_sampling, trainable_parameters
from rlhf_bench.harness.models.placement import Placement, save_placement
from rlhf_bench.harness.nouns import Rollout
from rlhf_bench.harness.ppo.actors import Actors, make_actors
from rlhf_bench.harness.sampling import decoding
from rlhf_bench.harness.sampling.rollout import logprobs, make_generator, sample

PROMPTS = ("Where is Anna?", "?", "Who brings the map, and who the lamp on Sunday at nine?") * 6


@pytest.fixture(scope="module", params=["gpt2", "qwen2", "gemma"])
def sft(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_policy(request.param, tmp_path_factory.mktemp(request.param))


def actors_of(sft: Path, critic: str = "own", **placement: Any) -> Actors:
    """Actors whose adapters differ from nothing, the policy's from the critic's."""
    save_placement(replace(Placement(lora=4), **placement), sft)
    actors = make_actors(sft, "cpu", 1e-3, 1e-3, seed=3, shared=critic == "trunk")
    torch.manual_seed(0)
    with torch.no_grad():
        for module in (actors.policy, actors.critic):
            for parameter in trainable_parameters(module):
                parameter.normal_(std=0.1)
    return actors


def drawn(actors: Actors, seed: str = "x") -> Rollout:
    return sample(actors.policy, actors.tokenizer, PROMPTS, 8, generator=make_generator(seed))


def state(model: Any) -> dict[str, tuple[int, torch.Tensor]]:
    """By name: the tensor's identity and a copy of its content."""
    return {name: (id(t), t.detach().clone()) for name, t in model.state_dict(keep_vars=True).items()}


def assert_unchanged(model: Any, before: dict[str, tuple[int, torch.Tensor]]) -> None:
    after = state(model)
    assert list(after) == list(before)
    for name, (place, content) in before.items():
        assert after[name][0] == place, name
        assert torch.equal(after[name][1], content), name


def adapters(model: Any) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_weights_before_are_the_weights_after(sft: Path, dtype: str) -> None:
    actors = actors_of(sft, dtype=dtype)
    everything = (actors.policy, actors.reference, actors.critic)
    before, layers = [state(model) for model in everything], adapters(actors.policy)
    rollout = drawn(actors)
    for model, was in zip(everything, before, strict=True):
        assert_unchanged(model, was)
    assert adapters(actors.policy) == layers
    assert not any(
        "forward" in vars(m) for m in actors.policy.base_model.modules() if m is not actors.policy.base_model
    )
    with torch.no_grad():
        again, reference = logprobs(actors.policy, rollout), logprobs(actors.reference, rollout)
    assert rollout.logprobs is not None
    torch.testing.assert_close(rollout.logprobs, again, atol=1e-4 if dtype == "float32" else 0.05, rtol=0)
    assert float((again - reference).abs().max()) > 0.05, "the adapters do something"


def test_sampling_reads_no_adapter_and_agrees_with_adapters_apart(sft: Path) -> None:
    apart = drawn(actors_of(sft, merge_for_sampling=False))
    actors = actors_of(sft)
    drawn(actors)  # the first use tries the attention on adapters apart
    calls: list[object] = []
    handles = [
        module.register_forward_hook(lambda module, *_: calls.append(module))
        for module in actors.policy.modules()
        if isinstance(module, BaseTunerLayer)
    ]
    merged = drawn(actors)
    assert not calls
    assert torch.equal(merged.response_ids, apart.response_ids)
    torch.testing.assert_close(merged.logprobs, apart.logprobs, atol=1e-4, rtol=0)
    with torch.no_grad():
        logprobs(actors.policy, merged)
    assert len(calls) == len(handles) > 0


def test_in_bfloat16_no_step_casts_or_copies_a_weight(sft: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    from rlhf_bench.harness.forward.torch_private import PACKED_LINEAR

    if not PACKED_LINEAR.usable():
        pytest.skip("weights are not packed on this machine")
    actors = actors_of(sft, dtype="bfloat16")
    smallest = min(m.weight.numel() for m in actors.reference.modules() if isinstance(m, torch.nn.Linear))
    copied: list[int] = []

    class Copies(TorchDispatchMode):
        def __torch_dispatch__(self, op: Any, types: Any, given: Any = (), named: Any = None) -> Any:
            if op in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default, torch.ops.aten.clone.default):
                copied.append(given[0].numel())
            return op(*given, **(named or {}))

    for decoder in (decoding.CachedDecoder, decoding.SplitCacheDecoder):
        plain = decoder.step

        def watched(self: Any, token: torch.Tensor, plain: Any = plain) -> torch.Tensor:
            with Copies():
                return plain(self, token)

        monkeypatch.setattr(decoder, "step", watched)
    sample(actors.policy, actors.tokenizer, ["?"], 4, generator=make_generator("x"))
    assert copied
    assert max(copied) < smallest


def test_models_that_share_the_base_compute_as_ever_meanwhile(sft: Path) -> None:
    actors = actors_of(sft)
    rollout = drawn(actors)

    def passes() -> list[torch.Tensor]:
        with torch.no_grad():
            return [logprobs(actors.reference, rollout), actors.critic(rollout)]

    before = passes()
    with merged_for_sampling(actors.policy):
        assert not adapters(actors.policy)
        assert all(map(torch.equal, passes(), before))
    assert all(map(torch.equal, passes(), before))


@pytest.mark.parametrize("critic", ["own", "trunk"])
def test_a_pass_of_the_policy_itself_is_refused_meanwhile(sft: Path, critic: str) -> None:
    actors = actors_of(sft, critic)
    rollout, seen = drawn(actors), []

    def refused() -> None:
        models = [lambda: logprobs(actors.policy, rollout)]
        if critic == "trunk":
            models.append(lambda: actors.critic(rollout))
        for model in models:
            with pytest.raises(RuntimeError, match="merged for sampling"):
                model()
            seen.append(model)

    with merged_for_sampling(actors.policy):
        refused()
        worker = threading.Thread(target=refused)
        worker.start()
        worker.join()
    assert len(seen) == (4 if critic == "trunk" else 2)
    logprobs(actors.policy, rollout).sum().backward()  # type: ignore[no-untyped-call]


def test_two_threads_sample_with_one_merged_model(sft: Path) -> None:
    actors, threads = actors_of(sft), torch.get_num_threads()
    one = drawn(actors)
    torch.set_num_threads(2)
    try:
        two = drawn(actors)
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(one.logprobs, two.logprobs, atol=1e-4, rtol=0)


def test_an_error_while_sampling_leaves_nothing_behind(sft: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    actors = actors_of(sft)
    before = state(actors.policy)

    def broken(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(decoding, "decode_rows", broken)
    with pytest.raises(KeyboardInterrupt):
        drawn(actors)
    assert_unchanged(actors.policy, before)

    @contextmanager
    def full(_: object) -> Iterator[None]:
        raise MemoryError
        yield

    monkeypatch.setattr(decoding, "packed_weights", full)
    with pytest.raises(MemoryError):
        decoding.generate(actors.policy, actors.tokenizer, torch.ones(2, 3).long(), torch.ones(2, 3).long(), None, 2, 1)
    assert_unchanged(actors.policy, before)


def test_an_error_half_way_through_merging_leaves_nothing_behind(sft: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rlhf_bench.harness.models import lora

    actors, plain, calls = actors_of(sft), lora.merged_weight, []
    before = state(actors.policy)

    def failing(layer: Any) -> torch.Tensor:
        calls.append(layer)
        if len(calls) == 3:
            raise MemoryError
        return plain(layer)

    monkeypatch.setattr(lora, "merged_weight", failing)
    with pytest.raises(MemoryError), merged_for_sampling(actors.policy):
        pass
    assert_unchanged(actors.policy, before)
    assert adapters(actors.policy)


def test_without_adapters_or_the_setting_nothing_is_done(sft: Path, tiny_gpt2: Tiny) -> None:
    actors = actors_of(sft, merge_for_sampling=False)
    layers = adapters(actors.policy)
    with merged_for_sampling(actors.policy):
        assert adapters(actors.policy) == layers
    with merged_for_sampling(tiny_gpt2.model):
        assert tiny_gpt2.model(input_ids=torch.ones(1, 2).long()).logits.requires_grad
