"""Responses that are cut off at the longest length, or empty: a report warns of them whatever the optimiser."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stored import Stored, make, report_of

from rlhf_bench.harness import store

Row = dict[str, Any]


def cut(row: Row) -> Row:
    return {**row, "finished": False}


def emptied(row: Row) -> Row:
    return {**row, "tokens": 0, "response": ""}


def warned(
    root: Path, role: str, change: Callable[[Row], Row], optimizer: str = "best-of-n", rows: int = 3
) -> list[str]:
    """The warnings of a report of which the first rows of every checkpoint of a stage are changed."""
    for path in make(root, Stored(rms=("scalar",), prompts=4)):
        record = store.read_json(path)
        if optimizer != "ppo":
            record["stages"].pop("ppo")
        place = record["stages"][role]
        path.write_text(json.dumps({**record, "optimizer": optimizer}))
        file = root / place[0] / f"{place[1]}-{place[2]}" / "generations.jsonl"
        store.write_rows(
            file, [change(row) if int(row["example_id"][-1]) < rows else row for row in store.read_rows(file)]
        )
    found: list[str] = report_of(root)[0]["warnings"]
    return [text for text in found if "cut off" in text or "empty" in text]


def test_responses_of_best_of_n_that_are_cut_off_are_a_warning(tmp_path: Path) -> None:
    share = "75% of the responses to held-out prompts are cut off at the longest length"
    assert warned(tmp_path, "generations", cut) == [f"scalar (best-of-n), 2 runs (seed 1, seed 2): {share}"]


def test_empty_ones_are_too(tmp_path: Path) -> None:
    (found,) = warned(tmp_path, "generations", emptied, "dpo")
    assert "75% of the responses to held-out prompts are empty" in found


def test_few_are_none(tmp_path: Path) -> None:
    assert warned(tmp_path, "generations", cut, rows=2) == []


def test_the_sft_policy_is_named_once_for_its_task(tmp_path: Path) -> None:
    (found,) = warned(tmp_path, "baseline", cut, "ppo")
    assert found.startswith("SFT baseline on dialogsum, 2 runs (seed 1, seed 2): 75% of the responses")


def test_under_ppo_the_rollouts_speak_for_themselves(tmp_path: Path) -> None:
    assert warned(tmp_path, "generations", cut, "ppo") == []
