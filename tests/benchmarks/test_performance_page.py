"""The page of performance says what the figures say: targets met or not, and what was not run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import performance
import stored
import suite
from learning_speed import Point, speed
from many_cells import multiply
from peer_model import Sizes
from perf_flop import needed_flop, step_flop
from perf_page import floor_shares, page, target
from perf_real import forward_flop as gated_flop
from perf_real import layer_parameters, shape_of
from perf_real import step_flop as gated_step
from performance import earlier, measured, with_suite
from real_model import predicted

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.statistics.cost import forward_flop

PHASES = {"sample": 1.0, "update": 2.0, "rewards, reference, values and rest": 1.5}


def results(trl: bool) -> dict[str, Any]:
    own = {"samples_per_second": 10.0, "phases": PHASES}
    race: dict[str, Any] = {"own": dict(own), "own, fastest": dict(own)}
    if trl:
        race["TRL, strongest"] = race["TRL"] = {"samples_per_second": 5.0}
        race["own"]["times TRL, strongest"], race["own, fastest"]["times TRL, strongest"] = 1.5, 1.9
    speeds = {"own": 2.0, "generate": 1.0, "ratio": 2.0}
    scored = {"scalar": 1.0, "seq2seq": 2.0, "generate": 20.0}
    scored |= {"over scalar": 2.0, "flop over scalar": 1.0, "generate over seq2seq": 10.0}
    grown = {"rows": [{"batch": 8, "parameters": 1e6, "seconds": 1.0, "peak_bytes": 2.0**20}]}
    grown |= {"seconds": 0.9, "peak_bytes": 0.5}  # type: ignore[dict-item]
    places = [f"{kind}, {threads}" for kind in ("equal", "varying") for threads in (1, 2)]
    return {
        "machine": dict.fromkeys(("processor", "cores", "load_before", "torch", "transformers", "python"), 1.0),
        "quick": False,
        "gemm": {"1": 1e11, "2": 2e11},
        "ppo": dict.fromkeys(places, race),
        "before": "",
        "generation": dict.fromkeys(places, speeds),
        "scoring": {"1": scored, "32": scored},
        "growth": {"batch": grown},
        "jobs": {"1": 2.0, "2": 3.0},
        "default_cell": {"whole": 100.0, "stages": {"ppo": 60.0, "sft": 30.0}, "ppo": {"PPO: update": 40.0}},
        "help_seconds": 0.2,
        "minutes": 10.0,
    }


def test_the_learning_speed_is_that_of_its_points() -> None:
    points = [Point(4, 10.0, 0.2), Point(8, 20.0, 0.6), Point(12, 30.0, 0.7)]
    assert speed(points) == pytest.approx({"share": 0.7, "seconds": 30.0, "whole": 1.4, "to_half": 1.8})
    slow = speed(points[:1])
    assert slow["to_half"] is None
    # 1.8 a minute against a run that never wins half, 0.2 in 10 s
    text = page({**results(trl=False), "learning": {"now": speed(points), "before": slow}})
    assert "| learning speed up to half the range, now over before | 1.5 | at least 3 | **not reached** |" in text
    assert "## Learning speed\n\nNot run." in page(results(trl=False))


def test_targets_are_read_off_the_figures() -> None:
    text = page(results(trl=True))
    assert "| own over TRL's strongest, equal lengths, 1 threads | 1.5 | at least 1.2 | reached |" in text
    assert "| own over TRL's strongest, varying lengths, 2 threads | 1.5 | at least 2 | **not reached** |" in text
    assert "| seq2seq over scalar, by the ratio of operations, batch 1 | 2 | at most 1.15 | **not reached** |" in text
    assert "Two jobs do 1.50 times the work of one." in text


def test_a_peer_that_was_not_there_is_said_to_be_missing() -> None:
    text = page(results(trl=False))
    assert "TRL was not run" in text
    assert text.count("| not run | at least") == 6


@pytest.mark.parametrize(
    ("value", "at_most", "said"), [(2.0, False, "reached"), (1.9, False, "**not reached**"), (1.9, True, "reached")]
)
def test_a_bound_itself_is_enough(value: float, at_most: bool, said: str) -> None:
    assert target("x", value, 2.0, at_most)[-1] == said


def test_the_floor_is_operations_over_speed() -> None:
    shares = floor_shares(results(trl=False), 1)
    flop = step_flop(Sizes())
    assert shares["update"] == pytest.approx((2.0, flop["update"] / 1e11 / 2.0))
    assert shares["whole step"] == pytest.approx((4.5, sum(flop.values()) / 1e11 / 4.5))


def test_reading_every_position_needs_the_whole_pass() -> None:
    sizes = Sizes()
    assert needed_flop(sizes, 96, 96, 96) == forward_flop(sizes.width, sizes.layers, 96, 96, sizes.vocabulary)
    one_layer = Sizes(layers=1)
    left = needed_flop(one_layer, 96, 0, 0)  # 12 width^2 weights, of which the feed-forward part has 8
    attention = 2 * one_layer.width * 96 * 97
    assert left - attention == 2 * 4 * one_layer.width**2 * 96


def sums(minutes: float) -> dict[str, Any]:
    stage = {"jobs": 2, "wall_minutes": minutes, "core_minutes": minutes}
    return {"experiment": "headline", "cells": 4, "lacking": 0, "stages": {"ppo": stage, "sft": stage}}


def test_the_suite_and_the_default_cell_stand_beside_what_was_before() -> None:
    found = results(trl=False)
    assert "Not measured in this run" in page(found)
    cell = {"whole": 200.0, "stages": {"ppo": 150.0}, "ppo": {"PPO: update": 99.0}}
    found |= {"suite": sums(3.0), "earlier": {"suite": sums(5.0), "default_cell": cell}}
    found["report"] = {"prompts": 500, "seeds": 5, "seconds": {"50": 7.5}}
    text = page(found)
    assert "| ppo | 2 | 3 | 3 | 50% | 5 |" in text
    assert "| all | 4 | 6 | 6 | 100% | 10 |" in text
    assert "| ppo | 150 | 60 | 60% |" in text
    assert "| PPO: update | 99 | 40 |" in text
    assert "| 50 |  | 7.5 |" in text
    read = {"first": (30.0, 300.0), "run here": (11.0, 280.0), "again": (3.0, 190.0)}
    one = {**{kind: {"seconds": s, "mib": mib} for kind, (s, mib) in read.items()}, "page_mib": 2.5}
    found |= {"report": {"prompts": 500, "seeds": 5, "cells": {"50": one}}, "earlier": {"report": found["report"]}}
    assert "| 50 | 7.5 | 30 |  | 11 |  | 3 | 300 | 280 | 190 | 2.5 |" in page(found)
    one |= {f"before {kind}": {"seconds": 2 * s, "mib": mib} for kind, (s, mib) in read.items()}
    assert "| 50 | 60 | 30 | 22 | 11 | 6 | 3 | 300 | 280 | 190 | 2.5 |" in page(found)
    assert "in turns with this one" in page(found)
    assert "not the whole" in page({**found, "suite": {**sums(3.0), "lacking": 1}})


def test_figures_before_are_the_last_that_there_were() -> None:
    first = {"default_cell": {"whole": 1.0}, "earlier": {"suite": sums(1.0), "default_cell": {"whole": 9.0}}}
    assert earlier(first) == {"default_cell": {"whole": 1.0}, "suite": sums(1.0)}
    assert earlier({}) == {}


def test_a_suite_is_summed_over_its_stages_each_once(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="holds no experiment"):
        suite.summary(tmp_path)
    stored.make(tmp_path, stored.Stored(seeds=(1, 2)))
    names = [path.stem for path in sorted((tmp_path / "cells").glob("*.json"))]
    (tmp_path / "experiments").mkdir()
    store.write_json(tmp_path / "experiments" / "headline.json", {"runs": {"a": names, "b": names[:1]}})
    found = suite.summary(tmp_path)
    assert (found["cells"], found["lacking"]) == (4, 0)
    assert found["stages"]["sft"] == {"jobs": 2, "wall_minutes": 2 * 1.5 / 60, "core_minutes": 2 * 1.25 / 60}
    assert found["stages"]["ppo"]["jobs"] == 4, "generations are PPO's: its stage is counted once"
    next((tmp_path / "ppo").iterdir()).joinpath(store.MARKER).unlink()
    assert suite.summary(tmp_path)["lacking"] == 1
    results_before = {"suite": sums(1.0)}
    assert with_suite(results_before, tmp_path)["earlier"] == {"suite": sums(1.0)}


def test_copies_of_a_cell_are_reported_as_cells_of_their_own(tmp_path: Path) -> None:
    stored.make(tmp_path / "real", stored.Stored(rms=("scalar",), seeds=(1,)))
    assert multiply(tmp_path / "real", tmp_path / "many", 2, 3) == 6
    report, cells = stored.report_of(tmp_path / "many")
    assert len(cells) == 6
    assert [(arm["reward_model"], arm["seeds"]) for arm in report["arms"]] == [
        ("scalar-0", [0, 1, 2]), ("scalar-1", [0, 1, 2])
    ]  # fmt: skip


LLAMA = {"layers": 3, "width": 64, "inner": 160, "queries": 64, "keys": 32, "vocabulary": 500}


def test_the_weights_of_a_gated_decoder_are_those_of_the_model() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=500, tie_word_embeddings=True,
    )  # fmt: skip
    assert shape_of(config) == LLAMA
    matrices = [p for name, p in LlamaForCausalLM(config).named_parameters() if p.ndim == 2 and "embed" not in name]
    assert layer_parameters(LLAMA) == sum(p.numel() for p in matrices)


def test_operations_of_a_gated_decoder_are_counted() -> None:
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=500, tie_word_embeddings=True, attn_implementation="eager",
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=torch.arange(20)[None])
    # eager attention multiplies the entries above the diagonal, too
    above = 4.0 * 3 * 64 * 20 * 20 - 2.0 * 3 * 64 * 20 * 21
    assert counter.get_total_flops() == pytest.approx(gated_flop(LLAMA, 20, 20) + above, rel=0.01)


def test_a_size_is_predicted_at_the_speed_of_the_next_smaller_one() -> None:
    large = {**LLAMA, "layers": 6}
    shapes = {"small": LLAMA, "large": large, "7B": {**large, "width": 640}}
    tokens = {"small": [80, 40], "large": [80, 40]}
    flop = gated_step(LLAMA, 40, 20, 2)
    seconds = {"small": {phase: count / 1e9 for phase, count in flop.items()}}
    seconds["large"] = {phase: 2 * count / 1e9 for phase, count in gated_step(large, 40, 20, 2).items()}
    found = predicted(shapes, seconds, tokens, 2)
    for phase, one in found["large"]["phases"].items():
        assert one["measured"] == pytest.approx(2 * one["predicted"]), phase
    for phase, one in found["7B"]["phases"].items():
        assert one["predicted"] == pytest.approx(2 * one["flop"] / 1e9), phase
        assert one["measured"] is None
    assert {one["predicted"] for one in found["small"]["phases"].values()} == {None}


def real(whole: bool) -> dict[str, Any]:
    engines = {f"{name}, {dtype}": {"wall": 2.0, "cpu": 1.0} for name in ("own", "TRL") for dtype in DTYPES}
    speeds = {f"{name}, {dtype}": {"tokens_per_s": 100.0, "tokens_per_cpu_s": 90.0} for name in ("own", "generate")
              for dtype in DTYPES}  # fmt: skip
    for dtype in DTYPES:
        engines[f"own, {dtype}"] |= {"x TRL, wall": 1.75, "x TRL, cpu": 1.25}
        speeds[f"own, {dtype}"] |= {"ratio": 2.5, "cpu_ratio": 2.25}
    found: dict[str, Any] = {
        "policy": "some-model", "date": "2026-01-01", "load": 0.5, "quick": True,
        "sizes": {"equal": vars(Sizes()), "as it ends": vars(Sizes())},
        "generation": {"equal, 1": speeds}, "ppo": {"equal, 1": engines},
    }  # fmt: skip
    if whole:
        found["scoring"] = {"scalar": 1.0, "seq2seq": 2.0, "over scalar": 2.0, "flop over scalar": 1.9}
        seconds = {name: dict.fromkeys(gated_step(LLAMA, 40, 20, 2), 1.0) for name in ("small", "large")}
        shapes = {"small": LLAMA, "large": LLAMA, "2B": LLAMA}
        found["growth"] = predicted(shapes, seconds, {"small": [80, 40], "large": [80, 40]}, 2)
    return found


DTYPES = ("float32", "bfloat16")


def test_the_page_has_a_pretrained_model_s_figures_as_far_as_they_go() -> None:
    whole = page({**results(True), "real": real(True)})
    for text in (
        "some-model",
        "quick run",
        "| equal, 1 | float32 | 100 | 100 | 2.5 |",
        "1.75 | 1.25 |",
        "1.9 times the",
    ):
        assert text in whole, text
    assert "360M, random weights" in whole
    part = page({**results(True), "real": real(False)})
    assert "Scoring was not measured" in part
    assert "Growth was not measured" in part
    assert "A pretrained model\n\nNot measured" in page(results(True))


def test_a_part_measured_anew_leaves_the_past_of_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(performance, "report", lambda: {"seconds": 3})
    monkeypatch.setattr(performance, "UNFINISHED", tmp_path / "partial.json")
    before = {"report": {"seconds": 5}, "default_cell": {"seconds": 2}, "earlier": {"default_cell": {"seconds": 1}}}
    given = argparse.Namespace(quick=True, parts="report", before="", trl=None, policy=None, real_threads=[1])
    found = measured(given, before)
    assert found["report"] == {"seconds": 3}
    assert found["default_cell"] == {"seconds": 2}
    assert found["earlier"] == {"default_cell": {"seconds": 1}, "report": {"seconds": 5}}
