"""Private names of torch, transformers and TRL: without them the results are the same."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from tiny import Tiny, by_hand, louder
from torch import Tensor

from rlhf_bench.harness.checks.fast_paths import fast_path_line, fast_path_states
from rlhf_bench.harness.forward import torch_private, transformers_private
from rlhf_bench.harness.forward.fast_paths import FastPath, require_close
from rlhf_bench.harness.forward.packing import enable_packing, has_packed_attention
from rlhf_bench.harness.models.placement import Placement, apply_placement
from rlhf_bench.harness.models.policies import load_causal
from rlhf_bench.harness.sampling import packed_weights, split_attention
from rlhf_bench.harness.sampling.rollout import logprobs, make_generator, sample
from rlhf_bench.harness.training import trl_private

PROMPTS = ("Where is Anna?", "?", "Who brings the map, and who brings the lamp on Sunday at nine?")
PATHS = (
    torch_private.PACKED_LINEAR,
    transformers_private.PACKED_ATTENTION,
    transformers_private.CACHE_LAYERS,
    transformers_private.CHECKPOINTING,
    trl_private.LABELLED_ONLY,
)


@pytest.fixture(autouse=True)
def untested(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process: no fast path and no model was tried."""
    for path in PATHS:
        monkeypatch.setattr(path, "_failures", {})
    monkeypatch.setattr(split_attention, "_supported", {})
    monkeypatch.setattr(packed_weights, "SMALLEST", 0)


def load(tiny: Tiny, **placement: Any) -> Any:
    model = louder(load_causal(tiny.folder, tiny.tokenizer, "cpu"), 2.0)
    return apply_placement(model, Placement(**placement))


def results(tiny: Tiny, **placement: Any) -> tuple[list[list[int]], list[Tensor]]:
    """Sampled tokens, their log-probabilities while sampling and in a pass, and the gradients of the pass."""
    model = load(tiny, **placement)
    drawn = sample(model, tiny.tokenizer, PROMPTS * 3, 12, generator=make_generator("x"))
    again = logprobs(model, drawn)
    gradients = torch.autograd.grad(again.sum(), [p for p in model.parameters() if p.requires_grad])
    assert drawn.logprobs is not None
    return drawn.response_ids.tolist(), [drawn.logprobs, again.detach(), *gradients]


def assert_same(found: tuple[list[list[int]], list[Tensor]], expected: tuple[list[list[int]], list[Tensor]]) -> None:
    assert found[0] == expected[0]
    for one, other in zip(found[1], expected[1], strict=True):
        require_close(one, other, 1e-4)


# --- absent, raising or wrong: the public path


def missing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delattr(name)


def raising(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise NotImplementedError("not any more")

    monkeypatch.setattr(name, fail)


BREAK: dict[str, Callable[[pytest.MonkeyPatch, str], None]] = {"missing": missing, "raising": raising}


def break_torch(monkeypatch: pytest.MonkeyPatch, operator: str, how: str) -> None:
    """`torch.ops.mkldnn` without an operator, or with one that raises or gives other numbers."""

    def fail(*_: Any) -> Tensor:
        raise RuntimeError("could not create a primitive")

    def wrong(given: Tensor, *_: Any) -> Tensor:
        return torch.zeros_like(given)

    names = ("_reorder_linear_weight", "_linear_pointwise")
    operators = {name: getattr(torch.ops.mkldnn, name) for name in names if name != operator}
    if how != "missing":
        operators[operator] = {"raising": fail, "wrong": wrong}[how]
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace(**operators))


@pytest.mark.parametrize("name", ["_is_avx512_bf16_supported", "_is_amx_tile_supported"])
def test_where_torch_does_not_say_a_cpu_computes_in_float32(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = dict.fromkeys(("_is_avx512_bf16_supported", "_is_amx_tile_supported"), lambda: False)
    monkeypatch.setattr(torch, "cpu", SimpleNamespace(**{**answers, name: lambda: True}))
    assert torch_private.cpu_multiplies_bfloat16()
    monkeypatch.setattr(torch, "cpu", SimpleNamespace(**{n: f for n, f in answers.items() if n != name}))
    assert not torch_private.cpu_multiplies_bfloat16()


@pytest.mark.parametrize("operator", ["_reorder_linear_weight", "_linear_pointwise"])
@pytest.mark.parametrize("how", ["missing", "raising", "wrong"])
def test_without_an_operator_of_onednn_weights_are_not_packed(
    operator: str, how: str, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = results(tiny)
    assert torch_private.PACKED_LINEAR.state() == "on"
    monkeypatch.setattr(torch_private.PACKED_LINEAR, "_failures", {})
    break_torch(monkeypatch, operator, how)
    assert_same(results(tiny), expected)
    assert torch_private.PACKED_LINEAR.state().startswith("off: ")
    with packed_weights.packed_weights(load(tiny)) as packed:
        assert not packed


@pytest.mark.parametrize("operator", ["_reorder_linear_weight", "_linear_pointwise"])
def test_an_operator_that_fails_in_use_is_given_up(
    operator: str, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its self-test has passed; activations that it would have applied are applied."""
    expected = results(tiny)
    break_torch(monkeypatch, operator, "raising")
    assert torch_private.PACKED_LINEAR.usable()
    assert_same(results(tiny), expected)
    assert not torch_private.PACKED_LINEAR.usable()
    assert "could not create a primitive" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["transformers.masking_utils.sdpa_mask", "transformers.integrations.sdpa_attention.sdpa_attention_forward"]
)
@pytest.mark.parametrize("how", sorted(BREAK))
def test_without_a_name_of_its_attention_rows_are_padded(
    name: str, how: str, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = results(tiny)
    assert has_packed_attention(load(tiny))
    monkeypatch.setattr(transformers_private.PACKED_ATTENTION, "_failures", {})
    monkeypatch.setattr(split_attention, "_supported", {})
    BREAK[how](monkeypatch, name)
    assert not has_packed_attention(load(tiny))
    assert_same(results(tiny), expected)


def test_without_the_attentions_name_in_a_configuration_rows_are_padded(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = results(tiny)

    class Config:
        @property
        def _attn_implementation(self) -> str:
            raise RuntimeError("renamed")

    assert transformers_private.attention_name(SimpleNamespace(config=Config())) == ""  # type: ignore[arg-type]
    assert transformers_private.attention_name(SimpleNamespace()) == ""  # type: ignore[arg-type]
    for module in ("packing", "transformers_private"):
        monkeypatch.setattr(f"rlhf_bench.harness.forward.{module}.has_packed_attention", lambda _: False, raising=False)
    monkeypatch.setattr(transformers_private, "attention_name", lambda _: "")
    monkeypatch.setattr(split_attention, "attention_name", lambda _: "")
    monkeypatch.setattr(transformers_private.PACKED_ATTENTION, "_failures", {})
    assert not has_packed_attention(load(tiny))
    assert_same(results(tiny), expected)


def test_an_attention_that_computes_something_else_is_not_used(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.integrations import sdpa_attention

    expected, right = results(tiny), sdpa_attention.sdpa_attention_forward

    def scaled(*given: Any, **named: Any) -> Any:
        output, weights = right(*given, **named)
        return 1.01 * output, weights

    monkeypatch.setattr(transformers_private.PACKED_ATTENTION, "_failures", {})
    monkeypatch.setattr(sdpa_attention, "sdpa_attention_forward", scaled)
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny.folder)
    assert not has_packed_attention(enable_packing(model))
    assert "off by" in transformers_private.PACKED_ATTENTION.state()
    monkeypatch.setattr(split_attention, "_supported", {})
    assert_same(results(tiny), expected)


def break_layers(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """`DynamicLayer` renamed, without its initialisation, or a cache whose layers cannot be replaced."""
    from transformers import cache_utils

    if how == "missing":
        monkeypatch.delattr(cache_utils, "DynamicLayer")
    elif how == "raising":
        raising(monkeypatch, "rlhf_bench.harness.sampling.kv_cache.SplitLayer.lazy_initialization")
        raising(monkeypatch, "rlhf_bench.harness.sampling.kv_cache.PreallocatedLayer.lazy_initialization")
    else:
        setter = property(lambda self: self.__dict__["layers"], lambda self, x: self.__dict__.setdefault("layers", x))
        monkeypatch.setattr(cache_utils.DynamicCache, "layers", setter, raising=False)


@pytest.mark.parametrize("how", ["missing", "fixed"])
def test_without_cache_layers_of_our_own_sampling_uses_transformers_cache(
    how: str, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = results(tiny)
    assert transformers_private.CACHE_LAYERS.state() == "on"
    monkeypatch.setattr(transformers_private.CACHE_LAYERS, "_failures", {})
    monkeypatch.setattr(split_attention, "_supported", {})
    break_layers(monkeypatch, how)
    assert_same(results(tiny), expected)
    assert transformers_private.CACHE_LAYERS.state().startswith("off: ")


@pytest.mark.parametrize("how", ["missing", "raising"])
def test_without_transformers_checkpointed_layers_torch_checkpoints_them(
    how: str, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = results(tiny, gradient_checkpointing=True)
    assert transformers_private.CHECKPOINTING.state() == "on"
    monkeypatch.setattr(transformers_private.CHECKPOINTING, "_failures", {})
    if how == "missing":
        monkeypatch.delattr("transformers.modeling_layers.GradientCheckpointingLayer")
    else:
        raising(monkeypatch, "transformers.PreTrainedModel.activation_checkpointing_enable")
    assert_same(results(tiny, gradient_checkpointing=True), expected)
    assert transformers_private.CHECKPOINTING.state().startswith("off: ")
    assert kept_bytes(load(tiny, gradient_checkpointing=True), tiny) < 0.9 * kept_bytes(load(tiny), tiny)


def kept_bytes(model: Any, tiny: Tiny) -> int:
    """Bytes that a pass keeps for its backward pass."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logprobs(model, by_hand(tiny.tokenizer, [[5, 6, 7] * 20] * 4, [[12, 13, 14] * 5] * 4))
    return sum(kept.values())


def test_a_model_without_a_commit_has_none() -> None:
    class Config:
        @property
        def _commit_hash(self) -> str:
            raise RuntimeError("renamed")

    for config in (Config(), SimpleNamespace(), SimpleNamespace(_commit_hash=None)):
        assert transformers_private.commit_hash(SimpleNamespace(config=config)) is None  # type: ignore[arg-type]
    known: Any = SimpleNamespace(config=SimpleNamespace(_commit_hash="abc"))
    assert transformers_private.commit_hash(known) == "abc"


@pytest.mark.parametrize("how", ["missing", "raising", "ignored"])
def test_without_its_switch_trls_loss_is_that_of_all_positions(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from trl.trainer import utils

    with torch.no_grad():
        model = transformers_private.self_test_model("gpt2")
    utils.add_fused_lm_head(model)
    inputs = {"input_ids": torch.tensor([[2, 3, 4, 5]]), "labels": torch.tensor([[-100, -100, 4, 5]])}

    def loss() -> float:
        with trl_private.labelled_positions_only():
            return float(model(**inputs, fused_lm_head=True).loss.detach())

    expected = float(model(**inputs, fused_lm_head=True).loss.detach())
    assert loss() == pytest.approx(expected, rel=1e-5)
    assert trl_private.LABELLED_ONLY.state() == "on"
    monkeypatch.setattr(trl_private.LABELLED_ONLY, "_failures", {})
    with monkeypatch.context() as patch:
        if how == "missing":
            patch.delattr(utils, "_use_triton")
        elif how == "raising":
            raising(patch, "trl.trainer.utils.add_fused_lm_head")
        else:  # a loss that skips no position, whatever the switch says
            patch.setattr(utils, "add_fused_lm_head", lambda model: setattr(model, "forward", plain_loss(model)))
        assert not trl_private.LABELLED_ONLY.usable()
    assert loss() == pytest.approx(expected, rel=1e-5)


def plain_loss(model: Any) -> Callable[..., Any]:
    forward = model.forward
    return lambda fused_lm_head, **named: forward(**named)  # noqa: ARG005


# --- the self-tests


def test_all_fast_paths_are_on_with_the_installed_versions() -> None:
    assert set(fast_path_states().values()) == {"on"}
    assert fast_path_line() == f"all {len(PATHS)} on"
    transformers_private.CHECKPOINTING.disable(ValueError("a reason"))
    assert fast_path_line() == "gradient checkpointing off: ValueError: a reason"


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyError("x"), MemoryError(), AssertionError("b"), OSError(2)])
def test_any_exception_of_a_self_test_turns_its_fast_path_off_once(error: Exception) -> None:
    calls: list[str] = []

    def fail(case: str) -> None:
        calls.append(case)
        raise error

    path = FastPath("x", fail, default_case="a")
    assert not path.usable()
    assert not path.usable("a")
    assert not path.usable("b")
    assert calls == ["a", "b"]
    assert path.state().startswith("off: ")
    assert "(b)" in path.state()


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_a_self_test_leaves_the_callers_state_alone(path: FastPath) -> None:
    """It may run first inside inference mode and autocast, between two draws."""
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert path.usable()
        assert torch.is_inference_mode_enabled()
        assert torch.is_autocast_enabled("cpu")
    assert torch.equal(torch.rand(3), expected)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("found", "expected", "close"),
    [([1.0], [1.00009], True), ([1.0], [1.1], False), ([float("nan")], [1.0], False), ([1.0, 1.0], [1.0], False)],
)
def test_what_is_close(found: list[float], expected: list[float], close: bool) -> None:
    try:
        require_close(torch.tensor(found), torch.tensor(expected))
    except ValueError:
        assert not close
    else:
        assert close
