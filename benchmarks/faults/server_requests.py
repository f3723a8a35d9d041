"""Servers that count oddly, show the key, refuse parameters or have other addresses, for servers.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from fault_server import CANARY, Asked, Reply, completion
from server_answers import DECIDED, SOUND, Answer, Behaviour, Behaviours, always, error, judged, worded


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


def _using(usage: Any) -> Answer:
    def answer(asked: Asked) -> Reply:
        return Reply(json.dumps({**json.loads(SOUND(asked).body), "usage": usage}))

    return answer


def requests() -> list[Behaviour]:
    """Usage, key, parameters, address."""
    made = Behaviours()
    add = made.add
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
