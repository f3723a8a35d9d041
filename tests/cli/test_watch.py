"""`bench watch`: what it says of running, damaged and finished folders, and how it ends."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from payloads import PAYLOADS
from small import bench, popen
from stored import NAMES, Stored, make
from watched import Served, driver, ppo_stage, row, write_steps

from rlhf_bench.harness import store
from rlhf_bench.harness.cli.watch import tables, watch
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.results import status, training
from rlhf_bench.harness.results.monitors import with_rate
from rlhf_bench.harness.results.watched import Watcher


@pytest.fixture
def serve() -> Iterator[Callable[[Path], Served]]:
    made: list[Served] = []

    def serve(root: Path) -> Served:
        made.append(Served(root))
        return made[-1]

    yield serve
    for one in made:
        one.end()


def content(root: Path) -> dict[str, tuple[int, bytes]]:
    files = (path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(root)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_a_finished_folder(tmp_path: Path, serve: Any) -> None:
    make(tmp_path, Stored(NAMES[:1], (1,)))
    served = serve(tmp_path)
    before = content(tmp_path)
    found = served.status()
    assert (found["finished"], found["all"], found["left"], found["stages"]) == (1, 1, None, [])
    (cell,) = found["cells"]
    assert (cell["state"], cell["done"], cell["total"]) == ("finished", 7, 7)
    curves = served.curves(cell)
    assert curves["lines"]["KL"][:2] == [[1, 0.1], [2, 0.2]]
    assert curves["lines"]["reward"][-1] == [20, 2.0]
    assert curves["lines"]["length"] == []  # of a version that stored fewer figures
    after, start = [((k + 7) % 7) / 7 for k in range(6)], [(k % 5) / 5 for k in range(6)]
    assert curves["lines"]["gold"] == [
        [i, pytest.approx(sum(v) / 6)] for i, v in ((0, start), (10, after), (20, after))
    ]
    assert curves["problems"] == found["problems"] == []
    assert content(tmp_path) == before  # nothing is written


def test_several_drivers_and_what_they_make(tmp_path: Path, serve: Any) -> None:
    """Two that run, and one that was interrupted; a stage is counted for the last that planned it."""
    one, two, three = (ppo_stage(name) for name in "abc")
    with driver(tmp_path, [three]) as dead:
        dead.start(three)
        dead.step(three, 1, 4)
        dead.over = lambda: None  # type: ignore[method-assign]  # as after a kill
    with driver(tmp_path, [one], jobs=2) as first, driver(tmp_path, [two]) as second:
        first.start(one)
        first.step(one, 20, 40)
        second.start(two)
        write_steps(tmp_path, one, [row(k) for k in range(1, 21)])
        write_steps(tmp_path, two, [row(k, truncated_share=0.9) for k in range(1, 13)])
        served = serve(tmp_path)
        found = served.status()
        assert sorted((d["state"], d["running"]) for d in found["drivers"]) == [
            ("interrupted", 0), ("running", 1), ("running", 1),
        ]  # fmt: skip
        stages = {stage["name"]: stage for stage in found["stages"]}
        assert {name: stage["state"] for name, stage in stages.items()} == {
            "ppo a": "running", "ppo b": "running", "ppo c": "stopped",
        }  # fmt: skip
        a, b = stages["ppo a"], stages["ppo b"]
        assert (a["done"], a["total"], a["iteration"]) == (20, 40, 20)
        assert a["figures"] == {"reward": 2.0, "KL": 1.0, "length": 12.0, "entropy": 1.5}
        assert a["alarms"] == []
        assert b["alarms"] == [with_rate("truncated", "90% of the rollouts are cut off at the longest length")]
        assert found["left"]["known"] is False  # b has no speed yet, and nothing alike has finished
        second.end(two, "No <b>luck</b>")
        first.end(one)
    found = served.status()
    assert found["failed"] == [{"name": "ppo b", "error": "No <b>luck</b>"}]
    assert found["left"] is None


def test_new_rows_are_seen(tmp_path: Path, serve: Any) -> None:
    stage = ppo_stage("a")
    with driver(tmp_path, [stage]) as told:
        told.start(stage)
        served = serve(tmp_path)
        assert served.status()["stages"][0]["figures"] is None
        for count in (2, 3):
            write_steps(tmp_path, stage, [row(k) for k in range(1, count + 1)])
            assert served.status()["stages"][0]["iteration"] == count


def test_damaged_rows_are_left_out_and_named(tmp_path: Path, serve: Any) -> None:
    make(tmp_path, Stored(NAMES[:2], (1,)))
    steps, verdicts = (next(tmp_path.glob(f"{at}/{name}")) for at, name in (
        ("ppo/dialogsum-scalar*", "steps.jsonl"),
        ("verdicts/utility-dialogsum-scalar*", "verdicts.jsonl")))  # fmt: skip
    lines = steps.read_text().splitlines()
    lines[3:6] = ["{", '{"iteration": "<b>", "reward": 1}', json.dumps({**json.loads(lines[5]), "reward": 1e300})]
    steps.write_text("\n".join([*lines, lines[0][:-9]]))
    verdicts.write_text("[" * 100_000 + "\n" + verdicts.read_text())
    (tmp_path / "cells" / "dialogsum-seq2seq-token-s1.json").write_text('{"task": 3}')
    served = serve(tmp_path)
    found = served.status()
    assert found["all"] == 2
    assert len(found["problems"]) == 1
    assert "dialogsum-seq2seq-token-s1.json is damaged" in found["problems"][0]
    (cell,) = found["cells"]
    curves = served.curves(cell)
    assert [i for i, _ in curves["lines"]["reward"]] == [1, 2, 3, *range(7, 21)]
    assert [i for i, _ in curves["lines"]["gold"]] == [0, 10, 20]
    first, second = curves["problems"]
    assert "steps.jsonl is damaged" in first
    assert "line 4: " in first
    assert "3 rows are left out" in first
    assert "verdicts.jsonl is damaged" in second


def test_files_that_are_too_long_are_not_read(tmp_path: Path, serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, Stored(NAMES[:2], (1,)))
    monkeypatch.setattr(training, "LONGEST", 100)
    long = tmp_path / "cells" / "dialogsum-seq2seq-token-s1.json"
    long.write_text(long.read_text() + " " * status.MOST)
    served = serve(tmp_path)
    found = served.status()
    assert any(f"{long.name} is longer than" in problem for problem in found["problems"])
    curves = served.curves(found["cells"][0])
    assert curves["lines"]["reward"] == curves["lines"]["gold"] == []
    assert all("is longer than" in problem for problem in curves["problems"])
    assert len(curves["problems"]) == 2


def test_links_and_pipes_lead_nowhere(tmp_path: Path, serve: Any) -> None:
    runs, outside = tmp_path / "runs", tmp_path / "outside.jsonl"
    make(runs, Stored(NAMES[:2], (1,)))
    outside.write_text(json.dumps(row(77)) + "\n")
    first, second = sorted(runs.glob("ppo/*/steps.jsonl"))
    first.unlink()
    first.symlink_to(outside)
    second.unlink()
    os.mkfifo(second)
    served = serve(runs)
    for cell in served.status()["cells"]:
        curves = served.curves(cell)
        assert curves["lines"]["reward"] == []
        assert len(curves["problems"]) == 1
    (runs / "cells" / "link.json").symlink_to(outside)
    served.server._until = 0.0
    answer = served.ask("status.json")
    assert answer.code == 503
    assert "leads outside" in answer.data["error"]


def test_a_place_in_a_record_is_no_way_out(tmp_path: Path, serve: Any) -> None:
    (path,) = make(tmp_path / "runs", Stored(NAMES[:1], (1,)))
    record = store.read_json(path)
    for kind in ("..", "../..", ".partial", "/etc"):
        path.write_text(json.dumps({**record, "stages": {**record["stages"], "ppo": [kind, "a", "b"]}}))
        found = serve(tmp_path / "runs").status()
        assert found["cells"] == []
        assert "is damaged" in found["problems"][0]


@pytest.mark.parametrize("name", ["x" * 2000, "\ud800", "\u202e"])
def test_a_place_that_no_folder_can_have_is_unfinished(tmp_path: Path, serve: Any, name: str) -> None:
    (path,) = make(tmp_path, Stored(NAMES[:1], (1,)))
    record = store.read_json(path)
    places = {role: [kind, name, key] for role, (kind, _, key) in record["stages"].items()}
    judges = {judge: [kind, name, key] for judge, (kind, _, key) in record["judges"].items()}
    path.write_text(json.dumps({**record, "stages": places, "judges": judges}))
    stage = ppo_stage("a")
    with driver(tmp_path, [stage]) as told:
        told.start(stage)
        file = Path(told._file.name)  # type: ignore[union-attr]
        file.write_text(file.read_text().replace('"a"', json.dumps(name)))
        served = serve(tmp_path)
        found = served.status()
        assert [cell["state"] for cell in found["cells"]] == ["waiting"]
        assert [one["state"] for one in found["stages"]] == ["running"]
        assert served.curves(found["cells"][0])["lines"]["gold"] == []


def test_a_fault_in_code_is_said(tmp_path: Path, serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, Stored(NAMES[:1], (1,)))
    served = serve(tmp_path)

    def fail() -> None:
        raise ValueError("no <b>luck</b>\nat all")

    monkeypatch.setattr(served.server.watcher, "look", fail)
    answer = served.ask("status.json")
    assert answer.code == 500
    assert answer.data["error"].startswith("The folder cannot be shown: ")
    monkeypatch.undo()
    assert served.ask("status.json").code == 200


def test_texts_are_printable_and_cut(tmp_path: Path, serve: Any) -> None:
    stage = ppo_stage("a")
    with driver(tmp_path, [stage]) as told:
        told.start(stage)
        told.end(stage, "\x1b[31m\u202e\x00\ud800" + "x" * 10_000)
        said = serve(tmp_path).status()["failed"][0]["error"]
    assert said.startswith("\\x1b[31m\\u202e\\x00?xxx")
    assert len(said) == 401


def test_a_long_run_has_as_many_points_as_a_page_draws(tmp_path: Path, serve: Any) -> None:
    (path,) = make(tmp_path, Stored(NAMES[:1], (1,)))
    steps = next(tmp_path.glob("ppo/*/steps.jsonl"))
    store.write_rows(steps, [row(k) for k in range(1, 3001)])
    assert path
    served = serve(tmp_path)
    points = served.curves(served.status()["cells"][0])["lines"]["reward"]
    assert len(points) == 500
    assert points[-1][0] == 3000


# -- the command -------------------------------------------------------------------------------------------------------


def test_no_results_folder_and_no_port(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="is no results folder"):
        watch(tmp_path, 0, False)
    make(tmp_path, Stored(NAMES[:1], (1,)))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(BenchError, match=r"Port \d+ cannot be used: Address already in use"):
            watch(tmp_path, taken.getsockname()[1], False)


def test_it_says_its_address_and_ends_in_a_line(tmp_path: Path) -> None:
    make(tmp_path, Stored(NAMES[:1], (1,)))
    process = popen("watch", str(tmp_path))
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.fullmatch(
        rf"Watching {re.escape(str(tmp_path))} at (http://127\.0\.0\.1:(\d+)/\S+/) \(Ctrl-C ends it\)\n", line
    )
    assert found
    connection = http.client.HTTPConnection("127.0.0.1", int(found[2]), timeout=20)
    connection.request("GET", "/" + found[1].split("/", 3)[3])
    assert connection.getresponse().status == 200
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert (process.returncode, out, error) == (0, "Stopped watching; what runs goes on.\n", "")


def test_a_pipe_gets_one_snapshot(tmp_path: Path) -> None:
    make(tmp_path, Stored(NAMES[:1], (1,)))
    done = bench("watch", str(tmp_path), "--terminal")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "cells finished\tof\ttime left\n1\t1\tnothing is running\n"


def test_the_terminal_shows_what_the_page_shows(tmp_path: Path) -> None:
    stage = ppo_stage("a")
    with driver(tmp_path, [stage]) as told:
        told.start(stage)
        told.step(stage, 12, 40)
        write_steps(tmp_path, stage, [row(k, truncated_share=0.9) for k in range(1, 13)])
        found = {table.title: table for table in tables(Watcher(tmp_path).look())}
    assert [*found] == ["All", "In progress", "Alarms", "Drivers"]
    assert found["In progress"].columns[-4:] == ("reward", "KL", "length", "entropy")
    assert [cell.value for cell in found["In progress"].rows[0][-4:]] == [1.2, 0.6, 12.0, 1.5]  # type: ignore[union-attr]
    cut = with_rate("truncated", "90% of the rollouts are cut off at the longest length")
    assert found["Alarms"].rows == [("ppo a", cut)]


def test_the_terminal_view_ends_with_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    from rlhf_bench.harness.cli import watch as module

    stage = ppo_stage(PAYLOADS[0].replace("/", ""))

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    console = Console(force_terminal=True, width=120, height=40)
    monkeypatch.setattr(module, "consoles", lambda quiet: (console, console))  # noqa: ARG005
    monkeypatch.setattr(module.time, "sleep", interrupt)
    with driver(tmp_path, [stage]) as told:
        told.start(stage)
        told.end(stage, "\x1b]0;x\x07[red]no[/]")
        assert watch(tmp_path, 0, True) == 0
    said = capsys.readouterr().out
    assert "\x1b]0" not in said
    assert "\\x1b]0;x\\x07[red]no[/]" in said
    assert said.endswith("Stopped watching; what runs goes on.\n")
