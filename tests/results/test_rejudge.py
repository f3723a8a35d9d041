"""Judging again: which verdicts are recomputed, which are kept, and when too many cases are undecided."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fault_server import FaultServer, Reply, failing, goods, prefer

from rlhf_bench.harness import store
from rlhf_bench.harness.nouns import Measure, Verdict
from rlhf_bench.harness.pipeline import integrity
from rlhf_bench.harness.plan import tasks
from rlhf_bench.harness.results.arms import CellFiles
from rlhf_bench.harness.results.found import verdict_problems
from rlhf_bench.harness.results.rejudge import Rejudged, judge_cells
from rlhf_bench.harness.results.undecided import complaints, too_many

TASK = "fault_server:Plain"
RESPONSES = (("good", "bad"), ("bad", "good"), ("fine", "okay"), ("good good", "good"))


class Results(NamedTuple):
    """A results folder with one cell of handwritten texts."""

    root: store.Store
    cell: CellFiles

    def judge(self, *judges: str, **settings: Any) -> Rejudged:
        """`judge_cells` of the cell; `settings` belong to the first judge."""
        given = {judges[0]: {name: str(value) for name, value in settings.items()}}
        return judge_cells([self.cell], self.root, judges, given, named=[TASK])

    def folders(self, judge: str) -> list[Path]:
        return sorted((self.root.root / "verdicts").glob(f"{judge}-*"))

    def rows(self, judge: str) -> list[dict[str, Any]]:
        (folder,) = self.folders(judge)
        return store.read_rows(folder / "verdicts.jsonl")

    def wins(self, judge: str = "winrate-llm") -> list[float | None]:
        return [row["values"]["win_rate"] for row in self.rows(judge)]


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return make_results(tmp_path / "runs")


def make_results(folder: Path) -> Results:
    root = store.Store(folder)
    stages = {}
    for role in ("prompts", "baseline", "generations"):
        key = store.content_key(role)
        place = root.folder(role, "x", key)
        place.mkdir(parents=True)
        store.write_json(place / store.MARKER, {"kind": role, "label": "x", "key": key, "params": {}})
        stages[role] = [role, "x", key[: store.KEY_LENGTH]]
    found = CellFiles({"stages": stages}, folder)
    common = {"decoding": "sample", "tokens": 1, "finished": True}
    texts = list(enumerate(RESPONSES))
    prompts = [{"id": f"e{i}", "prompt": f"Question {i}?"} for i, _ in texts]
    after = [{"example_id": f"e{i}", "iteration": 4, "prompt": f"Question {i}?", "response": text, **common}
             for i, (text, _) in texts]  # fmt: skip
    before = [{**row, "iteration": 0, "response": RESPONSES[i][1]} for i, row in enumerate(after)]
    store.write_rows(found.folder("prompts") / "examples.test.jsonl", prompts)
    store.write_rows(found.folder("baseline") / "generations.jsonl", before)
    store.write_rows(found.folder("generations") / "generations.jsonl", after)
    task = tasks.open_task(TASK, {})
    record = {"task": TASK, "reward_model": "rm", "seed": 0, "evaluated": task.params, "stages": stages, "judges": {}}
    path = folder / "cells" / "x.json"
    path.parent.mkdir()
    store.write_json(path, record)
    return Results(root, CellFiles(record, folder, path))


def asking(server: FaultServer, tmp_path: Path, **more: Any) -> dict[str, Any]:
    """Settings of a winrate-llm that sends its questions to the server."""
    own = {"model": "judge", "base_url": server.url, "cache": tmp_path / "c.sqlite", "backoff": 0.01, "max_retries": 0}
    return {**own, **more}


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


# -- new requests ----------------------------------------------------------------------------------------------------


def test_only_undecided_cases_are_requested_again(server: FaultServer, results: Results, tmp_path: Path) -> None:
    server.answer = failing(Reply("", 500))
    results.judge("winrate-llm", **asking(server, tmp_path))
    assert results.wins() == [1.0, None, 0.5, 1.0]
    (folder,) = results.folders("winrate-llm")
    record = store.read_json(results.cell.path)  # type: ignore[arg-type]
    asked = server.judged
    server.answer = prefer(goods)
    results.judge("winrate-llm", **asking(server, tmp_path))
    assert server.judged == asked + 1
    assert results.wins() == [1.0, 0.0, 0.5, 1.0]
    assert results.folders("winrate-llm") == [folder]
    assert store.read_json(results.cell.path) == record  # type: ignore[arg-type]
    assert not [path for path in (results.root.root / ".partial").iterdir() if path.is_dir()]
    account = store.read_json(folder / "account.json")
    assert account["asked"] == 1
    assert account["unusable"] == {}
    assert [(one["asked"], one["unusable"]) for one in account["earlier"]] == [(7, {"HTTP 500": 1})]
    assert store.read_json(folder / store.MARKER)["figures"] == {"cases": 4, "undecided": 0, "threshold": 0.05}
    assert [m["name"] for m in store.read_json(folder / "measures.json")] == ["win_rate"]
    before = contents(folder)
    results.judge("winrate-llm", **asking(server, tmp_path))
    assert contents(folder) == before
    assert server.judged == asked + 1


def test_a_failing_server_removes_no_earlier_decision(server: FaultServer, results: Results, tmp_path: Path) -> None:
    server.answer = failing(Reply("", 500))
    results.judge("winrate-llm", **asking(server, tmp_path))
    (folder,) = results.folders("winrate-llm")
    before = contents(folder)
    sound = prefer(goods)
    server.answer = lambda asked: Reply("", 500) if asked.judging else sound(asked)
    done = results.judge("winrate-llm", **asking(server, tmp_path, cache=tmp_path / "another.sqlite"))
    assert contents(folder) == before
    assert "4 cases undecided now, 1 before" in done.kept[0]
    server.answer = lambda asked: Reply("", 401)  # noqa: ARG005
    done = results.judge("winrate-llm", **asking(server, tmp_path, cache=tmp_path / "fourth.sqlite"))
    assert contents(folder) == before
    assert "HTTP 401" in str(next(iter(done.outcome.failed.values())))


@pytest.mark.parametrize("moment", range(4))
def test_a_kill_at_any_time_leaves_whole_verdicts(
    server: FaultServer, results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    server.answer = failing(Reply("", 500))
    results.judge("winrate-llm", **asking(server, tmp_path))
    (folder,) = results.folders("winrate-llm")
    server.answer = prefer(goods)
    left, replace = [moment], Path.replace

    def fragile(self: Path, target: Any) -> Any:
        if Path(target).parent == folder:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fragile)
    with pytest.raises(KeyboardInterrupt):
        results.judge("winrate-llm", **asking(server, tmp_path))
    monkeypatch.undo()
    assert results.wins() in ([1.0, None, 0.5, 1.0], [1.0, 0.0, 0.5, 1.0])
    assert {path.name for path in folder.iterdir()} == {"account.json", "measures.json", "stage.json", "verdicts.jsonl"}
    asked = server.judged
    monkeypatch.setenv("OPENAI_API_KEY", "")
    results.judge("winrate-llm", **asking(server, tmp_path))
    assert results.wins() == [1.0, 0.0, 0.5, 1.0]
    assert server.judged == asked
    account = store.read_json(folder / "account.json")
    tries = [one["asked"] for one in (*account["earlier"], account)]
    assert tries[0] == 7, "what the first try cost is never lost"
    assert tries.count(1) == 1, "nor what the killed one cost, and it counts once"
    assert integrity.used(folder) == []


def test_a_deterministic_judge_is_not_run_again(results: Results) -> None:
    results.judge("winrate", "utility")
    assert {row["reason"] for row in results.rows("winrate")} == {
        "the task has no gold utility and no scorer was given"
    }
    before = [contents(folder) for name in ("winrate", "utility") for folder in results.folders(name)]
    results.judge("winrate", "utility")
    assert [contents(folder) for name in ("winrate", "utility") for folder in results.folders(name)] == before


@pytest.mark.parametrize("damage", [b"", b'{"odd": 1}\n'])
@pytest.mark.parametrize("name", ["verdicts.jsonl", "measures.json", "stage.json"])
def test_damaged_verdicts_are_made_again(results: Results, name: str, damage: bytes) -> None:
    results.judge("length")
    (folder,) = results.folders("length")
    before = (folder / "verdicts.jsonl").read_bytes()
    (folder / name).write_bytes(damage)
    assert list(verdict_problems(folder))
    done = results.judge("length")
    assert done.outcome.failed == {}
    assert (folder / "verdicts.jsonl").read_bytes() == before
    assert integrity.used(folder) == []


def test_verdicts_that_are_replaced_are_listed_anew(server: FaultServer, results: Results, tmp_path: Path) -> None:
    server.answer = failing(Reply("", 500))
    results.judge("winrate-llm", **asking(server, tmp_path))
    (folder,) = results.folders("winrate-llm")
    server.answer = prefer(goods)
    results.judge("winrate-llm", **asking(server, tmp_path))
    assert store.read_json(folder / "account.json")["earlier"]
    assert integrity.used(folder) == []


class UndecidedAtFirst:
    """A third party's judge with no optional methods, whose first try leaves cases undecided."""

    measures = (Measure("luck", "win"),)
    tries = 0

    def measure(self, cases: Any, task: Any) -> list[Verdict]:  # noqa: ARG002
        type(self).tries += 1
        return [Verdict({"luck": None if self.tries == 1 else 1.0}, "a bad day" if self.tries == 1 else "")] * len(
            cases
        )


def test_a_judge_without_optional_methods_is_run_until_it_decides(results: Results) -> None:
    name = f"{Path(__file__).stem}:UndecidedAtFirst"
    sys.modules[Path(__file__).stem].UndecidedAtFirst.tries = 0  # type: ignore[attr-defined]
    for expected in (None, 1.0, 1.0):
        results.judge(name)
        (folder,) = (results.root.root / "verdicts").glob("*UndecidedAtFirst*")
        assert {row["values"]["luck"] for row in store.read_rows(folder / "verdicts.jsonl")} == {expected}
    assert sys.modules[Path(__file__).stem].UndecidedAtFirst.tries == 2  # type: ignore[attr-defined]
    assert not (folder / "account.json").exists()


def test_a_failing_judge_does_not_stop_the_others(server: FaultServer, results: Results, tmp_path: Path) -> None:
    server.answer = lambda asked: Reply("", 401)  # noqa: ARG005
    done = results.judge("winrate-llm", "length", **asking(server, tmp_path))
    assert len(done.outcome.failed) == 1
    record = store.read_json(results.cell.path)  # type: ignore[arg-type]
    assert list(record["judges"]) == ["length"]


# -- many undecided cases --------------------------------------------------------------------------------------------


def row(value: float | None, reason: str = "") -> dict[str, Any]:
    return {"values": {"w": value, "v": 1.0}, "reason": reason}


def test_the_threshold_is_per_cell_and_reasons_are_counted() -> None:
    bad, fine = [row(None, "b"), row(None, "a"), row(None, "b"), row(1.0)], [row(1.0)] * 40
    assert too_many("j", [bad, fine], 0.75) == ""
    line = too_many("j", [bad, fine, [row(None, "c")]], 0.7)
    assert line.startswith("j: 4 of 5 cases are undecided in 2 of 3 cells, more than its threshold of 70.0%")
    assert line.endswith("b (2), a (1), c (1)")
    assert too_many("j", [[]], 0.0) == ""
    assert too_many("j", [fine], 0.0) == ""


def test_only_judges_with_a_threshold_are_reported(server: FaultServer, results: Results, tmp_path: Path) -> None:
    server.answer = failing(Reply("", 500))
    done = results.judge("winrate-llm", "winrate", **asking(server, tmp_path))
    (line,) = complaints(done.stages, results.root)
    assert "1 of 4 cases" in line
    assert "HTTP 500 (1)" in line
    done = results.judge("winrate-llm", **asking(server, tmp_path, threshold=0.25))
    assert complaints(done.stages, results.root) == []
