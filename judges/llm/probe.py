"""What a server honours, found out by asking it: recorded for the reader, never depended on.

The plain request is the exception: it tells which model answers (an alias moves), and how that model wants to be asked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.judges.llm.cache import Cache
from rlhf_bench.judges.llm.client import FailedError, Server
from rlhf_bench.judges.llm.parse import UnusableError, message_text
from rlhf_bench.judges.llm.prompt import Message, as_messages

HONOURED, IGNORED, REFUSED = "honoured", "ignored", "refused"


@dataclass(frozen=True, slots=True)
class Manner:
    """How a server wants to be asked: the name of its limit on tokens, and whether it knows no system role."""

    limit: str = "max_tokens"
    folded: bool = False


MANNERS = (Manner(), Manner("max_completion_tokens"), Manner(folded=True))


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of a server: the model that answers, how to ask it, and what else it honours."""

    model: str
    manner: Manner
    honours: Mapping[str, str]

    def parameters(self, temperature: float, max_tokens: int) -> dict[str, Any]:
        """Every parameter sent beside the model and the messages."""
        return {"temperature": temperature, self.manner.limit: max_tokens}


def known(server: Server, cache: Cache) -> Found | None:
    """What an earlier probe found."""
    stored = cache.server(server.name)
    return Found(stored["model"], Manner(**stored["manner"]), stored["honours"]) if stored else None


def probe(server: Server, cache: Cache, temperature: float, max_tokens: int) -> Found:
    """Ask one plain question, and once for all what else the server honours.

    Raises BenchError when no question could be answered.
    """
    before = known(server, cache)
    first = (before.manner,) if before else ()
    manner, body = _plain(server, [*first, *(m for m in MANNERS if m not in first)], temperature, max_tokens)
    model = _parsed(body).get("model")
    asked = Found(model if isinstance(model, str) and model else server.model, manner, {})
    honours = before.honours if before else _capabilities(server, asked, temperature, max_tokens)
    found = Found(asked.model, manner, honours)
    cache.keep_server(server.name, asdict(found))
    return found


def _plain(server: Server, manners: Sequence[Manner], temperature: float, max_tokens: int) -> tuple[Manner, str]:
    refusals = []
    for manner in manners:
        parameters = Found("", manner, {}).parameters(temperature, max_tokens)
        try:
            body = server.ask(_question("Say yes.", manner), parameters).body
        except FailedError as failure:
            if failure.status not in (400, 422, 500):
                raise BenchError(f"{server.base_url}: {failure}.", "Is the server up? Then check base_url.") from None
            refusals.append(f"{failure}: {failure.said}")
            continue
        if not _choices(body):
            fix = "The address usually ends in /v1."
            raise BenchError(f"{server.base_url} answers with something that is no chat completion.", fix)
        return manner, body
    raise BenchError(f"{server.name} refuses a plain question ({refusals[0]}).", "Check model and temperature.")


def _question(text: str, manner: Manner) -> list[Message]:
    return as_messages("You answer in one word.", text, manner.folded)


def _capabilities(server: Server, found: Found, temperature: float, max_tokens: int) -> dict[str, str]:
    parameters = found.parameters(temperature, max_tokens)
    wanted: Mapping[str, Any] = {"response_format": {"type": "json_object"}, "logprobs": True}
    seen = {"response_format": _is_json, "logprobs": _has_logprobs}
    question = _question("Say hello in plain words; in JSON only where the format demands it.", found.manner)
    honours = {}
    for name, value in wanted.items():
        try:
            body = server.ask(question, {**parameters, name: value}, retries=0).body
            honours[name] = HONOURED if seen[name](body) else IGNORED
        except FailedError as failure:
            honours[name] = f"{REFUSED} ({failure})"
    return honours


def _parsed(body: str) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _choices(body: str) -> list[Any]:
    found = _parsed(body).get("choices")
    return found if isinstance(found, list) else []


def _is_json(body: str) -> bool:
    try:
        return isinstance(json.loads(message_text(_parsed(body))), dict)
    except (ValueError, RecursionError, UnusableError):
        return False


def _has_logprobs(body: str) -> bool:
    return any(isinstance(choice, dict) and choice.get("logprobs") for choice in _choices(body))
