"""Judging again: what is made anew, what is kept, what names a result, and exit code 3 when too much is undecided."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner
from fault_server import CANARY, Asked, FaultServer, Reply, goods, prefer
from rich.console import Console
from small import bench, command

from rlhf_bench.harness import cli, store, task_plan
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.estimates import CellFiles
from rlhf_bench.harness.nouns import Measure, Verdict
from rlhf_bench.harness.rejudge import Rejudged, judge_cells
from rlhf_bench.harness.stage_judge import complaints, judge_spec, too_many

TASK = "fault_server:Plain"
QUIET = Console(quiet=True)
RESPONSES = (("good", "bad"), ("bad", "good"), ("fine", "okay"), ("good good", "good"))


class Results(NamedTuple):
    """A results folder with a cell whose texts were written by hand."""

    root: store.Store
    cell: CellFiles

    def judge(self, *judges: str, **settings: Any) -> Rejudged:
        """`judge_cells` of the cell; settings are of the first judge."""
        given = {judges[0]: {name: str(value) for name, value in settings.items()}}
        return judge_cells([self.cell], self.root, judges, given, QUIET)

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
    task = task_plan.open_task(TASK, {})[0]
    record = {"task": TASK, "reward_model": "rm", "seed": 0, "evaluated": task.params, "stages": stages, "judges": {}}
    path = folder / "cells" / "x.json"
    path.parent.mkdir()
    store.write_json(path, record)
    return Results(root, CellFiles(record, folder, path))


def asking(server: FaultServer, tmp_path: Path, **more: Any) -> dict[str, Any]:
    """Settings of a winrate-llm that asks the server."""
    own = {"model": "judge", "base_url": server.url, "cache": tmp_path / "c.sqlite", "backoff": 0.01, "max_retries": 0}
    return {**own, **more}


def failing(reply: Reply) -> Callable[[Asked], Reply]:
    """A judge that fails at one of the questions about the second case."""
    sound = prefer(goods)

    def answer(asked: Asked) -> Reply:
        hit = asked.material.get("prompt") == "Question 1?" and not goods(asked.material["answer-A"])
        return reply if hit else sound(asked)

    return answer


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


# -- asking again -----------------------------------------------------------------------------------------------------


def test_only_what_was_undecided_is_paid_for_again(server: FaultServer, results: Results, tmp_path: Path) -> None:
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


def test_a_server_that_is_down_costs_nothing_that_was_decided(
    server: FaultServer, results: Results, tmp_path: Path
) -> None:
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
def test_whenever_a_kill_comes_the_folder_holds_whole_verdicts(
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


def test_a_judge_that_cannot_change_is_not_asked_again(results: Results) -> None:
    results.judge("winrate", "utility")
    assert {row["reason"] for row in results.rows("winrate")} == {
        "the task has no gold utility and no scorer was given"
    }
    before = [contents(folder) for name in ("winrate", "utility") for folder in results.folders(name)]
    results.judge("winrate", "utility")
    assert [contents(folder) for name in ("winrate", "utility") for folder in results.folders(name)] == before


class Moody:
    """A third party's judge: it offers nothing beside its seam, and decides at the second try."""

    measures = (Measure("luck", "win"),)
    tries = 0

    def measure(self, cases: Any, task: Any) -> list[Verdict]:  # noqa: ARG002
        type(self).tries += 1
        return [Verdict({"luck": None if self.tries == 1 else 1.0}, "a bad day" if self.tries == 1 else "")] * len(
            cases
        )


def test_a_judge_that_says_nothing_of_itself_is_asked_until_it_decides(results: Results) -> None:
    name = f"{Path(__file__).stem}:Moody"
    sys.modules[Path(__file__).stem].Moody.tries = 0  # type: ignore[attr-defined]
    for expected in (None, 1.0, 1.0):
        results.judge(name)
        (folder,) = (results.root.root / "verdicts").glob("*Moody*")
        assert {row["values"]["luck"] for row in store.read_rows(folder / "verdicts.jsonl")} == {expected}
    assert sys.modules[Path(__file__).stem].Moody.tries == 2  # type: ignore[attr-defined]
    assert not (folder / "account.json").exists()


def test_a_judge_that_fails_costs_no_other(server: FaultServer, results: Results, tmp_path: Path) -> None:
    server.answer = lambda asked: Reply("", 401)  # noqa: ARG005
    done = results.judge("winrate-llm", "length", **asking(server, tmp_path))
    assert len(done.outcome.failed) == 1
    record = store.read_json(results.cell.path)  # type: ignore[arg-type]
    assert list(record["judges"]) == ["length"]


# -- what names a result ----------------------------------------------------------------------------------------------


def test_a_file_counts_by_its_content_and_not_by_its_name(tmp_path: Path) -> None:
    for judge, key, one, other in (
        ("winrate-llm", "rubric", "Which rhymes?", "Which is shorter?"),
        ("refusal", "phrases", "I cannot", "No way"),
    ):
        first, second = tmp_path / f"{judge}1.txt", tmp_path / f"{judge}2.txt"
        first.write_text(one)
        second.write_text(one)

        def content(path: Path, name: str = judge, key: str = key) -> Any:
            more = {"model": "m"} if name == "winrate-llm" else {}
            return store.canonical(judge_spec(name, {key: str(path), **more}).content)

        before = content(first)
        assert before == content(second)
        first.write_text(other)
        assert content(first) != before


def test_a_scorers_code_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    found = []
    for code in ("def score(example, response):\n    return 1.0\n", "def score(example, response):\n    return 2.0\n"):
        Path("own_scorer.py").write_text(code)
        found.append(judge_spec("winrate", {"scorer": "own_scorer:score"}).content)
    assert found[0] != found[1]


def test_what_costs_only_time_or_money_names_nothing() -> None:
    base = {"model": "m"}
    same = judge_spec("winrate-llm", base).content
    for key, value in (("concurrency", "9"), ("timeout", "1"), ("max_retries", "0"), ("token_budget", "5"),
                       ("cache", "x"), ("threshold", "1"), ("price_in", "3"), ("key_env", "OTHER_KEY")):  # fmt: skip
        assert judge_spec("winrate-llm", {**base, key: value}).content == same
    for key, value in (("temperature", "1"), ("max_tokens", "9"), ("votes", "3"), ("rubric", "safety"),
                       ("base_url", "http://localhost/v1"), ("model", "n")):  # fmt: skip
        assert judge_spec("winrate-llm", {**base, key: value}).content != same


class Unspeakable:
    measures = (Measure("luck", "win"),)
    verdict_settings = {"what": object()}  # noqa: RUF012

    def measure(self, cases: Any, task: Any) -> list[Verdict]:  # noqa: ARG002
        return []


def test_what_is_no_json_is_one_line() -> None:
    with pytest.raises(BenchError, match="not JSON"):
        judge_spec(f"{Path(__file__).stem}:Unspeakable", {})


# -- too much undecided -----------------------------------------------------------------------------------------------


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


def test_only_judges_with_a_threshold_complain(server: FaultServer, results: Results, tmp_path: Path) -> None:
    server.answer = failing(Reply("", 500))
    done = results.judge("winrate-llm", "winrate", **asking(server, tmp_path))
    (line,) = complaints(done.stages, results.root)
    assert "1 of 4 cases" in line
    assert "HTTP 500 (1)" in line
    done = results.judge("winrate-llm", **asking(server, tmp_path, threshold=0.25))
    assert complaints(done.stages, results.root) == []


# -- the command ------------------------------------------------------------------------------------------------------


class Said(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Said]:
    """`bench` in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def run(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["bench", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return Said(int(stopped.value.code or 0), *capsys.readouterr())

    return run


LABELS = "prompt,a,b,label\nq,good,bad,a\nr,bad,good,b\ns,good good,good,a\nt,fine,okay,tie\nu,good,bad,b\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--judge", "length"], "Give RUNS"),
        (["runs", "--judge", "length", "--calibrate", "labels.csv"], "one of them"),
        (["--judge", "length", "--calibrate", "labels.csv"], "compares no responses"),
        (["--judge", "winrate-llm", "--calibrate", "labels.csv"], "needs the setting 'model'"),
        (["--judge", "winrate-llm", "--model", "m", "--calibrate", "none.csv"], "does not exist"),
        (["--judge", "winrate-llm", "--model", "m", "--calibrate", "bad.csv"], "Give prompt, a, b, label"),
        (["runs", "--judge", "length", "--model", "m"], "--model: No judge of this call has the setting model"),
        (["runs", "--judge", "length", "--base-url", "u"], "--base-url: No judge"),
        (["runs", "--judge", "winrate-llm", "--model", "m", "--set", "winrate-llm.model=n"], "the same setting"),
        (["runs", "--judge", "winrate-llm", "--set", "winrate.model=n"], "Did you mean 'winrate-llm'"),
        (["runs", "--judge", "winrate-llm", "--judge", "rlhf_bench.judges.llm:WinRateLLM", "--model", "m"], "have"),
    ],
)
def test_wrong_arguments_are_one_line(call: Callable[..., Said], arguments: list[str], said: str) -> None:
    Path("labels.csv").write_text(LABELS)
    Path("bad.csv").write_text("prompt,a,b\nq,x,y\n")
    found = call("judge", *arguments)
    assert found.code == 2
    (line,) = found.err.splitlines()
    assert said in line


def test_help_names_the_columns() -> None:
    text = " ".join(CliRunner().invoke(cli.bench, ["judge", "--help"]).output.split())
    for wanted in ("prompt, a, b", "label (a, b or tie)", ".jsonl", "--base-url", "--model"):
        assert wanted in text


def test_calibrate_needs_no_runs(call: Callable[..., Said], server: FaultServer) -> None:
    Path("labels.csv").write_text(LABELS)
    asks = ["--judge", "winrate-llm", "--model", "judge", "--base-url", server.url, "--calibrate", "labels.csv"]
    asks += ["--set", "winrate-llm.cache=c.sqlite", "--set", "winrate-llm.max_retries=0"]
    found = call("judge", *asks)
    assert found.code == 0, found.err
    rows = {cells[1]: cells[2:] for cells in (line.split("\t") for line in found.out.splitlines()) if len(cells) > 2}
    assert rows["pairs"][0] == "5"
    assert rows["agreed"][0] == "0.80"
    assert rows["kappa"][0] == "0.69"  # by hand: observed .8; chance (2/5 3/5 + 2/5 1/5 + 1/5 1/5) = .36
    assert rows["consistent"][0] == rows["null_tie"][0] == "1.00"
    assert not Path("runs").exists()
    server.answer = failing(Reply("", 500))
    Path("labels.csv").write_text(LABELS.replace("\nr,", "\nQuestion 1?,"))
    found = call("judge", *asks)
    assert found.code == 3
    assert "1 of 5 pairs are undecided, more than its threshold of 5.0%: HTTP 500 (1)" in found.err


# -- a run ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished small run."""
    out = tmp_path_factory.mktemp("judged") / "runs"
    finished = bench(*command(out, "--judge", "length", rms=("length-only",)))
    assert finished.returncode == 0, finished.stderr
    return out


def asked_of(server: FaultServer, folder: Path) -> list[str]:
    settings = {"model": "judge", "base_url": server.url, "cache": folder / "c.sqlite", "max_retries": 0,
                "backoff": 0.01, "key_env": "JUDGE_KEY"}  # fmt: skip
    return [text for name, value in settings.items() for text in ("--set", f"winrate-llm.{name}={value}")]


@pytest.mark.training
def test_runs_are_judged_by_a_server_and_again(done: Path, server: FaultServer, tmp_path: Path) -> None:
    sound = prefer(lambda text: len(text))
    seen: list[str] = []

    def answer(asked: Asked) -> Reply:
        if asked.judging and asked.material["prompt"] not in seen:
            seen.append(asked.material["prompt"])
        return Reply("", 500) if asked.judging and asked.material["prompt"] in seen[:2] else sound(asked)

    server.answer = answer
    judge = ["judge", str(done), "--judge", "winrate-llm", *asked_of(server, tmp_path)]
    first = bench(*judge, JUDGE_KEY=CANARY)
    assert first.returncode == 3, first.stderr
    complaint = [line for line in first.stderr.splitlines() if "more than its threshold" in line]
    assert len(complaint) == 1
    assert "HTTP 500 (" in complaint[0]
    report = json.loads((done / "report" / "report.json").read_text())
    notes = [e["note"] for e in report["estimates"] if e["judge"] == "winrate-llm"]
    assert any("undecided: HTTP 500" in note for note in notes)
    again = bench(*command(done, "--judge", "length", "--judge", "winrate-llm", *asked_of(server, tmp_path),
                           rms=("length-only",)), JUDGE_KEY=CANARY)  # fmt: skip
    assert again.returncode == 3  # a run says so too, and asks nothing
    assert "more than its threshold" in again.stderr
    asked = server.judged
    server.answer = sound
    mended = bench(*judge, JUDGE_KEY=CANARY)
    assert mended.returncode == 0, mended.stderr
    assert 0 < server.judged - asked < asked
    report = json.loads((done / "report" / "report.json").read_text())
    estimates = [e for e in report["estimates"] if e["judge"] == "winrate-llm"]
    assert estimates
    assert {e["n_invalid"] for e in estimates} == {0}
    files = [path for folder in (done, tmp_path) for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in files if CANARY.encode() in path.read_bytes()]
    assert CANARY not in "".join((first.stdout, first.stderr, again.stderr, mended.stdout, mended.stderr))
