"""Requests to an OpenAI-compatible server: retries with back-off, time-outs, and an API key that is never stored.

The `openai` client sends the request, within the bounds of transport.py.  Retries are made here, because they must be
counted, follow Retry-After in both of its forms, and stop when the user interrupts.  Each try runs in a thread of its
own: whatever it waits for, its time ends, and an interrupt does not wait for it.
"""

from __future__ import annotations

import json
import math
import os
import random
import re
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.judges.llm.address import VERSION, Address
from rlhf_bench.judges.llm.prompt import Message
from rlhf_bench.judges.llm.scrub import SHORTEST, scrub

if TYPE_CHECKING:
    from openai import OpenAI

    from rlhf_bench.harness.text.types import JsonObject, Row

# Those that the openai client retries (408, 409, 429, 5xx), and 529, "overloaded" at some servers.
RETRIED = frozenset({408, 409, 429, 500, 502, 503, 504, 529})
"""HTTP statuses that another try may not meet."""
FATAL = frozenset({401, 402, 403, 404})
"""HTTP statuses that every other request would meet too."""
NO_KEY = "no-key"
"""Sent where there is no key: the client requires one, local servers ignore it."""
POLL = 0.1
"""Seconds between looks at whether the user has interrupted."""


class RequestError(Exception):
    """A request without an answer; the message is the reason that is counted.

    `status` is 0 where no response came and -1 after an interrupt; `message` is the server's error text; `wait` its
    Retry-After header; `timeouts` counts the tries that timed out, which may have been charged; `parameter` is the one
    that the server says it refuses.
    """

    def __init__(
        self, reason: str, status: int = 0, message: str = "", wait: str = "", timeouts: int = 0, parameter: str = ""
    ) -> None:
        super().__init__(reason)
        self.status, self.message, self.wait, self.timeouts = status, message, wait, timeouts
        self.parameter = parameter


@dataclass(frozen=True, slots=True)
class Response:
    """The raw body of a 200 response, and how many tries before it timed out."""

    body: str
    timeouts: int


@dataclass(frozen=True)
class RetryPolicy:
    """`timeout` seconds for all of a request; `retries` more, after `backoff` seconds, then twice as long each time.

    No wait is longer than `max_wait` seconds.
    """

    timeout: float
    retries: int
    backoff: float
    max_wait: float


@dataclass(frozen=True)
class Server:
    """A server and one of its models.  Threads share it.

    address: with the version, as in http://localhost:8000/v1.   key_env: the environment variable that holds the key,
    "" for a server without keys.  Setting `stop` ends all waiting for the next try; setting `abandon` also leaves
    requests that are open.
    """

    address: Address
    model: str
    key_env: str
    policy: RetryPolicy
    stop: threading.Event = field(default_factory=threading.Event, repr=False)
    abandon: threading.Event = field(default_factory=threading.Event, repr=False)
    # [the monotonic time before which no thread sends]: a list, because the dataclass is frozen
    _paused_until: list[float] = field(default_factory=lambda: [0.0], repr=False)

    @property
    def base_url(self) -> str:
        """The address as it was set."""
        return self.address.text

    @property
    def name(self) -> str:
        """The model and the address, as the cache and messages name them."""
        return f"{self.model} at {self.base_url}"

    @property
    def _key(self) -> str:
        # Read from the environment at each use and stored nowhere: no repr, pickle or traceback of ours can show it.
        return os.environ.get(self.key_env, "").strip() if self.key_env else ""

    def check_key(self) -> None:
        """Raises BenchError when the environment has no usable key and the server is not on this machine.

        Called before the first question, so that a missing key is one error and not a series of refused requests.
        """
        if not (self._key.isascii() and self._key.isprintable()):
            raise BenchError("The key in the environment holds characters that no key has.", "Set it again.")
        if self._key or not self.key_env or urlsplit(self.base_url).hostname in ("localhost", "127.0.0.1", "::1"):
            return
        # Another name is not shown: a user may have put the key itself there.
        named = self.key_env if self.key_env == "OPENAI_API_KEY" else "that key_env names"
        raise BenchError(
            f"The environment variable {named} is not set.",
            "Set it to the server's key, name another with key_env, or give key_env= for a server without keys.",
        )

    def check_holds_no_key(self, text: str) -> None:
        """Raises BenchError where a text that will be stored, a setting, holds the key."""
        if len(self._key) >= SHORTEST and scrub(text, self._key) != text:
            raise BenchError("winrate-llm.extra_body holds the key.", "The key is never a setting: see key_header.")

    @cached_property
    def _client(self) -> OpenAI:
        from openai import OpenAI

        from rlhf_bench.judges.llm.transport import bounded_client  # here: a judge's import should not load httpx

        seconds, key = self.policy.timeout, self._key or NO_KEY
        client = bounded_client(self.address.base, seconds, self.address.header)
        return OpenAI(
            api_key=key,
            base_url=self.address.base,
            timeout=seconds,
            max_retries=0,  # no retries of the client's own: `request` makes and counts them
            http_client=client,
            default_query={VERSION: self.address.version} if self.address.version else None,
        )

    def close(self) -> None:
        """Close the connections."""
        # the cached property would create a client only to close it
        if "_client" in self.__dict__:
            self._client.close()

    def request(self, messages: Sequence[Message], parameters: Row, retries: int | None = None) -> Response:
        """Send a chat-completion request until there is a 200 response; `retries` overrides the policy's.

        Raises RequestError when the tries are used up or the server refuses this request, BenchError where every other
        request would fail too (wrong key, no such model, no quota).
        """
        left, timeouts = (self.policy.retries if retries is None else retries), 0
        for attempt in range(left + 1):
            # another thread may have been told to wait
            self._wait(self._paused_until[0] - time.monotonic())
            try:
                return Response(self._send(messages, parameters), timeouts)
            except RequestError as failure:
                # all tries so far: the server may have charged for each that timed out
                timeouts += failure.timeouts
                failure.timeouts = timeouts
                # 0: no response came.  An interrupt (-1) and a refusal of this very request are raised at once.
                if failure.status not in (0, *RETRIED) or attempt == left:
                    raise
                delay = retry_after(failure.wait, time.time())
                if delay is None:
                    # random, so that threads that failed together do not try again together
                    delay = min(self.policy.max_wait, self.policy.backoff * 2.0**attempt) * random.uniform(0.5, 1)
                elif delay > self.policy.max_wait:
                    seen = f"HTTP {failure.status}, told to wait longer than max_wait"
                    raise RequestError(seen, failure.status) from failure
                else:
                    # The server limits the client, not one request: the pause holds for all threads.
                    self._paused_until[0] = max(self._paused_until[0], time.monotonic() + delay)
                self._wait(delay)
        raise AssertionError("the loop returns or raises")

    def _wait(self, seconds: float) -> None:
        if self.stop.is_set() or (seconds > 0 and self.stop.wait(seconds)):
            raise RequestError("interrupted", -1)

    def _send(self, messages: Sequence[Message], parameters: Row) -> str:
        """The body of the response to one try, without the key.

        Raises RequestError for a try that failed, BenchError for a failure that every other request would meet too.
        """
        answer = self._exchange({"model": self.model, "messages": list(messages), **parameters})
        body = scrub(answer.body, self._key)
        status, reason = answer.status, f"HTTP {answer.status}"
        if 200 <= status < 300:
            inner = error_within(body)
            if inner is None:
                return body
            status = inner.status
            reason = f"error {inner.code or inner.status} within {reason}: {inner.message}".rstrip(": ")
        message = printable(body, 200)
        code = error_field(body, "code")
        if status not in FATAL and code != "insufficient_quota":
            # these refuse one request for what it holds, and the code says for what
            reason += f" ({code})" if status == answer.status and status in (400, 413, 422) and code else ""
            raise RequestError(reason, status, message, answer.wait, parameter=error_field(body, "param"))
        # The server's text to a 401 or 403 may quote a part of the key: it is not shown.
        if status in (401, 403):
            seen = f"{self.base_url} refuses the key (HTTP {status})."
            raise BenchError(seen, "Check the environment variable of key_env.")
        if status == 404:
            raise BenchError(f"{self.base_url} has no such model or address (HTTP 404): {message}", "Check both.")
        quota = f"{self.base_url}: no quota left (HTTP {status} {code})."
        raise BenchError(quota.replace(" )", ")"), "Top it up.")

    def _exchange(self, request: JsonObject) -> Exchange:
        """One request and its response.  Raises RequestError where none comes in time, BenchError for a redirect."""
        found: Future[Exchange] = Future()
        client = self._client  # made here: two threads would make two

        def work() -> None:
            try:
                found.set_result(exchange(client, request))
            except BaseException as error:
                found.set_exception(error)

        # A daemon: it may wait for a server that never ends, and must not keep the program alive.
        threading.Thread(target=work, name="judge request", daemon=True).start()
        end = time.monotonic() + self.policy.timeout
        while not found.done() and (left := end - time.monotonic()) > 0:
            if self.abandon.is_set():
                raise RequestError("interrupted", -1)
            wait([found], min(left, POLL))
        if not found.done():
            raise RequestError(f"no answer within {self.policy.timeout:g} s", timeouts=1)
        return found.result()


class Exchange(NamedTuple):
    """A response: its HTTP status, its body, and its Retry-After header."""

    status: int
    body: str
    wait: str


def exchange(client: OpenAI, request: JsonObject) -> Exchange:
    """Send one request.  Raises RequestError where no usable response comes, BenchError for a redirect elsewhere."""
    import openai

    from rlhf_bench.judges.llm.transport import UnboundedError

    failure: Exception
    try:
        # the raw body: the client's own parsing would reject, or repair, what parse.py must see
        raw = client.chat.completions.with_raw_response.create(**request)
        body = raw.content.decode("utf-8", "replace")
        return Exchange(raw.status_code, body, raw.headers.get("retry-after", ""))  # an error may come with a 200
    except openai.APITimeoutError:
        failure = RequestError(f"no answer within {client.timeout:g} s", timeouts=1)
    except (UnboundedError, BenchError, openai.APIConnectionError) as error:
        # version 2 of the client wraps what the transport raises, version 3 does not
        cause = error.__cause__ if isinstance(error, openai.APIConnectionError) else error
        if isinstance(cause, UnboundedError):
            failure = RequestError(str(cause), 200)  # another try would be as large
        else:
            failure = cause if isinstance(cause, BenchError) else RequestError("connection failed")
    except openai.APIStatusError as error:
        body = error.response.content.decode("utf-8", "replace")
        return Exchange(error.status_code, body, error.response.headers.get("retry-after", ""))
    # outside of `except`, so that the client's error, whose text may hold the key, is not chained
    raise failure


def error_field(body: str, name: str) -> str:
    """A text of a response's `error`, in letters, digits and `_.-`; "" where there is none."""
    try:
        found = json.loads(body)["error"][name]
    except (ValueError, RecursionError, LookupError, TypeError):
        return ""
    return re.sub(r"[^\w.-]+", " ", found, flags=re.ASCII).strip()[:40] if isinstance(found, str) else ""


def printable(text: str, longest: int) -> str:
    """A server's text as one line of ASCII."""
    return re.sub(r"[^\x20-\x7e]+", " ", text).strip()[:longest]


class ErrorWithin(NamedTuple):
    """An error that a 200 response states: the HTTP status that it stands for, its own code, and its message."""

    status: int
    code: str
    message: str


def error_within(body: str) -> ErrorWithin | None:
    """The error in the body of a 200 response, None where there is none.

    Routers answer so for the provider behind them: {"error": {...}} without choices, or an error in the first choice.
    Without a code that is an HTTP status it counts as 503: another try may not meet it.
    """
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(answer, dict):
        return None
    choices = answer.get("choices")
    first = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    failed = first.get("error") or (
        {"message": "the provider failed"} if first.get("finish_reason") == "error" else None
    )
    found = failed or (None if choices else answer.get("error"))
    if not found and not choices and answer.get("object") == "error":
        found = answer
    if not found:
        return None
    fields = found if isinstance(found, dict) else {"message": found}
    stated = [fields.get(name) for name in ("code", "status", "status_code")]
    numbers = [int(one) for one in stated if isinstance(one, int | str) and str(one).isdecimal() and len(str(one)) == 3]
    status = next((number for number in numbers if 400 <= number < 600), 503)
    code = next((printable(str(one), 40) for one in stated if isinstance(one, int | str) and one), "")
    message = fields.get("message")
    # a key may stand in the text of a refused key: as for a status, it is not shown
    shown = printable(message, 100) if isinstance(message, str) and status not in (401, 403) else ""
    return ErrorWithin(status, code, shown.replace(";", ","))


def retry_after(header: str, now: float) -> float | None:
    """Seconds of a Retry-After header, a number or an HTTP date; None where it is neither.

    `now` is the time in seconds since the epoch.
    """
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - now
        except (ValueError, TypeError, IndexError, OverflowError):
            return None
    # float() accepts "nan" and "inf"; a date may be in the past
    return max(seconds, 0.0) if math.isfinite(seconds) else None
