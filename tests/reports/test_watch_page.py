"""The page of `bench watch` in a real Chromium: it follows a folder, complains about nothing and runs no text of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, browser, find_browser
from payloads import PAYLOADS
from stored import NAMES, Stored, make
from test_hostile_text import STRANGERS
from watched import driver, ppo_stage, row, write_steps

from rlhf_bench.harness.cli.watch_server import WatchServer
from rlhf_bench.harness.pipeline.stage import Stage
from rlhf_bench.harness.printable import printable
from rlhf_bench.harness.results.monitors import with_rate
from rlhf_bench.harness.results.watched import Watcher

FOUND = find_browser()
pytestmark = pytest.mark.skipif(FOUND is None, reason="no Chromium on the PATH (Debian: apt-get install chromium)")


@pytest.fixture(scope="module")
def tab() -> Iterator[Browser]:
    assert FOUND is not None
    with browser(FOUND, local=True) as opened:
        opened.screen(1280, 900)
        yield opened


@contextmanager
def served(root: Path) -> Iterator[str]:
    """The address of the page of a folder."""
    server = WatchServer(Watcher(root))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server.address
    finally:
        server.shutdown()
        server.server_close()


def texts(tab: Browser, selector: str) -> list[str]:
    found: list[str] = tab.run(f"[...document.querySelectorAll({json.dumps(selector)})].map((e) => e.textContent)")
    return found


def titles(tab: Browser) -> list[str]:
    return texts(tab, "#charts figcaption b")


def test_a_finished_folder(tab: Browser, tmp_path: Path) -> None:
    make(tmp_path, Stored(NAMES[:2], (1, 2)))
    with served(tmp_path) as address:
        tab.visit(address)
        tab.wait("document.querySelectorAll('#last tbody tr').length === 4")
        assert titles(tab) == ["reward", "KL", "gold"]  # these rows have no lengths and no entropy
        assert texts(tab, "#total") == ["4 of 4 cells finished; nothing is running."]
        assert tab.run("[...document.querySelectorAll('section[hidden], aside[hidden]')].length") == 4
        assert texts(tab, "#cells tbody .state") == ["finished"] * 4
        assert tab.complaints() == []


def test_the_page_follows_what_is_written(tab: Browser, tmp_path: Path) -> None:
    """Two drivers; rows and steps appear without a reload, an alarm when it comes, and the end of both."""
    one, two = ppo_stage("a"), ppo_stage("b")
    with served(tmp_path) as address, driver(tmp_path, [one]) as first, driver(tmp_path, [two]) as second:
        first.start(one)
        second.start(two)
        tab.visit(address)
        tab.wait("document.querySelectorAll('#stages > div').length === 2")
        assert texts(tab, "#stages .figures") == []
        assert len(texts(tab, "#drivers .state.running")) == 2
        first.step(one, 15, 40)
        write_steps(tmp_path, one, [row(k, truncated_share=0.9) for k in range(1, 15)])
        tab.wait("document.querySelector('#stages .figures') !== null")
        assert texts(tab, "#stages .figures dt") == ["reward", "KL", "length", "entropy"]
        assert texts(tab, "#stages .figures dd") == ["1.40", "0.70", "12.00", "1.50"]
        cut = with_rate("truncated", "90% of the rollouts are cut off at the longest length")
        assert texts(tab, "#stages .alarm") == [cut]
        assert "15 of 40" in texts(tab, "#stages > div")[0] + texts(tab, "#stages > div")[1]
        second.end(two, "no luck")
        tab.wait("document.querySelectorAll('#failed dd').length === 1")
        assert tab.complaints() == []
    tab.wait("document.getElementById('when').textContent.startsWith('The server does not answer')")


def with_cell(root: Path, stage: Stage) -> None:
    """A finished cell, and the same with a PPO stage that runs."""
    (path,) = make(root, Stored(NAMES[:1], (1,)))
    record = json.loads(path.read_text())
    record |= {"stages": {**record["stages"], "ppo": stage.place, "generations": stage.place}, "judges": {}}
    (path.parent / "running.json").write_text(json.dumps(record))


def test_curves_grow_and_are_chosen(tab: Browser, tmp_path: Path) -> None:
    stage = ppo_stage("a")
    with_cell(tmp_path, stage)
    with served(tmp_path) as address, driver(tmp_path, [stage]) as told:
        told.start(stage)
        write_steps(tmp_path, stage, [row(1), row(2)])
        tab.visit(address)
        tab.wait("document.querySelectorAll('#legend li').length === 2")
        assert titles(tab) == ["reward", "KL", "length", "entropy", "gold"]
        assert texts(tab, "#cells th span") == ["running", "dialogsum-scalar-s1"]
        line = "document.querySelector('#charts .k0').getAttribute('points').split(' ').length"
        assert tab.run(line) == 2
        write_steps(tmp_path, stage, [row(k) for k in range(1, 6)])
        tab.wait(f"{line} === 5")
        tab.click("#cells tbody tr:nth-child(2) input")
        tab.wait("document.querySelectorAll('#legend li').length === 1")
        assert titles(tab) == ["reward", "KL", "length", "entropy"]
        # what is chosen is in the address
        tab.visit(tab.run("location.href"))
        tab.wait("document.querySelectorAll('#legend li').length === 1")
        tab.click("button[name=usual]")
        tab.wait("document.querySelectorAll('#legend li').length === 2")
        tab.choose("input[name=find]", "scalar")
        tab.wait("document.querySelectorAll('#cells tbody tr').length === 1")
        assert tab.complaints() == []


@pytest.mark.parametrize("fragment", ["show=none,0,%00", "show=", "show", "=&=&%E0%A4%A", "show=__proto__"])
def test_a_broken_address_breaks_nothing(tab: Browser, tmp_path: Path, fragment: str) -> None:
    make(tmp_path, Stored(NAMES[:1], (1,)))
    with served(tmp_path) as address:
        tab.visit(f"{address}#{fragment}")
        tab.wait("document.querySelectorAll('#cells tbody tr').length === 1")
        assert tab.complaints() == []


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_phone(tab: Browser, tmp_path: Path, dark: bool) -> None:
    stage = ppo_stage("a-label-that-is-as-long-as-those-of-settings-and-several-seeds-are-" * 3)
    with_cell(tmp_path, stage)
    with served(tmp_path) as address, driver(tmp_path, [stage]) as told:
        told.start(stage)
        told.step(stage, 15, 40)
        write_steps(tmp_path, stage, [row(k, truncated_share=0.9) for k in range(1, 15)])
        tab.screen(390, 844, dark, phone=True)
        try:
            tab.visit(address)
            tab.wait("document.querySelectorAll('#charts figure').length === 5")
            assert tab.run("document.documentElement.scrollWidth") == 390
            paper, ink = tab.run(
                "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
            )
            light = [sum(map(int, colour[4:-1].split(","))) for colour in (paper, ink)]
            assert (light[0] < light[1]) is dark
        finally:
            tab.screen(1280, 900)


def poisoned(root: Path) -> tuple[Stage, list[Stage], dict[str, Any]]:
    """A folder whose every text is a payload, as far as a name of a file can be one: the name of a stage that runs and
    of stages that failed, and a cell's record for each."""
    running, *failing = (ppo_stage(label_of(payload), k) for k, payload in enumerate(PAYLOADS))
    make(root, Stored(NAMES[:1], (1,)))
    (path,) = (root / "cells").glob("*.json")
    record = json.loads(path.read_text())
    for k, payload in enumerate(PAYLOADS):
        # a record that is read is named by its file; one that is not is quoted
        (root / "cells" / f"{label_of(payload)[:80]}{k}.json").write_text(json.dumps(record))
        (root / "cells" / f"damaged{k}.json").write_text(
            json.dumps({**record, payload: 1, "stages": {payload: payload}})
        )
    return running, failing, record


def label_of(payload: str) -> str:
    """The payload as it can be the name of a folder."""
    text = payload.replace("/", "\u2044").replace("\\", "").replace("\x00", "").lstrip(".")
    return text[:60]


def test_payloads_run_nothing(tab: Browser, tmp_path: Path) -> None:
    assert len(set(PAYLOADS)) >= 60
    root = tmp_path / "<img src=x onerror=window.ran=1>"
    running, failing, _ = poisoned(root)
    with served(root) as address, driver(root, [running, *failing]) as told:
        told.start(running)
        write_steps(
            root, running, [{**row(1), payload: payload} for payload in PAYLOADS] + [row(k) for k in range(1, 15)]
        )
        for stage, payload in zip(failing, PAYLOADS, strict=False):
            told.start(stage)
            told.end(stage, payload)
        path = told._file.name  # type: ignore[union-attr]
        rows = Path(path).read_text().splitlines()
        plan = json.loads(rows[0]) | {"command": " ".join(PAYLOADS[:6]), "host": PAYLOADS[0]}
        Path(path).write_text("\n".join([json.dumps(plan), *rows[1:]]) + "\n")
        for k in range(2):
            tab.visit(address)
            tab.wait("document.querySelectorAll('#failed dd').length >= 60")
            tab.wait("document.querySelectorAll('#charts figure').length > 0")
            assert tab.run(f"document.querySelectorAll({json.dumps(STRANGERS)}).length") == 0, k
            assert tab.run("[document.scripts.length, document.styleSheets.length]") == [2, 1]
            assert tab.run("window.ran === undefined")
            assert tab.complaints() == []
        assert texts(tab, "#failed dd") == [printable(payload) for payload in PAYLOADS[:60]]
        assert texts(tab, "#stages h3") == [printable(running.name)]
        assert texts(tab, "h1") == [root.name]
        assert len(texts(tab, "#problems li")) > 60
        assert PAYLOADS[0] in "".join(texts(tab, "#drivers"))
        tab.choose("input[name=find]", "script")
        assert "<script" in "".join(texts(tab, "#cells tbody"))
        assert tab.run("window.ran === undefined")
