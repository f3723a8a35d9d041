"""The cost of scoring: counts against torch's own and by hand, fits that find known exponents, and rows of the stage.

No time is asserted: how long a pass takes is what the stage measures.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.models.tiny_policy import train_tokenizer
from rlhf_bench.harness.pipeline.context import Context
from rlhf_bench.harness.stages import overhead
from rlhf_bench.harness.statistics.cost import (
    KINDS,
    OverheadSettings,
    count_ratio,
    forward_flop,
    layer_parameters,
    overhead_estimates,
    pass_of,
    power_law,
    time_ratio,
)

SMALL = {"widths": [32, 64], "layers": [1, 2], "lengths": [4, 12], "prompt": 6, "repeats": 2, "generation_repeats": 1}


# ---- counting -------------------------------------------------------------------------------------------------------


def test_flop_by_hand() -> None:
    """Width 4, one layer, 3 tokens, 2 logits over 10 words: 192 weights x 2 x 3; of 1 + 2 + 3 pairs of tokens each
    4 multiplications and additions for the key and 4 for the value; 2 x 4 x 10 x 2."""
    assert layer_parameters(4, 1) == 192
    assert forward_flop(4, 1, 3, 2, 10) == 1152 + (1 + 2 + 3) * (8 + 8) + 160


def test_tokens_by_hand() -> None:
    """A prompt of 5, a response of 3 tokens (end included), a marker of 2."""
    assert pass_of("scalar", 5, 3, 2) == (8, 0)
    assert pass_of("seq2seq", 5, 3, 2) == (5 + 2 + 2 + 3, 3)
    assert pass_of("generation", 5, 3, 2) == (7, 3)
    with pytest.raises(BenchError, match="No pass is called 'dense'"):
        pass_of("dense", 1, 1, 1)


@pytest.mark.parametrize(("width", "layers", "tokens", "logits"), [(32, 1, 5, 1), (64, 3, 40, 7)])
def test_flop_equal_the_count_of_torch(width: int, layers: int, tokens: int, logits: int) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=512,
        n_positions=64,
        n_embd=width,
        n_layer=layers,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation="eager",  # torch's counter does not see the fused kernel
    )
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(input_ids=torch.ones(1, tokens, dtype=torch.long), logits_to_keep=logits, use_cache=False)
    masked = layers * 4 * width * tokens * (tokens - 1) // 2  # eager attention computes both triangles
    assert counter.get_total_flops() == forward_flop(width, layers, tokens, logits, 512) + masked


def test_parameters_are_the_sizes_of_the_layers_matrices() -> None:
    tokenizer = train_tokenizer(["An answer."], 300)
    settings = OverheadSettings(widths=(64,), layers=(3,), lengths=(4,))
    layers = overhead.make_models(settings, 64, 3, tokenizer).causal.transformer.h
    assert layer_parameters(64, 3) == sum(p.numel() for p in layers.parameters() if p.ndim == 2)


def test_the_passes_read_the_tokens_that_are_counted() -> None:
    settings = OverheadSettings(widths=(32,), layers=(1,), lengths=(9,), prompt=7)
    tokenizer = train_tokenizer(["An answer."], 300)
    models = overhead.make_models(settings, 32, 1, tokenizer)
    rollout = overhead.make_rollout(settings, tokenizer, 9)
    passes, marker = overhead.make_passes(models, tokenizer, rollout)
    read: list[int] = []
    logits: list[int] = []
    for model in models:
        model.transformer.wte.register_forward_hook(lambda _, ids, __: read.append(ids[0].numel()))
    models.causal.lm_head.register_forward_hook(lambda _, __, out: logits.append(out.shape[1]))
    for kind in KINDS:
        passes[kind]()
        assert (sum(read), sum(logits)) == pass_of(kind, 7, 9, marker), kind
        read.clear()
        logits.clear()
    assert overhead.write(models.causal, rollout.prompt_ids, 9) == pass_of("generation", 7, 9, marker).tokens


# ---- trends ---------------------------------------------------------------------------------------------------------


@given(st.floats(-2, 3), st.floats(-2, 3), st.floats(0.01, 100))
def test_a_power_law_is_found_exactly(a: float, b: float, scale: float) -> None:
    x, y = np.repeat([16.0, 64.0, 256.0], 3), np.tile([1e5, 1e6, 3e7], 3)
    for found, exponent in zip(power_law([x, y], scale * x**a * y**b, 0.95), (a, b), strict=True):
        assert found.value == pytest.approx(exponent, abs=1e-8)
        assert found.low == pytest.approx(exponent, abs=1e-6)
        assert found.high == pytest.approx(exponent, abs=1e-6)


def test_the_interval_of_an_exponent_is_that_of_least_squares_and_contains_it() -> None:
    from scipy import stats

    rng = np.random.default_rng(0)
    x = np.geomspace(16, 256, 12)
    hits = 0
    for trial in range(400):
        y = x**1.3 * np.exp(rng.normal(scale=0.2, size=12))
        (found,) = power_law([x], y, 0.9)
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 1.3 <= found.high
        if not trial:
            line = stats.linregress(np.log(x), np.log(y))
            assert found.value == pytest.approx(line.slope)
            assert found.high - found.value == pytest.approx(stats.t.ppf(0.95, 10) * line.stderr)
    assert abs(hits / 400 - 0.9) < 3 * math.sqrt(0.9 * 0.1 / 400)


def test_a_power_law_that_cannot_be_fitted_has_a_reason() -> None:
    one = np.ones(4)
    assert "vary independently" in power_law([one * 2], one, 0.9)[0].note
    assert "above 0" in power_law([np.arange(4.0)], one, 0.9)[0].note
    assert power_law([], one, 0.9) == []
    exact = power_law([np.array([1.0, 2.0])], np.array([1.0, 4.0]), 0.9)[0]
    assert exact.value == pytest.approx(2)
    assert exact.low is None


def row(kind: str, seconds: list[float], response: int = 16, width: int = 64, **more: Any) -> dict[str, Any]:
    basics = {"layers": 2, "parameters": width * width, "tokens": 10, "flop": 100, "peak_bytes": None}
    return {"kind": kind, "width": width, "response": response, "seconds": seconds, **basics, **more}


def test_ratios_pair_repeats_and_need_both_sides() -> None:
    pairs = [(row("seq2seq", [2.0, 6.0, 9.0]), row("scalar", [1.0, 1.0])), (row("a", [8.0, 6.0]), row("b", [1.0, 1.0]))]
    found = time_ratio(pairs, 0.9)  # repeats: sqrt(2 * 8) = 4 and sqrt(6 * 6) = 6
    assert found.value == pytest.approx(math.sqrt(24))
    assert found.low is not None
    assert found.high is not None
    assert found.low * found.high == pytest.approx(24)
    assert "2 repeats of 2 cells" in found.note
    assert time_ratio([(row("a", [3.0]), row("b", [2.0]))], 0.9).low is None
    assert time_ratio([(row("a", []), row("b", [2.0]))], 0.9).value is None
    assert time_ratio([], 0.9).value is None
    counted = count_ratio([(row("a", [], flop=200), row("b", [])), (row("a", [], flop=800), row("b", []))], "flop")
    assert counted.value == pytest.approx(4)
    assert "from 2 to 8" in counted.note
    assert count_ratio(pairs, "peak_bytes").value is None


def test_estimates_of_a_synthetic_grid() -> None:
    rows = [
        row(kind, [factor * length * width**2.0] * 3, length, width, tokens=factor * length, flop=factor * 10)
        for kind, factor in (("scalar", 1), ("seq2seq", 2))
        for length in (16, 64)
        for width in (64, 128, 256)
    ]
    found = overhead_estimates(rows, 0.95)
    assert found["seq2seq seconds ~ response length"].value == pytest.approx(1)
    assert found["scalar seconds ~ parameters"].value == pytest.approx(1)  # width^2 are the parameters here
    assert found["time ratio seq2seq / scalar"].value == pytest.approx(2)
    assert found["time ratio seq2seq / scalar at 64 tokens"].value == pytest.approx(2)
    assert found["tokens ratio seq2seq / scalar"].value == pytest.approx(2)
    assert found["time ratio seq2seq / generation"].value is None
    assert "generation seconds ~ parameters" not in found
    one = overhead_estimates([r for r in rows if r["response"] == 16], 0.95)
    assert one["scalar seconds ~ response length"].note == "one length was measured"
    assert one["scalar seconds ~ parameters"].value == pytest.approx(1)
    assert all(e.value is None for e in overhead_estimates([], 0.95).values())


# ---- the stage ------------------------------------------------------------------------------------------------------


def test_rows_of_the_stage(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import torch

    threads, calls = torch.get_num_threads(), []
    progress = lambda done, total: calls.append((done, total))  # noqa: E731
    figures = overhead.overhead(Context({"overhead": SMALL}, {}, tmp_path, tmp_path, "cpu", progress))
    rows = store.read_rows(tmp_path / "overhead.jsonl")
    assert figures["rows"] == len(rows) == 2 * 2 * 3
    assert calls == [(n, 4) for n in (1, 2, 3, 4)]
    assert torch.get_num_threads() == threads
    assert capfd.readouterr().err == ""
    assert {(r["kind"], r["width"], r["response"]) for r in rows} == {
        (kind, width, length) for kind in KINDS for width in (32, 64) for length in (4, 12)
    }
    for one in rows:
        assert len(one["seconds"]) == (1 if one["kind"] == "generation" else 2)
        assert all(second >= 0 for second in one["seconds"])
        assert (one["peak_bytes"] is None) is (one["kind"] == "generation")
    found = overhead_estimates(rows, 0.95)
    assert found["flop ratio seq2seq / scalar"].value is not None


def test_peak_bytes_is_the_memory_allocated_at_one_time() -> None:
    import torch

    def one_after_the_other() -> None:
        for _ in range(3):
            torch.zeros(1000)

    def together() -> list[torch.Tensor]:
        return [torch.zeros(1000) for _ in range(3)]

    assert 4000 <= overhead.peak_bytes(one_after_the_other) < 5000
    assert 12_000 <= overhead.peak_bytes(together) < 13_000


@pytest.mark.parametrize(
    "wrong",
    [
        {"widths": [64]},
        {"widths": [], "layers": []},
        {"widths": [40], "layers": [1]},
        {"widths": [0], "layers": [1]},
        {"lengths": []},
        {"lengths": [1]},
        {"repeats": 0},
        {"generation_repeats": -1},
        {"prompt": 0},
        {"vocabulary": 100},
    ],
)
def test_wrong_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(BenchError) as caught:
        OverheadSettings(**wrong)
    assert "\n" not in str(caught.value)


def test_settings_read_back_from_json_are_equal() -> None:
    assert OverheadSettings(lengths=[16, 32]) == OverheadSettings(lengths=(16, 32))  # type: ignore[arg-type]
