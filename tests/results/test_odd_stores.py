"""Extreme stores give working pages: a single prompt, no judge, names with special characters."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browser import Browser, browser, find_browser
from stored import NAMES, Stored, make, report_of

from rlhf_bench.harness import store
from rlhf_bench.reports import build

FOUND = find_browser()
pytestmark = pytest.mark.skipif(FOUND is None, reason="no Chromium on the PATH (Debian: apt-get install chromium)")


@pytest.fixture(scope="module")
def tab() -> Iterator[Browser]:
    assert FOUND is not None
    with browser(FOUND) as opened:
        yield opened


def unjudged(*names: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        for path in (root / "cells").glob("*.json"):
            record = json.loads(path.read_text())
            judges = {name: place for name, place in record["judges"].items() if name not in names}
            path.write_text(json.dumps({**record, "judges": judges}))

    return change


def undecided(root: Path) -> None:
    for path in (root / "verdicts").glob("winrate*/verdicts.jsonl"):
        rows = [{**row, "values": {"win_rate": None}, "reason": "no"} for row in store.read_rows(path)]
        store.write_rows(path, rows)


def silent(root: Path) -> None:
    """Every response is empty and has no stored tokens."""
    for path in (root / "ppo").glob("*/generations.jsonl"):
        left = ("spans", "token_rewards", "kl", "response")
        store.write_rows(path, [{k: v for k, v in row.items() if k not in left} for row in store.read_rows(path)])


def as_it_is(root: Path) -> None:
    pass


TWO = Stored(NAMES[:2], (1, 2), 6)
STORES = {
    "one prompt": (Stored(NAMES[:2], (1,), 1), as_it_is),
    "one arm": (Stored(NAMES[:1], (1,), 5), as_it_is),
    "nothing decided": (TWO, undecided),
    "no gold": (TWO, unjudged("utility")),
    "nothing judged": (TWO, unjudged("utility", "winrate")),
    "no tokens": (TWO, silent),
    "odd names": (Stored(("α|β,ü", "x" * 120, "__proto__"), (1,), 5, task="tä sk"), as_it_is),
}


@pytest.mark.parametrize("name", STORES)
def test_an_odd_store_gives_a_working_page(tab: Browser, tmp_path: Path, name: str) -> None:
    stored, change = STORES[name]
    make(tmp_path, stored)
    change(tmp_path)
    report, cells = report_of(tmp_path)
    build.write(report, tmp_path / "report", cells)
    for width in (1280, 360):
        tab.screen(width, 800, phone=width < 500)
        tab.open(tmp_path / "report" / "report.html")
        assert tab.complaints() == []
        assert tab.run("document.documentElement.scrollWidth") <= width
        picks = tab.run("document.querySelectorAll('.picks li').length")
        assert picks == stored.prompts
    if name == "nothing judged":
        assert "no judge measured" in tab.run("document.querySelector('.answer').textContent")
    if name == "nothing decided":
        assert "undecided" in tab.run("document.querySelector('.warnings').textContent")
