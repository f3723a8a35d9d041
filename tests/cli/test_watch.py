"""`bench watch`: whom its server answers, what it says of running, damaged and finished folders, and how it ends."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from payloads import PAYLOADS
from small import bench, popen
from stored import NAMES, Stored, make
from watched import driver, ppo_stage, row, write_steps

from rlhf_bench.harness import store
from rlhf_bench.harness.cli.watch import tables, watch
from rlhf_bench.harness.cli.watch_server import MOST_OPEN, WatchServer
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.results import status, training
from rlhf_bench.harness.results.watched import Watcher
from rlhf_bench.reports.html import digest


class Answer(NamedTuple):
    code: int
    headers: dict[str, str]
    text: str

    @property
    def data(self) -> Any:
        return json.loads(self.text)


class Served:
    """A server of a folder, and what a client of this machine gets of it."""

    def __init__(self, root: Path) -> None:
        self.server = WatchServer(Watcher(root))
        self.host = self.server.hosts[0]
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def ask(self, path: str = "", method: str = "GET", whole: str = "", **headers: str) -> Answer:
        """The answer to a path below the token, or to a whole request target; `Host` is right unless it is given."""
        connection = http.client.HTTPConnection(*self.server.server_address[:2], timeout=20)  # type: ignore[arg-type]
        connection.putrequest(method, whole or f"/{self.server.token}/{path}", skip_host=True)
        for name, value in {"Host": self.host, **headers}.items():
            if value:
                connection.putheader(name, value)
        connection.endheaders()
        found = connection.getresponse()
        answer = Answer(found.status, dict(found.getheaders()), found.read().decode())
        connection.close()
        return answer

    def status(self) -> Any:
        self.server._until = 0.0  # afresh
        return self.ask("status.json").data

    def curves(self, cell: Any) -> Any:
        return self.ask(f"curves.json?cell={cell['id']}").data


@pytest.fixture
def serve() -> Iterator[Any]:
    made: list[Served] = []

    def serve(root: Path) -> Served:
        made.append(Served(root))
        return made[-1]

    yield serve
    for one in made:
        one.server.shutdown()
        one.server.server_close()


def content(root: Path) -> dict[str, tuple[int, bytes]]:
    files = (path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(root)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


# -- who is answered ---------------------------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path: Path, serve: Any) -> Served:
    make(tmp_path, Stored(NAMES[:1], (1,)))
    found: Served = serve(tmp_path)
    return found


PATHS = ("", "status.json", "curves.json?cell=0")


def test_it_listens_on_this_machine_alone(served: Served) -> None:
    assert served.server.server_address[0] == "127.0.0.1"
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{32}/", served.server.address)
    other = WatchServer(served.server.watcher)
    assert other.token != served.server.token
    other.server_close()


@pytest.mark.parametrize("path", PATHS)
def test_another_name_of_this_address_is_refused(served: Served, path: str) -> None:
    """DNS rebinding: a page of attacker.example lets its name point to 127.0.0.1 and asks its own origin."""
    port = served.server.server_port
    for host in ("attacker.example", f"attacker.example:{port}", "127.0.0.1", f"127.0.0.1:{port}0",
                 f"127.0.0.1:{port}.x", f"[::1]:{port}", f"localhost.:{port}", f"127.0.0.1:{port}@x.y",
                 ""):  # fmt: skip
        answer = served.ask(path, Host=host)
        assert (answer.code, answer.text) == (403, "Forbidden\n"), host
    assert served.ask("", Host=f"localhost:{port}").code == 200


def test_two_hosts_are_refused(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.server.server_port)) as connection:
        path = f"/{served.server.token}/"
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {served.host}\r\nHost: x\r\n\r\n".encode())
        assert connection.makefile().readline().split()[1] == "403"


@pytest.mark.parametrize("path", PATHS)
def test_another_origin_is_refused(served: Served, path: str) -> None:
    port = served.server.server_port
    for origin in ("https://attacker.example", "null", f"http://127.0.0.1:{port + 1}", f"https://127.0.0.1:{port}"):
        assert served.ask(path, Origin=origin).code == 403, origin
    assert served.ask("status.json", Origin=f"http://127.0.0.1:{port}").code == 200


def test_without_the_token_there_is_nothing(served: Served) -> None:
    token = served.server.token
    wrong = token[:-1] + ("a" if token[-1] == "b" else "b")
    for target in ("/", "//", f"/{token}", f"/{token[:-1]}/", f"/{token}x/", f"/{wrong}/", f"/{token.swapcase()}/",
                   "/status.json", "//status.json", f"/x/{token}/status.json", "/\xe9/status.json", "/%00/", "*",
                   f"http://{served.host}/{token}/status.json", f"?{token}/"):  # fmt: skip
        with socket.create_connection(("127.0.0.1", served.server.server_port)) as connection:
            connection.sendall(f"GET {target} HTTP/1.1\r\nHost: {served.host}\r\n\r\n".encode("latin-1"))
            said = connection.makefile(encoding="latin-1").read()
        assert said.split()[1] == "404", target
        assert said.endswith("\n\nNot Found\n")
    assert served.ask().code == 200


def test_no_path_names_a_file(served: Served, tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text('{"a": 1}')
    token = served.server.token
    for path in ("secret.json", "../secret.json", "%2e%2e/secret.json", "cells", "cells/", "./status.json", "..",
                 "....//secret.json", "curves.json", "curves.json?cell=", "curves.json?cell=../../secret",
                 "curves.json?cell=dialogsum-scalar-s1", "status.json/", "status.json%00", f"{token}/status.json",
                 "curves.json?" + "&".join(f"cell={k}" for k in range(9)),
                 "curves.json?cell=" + "0" * 60_000):  # fmt: skip
        answer = served.ask(path)
        assert (answer.code, answer.text) == (404, "Not Found\n"), path


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "CONNECT", "<b>"])
def test_there_is_nothing_but_get(served: Served, method: str) -> None:
    answer = served.ask("status.json", method=method)
    assert answer.code == 405
    assert answer.headers["Allow"] == "GET"
    assert answer.text in ("", "Method Not Allowed\n")


def test_no_refusal_is_html_or_repeats_what_was_asked(served: Served) -> None:
    for said in (
        b"<script>x</script>\r\n\r\n",
        b"GET /<script> HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a" * 70_000,
        b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"A: b\r\n" * 200 + b"\r\n",
    ):
        with socket.create_connection(("127.0.0.1", served.server.server_port)) as connection:
            connection.sendall(said)
            connection.shutdown(socket.SHUT_WR)
            try:
                answer = connection.makefile(encoding="latin-1").read()
            except ConnectionResetError:  # closed with some of it unread
                continue
        assert "script" not in answer
        assert "<" not in answer


def test_every_answer_forbids_what_a_page_does_not_need(served: Served) -> None:
    for answer in (
        served.ask(),
        served.ask("status.json"),
        served.ask("x"),
        served.ask(Host="x"),
        served.ask(method="PUT"),
    ):
        headers = answer.headers
        assert headers["Content-Security-Policy"].startswith("default-src 'none'; ")
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cache-Control"] == "no-store"
        assert not any(name.lower().startswith("access-control") for name in headers)
        assert "python" not in str(headers).lower()


def test_the_page_runs_its_one_script_alone(served: Served) -> None:
    answer = served.ask()
    policy = answer.headers["Content-Security-Policy"]
    (script,) = re.findall(r"<script>(.*?)</script>", answer.text, re.DOTALL)
    (style,) = re.findall(r"<style>(.*?)</style>", answer.text, re.DOTALL)
    assert f"script-src '{digest(script)}';" in policy
    assert f"style-src '{digest(style)}';" in policy
    assert "connect-src 'self'" in policy
    assert "unsafe" not in policy
    for word in ("innerHTML", "insertAdjacentHTML", "outerHTML", "document.write", "eval(", "Function("):
        assert word not in script


def test_too_many_connections_are_closed(served: Served) -> None:
    address = ("127.0.0.1", served.server.server_port)
    held = [socket.create_connection(address) for _ in range(MOST_OPEN)]
    try:
        extra = socket.create_connection(address)
        extra.settimeout(20)
        assert extra.recv(1) == b""
        extra.close()
    finally:
        for one in held:
            one.close()
    for _ in range(100):
        try:
            assert served.ask().code == 200
            return
        except (ConnectionError, http.client.HTTPException):  # their threads end one by one
            continue
    pytest.fail("the server answers nobody any more")


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_a_finished_folder(served: Served, tmp_path: Path) -> None:
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
        assert b["alarms"] == ["90% of the rollouts are cut off at the longest length"]
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
    assert found["Alarms"].rows == [("ppo a", "90% of the rollouts are cut off at the longest length")]


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
