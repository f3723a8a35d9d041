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
import gzip
import io
import json
import os
import re
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from common import outcome, save
from fault_server import CANARY, Asked, FaultServer, Reply, case, completion, goods, prefer, run, serving, verdict

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.judges.llm.judge import WinRateLLM

CASES = [case(0, "good", "bad"), case(1, "bad", "good")]
RIGHT = [1.0, 0.0]
SECONDS = 8.0
"""In which a behaviour must end."""
RETRIES = 2
DECIDED = "decided"
SOUND = prefer(goods)
Answer = Callable[[Asked], Reply]


@dataclass(frozen=True)
class Behaviour:
    """A server and what must come of it.

    `expected`: DECIDED, "undecided: PATTERN" or "refused: PATTERN", the pattern searched in the reason or the message.
    """

    group: str
    name: str
    answer: Answer
    expected: str
    settings: dict[str, Any] = field(default_factory=dict)
    path: str = "/v1"
    check: Callable[[FaultServer], bool] = lambda _: True


def judged(reply: Reply) -> Answer:
    """Sound for the probe; `reply` to every question."""
    return lambda asked: reply if asked.judging else completion("yes")


def first(reply: Reply) -> Answer:
    """`reply` to the first try of each question, then sound."""
    return lambda asked: reply if asked.judging and not asked.before else SOUND(asked)


def always(reply: Reply) -> Answer:
    """`reply` to everything, the probe too."""
    return lambda _: reply


def worded(words: Callable[[str], str]) -> Answer:
    """The right verdict, its JSON put into other words."""

    def answer(asked: Asked) -> Reply:
        sound = SOUND(asked)
        if not asked.judging:
            return sound
        text = json.loads(sound.body)["choices"][0]["message"]["content"]
        return completion(words(text), usage={"prompt_tokens": 9, "completion_tokens": 9})

    return answer


def shaped(change: Callable[[str], dict[str, Any]], finish: str = "stop") -> Answer:
    """The right verdict in a message of another shape; `change` makes the message's fields of its text."""

    def answer(asked: Asked) -> Reply:
        body = json.loads(SOUND(asked).body)
        choice = body["choices"][0]
        if asked.judging:
            choice["message"] = {"role": "assistant", **change(choice["message"]["content"])}
            choice["finish_reason"] = finish
        return Reply(json.dumps(body))

    return answer


def error(message: object, **fields: Any) -> str:
    return json.dumps({"error": {"message": message, **fields}})


def refusing(*rules: Callable[[dict[str, Any]], str]) -> Answer:
    """400 where a rule names a fault of the request's body, else sound."""

    def answer(asked: Asked) -> Reply:
        for rule in rules:
            if fault := rule(asked.body):
                return Reply(error(f"Unsupported: '{fault}'.", param=fault, code="unsupported"), 400)
        return SOUND(asked)

    return answer


def no_max_tokens(body: dict[str, Any]) -> str:
    return "max_tokens" if "max_tokens" in body else ""


def no_temperature(body: dict[str, Any]) -> str:
    return "temperature" if body.get("temperature", 1) != 1 else ""


def no_system(body: dict[str, Any]) -> str:
    return "system" if body["messages"][0]["role"] == "system" else ""


def enforcing(kind: str) -> Answer:
    """A server that answers in JSON where `response_format` has this kind, else in words."""

    def answer(asked: Asked) -> Reply:
        demanded = asked.body.get("response_format", {}).get("type") == kind
        if not asked.judging:
            return completion('{"colour": "teal"}' if demanded else "Hello!")
        return SOUND(asked) if demanded else completion("I like both.")

    return answer


def azure(asked: Asked) -> Reply:
    wanted = asked.path == "/openai/deployments/judge/chat/completions?api-version=2024-10-21"
    keyed = asked.headers.get("api-key") == CANARY and "authorization" not in asked.headers
    return SOUND(asked) if wanted and keyed else Reply(error("Resource not found"), 404 if not wanted else 401)


def message(**fields: Any) -> Callable[[str], dict[str, Any]]:
    return lambda _: fields


BOMB = b'{"choices": "' + b" " * 40_000_000 + b'"}'
HARMONY = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>"
THOUGHTS = {
    "<think>": "<think>B? {no}</think>\n",
    "<thinking>": "<thinking>hm</thinking>\n",
    "<reasoning>": "<reasoning>hm</reasoning>",
    "<thought>": "<thought>\nhm\n</thought>\n\n",
    "capitals": "<THINK>hm</THINK>",
    "two blocks": "<think>a</think>\n<think>b</think>\n",
    "no opening tag": "I compare both.\n</think>\n\n",
    "draft before a closing tag": '{"verdict": "tie"} No.\n</think>\n',
    "[THINK]": "[THINK]hm[/THINK]",
    "harmony channels": HARMONY,
    "Kimi": "◁think▷hm◁/think▷",
    "Cohere": "<|START_THINKING|>hm<|END_THINKING|><|START_RESPONSE|>",
}
NEAR: dict[str, Callable[[str], str]] = {
    "a fence": lambda t: f"```json\n{t}\n```",
    "a fence without a language": lambda t: f"```\n{t}\n```",
    "words before a fence": lambda t: f"My evaluation:\n\n```json\n{t}\n```",
    "words after a fence": lambda t: f"```json\n{t}\n```\n\nAnything else?",
    "words before": lambda t: f"Here is my evaluation: {t}",
    "words after": lambda t: f"{t}\n\nI hope this helps!",
    "a raw line break": lambda t: t.replace("because", "Line one.\nLine two."),
    "a comma too many": lambda t: t[:-1] + ",}",
    "single quotes": lambda t: t.replace('"', "'"),
    "unescaped quotes": lambda t: t.replace("because", 'it says "more"'),
    "typographic quotes": lambda t: t.replace('"', "\u201d"),
    "keys in capitals": lambda t: t.replace("verdict", "Verdict"),
    "a byte-order mark": lambda t: "\ufeff" + t,
    "<answer>": lambda t: f"<answer>{t}</answer>",
    "Answer A": lambda t: re.sub(r'"(A|B)"', r'"Answer \1"', t),
    "more keys": lambda t: t[:-1] + ', "confidence": 0.9}',
}
UNCLEAR: dict[str, tuple[Callable[[str], str], str]] = {
    "two objects": (lambda t: f'{t}\n{{"verdict": "tie"}}', "invalid JSON"),
    "two fences": (lambda t: f'```\n{t}\n```\n```\n{{"verdict": "tie"}}\n```', "invalid JSON"),
    "a line against the object": (lambda t: f"Verdict: tie\n{t}", "conflicting verdicts"),
    "second thoughts": (lambda t: f"{t}\nWait, the other one is better.", "words after the verdict"),
    "a quotation": (lambda t: f"One answer reads:\n{t}\nI am not swayed.", "words after the verdict"),
    "half an object": (lambda t: t[:-3], "invalid JSON"),
    "no verdict": (lambda _: "Both have merits.", "no verdict"),
    "a refusal in words": (lambda _: "I'm sorry, I cannot compare these.", "refusal"),
    "another key": (lambda t: t.replace("verdict", "winner"), "wrong schema"),
    "thoughts without an end": (lambda t: f"<think>{t}", "truncated reasoning"),
    "thoughts alone": (lambda _: "<think>hm</think>", "empty reply"),
}


def catalogue() -> list[Behaviour]:
    """All behaviours."""
    made: list[Behaviour] = []

    def add(group: str, name: str, answer: Answer, expected: str, **more: Any) -> None:
        made.append(Behaviour(group, name, answer, expected, **more))

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

    text = {"text parts": lambda t: [{"type": "text", "text": t[:9]}, {"type": "text", "text": t[9:]}]}
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    text["a thinking part"] = lambda t: [thought, {"type": "text", "text": t}]
    text["an unknown part"] = lambda t: [{"type": "new", "x": 1}, {"type": "output_text", "text": t}]
    for name, parts in text.items():
        add("shape", name, shaped(lambda t, p=parts: {"content": p(t)}), DECIDED)
    add("shape", "reasoning beside", shaped(lambda t: {"content": t, "reasoning_content": "Verdict: tie"}), DECIDED)
    hidden = {"reasoning_content": "hm", "content": None}
    spent = "undecided: max_tokens spent on reasoning: raise winrate-llm.max_tokens"
    unanswered = "undecided: reasoning without an answer: raise winrate-llm.max_tokens"
    add("shape", "reasoning_content alone", shaped(message(**hidden)), unanswered)
    add("shape", "reasoning alone", shaped(message(reasoning="hm", content="")), unanswered)
    add("shape", "a thinking part alone", shaped(message(content=[thought])), unanswered)
    add("shape", "reasoning cut off", shaped(message(**hidden), "length"), spent)
    add("shape", "<think> cut off", shaped(message(content="<think>hm"), "length"), spent)
    cut = "undecided: truncated at max_tokens"
    add("shape", "verdict cut off", shaped(lambda t: {"content": t}, "length"), cut)
    add("shape", "null", shaped(message(content=None)), "undecided: empty reply")
    add("shape", "a number", shaped(message(content=3)), "undecided: no chat completion")
    add("shape", "parts that are none", shaped(message(content=["A"])), "undecided: no chat completion")
    add("shape", "a refusal", shaped(message(content=None, refusal="I will not.")), "undecided: refusal")
    add(
        "shape", "a refusal part", shaped(message(content=[{"type": "refusal", "refusal": "no"}])), "undecided: refusal"
    )
    add("shape", "content_filter", shaped(lambda t: {"content": t}, "content_filter"), "undecided: refusal")
    call = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    add("shape", "a tool call", shaped(message(content=None, tool_calls=call), "tool_calls"), "undecided: a tool call")
    add("shape", "another model", judged(verdict("A", model="other")), "undecided: another model answered")

    for name, before in THOUGHTS.items():
        add("thoughts", name, worded(lambda t, b=before: b + t), DECIDED)
    for name, words in NEAR.items():
        add("near JSON", name, worded(words), DECIDED)
    for name, (words, reason) in UNCLEAR.items():
        add("unclear", name, worded(words), f"undecided: {reason}")

    for count in (10**9, -5, "12", 1.5, None):
        usage: Any = {"prompt_tokens": count, "completion_tokens": count}
        add("usage", f"{count!r}", _using(usage), DECIDED, settings={"token_budget": 100_000})

    add("key", "in the reason", worded(lambda t: t.replace("because", CANARY)), DECIDED)
    add("key", "in the model's name", always(completion("x", model=CANARY)), "undecided: no verdict")
    escaped = "".join(f"\\u{ord(c):04x}" for c in CANARY)
    for name, form in {"plain": CANARY, "escaped": escaped}.items():
        add("key", f"in an error, {name}", judged(Reply(error("KEY").replace("KEY", form), 400)), "undecided: HTTP 400")
        inner = error("KEY", code=500).replace("KEY", form)
        add("key", f"in an error in 200, {name}", judged(Reply(inner)), "undecided: error 500")

    add("parameters", "no max_tokens", refusing(no_max_tokens), DECIDED)
    add("parameters", "no temperature", refusing(no_temperature), DECIDED)
    add("parameters", "no max_tokens, no temperature", refusing(no_max_tokens, no_temperature), DECIDED)
    add("parameters", "no system role", refusing(no_system), DECIDED)
    add("parameters", "none of the three", refusing(no_max_tokens, no_temperature, no_system), DECIDED)
    add("parameters", "nothing at all", refusing(lambda _: "top_p"), "refused: refuses a plain question .*top_p")
    for kind in ("json_schema", "json_object"):
        add("parameters", f"enforces {kind}", enforcing(kind), DECIDED)
    extra = {"extra_body": '{"reasoning_effort": "low"}'}
    for name, answer in {
        "extra_body": lambda a: SOUND(a) if a.body.get("reasoning_effort") == "low" else Reply("", 400)
    }.items():
        add("parameters", name, answer, DECIDED, settings=extra)
    path = "/openai/deployments/judge/chat/completions?api-version=2024-10-21"
    add("address", "Azure's", azure, DECIDED, path=path, settings={"key_header": "api-key"})
    add("address", "with the endpoint", SOUND, DECIDED, path="/v1/chat/completions")
    return made


def _packed(encoding: str, pack: Callable[[bytes], bytes]) -> Answer:
    return lambda asked: Reply(data=pack(SOUND(asked).body.encode()), headers={"Content-Encoding": encoding})


def _using(usage: Any) -> Answer:
    def answer(asked: Asked) -> Reply:
        return Reply(json.dumps({**json.loads(SOUND(asked).body), "usage": usage}))

    return answer


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
