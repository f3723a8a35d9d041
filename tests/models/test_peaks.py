"""Peaks of memory by kind of pass: numbers by hand for a small configuration, and laws."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rlhf_bench.harness.cli.options import PLANNED_DEVICES
from rlhf_bench.harness.forward import passes
from rlhf_bench.harness.models import peaks
from rlhf_bench.harness.models.memory import Sizes
from rlhf_bench.harness.models.peaks import Host, Peak
from rlhf_bench.harness.models.placement import Placement
from rlhf_bench.harness.sampling import packed_weights
from rlhf_bench.harness.sampling.speeds import KNOWN_DEVICES
from rlhf_bench.harness.stages import evaluation

# 1000 parameters, 400 of them embeddings (and tied head) of 50 tokens of width 8
SIZES = Sizes(total=1000, outside=400, head=0, adapters=60, kept=6400, cached=16, vocabulary=50, hidden=8, widest=100)
GPU = Host(SIZES, Placement(), tokens=64, cpu=False, packed=False)
CPU = replace(GPU, cpu=True, packed=True)
LORA = replace(GPU, placement=Placement(lora=4))


def test_numbers_by_hand() -> None:
    assert (GPU.whole, GPU.held, GPU.training, GPU.kept) == (4000, 4000, 16000, 100)
    assert (LORA.held, LORA.training) == (4000, 4000 + 16 * 60)
    half = replace(GPU, placement=Placement(lora=4, dtype="bfloat16"))
    assert half.held == 2 * 600 + 4 * 400
    # weights, gradients and moments; two tables of 10 tokens' logits; 100 bytes a token
    made = peaks.training(GPU, 10, 4, "sft.batch", labelled=True)
    assert made.bytes == 16000 + 2 * 4 * 10 * 50 + 100 * 10
    assert made.least == 16000 + 2 * 4 * 10 * 50 + 100 * 4
    assert peaks.training(GPU, 10, 4, "", labelled=False).bytes == 16000 + 100 * 10
    # 3 rows: a cache of 5 + 3 tokens and a fifth of it, three tables of one step's logits, a pass of the prompt
    row = int(1.2 * 4 * 16 * 8) + 3 * 4 * 50 + 5 * 400
    assert peaks.sampling(GPU, [4000], 3, 5, 3, "").bytes == 4000 + 3 * 8 * (row // 8)


def test_copies_of_weights_that_decoding_makes() -> None:
    # 600 numbers in layers, 400 in the head; adapters merged: the layers once more, where they are apart
    assert peaks.decoding_copy(GPU) == 0
    assert peaks.decoding_copy(CPU) == 4 * 1000
    half = Placement(lora=4, dtype="bfloat16")
    assert peaks.decoding_copy(replace(CPU, placement=half)) == 2 * 600 + 4 * 400
    huge = replace(SIZES, total=2**30, outside=0)
    assert peaks.decoding_copy(replace(CPU, sizes=huge)) == 0
    for placement, wanted in (
        (Placement(), 0), (Placement(lora=4), 4 * 600), (half, 2 * 600),
        (replace(half, merge_for_sampling=False), 0),
    ):  # fmt: skip
        host = replace(GPU, placement=placement)
        plain, apart = (peaks.sampling(host, [4000], 3, 5, 3, "", apart=a).bytes for a in (False, True))
        assert apart - plain == wanted


def test_bfloat16_on_a_cpu_holds_more_than_a_pass_keeps() -> None:
    half = Placement(lora=4, dtype="bfloat16")
    # 6400 bytes a row of 64 tokens
    assert replace(GPU, placement=half).kept == 100
    assert CPU.kept == int(100 * peaks.HEAP)
    processor = replace(CPU, placement=half)
    assert processor.kept == int(100 * peaks.HALF_HEAP)
    assert processor.libraries - CPU.libraries == peaks.HALF_CODE


def test_a_process_holds_its_libraries_and_the_file_it_reads() -> None:
    assert GPU.libraries == 0
    assert CPU.libraries == peaks.LIBRARIES + peaks.TRAINERS
    assert CPU.loading([4000, 4000]) == CPU.libraries + 4000 + 4000 + 4000
    assert GPU.loading([4000, 4000]) == 8000
    assert peaks.sampling(CPU, [4000], 1, 5, 3, "").bytes >= CPU.loading([4000])


@pytest.mark.parametrize("host", [GPU, CPU, LORA], ids=["gpu", "cpu", "lora"])
def test_more_tokens_take_more_and_never_less_than_the_weights(host: Host) -> None:
    made = {
        "training": lambda n: peaks.training(host, 10 * n, 10, "", True),
        "scoring": lambda n: peaks.scoring(host, [host.whole], 10 * n, 10, "", 5 * n),
        "sampling": lambda n: peaks.sampling(host, [host.held], n, 6, 4, ""),
        "longer": lambda n: peaks.sampling(host, [host.held], 4, 6, 4 * n, ""),
        "evaluating": lambda n: peaks.evaluating(host, [host.held], 4, 6, 4 * n),
        "updating": lambda n: peaks.updating(host, [host.training], n, 6, 4),
    }
    for name, function in made.items():
        found = [function(n * 1000).bytes for n in (1, 2, 4)]
        assert found[0] < found[1] < found[2], name
        assert all(function(n).least >= min(host.held, host.whole) for n in (1, 1000)), name
        assert all(function(n).least <= function(n).bytes for n in (1, 7, 1000)), name


def test_the_largest_of_phases_keeps_what_every_phase_needs() -> None:
    fixed, growing = Peak(fixed=500), Peak(fixed=100, each=10, tokens=100, row=10, setting="a.b")
    top = peaks.largest([fixed, growing])
    assert (top.bytes, top.least, top.setting) == (1100, 500, "a.b")
    assert peaks.largest([Peak(fixed=2000), growing]).least == 2000


def test_a_plan_counts_with_the_sizes_of_the_code_that_it_plans() -> None:
    """A plan imports nothing that computes, so it has these numbers again."""
    assert peaks.PACKED == packed_weights.LARGEST
    assert peaks.EVALUATED == evaluation.LOGIT_ROWS
    assert peaks.HELD == passes.CHUNK
    assert set(PLANNED_DEVICES) == set(KNOWN_DEVICES)
