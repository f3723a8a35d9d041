"""The rows to look inside: nothing lost, nothing invented, and never more than fits into a page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stored import ITERATIONS, NAMES, Stored, make, report_of

from rlhf_bench.harness import store
from rlhf_bench.reports import inside
from rlhf_bench.reports.inside import Block

RMS, SEEDS, PROMPTS = NAMES[:3], (1, 2), 8


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> list[Block]:
    root = tmp_path_factory.mktemp("store")
    make(root, Stored(RMS, SEEDS, PROMPTS))
    return inside.read(report_of(root)[1])


def test_every_last_response_is_there_with_its_tokens_and_verdicts(blocks: list[Block]) -> None:
    task = inside.inside(blocks, {})["tasks"][0]
    assert len(task["cells"]) == len(RMS) * len(SEEDS)
    assert [prompt["id"] for prompt in task["prompts"]] == [f"test-{k}" for k in range(PROMPTS)]
    keys = [(measure["judge"], measure["name"]) for measure in task["measures"]]
    for block, cell in zip(blocks, task["cells"], strict=True):
        assert cell["seed"] == block.seed
        for prompt, row in zip(task["prompts"], cell["rows"], strict=True):
            stored = block.responses[prompt["id"]]
            assert stored["iteration"] == ITERATIONS[-1]
            assert row["x"] == stored["response"]
            assert [*zip([0, *row["e"][:-1]], row["e"], strict=True)] == [tuple(span) for span in stored["spans"]]
            assert row["t"] == pytest.approx(stored["token_rewards"], rel=1e-3)
            verdicts = block.verdicts[prompt["id"]]
            for (judge, name), value in zip(keys, row["v"], strict=True):
                known = verdicts[judge]["values"][name]
                assert value is None if known is None else value == pytest.approx(known, rel=1e-3)


def test_undecided_is_none_with_its_reason(blocks: list[Block]) -> None:
    task = inside.inside(blocks, {})["tasks"][0]
    place = [measure["name"] for measure in task["measures"]].index("win_rate")
    row = task["cells"][0]["rows"][3]
    assert row["v"][place] is None
    assert row["w"] == {"winrate": "no answer"}
    assert "w" not in task["cells"][0]["rows"][2]


def test_cells_of_one_seed_share_a_baseline(blocks: list[Block]) -> None:
    task = inside.inside(blocks, {})["tasks"][0]
    assert len(task["baselines"]) == len(SEEDS)
    assert {(cell["seed"], cell["baseline"]) for cell in task["cells"]} == {(1, 0), (2, 1)}
    shown = {seed: task["baselines"][k][0]["x"] for seed, k in ((1, 0), (2, 1))}
    assert shown == {block.seed: block.before["test-0"]["response"] for block in blocks}


@given(st.integers(0, 60_000))
def test_what_is_shown_fits_and_what_is_not_is_said(blocks: list[Block], budget: int) -> None:
    found = inside.inside(blocks, {}, budget)
    whole = inside.inside(blocks, {})
    assert not found["tasks"] or inside.size(found) <= budget
    assert (found == whole) == (not found["left_out"])
    if found["tasks"]:
        cells = {(cell["label"], cell["seed"]) for cell in found["tasks"][0]["cells"]}
        assert {label for label, _ in cells} == {block.arm for block in blocks}  # no arm is dropped for another


def test_less_is_shown_in_the_order_that_is_promised(blocks: list[Block]) -> None:
    sizes = [inside.size(inside.inside(blocks, {}, 10**9))]
    seen = []
    while sizes[-1] > 0:
        found = inside.inside(blocks, {}, sizes[-1] - 1)
        if not found["tasks"]:
            break
        task = found["tasks"][0]
        seen.append((len(task["cells"]), "t" in task["cells"][0]["rows"][0], len(task["prompts"])))
        sizes.append(inside.size(found))
    assert seen == [(3, True, 8), (3, False, 8), (3, False, 4), (3, False, 2), (3, False, 1)]


def test_prompts_that_one_seed_lacks_are_holes(tmp_path: Path) -> None:
    make(tmp_path, Stored(RMS[:1], SEEDS, 4))
    for name in ("ppo", "verdicts"):
        for file in (tmp_path / name).glob("*-s1-*/*.jsonl"):
            if file.name != "steps.jsonl":
                store.write_rows(file, [row for row in store.read_rows(file) if row["example_id"] != "test-0"])
    task = inside.inside(inside.read(report_of(tmp_path)[1]), {})["tasks"][0]
    ids = [prompt["id"] for prompt in task["prompts"]]
    rows = {cell["seed"]: dict(zip(ids, cell["rows"], strict=True)) for cell in task["cells"]}
    assert rows[1]["test-0"] is None
    assert rows[2]["test-0"]["x"]


SPANS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)).map(sorted), max_size=6)


@given(SPANS)
def test_places_of_tokens_come_back(spans: list[list[int]]) -> None:
    row = {"tokens": len(spans), "finished": True, "spans": spans, "token_rewards": [0.5] * len(spans)}
    found = inside._response(row, {}, (), inside.Extent(1)) or {}
    ends = found.get("e", [])
    starts = found.get("s", [0, *ends[:-1]])
    assert [list(span) for span in zip(starts, ends, strict=False)] == spans


@given(st.lists(st.floats(-1e9, 1e9), max_size=40))
def test_one_in_ten_rewards_may_be_stronger_than_the_strongest_shade(rewards: list[float]) -> None:
    found = inside.top(rewards)
    sizes = [abs(r) for r in rewards if r]
    assert sum(size > found for size in sizes) <= len(sizes) / 10
    assert found == 0 if not sizes else found in sizes


@given(st.floats(-1e9, 1e9))
def test_shortened_numbers_keep_four_digits(value: float) -> None:
    short = inside._short(value)
    assert short == pytest.approx(value, rel=5.1e-4)
    assert len(json.dumps(short)) <= 13


PAIRS = st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=1, max_size=30)


@given(PAIRS, PAIRS)
def test_a_histogram_counts_everything_once(
    pairs: list[tuple[float, float]], others: list[tuple[float, float]]
) -> None:
    values = [value for pair in [*pairs, *others] for value in pair]
    found = inside.binned(pairs, values)
    assert sum(found["before"]) == sum(found["after"]) == len(pairs)
    edges = [found["low"] + k * found["width"] for k in range(inside.BINS + 1)]
    slack = 1e-9 + 1e-6 * found["width"]
    for k, count in enumerate(found["after"]):
        close = [after for _, after in pairs if edges[k] - slack <= after <= edges[k + 1] + slack]
        assert count <= len(close)


def test_distributions_by_hand(blocks: list[Block]) -> None:
    found = inside.distributions(blocks)
    assert [(row["judge"], row["statistic"]) for row in found] == [("utility", "gold")] * len(RMS)
    for row in found:
        values: dict[str, list[Any]] = {"gold_baseline": [], "gold": []}
        for block in (block for block in blocks if block.arm == row["arm"]):
            for verdicts in block.verdicts.values():
                for name, known in values.items():
                    known.append(verdicts["utility"]["values"][name])
        assert sum(row["after"]) == len(values["gold"]) == PROMPTS * len(SEEDS)
        zero = sum(value == row["low"] for value in values["gold_baseline"])
        assert row["before"][0] >= zero > 0


def test_bytes_count_not_characters(tmp_path: Path) -> None:
    make(tmp_path, Stored(RMS[:1], SEEDS, 40, words=lambda *_: ("会" * 50, "<&>" * 20)))
    blocks = inside.read(report_of(tmp_path)[1])
    found = inside.inside(blocks, {}, 20_000)
    assert found["tasks"]
    assert len(inside.embedded(found).encode()) <= 20_000 < len(inside.embedded(inside.inside(blocks, {})).encode())
