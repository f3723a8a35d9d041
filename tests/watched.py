"""A results folder in the middle of training, written by hand, and a server of `bench watch` with a client.

Of training there are journals of drivers and rows of policy optimisation.
"""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_bench.harness.cli.watch_server import WatchServer
from rlhf_bench.harness.pipeline.journal import Journal, journal
from rlhf_bench.harness.pipeline.machine import Machine
from rlhf_bench.harness.pipeline.stage import Stage
from rlhf_bench.harness.results.watched import Watcher

KEY = "0" * 12
ORIGIN = {"kind": "generated", "description": "A task.", "sha256": "0", "license": "none"}


def ppo_stage(label: str, number: int = 0) -> Stage:
    return Stage("ppo", label, "stored:make", {"of": label, "number": number}, cost=10.0, family="f")


def row(iteration: int, **more: Any) -> dict[str, Any]:
    """A row of steps.jsonl."""
    return {
        "iteration": iteration, "reward": iteration / 10, "kl": iteration / 20, "tokens": 12.0, "clip_share": 0.1,
        "entropy_estimate": 1.5, "empty_share": 0.0, "truncated_share": 0.0, "explained_variance": 0.5, **more,
    }  # fmt: skip


def write_steps(root: Path, stage: Stage, rows: Sequence[object]) -> Path:
    """The rows of a stage that runs."""
    kind, _, key = stage.place
    path = root / ".partial" / f"{kind}-{key}" / "scratch" / "steps.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in rows))
    return path


@contextmanager
def driver(root: Path, stages: Sequence[Stage], jobs: int = 1) -> Iterator[Journal]:
    """A driver of this process, alive within the block, that plans `stages`."""
    (root / ".partial").mkdir(parents=True, exist_ok=True)
    with journal(root, stages, Machine(jobs)) as rows:
        yield rows


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

    def end(self) -> None:
        """Stop the server."""
        self.server.shutdown()
        self.server.server_close()
