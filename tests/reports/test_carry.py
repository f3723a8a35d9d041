"""What a reader takes along from the page, in a real Chromium: figures, tables, links; and series chosen by hand."""

from __future__ import annotations

import csv
import io
import json
import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from browser import Browser, find_browser
from stored import NAMES, Stored, make, report_of

from rlhf_bench.reports import build

FOUND = find_browser()
pytestmark = pytest.mark.skipif(FOUND is None, reason="no Chromium on the PATH (Debian: apt-get install chromium)")
AXE = "AXE_CORE"
"""Names a copy of axe.min.js (npm pack axe-core): too large to keep, and nothing is fetched by a test."""
KEEP = """(() => {
  window.taken = []; window.copied = [];
  const of = URL.createObjectURL;
  URL.createObjectURL = (blob) => { taken.push(blob); return of(blob); };
  const writeText = async (text) => { copied.push(text); };
  Object.defineProperty(navigator, 'clipboard', { value: { writeText }, configurable: true });
  HTMLAnchorElement.prototype.click = function () { window.named = this.download; };
})()"""
"""What the page downloads and copies, kept: a headless browser has neither a clipboard nor a folder."""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    make(root, Stored(NAMES, (1, 2), 20))
    report, cells = report_of(root)
    build.write(report, root / "report", cells)
    return root / "report" / "report.html"


def test_a_figure_is_downloaded_as_a_drawing_that_stands_alone(tab: Browser, path: Path) -> None:
    tab.open(path)
    tab.run(KEEP)
    tab.click(".charts .tools button")
    assert tab.run("window.named").endswith(".svg")
    drawn = ElementTree.fromstring(tab.run("taken[0].text()"))
    parts = list(drawn.iter())
    assert drawn.tag == "{http://www.w3.org/2000/svg}svg"
    assert not [part for part in parts if "class" in part.attrib and part.tag.endswith("line")]
    lines = [part for part in parts if part.tag.endswith("polyline")]
    assert lines
    assert all(part.get("stroke", "").startswith("rgb") for part in lines)  # colours are written out
    assert [part.text for part in parts if part.tag.endswith("text")]
    assert tab.complaints() == []


def test_a_figure_is_downloaded_as_a_picture(tab: Browser, path: Path) -> None:
    tab.open(path)
    tab.run(KEEP)
    tab.click(".charts .tools button:nth-child(2)")
    tab.wait("window.named?.endsWith('.png')")
    assert tab.run("taken.at(-1).type") == "image/png"
    assert tab.run("createImageBitmap(taken.at(-1)).then((b) => b.width > 900)")
    assert [one for one in tab.complaints() if not one.startswith("request: blob:")] == []


def copied(tab: Browser, name: str) -> str:
    tab.click(f"#compare .tools button[aria-label$='{name}']")
    tab.wait("copied.length")
    found: str = tab.run("copied.pop()")
    return found


def test_a_table_is_copied_as_it_is_sorted(tab: Browser, path: Path) -> None:
    tab.open(path)
    tab.run(KEEP)
    tab.click(".compare thead th:nth-child(3) button")
    labels = tab.run("[...document.querySelectorAll('.compare tbody th')].map((e) => e.textContent.trim())")
    rows = list(csv.reader(io.StringIO(copied(tab, "CSV"))))
    assert [row[0] for row in rows[1:]] == labels
    assert all(len(row) == len(rows[0]) for row in rows)
    assert not [cell for row in rows for cell in row if "−" in cell]  # a spreadsheet reads hyphens
    marks = copied(tab, "Markdown").splitlines()
    assert marks[1].startswith("|---|--:")
    assert len(marks) == len(labels) + 2
    latex = copied(tab, "LaTeX")
    assert latex.startswith("\\begin{tabular}{lr")
    assert latex.count("\\\\\n") == len(labels) + 1
    assert tab.run("document.querySelector('#compare .compare .tools output').textContent") == "copied"
    assert tab.complaints() == []


HOSTILE = ["=1+1", "@x", "-1.5", "−2 [−3, −1]", 'a"b', "x,y", "a|b", "50% & $x_1$ \\ ~ {}", "<img src=x>"]


def test_copied_words_are_text_in_every_form(tab: Browser, path: Path) -> None:
    tab.open(path)
    rows = json.dumps([HOSTILE, HOSTILE])
    numeric = json.dumps([False] * len(HOSTILE))
    (line, _) = csv.reader(io.StringIO(tab.run(f"WRITTEN.CSV({rows})")))
    assert line[:4] == ["'=1+1", "'@x", "-1.5", "-2 [-3, -1]"]
    assert line[4:] == HOSTILE[4:]
    marked = tab.run(f"WRITTEN.Markdown({rows}, {numeric})").splitlines()[0]
    assert "a\\|b" in marked
    assert "\\<img src=x\\>" in marked
    latex = tab.run(f"WRITTEN.LaTeX({rows}, {numeric})").splitlines()[2]
    assert "50\\% \\& \\$x\\_1\\$ \\textbackslash{} \\textasciitilde{} \\{\\}" in latex


def test_a_reader_chooses_the_series_that_are_shown(tab: Browser, path: Path) -> None:
    tab.open(path)
    entries = tab.run("document.querySelectorAll('.legend.choose li').length")
    shown = "[...document.querySelectorAll('.legend.choose [aria-pressed=true]')].length"
    assert tab.run(shown) == min(4, entries)
    lines = "document.querySelectorAll('.charts .series:not(.faint) polyline').length"
    before = tab.run(lines)
    assert entries > 4
    tab.run("document.querySelector('.legend.choose li.faint button').focus()")
    tab.key("Enter", 13)
    assert tab.run(shown) == 5
    assert tab.run(lines) > before
    assert tab.complaints() == []


def test_a_link_leads_to_its_response_and_to_closed_tables(tab: Browser, path: Path) -> None:
    tab.open(path)
    tab.run(KEEP)
    tab.click(".picks li:nth-child(3) button")
    wanted = tab.run("document.querySelector('.detail h3').textContent")
    tab.click("#inside > .tools button")
    tab.wait("copied.length")
    link = tab.run("copied[0]")
    tab.open(path, link.partition("#")[2])
    assert tab.run("document.querySelector('.detail h3').textContent") == wanted
    # scrolling may be smooth
    tab.wait("Math.abs(document.querySelector('.detail').getBoundingClientRect().top) < innerHeight")
    target = "#table-every-two-reward-models"
    tab.open(path, target[1:])
    assert tab.run(f"document.querySelector('{target}').closest('details').open")
    assert tab.complaints() == []


def test_against_another_arm_one_of_two_equal_columns_is_hidden(tab: Browser, path: Path) -> None:
    tab.open(path)
    twins = tab.run("DATA.compare[0].columns.map((c, k) => (c.twin ? k : -1)).filter((k) => k >= 0)")
    assert twins
    hidden = f"[...document.querySelectorAll('.compare tr')].map((row) => row.cells[{twins[0] + 2}].hidden)"
    assert set(tab.run(hidden)) == {False}
    tab.choose("select[name=base]", "1")
    assert set(tab.run(hidden)) == {True}
    tab.choose("select[name=base]", "")
    assert set(tab.run(hidden)) == {False}


@pytest.mark.skipif(not os.environ.get(AXE), reason=f"{AXE} names no copy of axe.min.js (npm pack axe-core)")
@pytest.mark.parametrize(("width", "dark"), [(390, False), (390, True), (1280, False), (1280, True)])
def test_axe_finds_no_violation(tab: Browser, path: Path, width: int, dark: bool) -> None:
    tab.screen(width, 900, dark=dark, phone=width < 500)
    tab.open(path)
    tab.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    tab.run(Path(os.environ[AXE]).read_text(encoding="utf-8"))
    found = tab.run("axe.run().then((r) => r.violations.map((v) => [v.id, v.nodes.map((n) => n.html.slice(0, 200))]))")
    assert found == [], json.dumps(found, indent=1)
    tab.screen(1280, 900)
