"""What a server honours, found by one probe: a plain request, and once per server a request for each capability.

The plain request tells which model answers (an alias may move) and in which format that model accepts requests.  The
capabilities are recorded for the reader; nothing depends on them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.judges.llm.cache import Cache
from rlhf_bench.judges.llm.client import RequestError, Server
from rlhf_bench.judges.llm.parse import UnusableError, message_text
from rlhf_bench.judges.llm.prompt import as_messages

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject, Row

LONGEST = 200
"""Characters of a model's name."""
HONOURED, IGNORED, REFUSED = "honoured", "ignored", "refused"


@dataclass(frozen=True, slots=True)
class RequestFormat:
    """The request format that a server accepts.

    `limit` is the name of its limit on tokens; `folded`: it has no system role, so the instructions go into the user
    turn.
    """

    limit: str = "max_tokens"
    folded: bool = False

    def parameters(self, temperature: float, max_tokens: int) -> JsonObject:
        """Every parameter of a request besides the model and the messages."""
        return {"temperature": temperature, self.limit: max_tokens}


FORMATS = (RequestFormat(), RequestFormat("max_completion_tokens"), RequestFormat(folded=True))
"""In the order in which they are tried."""


@dataclass(frozen=True, slots=True)
class ServerProfile:
    """What is known of a server: the model that answers, its request format, and what else it honours.

    honours: by the name of a parameter "honoured", "ignored", or "refused" with the reason.
    """

    model: str
    format: RequestFormat
    honours: Mapping[str, str]


def stored_profile(server: Server, cache: Cache) -> ServerProfile | None:
    """What an earlier probe stored under the server's name (model and address), None before the first."""
    stored = cache.server(server.name)
    return ServerProfile(stored["model"], RequestFormat(**stored["manner"]), stored["honours"]) if stored else None


def probe(server: Server, cache: Cache, temperature: float, max_tokens: int) -> ServerProfile:
    """Send a plain request and, to a server without a stored profile, one request for each capability.

    The profile is stored.  Raises BenchError when the server accepts no plain request.
    """
    before = stored_profile(server, cache)
    first = (before.format,) if before else ()
    accepted, body = _plain_request(server, [*first, *(f for f in FORMATS if f not in first)], temperature, max_tokens)
    # an alias such as "latest" is answered by a dated model, whose name the keys of answers need
    model = _json_object(body).get("model")
    # capabilities are probed once per server: they cost requests and change nothing
    honours = before.honours if before else _capabilities(server, accepted, temperature, max_tokens)
    # it is shown and stored: what is no name is left out
    named = isinstance(model, str) and 0 < len(model) <= LONGEST and model.isprintable()
    found = ServerProfile(str(model) if named else server.model, accepted, honours)
    # the key is "manner" in the caches of users
    cache.store_server(server.name, {"model": found.model, "manner": asdict(accepted), "honours": dict(honours)})
    return found


def _plain_request(
    server: Server, formats: Sequence[RequestFormat], temperature: float, max_tokens: int
) -> tuple[RequestFormat, str]:
    """(the first format that the server accepts, the body of its response)."""
    refusals = []
    for form in formats:
        messages = as_messages("You answer in one word.", "Say yes.", form.folded)
        try:
            body = server.request(messages, form.parameters(temperature, max_tokens)).body
        except RequestError as failure:
            # servers report an unknown parameter or role with these; everything else is no question of format
            if failure.status not in (400, 422, 500):
                raise BenchError(f"{server.base_url}: {failure}.", "Is the server up? Then check base_url.") from None
            refusals.append(f"{failure}: {failure.message}")
            continue
        if not _choices(body):
            fix = "The address usually ends in /v1."
            raise BenchError(f"{server.base_url} answers with something that is no chat completion.", fix)
        return form, body
    # the first refusal: that of the stored or usual format, the others only guess
    raise BenchError(f"{server.name} refuses a plain question ({refusals[0]}).", "Check model and temperature.")


def _capabilities(server: Server, accepted: RequestFormat, temperature: float, max_tokens: int) -> dict[str, str]:
    """For each optional parameter whether the server honours, ignores or refuses it."""

    def is_json(body: str) -> bool:
        try:
            return isinstance(json.loads(message_text(_json_object(body))), dict)
        except (ValueError, RecursionError, UnusableError):
            return False

    wanted: Mapping[str, tuple[object, Callable[[str], bool]]] = {
        "response_format": ({"type": "json_object"}, is_json),
        "logprobs": (True, lambda body: any(isinstance(c, dict) and c.get("logprobs") for c in _choices(body))),
    }
    # a model without the parameter answers in words, so JSON shows that the server enforced it
    text = "Say hello in plain words; in JSON only where the format demands it."
    messages = as_messages("You answer in one word.", text, accepted.folded)
    honours = {}
    for name, (value, shows) in wanted.items():
        try:
            parameters = {**accepted.parameters(temperature, max_tokens), name: value}
            # without retries: what is only recorded is not worth a wait
            body = server.request(messages, parameters, retries=0).body
            honours[name] = HONOURED if shows(body) else IGNORED
        except RequestError as failure:
            honours[name] = f"{REFUSED} ({failure})"
    return honours


def _json_object(body: str) -> Row:
    """The body as a JSON object, an empty one where it is none."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _choices(body: str) -> list[object]:
    found = _json_object(body).get("choices")
    return found if isinstance(found, list) else []
