"""The rows to look inside: nothing lost, nothing invented, and never more than fits into a page."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stored import ITERATIONS, NAMES, Stored, make, report_of

from rlhf_bench.harness import store
from rlhf_bench.reports import blocks as read_blocks
from rlhf_bench.reports import inside
from rlhf_bench.reports.blocks import Block

RMS, SEEDS, PROMPTS = NAMES[:3], (1, 2), 8


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> list[Block]:
    root = tmp_path_factory.mktemp("store")
    make(root, Stored(RMS, SEEDS, PROMPTS))
    return read_blocks.read(report_of(root)[1])


def test_every_last_response_is_there_with_its_tokens_and_verdicts(blocks: list[Block]) -> None:
    task = inside.inside(blocks, {}).data["tasks"][0]
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
    task = inside.inside(blocks, {}).data["tasks"][0]
    place = [measure["name"] for measure in task["measures"]].index("win_rate")
    row = task["cells"][0]["rows"][3]
    assert row["v"][place] is None
    assert row["w"] == {"winrate": "no answer"}
    assert "w" not in task["cells"][0]["rows"][2]


def test_cells_of_one_seed_share_a_baseline(blocks: list[Block]) -> None:
    task = inside.inside(blocks, {}).data["tasks"][0]
    assert len(task["baselines"]) == len(SEEDS)
    assert {(cell["seed"], cell["baseline"]) for cell in task["cells"]} == {(1, 0), (2, 1)}
    shown = {seed: task["baselines"][k]["rows"][0]["x"] for seed, k in ((1, 0), (2, 1))}
    assert shown == {block.seed: block.before["test-0"]["response"] for block in blocks}


def details(found: inside.Inside) -> dict[str, Any]:
    """The rows of the files beside the page, by name, as a script would hand them to the page."""
    made = {}
    for path, text in found.files.items():
        literal = re.fullmatch(
            r""""use strict";\ndetails\('([0-9a-f]{24})', '((?:[^'\\\\]|\\\\.)*)'\);\n""", text, re.DOTALL
        )
        assert literal, text[:200]
        assert path == f"details/{literal[1]}.js"
        rows = re.sub(r"\\(.)", r"\1", literal[2])
        assert hashlib.sha256(rows.encode()).hexdigest().startswith(literal[1])
        made[literal[1]] = json.loads(rows)
    return made


@given(st.integers(0, 60_000))
def test_every_row_is_in_the_page_or_beside_it(blocks: list[Block], budget: int) -> None:
    found, whole = inside.inside(blocks, {}, budget), inside.inside(blocks, {})
    assert not whole.files
    assert (found == whole) == (not found.files)
    # the sentence about the files is counted in any case
    needed = inside.size(whole.data)
    assert found.files or needed <= budget
    assert not found.files or needed + inside.size(inside.BESIDE) + 40 > budget
    beside, (task,), (wanted,) = details(found), found.data["tasks"], whole.data["tasks"]
    assert task["prompts"] == wanted["prompts"]
    for kind in ("cells", "baselines") if found.files else ():
        for one, other in zip(task[kind], wanted[kind], strict=True):
            assert {**one, **beside.get(one.get("file", ""), {}), "file": ""} == {**other, "file": ""}
    if any("rows" in cell for cell in task["cells"]):
        assert inside.size(found.data) <= budget
        # no arm is dropped for another
        assert {cell["label"] for cell in task["cells"] if "rows" in cell} == {block.arm for block in blocks}


def test_prompts_that_one_seed_lacks_are_holes(tmp_path: Path) -> None:
    make(tmp_path, Stored(RMS[:1], SEEDS, 4))
    for name in ("ppo", "verdicts"):
        for file in (tmp_path / name).glob("*-s1-*/*.jsonl"):
            if file.name != "steps.jsonl":
                store.write_rows(file, [row for row in store.read_rows(file) if row["example_id"] != "test-0"])
    task = inside.inside(read_blocks.read(report_of(tmp_path)[1]), {}).data["tasks"][0]
    ids = [prompt["id"] for prompt in task["prompts"]]
    rows = {cell["seed"]: dict(zip(ids, cell["rows"], strict=True)) for cell in task["cells"]}
    assert rows[1]["test-0"] is None
    assert rows[2]["test-0"]["x"]


SPANS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)).map(sorted), max_size=6)


@given(SPANS)
def test_places_of_tokens_come_back(spans: list[list[int]]) -> None:
    row = {"tokens": len(spans), "finished": True, "spans": spans, "token_rewards": [0.5] * len(spans)}
    found = inside._response(row, {}, ()) or {}
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
    found = read_blocks.binned(pairs, values)
    assert sum(found["before"]) == sum(found["after"]) == len(pairs)
    edges = [found["low"] + k * found["width"] for k in range(read_blocks.BINS + 1)]
    slack = 1e-9 + 1e-6 * found["width"]
    for k, count in enumerate(found["after"]):
        close = [after for _, after in pairs if edges[k] - slack <= after <= edges[k + 1] + slack]
        assert count <= len(close)


def test_distributions_by_hand(blocks: list[Block]) -> None:
    found = read_blocks.distributions(blocks)
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
    blocks = read_blocks.read(report_of(tmp_path)[1])
    whole = inside.inside(blocks, {}).data
    budget = len(inside.embedded(whole).encode()) - 1
    found = inside.inside(blocks, {}, budget).data
    assert "rows" in found["tasks"][0]["cells"][0]
    assert len(inside.embedded(found).encode()) <= budget
