"""What a server honours, found by one probe: a plain request, and once per server a request for each capability.

The plain request tells which model answers (an alias may move) and in which format that model accepts requests.  The
capabilities are recorded for the reader; a form of replies that the server honours is demanded of its verdicts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
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
SCHEMA = {
    "type": "object",
    "properties": {"reason": {"type": "string"}, "verdict": {"type": "string", "enum": ["A", "B", "tie"]}},
    "required": ["reason", "verdict"],
    "additionalProperties": False,
}
"""Of a verdict, for servers that enforce a schema."""


def json_schema(name: str, schema: JsonObject) -> JsonObject:
    """The value of `response_format` that demands a JSON object of a schema."""
    return {"type": "json_schema", "json_schema": {"name": name, "strict": True, "schema": schema}}


@dataclass(frozen=True, slots=True)
class Asking:
    """The settings of every request: `temperature`, `max_tokens`, `extra` fields of its body, and `structured`.

    `structured`: demand JSON where the server honours that.
    """

    temperature: float
    max_tokens: int
    extra: JsonObject = field(default_factory=dict)
    structured: bool = True


@dataclass(frozen=True, slots=True)
class RequestFormat:
    """The request format that a server accepts.

    `limit` is the name of its limit on tokens; `folded`: it has no system role, so the instructions go into the user
    turn; `own_temperature`: it refuses every temperature but its own, so none is sent; `structure`: the kind of
    `response_format` that it honours, "" for none.
    """

    limit: str = "max_tokens"
    folded: bool = False
    own_temperature: bool = False
    structure: str = ""

    def parameters(self, asking: Asking) -> JsonObject:
        """Every parameter of a request besides the model, the messages and what is asked for in them."""
        found: JsonObject = {} if self.own_temperature else {"temperature": asking.temperature}
        # absent where empty: the cache's keys of earlier answers stay what they were
        return {**found, self.limit: asking.max_tokens, **({"extra_body": asking.extra} if asking.extra else {})}

    def judging(self, asking: Asking) -> JsonObject:
        """The parameters of a question: those of any request, and the form of the reply."""
        formats = {"json_schema": json_schema("verdict", SCHEMA), "json_object": {"type": "json_object"}}
        shape = {"response_format": formats[self.structure]} if asking.structured and self.structure else {}
        return {**self.parameters(asking), **shape}


FORMATS = (RequestFormat(), RequestFormat("max_completion_tokens"), RequestFormat(folded=True))
"""In the order in which they are tried where the server does not say what it refuses."""


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


def probe(server: Server, cache: Cache, asking: Asking) -> ServerProfile:
    """Send a plain request and, to a server without a stored profile, one request for each capability.

    The profile is stored.  Raises BenchError when the server accepts no plain request.
    """
    before = stored_profile(server, cache)
    accepted, body = _plain_request(server, before.format if before else RequestFormat(), asking)
    # an alias such as "latest" is answered by a dated model, whose name the keys of answers need
    model = _json_object(body).get("model")
    if before:  # capabilities are probed once per server: they cost requests
        honours = dict(before.honours)
    else:
        honours = _capabilities(server, accepted, asking)
        kinds = {"json_schema": honours["json_schema"], "json_object": honours["response_format"]}
        structure = next((kind for kind, found in kinds.items() if found == HONOURED), "")
        accepted = replace(accepted, structure=structure)
    if accepted.own_temperature:
        honours["temperature"] = f"{REFUSED} (the model's own is used)"
    # it is shown and stored: what is no name is left out
    named = isinstance(model, str) and 0 < len(model) <= LONGEST and model.isprintable()
    found = ServerProfile(str(model) if named else server.model, accepted, honours)
    # the key is "manner" in the caches of users
    cache.store_server(server.name, {"model": found.model, "manner": asdict(accepted), "honours": dict(honours)})
    return found


def _plain_request(server: Server, first: RequestFormat, asking: Asking) -> tuple[RequestFormat, str]:
    """(the first format that the server accepts, the body of its response).

    After a refusal that names what it refuses, the format without that is next, else the next of FORMATS.
    """
    formats, tried, told = [first, *FORMATS], set[RequestFormat](), ""
    while formats:
        form = formats.pop(0)
        if form in tried:
            continue
        tried.add(form)
        messages = as_messages("You answer in one word.", "Say yes.", form.folded)
        try:
            body = server.request(messages, form.parameters(asking)).body
        except RequestError as failure:
            # servers report an unknown parameter or role with these; everything else is no question of format
            if failure.status not in (400, 422, 500):
                fix = "Try again later." if failure.status else "Is the server up? Then check base_url."
                raise BenchError(f"{server.base_url}: {failure}.", fix) from None
            better = adapted(form, failure)
            # what is shown: the last refusal of what was adapted to the ones before; the other formats only guess
            told = told or f"{failure}: {failure.message}"
            if better is not None and better not in tried:
                formats.insert(0, better)
                told = ""
            continue
        if not _choices(body):
            end = server.base_url.rstrip("/").endswith("/v1") or server.address.version
            fix = "Check the model and the address." if end else "The address usually ends in /v1."
            raise BenchError(f"{server.base_url} answers with something that is no chat completion.", fix)
        return form, body
    raise BenchError(
        f"{server.name} refuses a plain question ({told}).",
        "Check model, temperature, max_tokens and extra_body (--set winrate-llm.temperature=1 and so on).",
    )


def adapted(form: RequestFormat, failure: RequestError) -> RequestFormat | None:
    """The format without what the server says it refuses, None where it names nothing that can be left out."""
    said = failure.parameter or failure.message
    if re.search(r"\bmax_(?:completion_)?tokens\b", said):
        other = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
        return replace(form, limit=other[form.limit])
    if re.search(r"\btemperature\b", said) and not form.own_temperature:
        return replace(form, own_temperature=True)
    if re.search(r"\bsystem\b|\bmessages\[0\]\.role\b", said) and not form.folded:
        return replace(form, folded=True)
    return None


def _capabilities(server: Server, accepted: RequestFormat, asking: Asking) -> dict[str, str]:
    """For each optional parameter whether the server honours, ignores or refuses it."""

    def answered(body: str) -> object:
        try:
            found: object = json.loads(message_text(_json_object(body)))
        except (ValueError, RecursionError, UnusableError):
            return None
        return found

    colour = {"type": "object", "properties": {"colour": {"enum": ["teal"]}}, "required": ["colour"]}
    wanted: Mapping[str, tuple[object, Callable[[str], bool]]] = {
        "response_format": ({"type": "json_object"}, lambda body: isinstance(answered(body), dict)),
        # a value that no model says unless it must: a model that likes JSON is no server that enforces a schema
        "json_schema": (
            json_schema("probe", {**colour, "additionalProperties": False}),
            lambda body: answered(body) == {"colour": "teal"},
        ),
        "logprobs": (True, lambda body: any(isinstance(c, dict) and c.get("logprobs") for c in _choices(body))),
    }
    # a model without the parameter answers in words, so JSON shows that the server enforced it
    text = "Say hello in plain words; in JSON only where the format demands it."
    messages = as_messages("You answer in one word.", text, accepted.folded)
    honours = {}
    for name, (value, shows) in wanted.items():
        try:
            sent = "response_format" if name == "json_schema" else name
            parameters = {**accepted.parameters(asking), sent: value}
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
