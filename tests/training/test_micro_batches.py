"""Steps in micro-batches: the gradient is the whole batch's, and running out of memory changes no weight."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_trl import CutError, Row, lm_rows, pair_rows
from tiny import Tiny

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.models.policies import load_causal, load_classifier
from rlhf_bench.harness.training.micro_batches import MicroBatches
from rlhf_bench.harness.training.trl import (
    TrainOptions,
    train_dpo,
    train_encoder_decoder,
    train_lm,
    train_preferences,
)

ROWS = 7  # by 3: 3, 3 and 1
KINDS = ["lm", "reused positions", "preferences", "dpo", "encoder-decoder"]
Options = dict[str, Any]


def dpo_rows(count: int) -> list[Row]:
    return [
        {"prompt_ids": row["input_ids"][:2], "chosen_ids": row["input_ids"][2:], "rejected_ids": [9] * (at + 1) + [1]}
        for at, row in enumerate(lm_rows(count))
    ]


def bart(vocabulary: int) -> Any:
    """Random weights from a fixed seed, without dropout."""
    from transformers import BartConfig, BartForConditionalGeneration

    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=vocabulary, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=64, dropout=0.0,
        attention_dropout=0.0, activation_dropout=0.0, pad_token_id=0, bos_token_id=1, eos_token_id=1,
        decoder_start_token_id=1, forced_eos_token_id=1,
    )  # fmt: skip
    return BartForConditionalGeneration(config)


def make(kind: str, tiny: Tiny) -> Any:
    """A tiny model to train, in float64: Adam makes whole steps of float32's rounding where a gradient is 0."""
    if kind == "preferences":
        return load_classifier(tiny.folder, tiny.tokenizer, "cpu", seed=1, head_std=0.5).double()
    if kind == "encoder-decoder":
        return bart(len(tiny.tokenizer)).double()
    return load_causal(tiny.folder, tiny.tokenizer, "cpu").double()


def trained(kind: str, tiny: Tiny, scratch: Path, given: Options, model: Any = None) -> tuple[Any, dict[str, float]]:
    """A tiny model after its training, and the figures."""
    scratch.mkdir(exist_ok=True)
    defaults: Options = {"steps": 1, "batch": ROWS, "lr": 1e-2, "warmup": 0.0, "save_every": 2, "seed": 3}
    options = TrainOptions(scratch, device="cpu", **defaults | given)
    model = model or make(kind, tiny)
    if kind == "preferences":
        return model, train_preferences(model, tiny.tokenizer, pair_rows(ROWS), options)
    if kind == "encoder-decoder":
        rows = [{"input_ids": row["input_ids"], "labels": row["input_ids"][at:]} for at, row in enumerate(lm_rows(3))]
        rows += [{"input_ids": row["input_ids"], "labels": row["input_ids"][2:]} for row in lm_rows(ROWS)[3:]]
        return model, train_encoder_decoder(model, tiny.tokenizer, rows, options)
    if kind == "dpo":
        reference = make(kind, tiny)
        with torch.no_grad():  # else every log-ratio is 0 and every pair weighs the same
            reference.get_input_embeddings().weight.mul_(1.5)
        return model, train_dpo(model, reference, tiny.tokenizer, dpo_rows(ROWS), options, beta=0.5)
    return model, train_lm(model, tiny.tokenizer, lm_rows(ROWS, kind == "reused positions"), options)


@pytest.fixture
def gradients(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """The gradients after each step of a training, in float32, before they are clipped."""
    found: list[dict[str, torch.Tensor]] = []
    step = MicroBatches.training_step

    def noted(self: MicroBatches, model: Any, *given: Any) -> Any:
        loss = step(self, model, *given)
        named = model.named_parameters()
        found.append({name: value.grad.clone() for name, value in named if value.grad is not None} | {"loss": loss})
        return loss

    monkeypatch.setattr(MicroBatches, "training_step", noted)
    return found


@pytest.mark.training
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("packed", [True, False])
def test_the_gradient_is_that_of_the_whole_batch(
    kind: str,
    packed: bool,
    tiny_gpt2: Tiny,
    tmp_path: Path,
    gradients: list[dict[str, torch.Tensor]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Seven rows of unequal lengths, by three and one by one: a mean of the micro-batches' means is another."""
    if not packed:
        monkeypatch.setattr("rlhf_bench.harness.training.trl.supports_packing", lambda _: False)
    for size in (0, 3, 1, ROWS + 1):
        trained(kind, tiny_gpt2, tmp_path / str(size), {"micro_batch": size})
    whole, *others = gradients
    assert max(float(value.abs().max()) for value in whole.values()) > 1e-3
    for parts in others:
        assert parts.keys() == whole.keys()
        for name, value in whole.items():
            scale = float(value.abs().max())
            torch.testing.assert_close(parts[name], value, rtol=1e-5, atol=1e-6 * max(1.0, scale), msg=name)


def test_the_lengths_of_the_rows_are_unequal() -> None:
    """Otherwise the test above would not see a mean of means."""
    rows = lm_rows(ROWS)
    counts = [sum(label >= 0 for label in row["labels"]) for row in rows]
    assert len({sum(counts[:3]) / 3, sum(counts[3:6]) / 3, counts[6]}) == 3


class Memory:
    """A device on which a forward pass of `model` fits with at most `most` rows; `seen` are those of every pass."""

    def __init__(self, model: Any, most: int, error: Callable[[], Exception]) -> None:
        self.most, self.error, self.seen = most, error, list[int]()
        model.register_forward_pre_hook(self.forward, with_kwargs=True)

    def forward(self, _: Any, __: Any, named: Any) -> None:
        mask = named["attention_mask"]
        rows = mask.shape[-1] if mask.dim() == 4 else mask.shape[0]
        self.seen.append(rows)
        if rows > self.most:
            raise self.error()


CPU = "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"
ERRORS: dict[str, Callable[[], Exception]] = {
    "GPU": lambda: torch.OutOfMemoryError("a fake"),
    "CPU": lambda: RuntimeError(f"{CPU} 4 bytes. Error code 12 (Cannot allocate memory)"),
    "numpy": lambda: MemoryError("a fake"),
}


@pytest.mark.training
@pytest.mark.parametrize("device", ERRORS)
@pytest.mark.parametrize("kind", ["lm", "preferences"])
def test_out_of_memory_halves_the_rows_and_ends_with_the_same_weights(
    kind: str, device: str, tiny_gpt2: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the training is interrupted and continues from its checkpoint."""
    most, given = 2, {"steps": 5}
    calm, expected = trained(kind, tiny_gpt2, tmp_path / "calm", given)
    per_row = 2 if kind == "preferences" else 1

    def narrow() -> tuple[Any, Memory]:
        model = make(kind, tiny_gpt2)
        # rows end to end pass the classifier's trunk alone
        return model, Memory(model.base_model if kind == "preferences" else model, most * per_row, ERRORS[device])

    def interrupt(done: int, _: int) -> None:
        if done == 3:
            raise CutError

    capsys.readouterr()
    model, memory = narrow()
    with pytest.raises(CutError):
        trained(kind, tiny_gpt2, tmp_path / "narrow", {**given, "progress": interrupt}, model)
    said = [line for line in capsys.readouterr().err.splitlines() if "memory" in line]
    assert said == [
        "Out of memory with 7 rows at once: going on with 3.",
        "Out of memory with 3 rows at once: going on with 1.",
    ], "said once, and never tried again"
    assert memory.seen.count(7 * per_row) == 1
    model, memory = narrow()
    _, figures = trained(kind, tiny_gpt2, tmp_path / "narrow", given, model)
    assert figures["steps"] == 5
    assert figures["loss"] == pytest.approx(expected["loss"], rel=1e-4)
    for name, value in calm.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.training
def test_a_step_is_repeated_from_its_beginning(
    tiny_gpt2: Tiny, tmp_path: Path, gradients: list[dict[str, torch.Tensor]]
) -> None:
    """Memory that ends after some gradients were added: none of them counts twice, and dropout is drawn again."""
    for name, fails in (("calm", False), ("failing", True)):
        model = load_causal(tiny_gpt2.folder, tiny_gpt2.tokenizer, "cpu")
        model.train()
        model.transformer.drop.p = 0.5
        passes = 0

        def hook(_: Any, __: Any, fails: bool = fails) -> None:
            nonlocal passes
            passes += 1
            if fails and passes == 2:  # of four micro-batches of two rows
                raise torch.OutOfMemoryError("a fake")

        model.register_forward_pre_hook(hook)
        trained("lm", tiny_gpt2, tmp_path / name, {"micro_batch": 2 if fails else 1}, model)
    calm, failing = gradients
    assert passes == 2 + ROWS
    for name, value in calm.items():
        torch.testing.assert_close(failing[name], value, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.training
def test_a_row_that_does_not_fit_is_one_line(tiny_gpt2: Tiny, tmp_path: Path) -> None:
    model = load_causal(tiny_gpt2.folder, tiny_gpt2.tokenizer, "cpu")
    Memory(model, 0, ERRORS["CPU"])
    with pytest.raises(BenchError) as caught:
        trained("lm", tiny_gpt2, tmp_path / "a", {}, model)
    longest = max(len(row["input_ids"]) for row in lm_rows(ROWS))
    assert f"while training with a single row of {longest} tokens" in caught.value.seen
    assert "data.max_prompt_tokens" in caught.value.fix
    assert "\n" not in str(caught.value)


@pytest.mark.training
def test_another_error_is_not_tried_again(tiny_gpt2: Tiny, tmp_path: Path) -> None:
    model = load_causal(tiny_gpt2.folder, tiny_gpt2.tokenizer, "cpu")
    memory = Memory(model, 0, lambda: RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes"):
        trained("lm", tiny_gpt2, tmp_path / "a", {}, model)
    assert memory.seen == [ROWS]
