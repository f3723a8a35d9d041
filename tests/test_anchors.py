"""Relative paths mean the same from everywhere: records hold absolute ones, and keys name data by its content."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlhf_bench.harness.anchors import anchored
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.plan.request import Plan, Request, make_plan
from rlhf_bench.harness.trust import check_recorded


def write(folder: Path) -> Path:
    folder.mkdir()
    rows = [{"prompt": f"Q{i}?", "chosen": f"Yes {i}.", "rejected": f"No {i}."} for i in range(60)]
    (folder / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def planned(data: str) -> Plan:
    return make_plan(Request("preferences", ["length-only"], [0], "tiny", ["length"], {}, data))


def test_a_plan_is_the_same_from_every_folder_and_for_data_that_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = write(tmp_path / "one"), write(tmp_path / "other")
    plans = []
    for folder, data in ((one, "p.jsonl"), (tmp_path, "one/p.jsonl"), (other, "../one/p.jsonl"), (other, "p.jsonl")):
        monkeypatch.chdir(folder)
        plans.append(planned(data))
    assert len({tuple(stage.key for stage in plan.order) for plan in plans}) == 1
    stored = [plan.cells[0].record()["evaluated"]["settings"]["data"] for plan in plans]
    assert stored == [str(one / "p.jsonl")] * 3 + [str(other / "p.jsonl")]
    # every stage that opens the task gets the absolute path
    opened = [stage.payload["task"]["settings"]["data"] for stage in plans[0].order if "task" in stage.payload]
    assert set(opened) == {str(one / "p.jsonl")}


def test_a_text_that_is_no_path_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("chat", "hub", "model.d", "org"):
        (tmp_path / name).mkdir()
    assert anchored("chat") == "chat"
    assert anchored("chat", "data") == str(tmp_path / "chat")
    assert anchored("hub", "data") == "hub"
    assert anchored("no/such", "data") == "no/such"
    assert anchored("hf:./model.d") == f"hf:{tmp_path / 'model.d'}"
    assert anchored("module:attribute") == "module:attribute"


def test_a_path_that_the_user_trusts_is_the_one_that_was_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "one")
    recorded = {"name": "preferences", "settings": {"data": str(folder / "p.jsonl")}}
    monkeypatch.chdir(tmp_path)
    check_recorded("task", recorded, tmp_path, ["one/p.jsonl"])
    with pytest.raises(BenchError, match="opens nothing outside"):
        check_recorded("task", recorded, tmp_path, ["p.jsonl"])
