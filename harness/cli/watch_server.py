"""The server of `bench watch`: one page and its JSON, for this machine's browser alone.

It listens on 127.0.0.1.  Other programs and pages of this machine can reach that address too, so the path begins with a
random token.  A page of another site cannot read it by a name of its own that it lets point here (DNS rebinding): the
Host header must be this server's, and so must an Origin.  There is nothing but GET, no path names a file, and nothing
is written.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

from rlhf_bench.harness.errors import BenchError, one_line
from rlhf_bench.harness.results.watched import Look, Watcher
from rlhf_bench.reports import watch

LOOPBACK = "127.0.0.1"
FRESH, SHARE = 1.0, 10.0
"""Seconds for which a look at the folder is kept, at least, and how many times as long as it took."""
PATIENCE = 10.0
"""Seconds after which a connection that says nothing is closed."""
MOST_OPEN = 32
"""Connections that are answered at once; a further one is closed."""
ANY_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

JSON, TEXT, HTML = "application/json", "text/plain; charset=utf-8", "text/html; charset=utf-8"


class WatchServer(ThreadingHTTPServer):
    """Answers at `address`.  Raises OSError and OverflowError for a port that cannot be used."""

    daemon_threads = True

    def __init__(self, watcher: Watcher, port: int = 0) -> None:
        self.watcher, self.token = watcher, secrets.token_urlsafe(24)
        self._lock, self._look, self._until = threading.Lock(), Look(0.0), 0.0
        self._open = threading.BoundedSemaphore(MOST_OPEN)
        super().__init__((LOOPBACK, port), Handler)
        self.hosts = tuple(f"{name}:{self.server_port}" for name in (LOOPBACK, "localhost"))
        self.page, page_policy = watch.page(watcher.root.resolve().name or str(watcher.root))
        self.policy = f"{page_policy}; frame-ancestors 'none'"

    @property
    def address(self) -> str:
        """The page's address, with its token."""
        return f"http://{self.hosts[0]}/{self.token}/"

    def status(self) -> Any:
        """The folder now, as JSON.  Raises BenchError where it cannot be read any more."""
        with self._lock:
            return watch.status_view(self._fresh())

    def curves(self, name: str) -> Any:
        """The curves of the cell with this id, as JSON; None for an unknown one."""
        with self._lock:
            cell = next((cell for cell in self._fresh().cells if watch.cell_id(cell) == name), None)
            if cell is None:
                return None
            problems: list[str] = []
            curves = self.watcher.curves(cell, problems)
            return watch.curves_view(cell, curves, problems)

    def _fresh(self) -> Look:
        """A look at the folder that is about a second old; older where looking takes long."""
        begun = time.monotonic()
        if begun >= self._until:
            self._look = self.watcher.look()
            ended = time.monotonic()
            self._until = ended + max(FRESH, SHARE * (ended - begun))
        return self._look

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread; with too many of them open, close the connection."""
        if self._open.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """As the base class, and count the thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._open.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: the browser has closed the connection, or sent what is no request."""


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: WatchServer
    timeout = PATIENCE

    def parse_request(self) -> bool:
        """As the base class, and refuse all methods but GET."""
        if not super().parse_request():
            return False
        if self.command != "GET":
            self.send_error(HTTPStatus.METHOD_NOT_ALLOWED)
            return False
        return True

    def do_GET(self) -> None:
        """The page, or its JSON."""
        origins = {f"http://{host}" for host in self.server.hosts}
        hosts, said = self.headers.get_all("Host", []), self.headers.get_all("Origin", [])
        if len(hosts) != 1 or hosts[0] not in self.server.hosts or not set(said) <= origins:
            self.send_error(HTTPStatus.FORBIDDEN)
            return
        path, _, query = self.path.partition("?")
        parts = path.split("/")
        # of a path, not of a whole address; the path is read as Latin-1
        if len(parts) != 3 or parts[0] or not self._is_token(parts[1]):
            self.send_error(HTTPStatus.NOT_FOUND)
        elif parts[2] == "":
            self._send(HTTPStatus.OK, HTML, self.server.page, self.server.policy)
        else:
            self._send_json(parts[2], query)

    def _is_token(self, text: str) -> bool:
        return secrets.compare_digest(text.encode("utf-8", "replace"), self.server.token.encode())

    def _send_json(self, name: str, query: str) -> None:
        found = None
        try:
            asked = parse_qs(query, max_num_fields=4).get("cell", [""])[0]
        except ValueError:  # too many fields
            name = asked = ""
        try:
            if name == "status.json":
                found = self.server.status()
            elif name == "curves.json":
                found = self.server.curves(asked)
        except BenchError as error:
            shown = {"error": watch.shown(str(error))}
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, JSON, json.dumps(shown))
            return
        except Exception as error:  # a fault in code: the page says so, and not that the server has ended
            fault = {"error": watch.shown(f"The folder cannot be shown: {one_line(error)}")}
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, JSON, json.dumps(fault))
            return
        if found is None:
            self.send_error(HTTPStatus.NOT_FOUND)
        else:
            self._send(HTTPStatus.OK, JSON, json.dumps(found, allow_nan=False))

    def _send(self, status: int, kind: str, text: str, policy: str = ANY_POLICY) -> None:
        body = text.encode("utf-8", "replace")
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cache-Control": "no-store",
            **({"Allow": "GET"} if status == HTTPStatus.METHOD_NOT_ALLOWED else {}),
        }
        with suppress(OSError):  # the browser has gone
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """A refusal in plain text: the base class writes HTML that repeats what was asked."""
        self.close_connection = True
        self._send(code, TEXT, f"{HTTPStatus(code).phrase}\n")

    def version_string(self) -> str:
        """Of the Server header: which Python this is concerns nobody."""
        return "bench"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: what a client sends is no text for this terminal."""
