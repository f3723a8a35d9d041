"""A local chat-completions server that answers as a test tells it to, faults included, and counts what it was asked.

With it the cases, the tasks and the making of judges that the tests of language-model judges share.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from rlhf_bench.harness.nouns import Case, Example, Generation, Verdict
from rlhf_bench.judges.llm.judge import WinRateLLM


class Asked(NamedTuple):
    """One request: its body, the material it holds, how often these messages came before, its headers and its path."""

    body: dict[str, Any]
    material: dict[str, str]
    before: int
    headers: dict[str, str]
    path: str = ""

    @property
    def judging(self) -> bool:
        """Not a probe."""
        return "answer-A" in self.material


@dataclass
class Reply:
    """What the server sends: after `delay` seconds, a status, headers, and a body.

    `data` replaces the body by bytes.  `drip` seconds pass before each byte of the body, or with `slow_head` of all.
    `raw` replaces the whole response, HTTP included; nothing follows it.
    """

    body: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    data: bytes | None = None
    drip: float = 0.0
    slow_head: bool = False
    raw: bytes | None = None


def completion(
    content: str | None,
    finish: str = "stop",
    refusal: str | None = None,
    usage: dict[str, int] | None = None,
    model: str = "judge-1",
    **more: Any,
) -> Reply:
    """A well-formed chat completion."""
    message = {"role": "assistant", "content": content, "refusal": refusal}
    answer: dict[str, Any] = {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": finish, **more}],
    }
    if usage is not None:
        answer["usage"] = usage
    return Reply(json.dumps(answer))


USAGE = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}


def verdict(choice: str, reason: str = "because", **more: Any) -> Reply:
    return completion(json.dumps({"reason": reason, "verdict": choice}), usage=USAGE, **more)


def prefer(score: Callable[[str], float]) -> Callable[[Asked], Reply]:
    """A judge without faults that knows a score; a probe gets a plain yes."""

    def answer(asked: Asked) -> Reply:
        if not asked.judging:
            return completion("yes")
        margin = score(asked.material["answer-A"]) - score(asked.material["answer-B"])
        return verdict("A" if margin > 0 else "B" if margin < 0 else "tie")

    return answer


class FaultServer:
    """`answer` may be replaced at any time; `seen` counts judging requests by their messages."""

    def __init__(self, answer: Callable[[Asked], Reply]) -> None:
        self.answer, self.seen, self.all = answer, Counter[str](), list[Asked]()
        self.lock = threading.Lock()
        self.http = _Server(("127.0.0.1", 0), _handler(self))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    @property
    def judged(self) -> int:
        """How many judging requests came."""
        return sum(self.seen.values())

    def note(self, body: dict[str, Any], headers: dict[str, str], path: str) -> Asked:
        found = material(body["messages"][-1]["content"])
        asked_for = json.dumps(body["messages"])
        with self.lock:
            asked = Asked(body, found, self.seen[asked_for], headers, path)
            self.all.append(asked)
            if asked.judging:
                self.seen[asked_for] += 1
        return asked


def material(text: str) -> dict[str, str]:
    """The prompt and the two answers of a judging request, found by the tags and their code."""
    found = re.findall(r"<(prompt|answer-A|answer-B)-([0-9a-f]{16})>\n(.*?)\n</\1-\2>", text, re.DOTALL)
    return {tag: inside for tag, _, inside in found}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that time out hang up."""


def _handler(owner: FaultServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:  # the name that http.server wants
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            headers = {name.lower(): value for name, value in self.headers.items()}
            reply = owner.answer(owner.note(body, headers, self.path))
            time.sleep(reply.delay)
            if reply.raw is not None:
                self.wfile.write(reply.raw)
                self.close_connection = True
                return
            data = reply.body.encode("utf-8", "surrogatepass") if reply.data is None else reply.data
            if reply.slow_head:
                self.drip(b"HTTP/1.1 200 OK\r\nX-Slow: " + b"y" * 1000, reply.drip)
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(len(data)), "Connection": "close", **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.drip(data, reply.drip)
            self.close_connection = True

        def drip(self, data: bytes, seconds: float) -> None:
            """Send the bytes, at once or one by one."""
            if not seconds:
                self.wfile.write(data)
                return
            for at in range(len(data)):
                time.sleep(seconds)
                self.wfile.write(data[at : at + 1])
                self.wfile.flush()

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


@contextmanager
def serving(answer: Callable[[Asked], Reply]) -> Iterator[FaultServer]:
    server = FaultServer(answer)
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()


# -- what is judged ----------------------------------------------------------------------------------------------------


def goods(text: str) -> float:
    """The fake judge's taste: how often a text says good."""
    return text.count("good")


def case(number: int, after: str, before: str) -> Case:
    example = Example(f"e{number}", f"Question {number}?")
    one = Generation(example.id, 4, "sample", example.prompt, after, 3, True)
    return Case(example, one, replace(one, iteration=0, response=before))


def failing(reply: Reply) -> Callable[[Asked], Reply]:
    """A judge that fails at one of the questions about the second case."""
    sound = prefer(goods)

    def answer(asked: Asked) -> Reply:
        hit = asked.material.get("prompt") == "Question 1?" and not goods(asked.material["answer-A"])
        return reply if hit else sound(asked)

    return answer


CANARY = "sk-canary-7f3a91"


class Plain:
    """A task without a rubric."""

    max_response_tokens = 8

    def examples(self, split: str) -> list[Example]:  # noqa: ARG002
        return []

    def pairs(self, split: str) -> list[Any]:  # noqa: ARG002
        return []


class Safety(Plain):
    rubric = "safety"


def healthy(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    """A running server without faults, in an environment without a key: the body of the fixture `server`."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "RLHF_BENCH_CACHE", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving(prefer(goods)) as running:
        yield running


def maker(server: FaultServer, folder: Path) -> Callable[..., WinRateLLM]:
    """Makes judges that ask the server, with a cache in the folder: the body of the fixture `make`."""

    def judge(**settings: Any) -> WinRateLLM:
        given = {"backoff": 0.01, "timeout": 5.0, "max_retries": 2, "cache": str(folder / "judge.sqlite")}
        return WinRateLLM(**{"model": "judge", "base_url": server.url, **given, **settings})

    return judge


def run(judge: WinRateLLM, cases: list[Case], task: Any = None) -> list[Verdict]:
    return list(judge.measure(cases, task or Plain()))


CASES = [case(0, "good", "bad"), case(1, "bad", "good"), case(2, "fine", "okay"), case(3, "good good", "good")]
