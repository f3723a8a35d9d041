"""Whom the server of `bench watch` answers, and what it says to the others."""

from __future__ import annotations

import http.client
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from stored import NAMES, Stored, make
from watched import Served

from rlhf_bench.harness.cli.watch_server import MOST_OPEN, WatchServer
from rlhf_bench.reports.html import digest


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    make(tmp_path, Stored(NAMES[:1], (1,)))
    found = Served(tmp_path)
    yield found
    found.end()


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
