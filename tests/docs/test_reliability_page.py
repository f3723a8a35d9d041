"""The page on reliability is what its program makes of the stored results, and a campaign's counts are sound."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks" / "faults"))
page = pytest.importorskip("page", reason="benchmarks/ is not in this checkout")
common = pytest.importorskip("common")

KINDS = {"a": Counter(tried=3, failed=1), "b": Counter(tried=2)}
FUZZ = {"campaign": "fuzz_data", "minutes": 2.0, "processor_seconds": 90, "tried": {"files": 400, "texts": 200},
        "faults": {"texts": "AssertionError: x"}}  # fmt: skip


def folder_of(place: Path, **found: Any) -> Path:
    place.mkdir(exist_ok=True)
    for name, one in found.items():
        common.save(place / f"{name}.json", one)
    return place


def test_the_page_is_that_of_the_results() -> None:
    """Where it fails: python benchmarks/faults/page.py"""
    assert page.PAGE.read_text(encoding="utf-8") == page.page(json.loads(page.RESULTS.read_text(encoding="utf-8")))


def test_every_campaign_has_a_program_and_every_program_a_campaign() -> None:
    programs = {path.stem for path in page.RESULTS.parent.glob("*.py")} - {"common", "page"}
    programs -= {
        "hostile_folders",
        "hostile_data",
        "hostile_models",
        "hostile_stock",
        "hostile_code",
        "hostile_tokenizers",
        "layout_data_sets",
        "layout_prompts",
        "layout_rows",
        "layout_tools",
        "server_answers",
        "server_replies",
        "server_requests",
        "server_transport",
        "coverage_lines",
        "mutations",
        "stored_readers",
    }  # their parts
    assert programs == {*page.CAMPAIGNS, *page.FUZZING}


def test_stored_counts_add_up() -> None:
    found = json.loads(page.RESULTS.read_text(encoding="utf-8"))["campaigns"]
    assert found
    for one in found.values():
        assert one["tried"] == one["clean"] + one["failed"] > 0
        assert [one[c] for c in page.COUNTS] == [sum(k[c] for k in one["kinds"].values()) for c in page.COUNTS]


def test_a_folder_of_files_becomes_the_page(tmp_path: Path) -> None:
    whole = common.outcome("damage", KINDS, failures=["x"])
    assert [whole[c] for c in ("tried", "clean", "failed")] == [5, 4, 1]
    made = page.assembled(folder_of(tmp_path, damage=whole, fuzz_data=FUZZ), "abc123", {})
    assert set(made["campaigns"]) == {"damage", "fuzz_data"}
    text = page.page(made)
    assert "Commit `abc123`" in text
    again = page.assembled(folder_of(tmp_path / "more", fuzz_data=FUZZ, **{"fuzz_data.1": FUZZ}), "def456", made)
    assert again["campaigns"]["damage"] == made["campaigns"]["damage"]  # what was not run again stays, with its commit
    fuzzed = again["campaigns"]["fuzz_data"]
    assert (fuzzed["commit"], fuzzed["minutes"], fuzzed["tried"], fuzzed["failed"]) == ("def456", 4.0, 1200, 1)
    assert "| [Damaged files](#damaged-files) | 5 | 4 | 1 |" in text
    assert "| a | 3 | 2 | 1 |" in text
    assert "| [Interrupted runs](#interrupted-runs) | not run |" in text
    assert "2 minutes, 1.5 of the processor; 1 faults." in text
    assert "| texts | 200 | 1 |" in text
    assert "python benchmarks/faults/damage.py --json damage.json" in text


def test_a_fuzzer_has_tried_what_it_has_tried() -> None:
    found = page.normalised("fuzz_data", FUZZ)
    assert (found["tried"], found["clean"], found["failed"]) == (600, 599, 1)
