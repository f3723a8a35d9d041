"""Packed rows give what padded rows give, for every architecture that packing is enabled for; other models stay as they
are."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny import CONTEXT, by_hand, louder, make_tokenizer
from torch import Tensor

from rlhf_bench.harness.forward import packing, passes
from rlhf_bench.harness.forward.packing import enable_packing, has_packed_attention, packed_mask, packed_positions
from rlhf_bench.harness.forward.passes import hidden_states, last_positions, logits_and_hidden, pack
from rlhf_bench.harness.models.lora import add_adapter
from rlhf_bench.harness.models.placement import Placement, apply_placement
from rlhf_bench.harness.models.policies import load_causal, save_model
from rlhf_bench.harness.nouns import Rollout
from rlhf_bench.harness.sampling.rollout import make_generator, rows_of, sample
from rlhf_bench.reward_models.corrector import Corrector, Layout
from rlhf_bench.reward_models.scalar import ScalarScorer

TOKENIZER = make_tokenizer(280)
SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "vocab_size": 280,
    "pad_token_id": TOKENIZER.pad_token_id,
    "bos_token_id": None,
    "eos_token_id": TOKENIZER.eos_token_id,
}
MORE: dict[str, dict[str, Any]] = {
    "gpt2": {"num_key_value_heads": None, "scale_attn_by_inverse_layer_idx": True, "attn_pdrop": 0.1},
    "mistral": {"sliding_window": None},
    "qwen3": {"head_dim": 4},
    "gemma": {"head_dim": 4},
}


def make(kind: str, **more: Any) -> Any:
    """A model of the architecture, of random weights, in evaluation mode, as it is loaded."""
    torch.manual_seed(0)
    settings = {k: v for k, v in {**SIZES, **MORE.get(kind, {}), **more}.items() if v is not None or k[-2:] == "ow"}
    config = transformers.AutoConfig.for_model(kind, **settings)
    return louder(transformers.AutoModelForCausalLM.from_config(config), 8.0)


def uneven() -> Rollout:
    """Rows of 9, 3, 5, 5 and 1 tokens: two of equal length, a response of nothing, a prompt of one token."""
    prompts = [[40, 41, 42, 43, 44, 45], [50, 51], [60], [61, 62, 63], [64]]
    responses = [[70, 71, 1], [73], [74, 75, 76, 77], [78, 1], []]
    return by_hand(TOKENIZER, prompts, responses, extra_left=1, extra_right=2)


def repeating() -> Rollout:
    """Prompts that occur once, twice and three times, among them one of a single token; a response without tokens."""
    prompts = [[40, 41, 42], [43], [50, 51], [40, 41, 42], [60, 61], [43], [50, 51], [40, 41, 42]]
    responses = [[70, 71, 1], [73, 1], [74, 75, 76, 77], [78, 1], [79], [80], [], [81, 1]]
    return by_hand(TOKENIZER, prompts, responses, extra_left=1, extra_right=2)


ROLLOUTS = pytest.mark.parametrize("drawn", [uneven, repeating])


def everything(model: Any, rollout: Rollout) -> tuple[list[Tensor], list[Tensor]]:
    """Logits and hidden states before the response tokens, hidden states of each row's last token; and the gradients
    of a function of them all."""
    packed = pack(rollout, model)
    logits, hidden = logits_and_hidden(model, packed)
    last = hidden_states(model.base_model, packed, last_positions(packed))
    found = [logits, hidden, last]
    wanted = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(sum(x.float().square().mean() for x in found), wanted)  # type: ignore[arg-type]
    return [x.detach() for x in found], list(gradients)


def padded(model: Any, rollout: Rollout, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Tensor], list[Tensor]]:
    with monkeypatch.context() as patch:
        patch.setattr(passes, "supports_packing", lambda _: False)
        return everything(model, rollout)


def assert_alike(one: Any, other: Any, tolerance: float = 1e-4) -> None:
    for a, b in zip([*one[0], *one[1]], [*other[0], *other[1]], strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", sorted(packing.ARCHITECTURES))
def test_packed_rows_give_what_padded_rows_give(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, rollout = make(kind), uneven()
    expected = everything(plain, rollout)
    packing_model = enable_packing(deepcopy(plain))
    assert has_packed_attention(packing_model)
    assert not has_packed_attention(plain)
    assert pack(rollout, packing_model).ids.shape == (1, 23)
    assert pack(rollout, plain).ids.shape == (5, 9)
    assert_alike(everything(packing_model, rollout), expected)
    assert_alike(
        padded(packing_model, rollout, monkeypatch), expected
    )  # with ordinary masks it computes what it did before


@pytest.mark.parametrize("kind", sorted(packing.ARCHITECTURES))
def test_a_packed_row_does_not_attend_to_its_neighbours(kind: str) -> None:
    model, rollout = enable_packing(make(kind)), uneven()
    rollout.mask[4, 0] = True  # every row has something to compare
    logits, _ = logits_and_hidden(model, pack(rollout, model))
    alone = [rows_of(rollout, torch.tensor([row])) for row in range(5)]
    singly = torch.cat([logits_and_hidden(model, pack(row, model))[0] for row in alone])
    torch.testing.assert_close(logits, singly, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", sorted(packing.ARCHITECTURES))
def test_responses_to_one_prompt_share_it(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits, states and gradients are those of whole rows, from fewer tokens."""
    plain, rollout = make(kind), repeating()
    model = enable_packing(deepcopy(plain))
    packed = pack(rollout, model)
    assert packed.shared == 2
    whole = int(rollout.prompt_mask.sum() + rollout.mask.sum())
    assert packed.ids.shape == (1, whole - 2 * 2 - 1)  # two tokens of three rows, one token of two, are there once
    assert int(packed.before.sum()) == int(rollout.mask.sum())
    assert_alike(everything(model, rollout), everything(plain, rollout))
    assert_alike(padded(model, rollout, monkeypatch), everything(plain, rollout))


@ROLLOUTS
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_packing_works_with_gradient_checkpointing(
    kind: str, drawn: Callable[[], Rollout], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = apply_placement(enable_packing(make(kind)), Placement(gradient_checkpointing=True))
    assert_alike(everything(model, drawn()), padded(model, drawn(), monkeypatch))


@ROLLOUTS
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_packing_works_in_bfloat16(kind: str, drawn: Callable[[], Rollout], monkeypatch: pytest.MonkeyPatch) -> None:
    model = apply_placement(enable_packing(make(kind)), Placement(dtype="bfloat16"))
    assert_alike(everything(model, drawn()), padded(model, drawn(), monkeypatch), tolerance=0.1)


@ROLLOUTS
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_packing_works_with_adapters(kind: str, drawn: Callable[[], Rollout], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("peft")
    adapted = add_adapter(enable_packing(make(kind)).requires_grad_(False), Placement(lora=2), seed=0)
    assert_alike(everything(adapted, drawn()), padded(adapted, drawn(), monkeypatch))


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("mistral", {"sliding_window": 4}),
        ("gemma", {"use_bidirectional_attention": True}),
        ("llama", {"attn_implementation": "eager"}),
        ("gpt_neox", {}),
    ],
)
def test_attention_that_packing_does_not_know_keeps_padded_rows(kind: str, more: dict[str, Any]) -> None:
    model = make(kind, **more)
    before = model.config._attn_implementation
    assert not has_packed_attention(enable_packing(model))
    assert model.config._attn_implementation == before
    assert pack(uneven(), model).ids.shape == (5, 9)


def test_a_model_without_packing_raises_on_packed_rows() -> None:
    packed = pack(uneven(), enable_packing(make("llama")))
    with pytest.raises(RuntimeError):
        make("llama")(input_ids=packed.ids, use_cache=False, **packed.inputs)


def test_rows_of_equal_length_stay_a_table() -> None:
    model, rollout = enable_packing(make("gpt2")), by_hand(TOKENIZER, [[40, 41], [42]], [[50], [51, 52]])
    packed = pack(rollout, model)
    assert packed.ids.shape == (2, 3)
    assert not packed.inputs


def test_positions_and_lengths() -> None:
    lengths = torch.tensor([3, 1, 2])
    assert packed_positions(lengths).tolist() == [[0, 1, 2, 0, 0, 1]]
    assert packed_mask(lengths).flatten().tolist() == [3, 1, 2]
    assert packed_mask(lengths, torch.tensor([-1, 0, 0])).tolist() == [[[[3, 1, 2], [-1, 0, 0]]]]


def test_a_loaded_model_supports_packing_and_is_stored_without_a_trace_of_it(tmp_path: Path) -> None:
    save_model(make("gpt2"), TOKENIZER, tmp_path / "plain")
    model = load_causal(tmp_path / "plain", TOKENIZER, "cpu")
    assert has_packed_attention(model)
    save_model(model, TOKENIZER, tmp_path / "again")
    assert packing.ATTENTION not in (tmp_path / "again" / "config.json").read_text(encoding="utf-8")
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("plain", "again")]
    assert {k for one in configs for k in one if "attn_impl" in k} == set()
    opened = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    assert opened.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_model_with_packing_samples_as_before(kind: str) -> None:
    model = make(kind)
    prompts = ["Where is Anna?", "?", "Who brings the map?"]
    drawn = [
        sample(one, TOKENIZER, prompts, 8, generator=make_generator("x")) for one in (model, enable_packing(model))
    ]
    assert torch.equal(drawn[0].response_ids, drawn[1].response_ids)
    assert torch.equal(drawn[0].logprobs, drawn[1].logprobs)  # type: ignore[arg-type]


@pytest.mark.parametrize("positions", ["reuse", "plain"])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_corrector_compares_packed_and_padded_rows_alike(kind: str, positions: str) -> None:
    plain = make(kind)
    layout = Layout.of(TOKENIZER, positions)
    one, two = (
        Corrector(m, TOKENIZER, layout).teacher_forced(uneven()) for m in (plain, enable_packing(deepcopy(plain)))
    )
    assert torch.equal(one.matches, two.matches)
    torch.testing.assert_close(one.margins, two.margins, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_classifier_scores_packed_and_padded_rows_alike(kind: str) -> None:
    torch.manual_seed(0)
    config = make(kind).config
    config.num_labels = 1
    plain = louder(transformers.AutoModelForSequenceClassification.from_config(config), 8.0)
    one, two = (ScalarScorer(m).scores(uneven()) for m in (plain, enable_packing(deepcopy(plain))))
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)
