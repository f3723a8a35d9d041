"""Servers that fail below the answer's text, for servers.py: times, bytes, statuses, redirects, connections."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable

from fault_server import CANARY, Reply, verdict
from server_answers import DECIDED, SOUND, Answer, Behaviour, Behaviours, always, error, first, judged

BOMB = b'{"choices": "' + b" " * 40_000_000 + b'"}'


def _packed(encoding: str, pack: Callable[[bytes], bytes]) -> Answer:
    return lambda asked: Reply(data=pack(SOUND(asked).body.encode()), headers={"Content-Encoding": encoding})


def transport() -> list[Behaviour]:
    """Time, bytes, status, redirect, error in 200, connection."""
    made = Behaviours()
    add = made.add
    late = {"timeout": 0.3, "max_retries": 1}
    body = verdict("A").body
    add("time", "a byte every 50 ms", judged(Reply(body, drip=0.05)), "undecided: no answer within", settings=late)
    add("time", "slow headers", judged(Reply(body, drip=0.05, slow_head=True)), "undecided: no answer", settings=late)
    add("time", "no answer", judged(Reply("", delay=1)), "undecided: no answer within", settings=late)
    add("time", "late once", first(Reply("", delay=0.6)), DECIDED, settings={"timeout": 0.4})
    add("time", "no answer to the probe", always(Reply("", delay=1)), "refused: no answer within", settings=late)

    for encoding, packed in {"": BOMB, "gzip": gzip.compress(BOMB, 1), "deflate": zlib.compress(BOMB, 1)}.items():
        headers = {"Content-Encoding": encoding} if encoding else {}
        huge = Reply(data=packed, headers=headers)
        add("bytes", f"40 MB {encoding or 'plain'}", judged(huge), "undecided: larger than 8 MiB")
    add("bytes", "a huge error", judged(Reply(data=BOMB, status=400)), "undecided: larger than 8 MiB")
    for encoding, pack in {"gzip": gzip.compress, "deflate": zlib.compress}.items():
        add("bytes", f"{encoding} done right", _packed(encoding, pack), DECIDED)
    for encoding, data in {"br": b"\0", "gzip, gzip": b"\0", "gzip": b"no gzip"}.items():
        wrong = Reply(data=data, headers={"Content-Encoding": encoding})
        add("bytes", f"{encoding} done wrong", judged(wrong), "undecided: is packed")
    for name, text in {
        "nothing": "",
        "HTML": "<html>ok</html>",
        "half of JSON": body[:-9],
        "a stream": f"data: {body}",
    }.items():
        add("bytes", name, judged(Reply(text)), "undecided: is not JSON")
    add("bytes", "JSON of 100,000 levels", judged(Reply("[" * 100_000)), "undecided: is not JSON")
    add("bytes", "no UTF-8", judged(Reply(data=b"\xff\xfe\x00")), "undecided: is not JSON")
    for text in ("[]", "null", "{}", '{"choices": []}', '{"choices": null}', '{"choices": [{"message": "A"}]}'):
        add("bytes", text, judged(Reply(text)), "undecided: no chat completion")
    add("bytes", "HTML to the probe", always(Reply("<html>ok</html>")), "refused: no chat completion")

    for status in (408, 409, 429, 500, 502, 503, 504, 529):
        add("status", f"{status} always", judged(Reply("busy", status)), f"undecided: HTTP {status}")
        add("status", f"{status} once", first(Reply("busy", status)), DECIDED)
    for after, expected in {"0": DECIDED, "soon": DECIDED, "3600": "undecided: longer than max_wait"}.items():
        limited = Reply("{}", 429, {"Retry-After": after})
        add("status", f"429, Retry-After: {after}", first(limited), expected)
    for status in (400, 413, 418, 422):
        add("status", f"{status}", judged(Reply(error("too long", code="long"), status)), f"undecided: HTTP {status}")
    for status, said in {401: "refuses the key", 403: "refuses the key", 404: "no such model", 402: "no quota"}.items():
        add("status", f"{status}", judged(Reply(error(f"bad {CANARY}"), status)), f"refused: {said}")
    add("status", "429, no quota", judged(Reply(error("x", code="insufficient_quota"), 429)), "refused: no quota")

    moved = Reply("", 307, {"Location": "/v2/chat/completions"})
    add(
        "redirect",
        "within the origin",
        lambda a: moved if a.judging and a.path.startswith("/v1") else SOUND(a),
        DECIDED,
    )
    for status in (301, 307):
        elsewhere = Reply("", status, {"Location": "http://127.0.0.2:9/v1/chat/completions"})
        add("redirect", f"{status} elsewhere", judged(elsewhere), "refused: redirects to http://127.0.0.2")
    add("redirect", "in a circle", judged(Reply("", 307, {"Location": "/v1/chat/completions"})), "undecided: .")

    limit = error("Provider returned error", code=429)
    add("error in 200", "429 always", judged(Reply(limit)), "undecided: error 429 .* Provider returned error")
    add("error in 200", "429 once", first(Reply(limit)), DECIDED)
    add("error in 200", "429 to the probe", always(Reply(limit)), "refused: Provider returned error")
    add("error in 200", "a text", first(Reply('{"error": "model is loading"}')), DECIDED)
    add("error in 200", "no code", judged(Reply('{"error": {"type": "overloaded"}}')), "undecided: error 503")
    add("error in 200", "code as text", judged(Reply(error("x", code="502"))), "undecided: error 502")
    add("error in 200", "object: error", first(Reply('{"object": "error", "message": "x", "code": 40303}')), DECIDED)
    inside = json.dumps({"choices": [{"error": {"code": 502, "message": "bad"}, "finish_reason": "error"}]})
    add("error in 200", "in the choice", first(Reply(inside)), DECIDED)
    add("error in 200", "400", judged(Reply(error("too long", code=400))), "undecided: error 400")
    add("error in 200", "401", judged(Reply(error(f"bad {CANARY}", code=401))), "refused: refuses the key")
    add("error in 200", "no quota", judged(Reply(error("x", code="insufficient_quota"))), "refused: no quota")

    add("connection", "closed at once", judged(Reply(raw=b"")), "undecided: connection failed")
    add("connection", "closed at once, once", first(Reply(raw=b"")), DECIDED)
    add(
        "connection", "half a body", judged(Reply("", headers={"Content-Length": "50"})), "undecided: connection failed"
    )
    add("connection", "no HTTP", judged(Reply(raw=b"SSH-2.0-x\r\n")), "undecided: connection failed")
    add("connection", "headers without end", judged(Reply(raw=b"HTTP/1.1 200 OK\r\nA: b")), "undecided: connection")
    return made
