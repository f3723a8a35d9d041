"""winrate-llm with servers that may be strangers': time, bytes, redirects, the key, and counts are bounded."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fault_server import CANARY, CASES, Asked, FaultServer, Reply, completion, goods, prefer, run, serving, verdict

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.judges.llm.scrub import SHOWN, scrub

ONE = CASES[:1]


def judging(reply: Reply) -> Any:
    """A server that answers its probe, and every question with `reply`."""
    return lambda asked: reply if asked.judging else completion("yes")


# -- time and bytes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        Reply(verdict("A").body, drip=0.05),
        Reply(verdict("A").body, drip=0.05, status=500),
        Reply(verdict("A").body, drip=0.05, slow_head=True),
    ],
    ids=["body", "error", "headers"],
)
def test_a_request_ends_at_its_deadline_however_slowly_bytes_come(server: FaultServer, make: Any, reply: Reply) -> None:
    server.answer = judging(reply)
    began = time.monotonic()
    (found,) = run(make(timeout=0.4, max_retries=1, concurrency=2), ONE)
    assert time.monotonic() - began < 9  # the body would take 15 s, the headers 50
    assert found.reason == "no answer within 0.4 s"
    assert server.judged == 4


BOMB = b'{"choices": "' + b" " * 100_000_000 + b'"}'


@pytest.mark.parametrize("status", [200, 400, 500])
@pytest.mark.parametrize("encoding", ["", "gzip", "deflate"])
def test_a_body_beyond_the_limit_is_not_read(server: FaultServer, make: Any, encoding: str, status: int) -> None:
    packed = {"": BOMB[:20_000_000], "gzip": gzip.compress(BOMB, 1), "deflate": zlib.compress(BOMB, 1)}[encoding]
    headers = {"Content-Encoding": encoding} if encoding else {}
    server.answer = judging(Reply(data=packed, headers=headers, status=status))
    (found,) = run(make(), ONE)
    assert found.reason == "the response is larger than 8 MiB"
    assert server.judged == 2  # a second try would be as large


@pytest.mark.parametrize(
    ("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("identity", bytes)]
)
def test_packed_verdicts_are_read(server: FaultServer, make: Any, encoding: str, pack: Any) -> None:
    sound = prefer(goods)

    def answer(asked: Asked) -> Reply:
        return Reply(data=pack(sound(asked).body.encode()), headers={"Content-Encoding": encoding})

    server.answer = answer
    assert [v.values["win_rate"] for v in run(make(), CASES)] == [1.0, 0.0, 0.5, 1.0]
    assert {asked.headers["accept-encoding"] for asked in server.all} == {"gzip, deflate"}


def zipped(data: bytes) -> bytes:
    """Without the time of day, which would be in the test's name: two workers must find the same tests."""
    return gzip.compress(data, mtime=0)


@pytest.mark.parametrize(
    ("encoding", "data", "reason"),
    [
        ("br", b"\x00", "the response is packed in a way that was not asked for"),
        ("gzip, gzip", zipped(zipped(b"{}")), "the response is packed in a way that was not asked for"),
        ("gzip", b"not gzip", "the response is packed wrongly"),
        ("gzip", zipped(b"{}" * 99)[:-12], "the response is packed wrongly"),
    ],
)
def test_other_packing_is_a_reason(server: FaultServer, make: Any, encoding: str, data: bytes, reason: str) -> None:
    server.answer = judging(Reply(data=data, headers={"Content-Encoding": encoding}))
    assert run(make(), ONE)[0].reason == reason


# -- redirects --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_origin_is_refused(server: FaultServer, make: Any, status: int) -> None:
    with serving(prefer(goods)) as other:
        server.answer = judging(Reply("", status, {"Location": f"{other.url}/chat/completions"}))
        with pytest.raises(BenchError, match="redirects to http://127") as caught:
            run(make(), CASES)
        assert other.all == []
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("location", ["http://", "//[", "ftp://x/y", "http://user@\x7f/", "\\\\host\\x"])
def test_a_redirect_to_nowhere_is_one_line(server: FaultServer, make: Any, location: str) -> None:
    server.answer = judging(Reply("", 307, {"Location": location}))
    try:
        said = run(make(max_retries=0), ONE)[0].reason
    except BenchError as error:
        said = str(error)
    assert said.isprintable()
    assert said


def test_a_redirect_within_the_origin_is_followed(server: FaultServer, make: Any) -> None:
    sound, moved = prefer(goods), Reply("", 307, {"Location": "/v2/chat/completions"})
    server.answer = lambda asked: sound(asked) if asked.before or not asked.judging else moved
    assert [v.values["win_rate"] for v in run(make(), CASES)] == [1.0, 0.0, 0.5, 1.0]


# -- the key ----------------------------------------------------------------------------------------------------------

ESCAPED = "".join(f"\\u{ord(c):04x}" for c in CANARY)
FORMS = {
    "plain": CANARY,
    "JSON": ESCAPED,
    "JSON in JSON": ESCAPED.replace("\\", "\\\\"),
    "URL": "".join(f"%{ord(c):02X}" for c in CANARY),
    "URL twice": quote("".join(f"%{ord(c):02X}" for c in CANARY)),
    "HTML": "".join(f"&#{ord(c)};" for c in CANARY),
    "half": CANARY[:5] + ESCAPED[30:],
}


def within(form: str) -> list[str]:
    """Bodies that hold the key in every field."""
    told = json.loads(verdict("A").body)
    fields = [
        {**told, "model": "KEY"},
        {**told, "id": "KEY", "KEY": ["KEY"], "usage": {"KEY": "KEY"}},
        {**told, "choices": [{"message": {"content": '{"reason": "KEY", "verdict": "A"}'}, "finish_reason": "stop"}]},
        {"error": {"message": "KEY", "code": "KEY", "type": "KEY"}},
    ]
    return [*(json.dumps(one).replace("KEY", form) for one in fields), f"<html>{form}</html>", f'"{form}"']


def forms_of(text: str) -> bool:
    return any(form in text for form in FORMS.values())


@pytest.mark.parametrize("form", FORMS)
def test_the_key_is_stored_and_shown_in_no_form(
    server: FaultServer, make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, capfd: Any
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    shown = []
    for probed in (False, True):
        for body in within(FORMS[form]):
            for status in (200, 400, 402, 404, 429, 500):
                reply = Reply(body, status)
                server.answer = (lambda r: lambda _: r)(reply) if probed else judging(reply)
                judge = make(max_retries=0, concurrency=1)
                try:
                    shown += [str(run(judge, ONE)), str(judge.account), str(judge.measures)]
                except BenchError as error:
                    shown += [str(error), repr(error)]
    text = "\n".join([*shown, *capfd.readouterr()])
    assert not forms_of(text)
    assert not forms_of((tmp_path / "judge.sqlite").read_bytes().decode("utf-8", "replace"))


def test_a_quota_code_that_holds_the_key(server: FaultServer, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    server.answer = judging(Reply(json.dumps({"error": {"code": f"quota {CANARY}\n\x1b[31m"}}), 402))
    with pytest.raises(BenchError, match="no quota left") as caught:
        run(make(), ONE)
    assert CANARY not in str(caught.value)
    assert str(caught.value).isprintable()


def test_scrubbing_leaves_other_texts_as_they_are() -> None:
    body = verdict("A", reason="a \\ % &amp; \u00e9").body
    assert scrub(body, CANARY) == body
    assert scrub("EMPTY", "EMPTY") == "EMPTY"  # a placeholder is no secret
    assert scrub(f"x {CANARY}", CANARY) == f"x {SHOWN}"
    assert json.loads(scrub(json.dumps({"a": "b", "c": 1}).replace("b", ESCAPED), CANARY)) == {"a": SHOWN, "c": 1}


# -- counts and names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [10**7, 10**30, -5, 1.5, True, "12", None])
def test_usage_beyond_sense_is_no_usage(server: FaultServer, make: Any, count: Any) -> None:
    usage: Any = {"prompt_tokens": count, "completion_tokens": count}
    server.answer = judging(completion('{"verdict": "tie"}', usage=usage))
    judge = make(token_budget=100_000)
    (found,) = run(judge, ONE)
    assert found.notes["tokens"] is None
    assert judge.account["uncounted"] == 2
    assert judge.account["tokens_in"] + judge.account["tokens_out"] < 10_000


def test_reasoning_beyond_the_limit_is_counted(server: FaultServer, make: Any) -> None:
    server.answer = judging(completion('{"verdict": "tie"}', usage={"prompt_tokens": 900, "completion_tokens": 4000}))
    judge = make()
    assert run(judge, ONE)[0].notes["tokens"] == 2 * 4900


@pytest.mark.parametrize("name", ["x" * 100_000, "a\x1b[31m", "a\nb", ""])
def test_what_is_no_name_of_a_model_is_not_taken_for_one(server: FaultServer, make: Any, name: str) -> None:
    server.answer = lambda asked: verdict("tie", model=name) if asked.judging else completion("yes", model=name)
    judge = make()
    run(judge, ONE)
    assert judge.account["resolved_model"] == "judge"


# -- Ctrl-C -----------------------------------------------------------------------------------------------------------

SCRIPT = """
import sys
sys.path.insert(0, sys.argv[3])
from fault_server import CASES, WinRateLLM, run
run(WinRateLLM(model="judge", base_url=sys.argv[1], cache=sys.argv[2], timeout=60.0), CASES)
"""


@pytest.mark.parametrize("probing", [True, False])
@pytest.mark.parametrize("reply", [Reply("", delay=20), Reply("x" * 999, drip=0.1), Reply("", 503)], ids=str)
def test_an_interrupt_does_not_wait_for_the_server(
    server: FaultServer, tmp_path: Path, probing: bool, reply: Reply
) -> None:
    server.answer = lambda asked: reply if asked.judging or probing else completion("yes")
    command = [sys.executable, "-c", SCRIPT, server.url, str(tmp_path / "c.sqlite"), str(Path(__file__).parents[1])]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (server.all if probing else server.judged) and process.poll() is None:
        time.sleep(0.01)
    time.sleep(0.2)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert time.monotonic() - began < 4
    assert "KeyboardInterrupt" in error
