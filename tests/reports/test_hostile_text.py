"""Model text is hostile: 60 payloads wherever a model, a judge, a plugin or data can put them, in a real Chromium."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, find_browser
from payloads import PAYLOADS
from stored import Stored, make, report_of

from rlhf_bench.reports import build

FOUND = find_browser()
pytestmark = pytest.mark.skipif(FOUND is None, reason="no Chromium on the PATH (Debian: apt-get install chromium)")
STRANGERS = (
    "img, iframe, object, embed, video, audio, link, base, math, template, form[action], a[href]:not([href^='#']), "
    "[onerror], [onload], [onclick], [onfocus], [style]"
)
"""What the page has none of; an escaped text adds none."""
SWALLOWING = (
    "<!--",
    "plaintext",
    "textarea",
    "<base",
    "<select",
    "refresh",
    "<template",
    "noscript",
    "</style",
    "<title",
)


def poisoned(root: Path) -> Path:
    """One report with every payload as prompt, response, name, reason, note, warning, question, table and label."""
    everything = " ".join(PAYLOADS)

    def words(rm: str, seed: int, prompt: int) -> tuple[str, ...]:
        return (f"They {len(rm)} {seed} ", PAYLOADS[prompt], " meet")

    stored = Stored(
        ("scalar", "copier"), (1,), len(PAYLOADS), words=words, prompt=lambda k: f"Anna: {PAYLOADS[k]}",
        judge_note=everything, correction=everything, greedy=True,
    )  # fmt: skip
    make(root, stored)
    for file in (root / "verdicts").rglob("verdicts.jsonl"):
        file.write_text(file.read_text().replace("no answer", json.dumps(everything)[1:-1]))
    for file in (root / "prompts").rglob("examples.test.jsonl"):
        file.write_text(file.read_text().replace("corrected", json.dumps(everything)[1:-1]))
    report, cells = report_of(root)
    text: dict[str, Any] = {
        **report, "question": everything, "warnings": [*PAYLOADS],
        "comparisons": [{"title": p, "columns": [p, p], "rows": [[p, 1.0]], "note": p} for p in PAYLOADS],
        "claims": [{"id": p, "text": p, "verdict": "supported", "value": 1.0, "low": 0.0, "high": 2.0, "seeds": [1],
                    "detectable": None, "measured": p, "rule": p} for p in PAYLOADS],
        "data": [{**d, "description": everything, "license": everything} for d in report["data"]],
        "arms": [{**arm, "label": f"{arm['label']} {everything}"} for arm in report["arms"]],
        "manifest": {**report["manifest"], "command": everything},
    }  # fmt: skip
    build.write(text, root / "report", cells)
    return root / "report" / "report.html"


def test_payloads_run_nothing(tab: Browser, tmp_path: Path) -> None:
    assert len(set(PAYLOADS)) >= 60
    tab.open(poisoned(tmp_path))
    assert tab.run("[document.scripts.length, document.styleSheets.length]") == [2, 1]
    while not tab.run("document.querySelector('button.plain').hidden"):
        tab.click("button.plain")
    for place, payload in enumerate(PAYLOADS):
        tab.run(f"document.querySelectorAll('.picks button')[{place}].click()")
        tab.run("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        shown = tab.run("document.querySelector('.detail .prompt').textContent")
        assert shown == f"Anna: {tab.run(f'visible({json.dumps(payload)})')}"
    assert tab.run(f"document.querySelectorAll({json.dumps(STRANGERS)}).length") == 0
    assert tab.run("[document.scripts.length, document.styleSheets.length]") == [2, 1]
    assert tab.run("window.ran === undefined")
    assert tab.complaints() == []


@pytest.mark.slow
def test_payloads_are_live(tab: Browser, tmp_path: Path) -> None:
    """Without escaping and without a policy many of them run: the test above can fail."""
    ran = 0
    for payload in (p for p in PAYLOADS if not any(word in p for word in SWALLOWING)):
        raw = tmp_path / "raw.html"
        raw.write_text(f"<!doctype html><meta charset=utf-8><body><div>{payload}</div>", encoding="utf-8")
        tab.send("Page.navigate", url="about:blank")
        tab.send("Page.navigate", url=raw.as_uri())
        tab.wait("document.readyState === 'complete' && location.href !== 'about:blank'")
        ran += bool(tab.run("new Promise((done) => setTimeout(() => done(window.ran > 0), 60))"))
    tab.send("Page.navigate", url="about:blank")
    assert ran >= 20, ran
