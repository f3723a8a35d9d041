"""One question to an OpenAI-compatible server: back-off, time-outs, and a key that never leaves the request's header.

The `openai` client carries the request; retries are ours, because they must be counted, honour Retry-After in both its
forms, and stop when the user interrupts.
"""

from __future__ import annotations

import math
import os
import random
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.judges.llm.prompt import Message

if TYPE_CHECKING:
    from openai import OpenAI

RETRIED = frozenset({408, 409, 429, 500, 502, 503, 504, 529})
FATAL = frozenset({401, 402, 403, 404})
NO_KEY = "no-key"
"""Sent where there is no key: the client insists on one, local servers ignore it."""


class FailedError(Exception):
    """A question that got no answer; the message is the reason that is counted.

    `status` is 0 where no response came; `said` is the server's line; `wait` its Retry-After header; `timeouts` counts
    the tries that may have been paid for.
    """

    def __init__(self, reason: str, status: int = 0, said: str = "", wait: str = "", timeouts: int = 0) -> None:
        super().__init__(reason)
        self.status, self.said, self.wait, self.timeouts = status, said, wait, timeouts


@dataclass(frozen=True, slots=True)
class Response:
    """The raw body of a 200 response, and how many tries before it timed out."""

    body: str
    timeouts: int


@dataclass(frozen=True)
class Patience:
    """`timeout` seconds a request, `retries` more tries, `backoff` seconds doubled each time, never above `longest`."""

    timeout: float
    retries: int
    backoff: float
    longest: float


@dataclass(frozen=True)
class Server:
    """A server and the one model that is asked.  Threads share it; `stop` ends all waiting."""

    base_url: str
    model: str
    key_env: str
    patience: Patience
    stop: threading.Event = field(default_factory=threading.Event, repr=False)
    _until: list[float] = field(default_factory=lambda: [0.0], repr=False)

    @property
    def name(self) -> str:
        return f"{self.model} at {self.base_url}"

    @property
    def _key(self) -> str:
        """Read where it is used and kept nowhere: no repr, no pickle and no traceback of ours can show it."""
        return os.environ.get(self.key_env, "").strip() if self.key_env else ""

    def check_key(self) -> None:
        """Raises BenchError when the environment has no key and the server is not on this machine."""
        if not (self._key.isascii() and self._key.isprintable()):
            raise BenchError("The key in the environment holds characters that no key has.", "Set it again.")
        if self._key or not self.key_env or urlsplit(self.base_url).hostname in ("localhost", "127.0.0.1", "::1"):
            return
        named = self.key_env if self.key_env == "OPENAI_API_KEY" else "that key_env names"  # it may be the key itself
        raise BenchError(
            f"The environment variable {named} is not set.",
            "Set it to the server's key, name another with key_env, or give key_env= for a server without keys.",
        )

    @cached_property
    def _client(self) -> OpenAI:
        from openai import OpenAI

        return OpenAI(api_key=self._key or NO_KEY, base_url=self.base_url, timeout=self.patience.timeout, max_retries=0)

    def close(self) -> None:
        if "_client" in self.__dict__:
            self._client.close()

    def ask(self, messages: Sequence[Message], parameters: Mapping[str, Any], retries: int | None = None) -> Response:
        """Ask until there is a 200 response.

        Raises FailedError when tries run out or the request is refused, BenchError where no other question could fare
        better (wrong key, no such model, no quota).
        """
        left, timeouts = (self.patience.retries if retries is None else retries), 0
        for attempt in range(left + 1):
            self._wait(self._until[0] - time.monotonic())
            try:
                return Response(self.scrub(self._once(messages, parameters)), timeouts)
            except FailedError as failure:
                timeouts += failure.timeouts
                failure.timeouts = timeouts
                if failure.status not in (0, *RETRIED) or attempt == left:
                    raise
                self._wait(self._delay(failure, attempt))
        raise AssertionError("the loop returns or raises")

    def _wait(self, seconds: float) -> None:
        if self.stop.is_set() or (seconds > 0 and self.stop.wait(seconds)):
            raise FailedError("interrupted", -1)

    def _delay(self, failure: FailedError, attempt: int) -> float:
        """Seconds until the next try.  What the server asks for holds for all threads."""
        asked = retry_after(failure.wait, time.time())
        if asked is None:
            return min(self.patience.longest, self.patience.backoff * 2.0**attempt) * random.uniform(0.5, 1)
        if asked > self.patience.longest:
            raise FailedError(f"HTTP {failure.status}, told to wait longer than max_wait", failure.status)
        self._until[0] = max(self._until[0], time.monotonic() + asked)
        return asked

    def _once(self, messages: Sequence[Message], parameters: Mapping[str, Any]) -> str:
        import openai

        request: Any = {"model": self.model, "messages": list(messages), **parameters}
        try:
            raw = self._client.chat.completions.with_raw_response.create(**request)
            return raw.content.decode("utf-8", "replace")
        except openai.APITimeoutError:
            raise FailedError(f"no answer within {self.patience.timeout:g} s", timeouts=1) from None
        except openai.APIConnectionError:
            raise FailedError("connection failed") from None
        except openai.APIStatusError as error:
            status, code = error.status_code, error.code
            said = self.said(error.response.text)
            waiting = error.response.headers.get("retry-after", "")
        if status in FATAL or code == "insufficient_quota":
            raise self._fatal(status, code or "", said)
        raise FailedError(f"HTTP {status}", status, said, waiting)

    def _fatal(self, status: int, code: str, said: str) -> BenchError:
        # a 401 or 403 may quote a part of the key: what the server says of it is not repeated
        if status in (401, 403):
            return BenchError(
                f"{self.base_url} refuses the key (HTTP {status}).", "Check the environment variable of key_env."
            )
        if status == 404:
            return BenchError(f"{self.base_url} has no such model or address (HTTP 404): {said}", "Check both.")
        return BenchError(f"{self.base_url}: no quota left (HTTP {status} {code}).".replace(" )", ")"), "Top it up.")

    def said(self, body: str) -> str:
        """What an error response says, in one printable line without the key."""
        return re.sub(r"[^\x20-\x7e]+", " ", self.scrub(body)).strip()[:200]

    def scrub(self, text: str) -> str:
        """The text without the key, which a server may send back."""
        return text.replace(self._key, "[key]") if self._key else text


def retry_after(header: str, now: float) -> float | None:
    """Seconds that a Retry-After header asks for, given as a number or as an HTTP date; None when it says nothing."""
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - now
        except (ValueError, TypeError, IndexError, OverflowError):
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None
