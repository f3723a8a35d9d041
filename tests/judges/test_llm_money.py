"""winrate-llm's cache, budgets, probe and key: no response is requested twice, no secret is stored."""

from __future__ import annotations

import json
import logging
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fault_server import (
    CANARY,
    CASES,
    Asked,
    FaultServer,
    Reply,
    case,
    completion,
    goods,
    prefer,
    run,
    verdict,
)

from rlhf_bench.harness.errors import BenchError


def test_what_was_answered_needs_no_server(make: Any, server: FaultServer) -> None:
    first = run(make(), CASES)
    asked = len(server.all)
    again = run(make(max_retries=0, concurrency=1, timeout=1.0), CASES[::-1])[::-1]
    assert first == again
    assert len(server.all) == asked


def test_every_parameter_is_in_the_key(make: Any, server: FaultServer, tmp_path: Path) -> None:
    run(make(), CASES)
    changes: list[dict[str, Any]] = [
        {"temperature": 0.5},
        {"max_tokens": 99},
        {"rubric": "summary"},
        {"model": "other"},
    ]
    for changed in changes:
        before = server.judged
        run(make(**changed), CASES)
        assert server.judged == before + (0 if changed == {"model": "other"} else 8)  # both names resolve to judge-1
    server.answer = lambda asked: verdict("A", model="judge-2") if asked.judging else completion("yes", model="judge-2")
    before = server.judged
    (tmp_path / "new").mkdir()
    run(make(), [*CASES, case(9, "x", "y")])  # the alias moved: what judge-1 said is not what judge-2 says
    assert server.judged == before + 10


def test_raw_responses_are_parsed_again_on_reading(make: Any, server: FaultServer, tmp_path: Path) -> None:
    run(make(), CASES)
    with sqlite3.connect(tmp_path / "judge.sqlite") as base:
        base.execute("UPDATE answers SET response = REPLACE(response, 'verdict', 'virdect')")
    base.close()
    before = server.judged
    assert [v.values["win_rate"] for v in run(make(), CASES)] == [1.0, 0.0, 0.5, 1.0]
    assert server.judged == before + 8


def test_a_damaged_or_foreign_cache_is_one_line(make: Any, tmp_path: Path) -> None:
    (tmp_path / "a.sqlite").write_bytes(b"no database" * 1000)
    with sqlite3.connect(tmp_path / "b.sqlite") as base:
        base.execute("CREATE TABLE mine (x)")
    base.close()
    (tmp_path / "file").touch()
    for path in ("a.sqlite", "b.sqlite", "file/c.sqlite", "."):
        with pytest.raises(BenchError, match="cache") as caught:
            run(make(cache=str(tmp_path / path)), CASES)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("limit", [{"token_budget": 5000}, {"max_cost": 0.005, "price_in": 1.0, "price_out": 1.0}])
def test_a_budget_stops_hard_and_the_rest_is_asked_next_time(
    server: FaultServer, make: Any, tmp_path: Path, limit: dict[str, Any]
) -> None:
    cases = [case(i, "good", "bad") for i in range(40)]
    judge = make(**limit)
    found = run(judge, cases)
    used = 110 * server.judged
    assert 0 < used <= 5000
    assert {v.reason for v in found if v.values["win_rate"] is None} == {"budget"}
    assert judge.account["tokens_in"] + judge.account["tokens_out"] == used
    assert used > 5000 - 1200  # what was set aside and not used is spent before the budget is called empty
    run(make(**limit), cases)
    assert 110 * server.judged <= 5000  # one command, one budget, however many cells it judges
    assert None not in {v.values["win_rate"] for v in run(make(), cases)}
    assert server.judged == 80
    assert max(server.seen.values()) == 1
    assert (tmp_path / "judge.sqlite").exists()


@pytest.mark.parametrize("concurrency", [1, 8])
def test_a_budget_holds_where_every_byte_is_a_token(server: FaultServer, make: Any, concurrency: int) -> None:
    spent = []

    def answer(asked: Asked) -> Reply:
        if not asked.judging:
            return completion("yes")
        tokens = sum(len(m["content"].encode()) for m in asked.body["messages"])
        spent.append(tokens + 400)
        return completion('{"verdict": "tie"}', usage={"prompt_tokens": tokens, "completion_tokens": 400})

    server.answer = answer
    found = run(make(token_budget=30_000, concurrency=concurrency), [case(i, "好" * 200, "bad") for i in range(20)])
    assert 20_000 < sum(spent) <= 30_000
    assert "budget" in {v.reason for v in found}


def test_missing_usage_counts_at_its_estimate(server: FaultServer, make: Any) -> None:
    server.answer = lambda asked: completion('{"verdict": "tie"}') if asked.judging else completion("yes")
    judge = make(token_budget=4000, concurrency=1)
    found = run(judge, [case(i, "good", "bad") for i in range(10)])
    assert judge.account["uncounted"] == server.judged > 0
    assert judge.account["tokens_in"] + judge.account["tokens_out"] <= 4000
    assert "budget" in {v.reason for v in found}
    assert found[0].notes["tokens"] is None


def test_the_estimate_comes_first_and_bounds_what_is_spent(make: Any, capsys: pytest.CaptureFixture[str]) -> None:
    judge = make(price_in=1.0, price_out=2.0)
    run(judge, CASES)
    before, after = capsys.readouterr().err.splitlines()
    assert "0 questions answered before, 8 to ask" in before
    assert "$" in before
    assert "8 answers, 800 tokens in and 80 out, $0.00; unusable: none" in after
    assert judge.account["cost"] == pytest.approx((800 * 1 + 80 * 2) / 1e6)


def test_the_probe_asks_once_what_is_honoured(server: FaultServer, make: Any) -> None:
    def answer(asked: Asked) -> Reply:
        if "logprobs" in asked.body:
            return Reply("{}", 400)
        return (
            completion('{"hello": 1}' if "response_format" in asked.body else "yes")
            if not asked.judging
            else verdict("A")
        )

    server.answer = answer
    judge = make()
    run(judge, CASES[:1])
    honours = {"response_format": "honoured", "json_schema": "ignored", "logprobs": "refused (HTTP 400)"}
    assert judge.account["honours"] == honours
    assert judge.account["resolved_model"] == "judge-1"
    sent = [set(a.body) for a in server.all if a.judging]
    assert sent == [{"model", "messages", "temperature", "max_tokens", "response_format"}] * 2
    assert len(server.all) == 6
    run(make(response_format="off"), CASES[1:2])
    sent = [set(a.body) for a in server.all if a.judging]
    assert sent[2:] == [{"model", "messages", "temperature", "max_tokens"}] * 2
    assert sum(not a.judging and ("logprobs" in a.body or "response_format" in a.body) for a in server.all) == 3


@pytest.mark.parametrize(("refuses", "manner"), [("max_tokens", "max_completion_tokens"), ("system", "folded")])
def test_a_server_is_asked_the_way_it_wants(server: FaultServer, make: Any, refuses: str, manner: str) -> None:
    sound = prefer(goods)

    def answer(asked: Asked) -> Reply:
        refused = refuses in asked.body or any(m["role"] == refuses for m in asked.body["messages"])
        return Reply('{"error": {"message": "unsupported"}}', 400) if refused else sound(asked)

    server.answer = answer
    assert [v.values["win_rate"] for v in run(make(), CASES)] == [1.0, 0.0, 0.5, 1.0]
    last = server.all[-1].body
    assert manner in last or len(last["messages"]) == 1


def test_the_key_is_sent_and_appears_nowhere_else(
    server: FaultServer, make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("MY_KEY", CANARY)
    caplog.set_level(logging.DEBUG)

    def answer(asked: Asked) -> Reply:  # a server that sends the key back wherever it can
        leak = asked.headers["authorization"]
        if asked.judging and asked.before == 0 and goods(asked.material["answer-A"]) == 2:
            return Reply(json.dumps({"error": {"message": leak}}), 400)
        return verdict("tie", leak) if asked.judging else completion(leak)

    server.answer = answer
    judge = make(key_env="MY_KEY")
    found = run(judge, CASES)
    assert server.all[0].headers["authorization"] == f"Bearer {CANARY}"
    assert None in {v.values["win_rate"] for v in found}
    shown = [repr(judge), repr(found), json.dumps(judge.account), caplog.text, *capfd.readouterr()]
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert any(b"[key]" in data for data in files)
    assert CANARY not in "".join(shown)
    assert not any(CANARY.encode() in data for data in files)


PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from fault_server import case
from rlhf_bench.judges.llm.judge import WinRateLLM
judge = WinRateLLM("judge", sys.argv[2], cache=sys.argv[3], concurrency=int(sys.argv[4]))
print([v.values["win_rate"] for v in judge.measure([case(i, "good", "bad") for i in range(10)], None)])
"""


def start(server: FaultServer, cache: Path, concurrency: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parents[1]), server.url, str(cache), str(concurrency)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("how", ["SIGINT", "SIGKILL"])
def test_a_run_that_was_killed_goes_on_without_paying_twice(server: FaultServer, tmp_path: Path, how: str) -> None:
    import signal

    sound = prefer(goods)
    server.answer = lambda asked: replace(sound(asked), delay=0.3 if asked.judging else 0)
    first = start(server, tmp_path / "c.sqlite", 2)
    while server.judged < 7 and first.poll() is None:
        time.sleep(0.01)
    first.send_signal(getattr(signal, how))
    first.communicate(timeout=60)
    assert first.returncode != 0
    assert 7 <= server.judged < 20
    second = start(server, tmp_path / "c.sqlite", 2)
    out, err = second.communicate(timeout=60)
    assert out.strip() == str([1.0] * 10), err
    assert len(server.seen) == 20
    # an interrupt waits for the open requests; a kill loses at most those
    assert server.judged - 20 <= (0 if how == "SIGINT" else 2)


def test_processes_share_one_cache(server: FaultServer, tmp_path: Path) -> None:
    running = [start(server, tmp_path / "c.sqlite", 4) for _ in range(2)]
    for process in running:
        out, err = process.communicate(timeout=60)
        assert out.strip() == str([1.0] * 10), err
    before = server.judged
    out, err = start(server, tmp_path / "c.sqlite", 1).communicate(timeout=60)
    assert out.strip() == str([1.0] * 10), err
    assert server.judged == before
