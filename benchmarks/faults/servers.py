"""How the language-model judge takes servers that misbehave: one behaviour at a time, on this machine.

    python benchmarks/faults/servers.py [--only TEXT] [--json FILE]

Each behaviour is a server on 127.0.0.1 and what must come of two cases judged by it: both decided rightly, both
undecided with a reason, or the command refused in one line.  In all of them the key must show nowhere, no question may
be sent more often than the retries allow, and the end must come in time.  Prints a table of what was tried, clean and
failed; exit code 0 when nothing failed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from common import outcome, save
from fault_server import CANARY, case, run, serving
from server_answers import DECIDED, Behaviour
from server_replies import replies
from server_requests import requests
from server_transport import transport

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.judges.llm.judge import WinRateLLM

CASES = [case(0, "good", "bad"), case(1, "bad", "good")]
RIGHT = [1.0, 0.0]
SECONDS = 8.0
"""In which a behaviour must end."""
RETRIES = 2


def catalogue() -> list[Behaviour]:
    """All behaviours."""
    return [*transport(), *replies(), *requests()]


def tried(behaviour: Behaviour, folder: Path) -> tuple[str, list[str], float]:
    """(what came of a behaviour, what is wrong with it, seconds); `folder` is empty and gets the cache."""
    said, shown, began = io.StringIO(), "", time.monotonic()
    with serving(behaviour.answer) as server, contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        given = {"backoff": 0.01, "timeout": 5.0, "max_retries": RETRIES, "cache": str(folder / "c.sqlite")}
        url = server.url.removesuffix("/v1") + behaviour.path
        judge = WinRateLLM(**{"model": "judge", "base_url": url, **given, **behaviour.settings})
        try:
            found = run(judge, CASES)
        except BenchError as refused:
            came, shown = f"refused: {refused}", repr(refused)
        else:
            values = [one.values["win_rate"] for one in found]
            reasons = sorted({one.reason for one in found})
            undecided = "undecided: " + "; ".join(reasons) if values == [None, None] else f"scored {values}"
            came = DECIDED if values == RIGHT else undecided
            shown = repr(found) + json.dumps(judge.account)
        most = max(server.seen.values(), default=0)
    seconds = time.monotonic() - began
    kind, _, pattern = behaviour.expected.partition(": ")
    wrong = []
    if not came.startswith(kind) or not re.search(pattern, came) or not came.isprintable():
        wrong.append(f"{came} instead of {behaviour.expected}")
    stored = "".join(path.read_bytes().decode("utf-8", "replace") for path in folder.iterdir())
    if CANARY in "".join((came, shown, said.getvalue(), stored)):
        wrong.append("the key shows")
    # a redirect within the origin is a request of its own; the HTTP library follows at most 20
    if most > (1 + RETRIES) * (21 if behaviour.group == "redirect" else 1):
        wrong.append(f"a question was sent {most} times")
    if seconds > SECONDS:
        wrong.append(f"it took {seconds:.1f} s")
    return came, wrong, seconds


def alone(behaviour: Behaviour) -> tuple[str, list[str], float]:
    """`tried` with a folder of its own, and the key in the environment."""
    before = {name: os.environ.pop(name, None) for name in ("OPENAI_API_KEY", "HTTP_PROXY", "http_proxy", "ALL_PROXY")}
    os.environ["OPENAI_API_KEY"] = CANARY
    try:
        with tempfile.TemporaryDirectory() as name:
            return tried(behaviour, Path(name))
    finally:
        del os.environ["OPENAI_API_KEY"]
        os.environ.update({name: value for name, value in before.items() if value is not None})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="behaviours whose group or name holds this text")
    parser.add_argument("--json", type=Path, help="a file for the results")
    options = parser.parse_args()
    rows, counts = [], {"tried": Counter[str](), "failed": Counter[str]()}
    for one in catalogue():
        if options.only not in f"{one.group}: {one.name}":
            continue
        came, wrong, seconds = alone(one)
        counts["tried"][one.group] += 1
        counts["failed"][one.group] += bool(wrong)
        rows.append(
            {
                "group": one.group,
                "name": one.name,
                "expected": one.expected,
                "came": came,
                "wrong": wrong,
                "seconds": round(seconds, 2),
            }
        )
        for fault in wrong:
            print(f"{one.group}: {one.name}: {fault} ({seconds:.1f} s)", file=sys.stderr, flush=True)
    print("| servers | tried | clean | failed |\n|---|---|---|---|")
    for group, number in counts["tried"].items():
        print(f"| {group} | {number} | {number - counts['failed'][group]} | {counts['failed'][group]} |")
    number, failed = counts["tried"].total(), counts["failed"].total()
    print(f"| all | {number} | {number - failed} | {failed} |")
    kinds = {group: {name: counts[name][group] for name in ("tried", "failed")} for group in counts["tried"]}
    save(options.json, outcome("servers", kinds, behaviours=rows))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
