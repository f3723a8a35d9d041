"""A task that does not say where its data come from is labelled so everywhere, and never "real"."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from plain_task import Plain
from rich.console import Console
from stored import NAMES, Stored, make, report_of

from rlhf_bench.harness import plugins, store
from rlhf_bench.harness.checks.conformance import check
from rlhf_bench.harness.cli.check import show_findings
from rlhf_bench.harness.cli.listing import listing
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Origin
from rlhf_bench.harness.plan.origins import LABEL, NOT_SAID, NOT_STATED, is_stated, kind_label, origin_of
from rlhf_bench.harness.plan.tasks import open_task
from rlhf_bench.harness.plugins import Plugin
from rlhf_bench.reports import exports, terminal
from rlhf_bench.reports.html import page
from rlhf_bench.reports.markdown import markdown

HERE = "test_origins"


class Silent(Plain):
    """A task whose origin says nothing."""

    origin = None


class Stated(Plain):
    """A task of a friend's."""

    origin = Origin("real", "Letters of 1900.", "ab" * 32)


class Empty(Plain):
    origin = Origin("real", " ", "ab" * 32)


class Odd(Plain):
    origin = "letters"


def test_without_an_origin_the_plan_states_none_and_hashes_the_content() -> None:
    opened = open_task(f"{HERE}:Plain", {})
    assert (opened.origin.kind, opened.origin.description) == (NOT_STATED, NOT_SAID)
    assert len(opened.origin.sha256) == 64
    assert origin_of(Silent()).sha256 == opened.origin.sha256  # type: ignore[arg-type]
    assert origin_of(Stated()).kind == "real"  # type: ignore[arg-type]
    with pytest.raises(BenchError, match="is a str, not an Origin"):
        open_task(f"{HERE}:Odd", {})


@pytest.mark.parametrize(
    ("kind", "description", "stated"),
    [
        ("real", "Letters of 1900.", True),
        ("generated", "A world.", True),
        ("real", NOT_SAID, False),  # as earlier versions recorded it
        ("real", f"{NOT_SAID} Drawn anew by 2 data seeds; the hash is of the first.", False),
        ("real", "", False),
        ("reel", "Letters.", False),
        (NOT_STATED, NOT_SAID, False),
    ],
)
def test_what_counts_as_stated(kind: str, description: str, stated: bool) -> None:
    origin = {"kind": kind, "description": description}
    assert is_stated(origin) == stated
    assert kind_label(origin) == (kind if stated else LABEL)


@pytest.fixture(scope="module", params=[("real", NOT_SAID), (NOT_STATED, NOT_SAID), ("real", "")])
def unstated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A report of cells whose records have such an origin, the first as earlier versions wrote it."""
    root: Path = tmp_path_factory.mktemp("store")
    make(root, Stored(NAMES[:2], (1, 2), 4))
    kind, description = request.param
    for path in (root / "cells").glob("*.json"):
        record = store.read_json(path)
        record["origin"] |= {"kind": kind, "description": description}
        store.write_json(path, record)
    return report_of(root)[0]


def test_every_form_of_a_report_says_so(unstated: dict[str, Any]) -> None:
    assert [origin["kind"] for origin in unstated["data"]] == [NOT_STATED]
    html = page(unstated)
    assert f">{LABEL}</span>" in html
    assert "real data" not in html
    text = markdown(unstated)
    assert f"({LABEL})" in text
    assert "(real)" not in text
    console = Console(file=io.StringIO(), width=200)
    terminal.show_headline(console, unstated)
    assert LABEL in console.file.getvalue()  # type: ignore[attr-defined]


def test_exports_say_so(unstated: dict[str, Any]) -> None:
    (record, *_) = exports.every_eval_ever(unstated, "1", "us")
    assert record["evaluation_results"][0]["source_data"]["additional_details"]["kind"] == LABEL
    (found,) = exports.model_index(unstated, unstated["arms"][0])
    assert found["results"][0]["dataset"]["args"] == {"origin": LABEL}


def test_what_is_stated_stays(tmp_path: Path) -> None:
    make(tmp_path, Stored(NAMES[:2], (1, 2), 4))
    report, _ = report_of(tmp_path)
    assert [origin["kind"] for origin in report["data"]] == ["generated"]
    assert LABEL not in markdown(report) + page(report)
    (found,) = exports.model_index(report, report["arms"][0])
    assert "args" not in found["results"][0]["dataset"]


def test_the_check_warns_and_passes(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("Plain", "Silent", "Empty"):
        found = check("task", f"{HERE}:{name}", {})
        assert all(finding.ok for finding in found)
        (warned,) = (finding for finding in found if finding.warns)
        assert warned.detail.startswith(LABEL)
        assert show_findings(name, found) == 0
        assert f"warns\t{warned.checked}\t{LABEL}" in capsys.readouterr().out
    assert not any(finding.warns for finding in check("task", f"{HERE}:Stated", {}))


def test_the_list_of_tasks_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    ours = [Plugin("task", name.lower(), f"{HERE}:{name}", "theirs") for name in ("Plain", "Silent", "Stated")]
    monkeypatch.setattr(plugins, "registered", lambda _: ours)
    assert listing("tasks") == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [LABEL in line for line in lines] == [True, True, False]
