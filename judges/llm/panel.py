"""Many questions to one server: each asked once, from the cache where it was answered before, within a budget.

An answer is stored by the thread that got it, before anything else happens: whatever interrupts a run, what was paid
for is there when it starts again.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any

from rlhf_bench.harness.printable import well_formed
from rlhf_bench.harness.store import content_key
from rlhf_bench.judges.llm.cache import Cache
from rlhf_bench.judges.llm.client import FailedError, Server
from rlhf_bench.judges.llm.parse import Reading, read_body
from rlhf_bench.judges.llm.probe import Found, Manner, known, probe
from rlhf_bench.judges.llm.prompt import Question, escape, render

Tokens = tuple[int, int]
"""In and out."""

BUDGET = "budget"
FAILURES = 10
"""After so many questions without an answer in a row the server is taken for broken, and the rest is not asked."""
BYTES_PER_TOKEN = 3
"""Fewer than common tokenizers need for English prose; only an estimate (a token may be a single byte)."""
MARGIN = 1.25
"""Set aside for a question, times the most tokens per estimated token that the server has counted so far."""


@dataclass(frozen=True)
class Limits:
    """Prices per million tokens; budgets of one command, 0 for none; questions at once.

    The few tokens of a probe are in no budget; tries that timed out come on top of it.  A question is asked only when
    the most it may take is left; how many tokens its text has is foretold from those counted before, and from its
    bytes (the most there can be) at first.
    """

    concurrency: int
    price_in: float
    price_out: float
    max_cost: float
    token_budget: int

    @property
    def any(self) -> bool:
        return bool(self.max_cost or self.token_budget)

    def cost(self, tokens_in: float, tokens_out: float) -> float:
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6


@dataclass
class Account:
    """What a run took: questions from the cache, questions asked, tokens of those asked, unusable ones by reason.

    `uncounted` is the number of answers without usage; they are in the tokens by their estimates.
    """

    cached: int = 0
    asked: int = 0
    tokens_in: float = 0
    tokens_out: float = 0
    uncounted: int = 0
    timeouts: int = 0
    unusable: Counter[str] = field(default_factory=Counter)

    def row(self, limits: Limits) -> dict[str, Any]:
        """As JSON, with the cost where prices are known."""
        cost = limits.cost(self.tokens_in, self.tokens_out) if limits.price_in or limits.price_out else None
        return {**self.__dict__, "unusable": dict(sorted(self.unusable.items())), "cost": cost}


@dataclass
class Panel:
    """Asks one server.  `announce` gets the estimate before and the account after."""

    server: Server
    cache: Cache
    limits: Limits
    temperature: float
    max_tokens: int
    announce: Callable[[str], None]
    account: Account = field(default_factory=Account)
    found: Found | None = None
    _closed: str = ""
    _failures: int = 0
    _open: int = 0
    _ratio: float = 0.0
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def answers(self, questions: Sequence[Question]) -> list[Reading]:
        """One reading per question, in order; equal questions are asked once.

        A server is not contacted when the cache answers everything.  Raises BenchError when it cannot be used at all.
        """
        if not questions:
            return []
        self.server.stop.clear()
        self.found = known(self.server, self.cache)
        keys, readings = self._from_cache(questions)
        if len(readings) < len(set(keys)):
            self.server.check_key()
            self.found = probe(self.server, self.cache, self.temperature, self.max_tokens)
            keys, readings = self._from_cache(questions)
        missing = {key: q for key, q in zip(keys, questions, strict=True) if key not in readings}
        self.account.cached += len(readings)
        self.announce(self._estimate(len(readings), list(missing.values())))
        readings |= self._ask_all(missing)
        self.account.unusable.update(r.reason for r in readings.values() if r.choice is None)
        if missing:
            self.announce(self._spent())
        return [readings[key] for key in keys]

    def _from_cache(self, questions: Sequence[Question]) -> tuple[list[str], dict[str, Reading]]:
        """(the key of each question, the usable readings by key); without a probe no key is known to be right."""
        keys = [content_key(self._request(question)) for question in questions]
        readings = {}
        for key, question in zip(keys, questions, strict=True):
            body = self.cache.response(key) if self.found and key not in readings else None
            if body is not None and (reading := self._read(body, question)).choice is not None:
                readings[key] = reading
        return keys, readings

    def _request(self, question: Question) -> dict[str, Any]:
        """All that an answer depends on: what the cache's key is made from."""
        found = self.found or Found("", Manner(), {})
        return {
            "model": found.model,
            "base_url": self.server.base_url,
            "messages": render(question, found.manner.folded),
            "parameters": found.parameters(self.temperature, self.max_tokens),
            "vote": question.vote,
            "order": question.order,
        }

    def _read(self, body: str, question: Question) -> Reading:
        texts = [well_formed(text) for text in (question.prompt, question.first, question.second)]
        reading = read_body(body, [*texts, *map(escape, texts)])
        if self.found and reading.model and reading.model != self.found.model:
            return Reading(None, "another model answered", *_usage(reading))
        return reading

    def _ask_all(self, missing: Mapping[str, Question]) -> dict[str, Reading]:
        """On an interrupt, and when one question shows that none can be answered, open requests end and are stored."""
        self._closed, self._failures = "", 0
        pool = ThreadPoolExecutor(self.limits.concurrency, thread_name_prefix="judge")
        try:
            futures = {pool.submit(self._ask, key, question): key for key, question in missing.items()}
            return {futures[future]: future.result() for future in as_completed(futures)}
        finally:
            self.server.stop.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def _ask(self, key: str, question: Question) -> Reading:
        request = self._request(question)
        most = (_tokens(request), self.max_tokens)  # what counts where the server counts nothing
        reserved = self._reserve(*most)
        if self._closed:
            self._settle(reserved, (0, 0), 0, most)
            return Reading(None, self._closed)
        try:
            response = self.server.ask(request["messages"], request["parameters"])
        except FailedError as failure:
            self._settle(reserved, (0, 0), failure.timeouts, most)
            self._failed(failure)
            return Reading(None, str(failure))
        except BaseException:
            self._settle(reserved, (0, 0), 0, most)
            raise
        reading = self._read(response.body, question)
        self.cache.keep(key, request, response.body, reading.choice is not None)
        counted = reading.prompt_tokens, reading.completion_tokens
        used = [upper if count is None else count for count, upper in zip(counted, most, strict=True)]
        with self._changed:
            self._failures = 0
            self.account.asked += 1
            self.account.uncounted += None in counted
            self._ratio = max(self._ratio, (counted[0] or 0) / most[0])
        self._settle(reserved, (used[0], used[1]), response.timeouts, most)
        return reading

    def _reserve(self, tokens_in: int, tokens_out: int) -> int | None:
        """Set the most that a question may take aside; close the panel when that would exceed a budget.

        Open questions mostly take less than was set aside for them: they are waited for before that is said.
        """
        if self._closed or not self.limits.any:
            return None
        limits = self.limits
        with self._changed:
            while not self._closed and not self.server.stop.is_set():
                upper = math.ceil(tokens_in * (self._ratio * MARGIN or BYTES_PER_TOKEN))
                cost = limits.cost(upper, tokens_out)
                reserved = self.cache.reserve(upper + tokens_out, cost, limits.token_budget, limits.max_cost)
                if reserved is not None:
                    self._open += 1
                    return reserved
                if not self._open:
                    self._closed = BUDGET
                self._changed.wait(0 if self._closed else 0.2)
            self._closed = self._closed or "interrupted"
        return None

    def _settle(self, reserved: int | None, used: Tokens, timeouts: int, most: Tokens) -> None:
        """What a question took; a try that timed out may have been paid for, so it counts in full."""
        used_in, used_out = (one + timeouts * upper for one, upper in zip(used, most, strict=True))
        with self._changed:
            self.account.tokens_in += used_in
            self.account.tokens_out += used_out
            self.account.timeouts += timeouts
            if reserved is not None:
                self._open -= 1
                self.cache.settle(reserved, used_in + used_out, self.limits.cost(used_in, used_out))
            self._changed.notify_all()

    def _failed(self, failure: FailedError) -> None:
        """Close the panel when the server does not answer at all; a refused question (400) says nothing of others."""
        with self._changed:
            self._failures = self._failures + 1 if failure.status not in (400, 413, 422) else 0
            if self._failures >= FAILURES:
                self._closed = f"not asked: {FAILURES} questions in a row without an answer"

    def _estimate(self, cached: int, missing: Sequence[Question]) -> str:
        tokens_in = sum(_tokens(self._request(question)) for question in missing)
        tokens_out = len(missing) * self.max_tokens
        priced = self.limits.price_in or self.limits.price_out
        cost = f"${self.limits.cost(tokens_in, tokens_out):.2f}" if priced else "cost unknown (no price_in, price_out)"
        return (
            f"{self.server.name}: {cached} questions answered before, {len(missing)} to ask; "
            f"about {tokens_in:,} tokens in and at most {tokens_out:,} out, {cost}"
        )

    def _spent(self) -> str:
        row = self.account.row(self.limits)
        cost = "" if row["cost"] is None else f", ${row['cost']:.2f}"
        reasons = ", ".join(f"{count} {reason}" for reason, count in row["unusable"].items()) or "none"
        tokens = f"{self.account.tokens_in:,.0f} tokens in and {self.account.tokens_out:,.0f} out"
        return f"{self.server.name}: {self.account.asked} answers, {tokens}{cost}; unusable: {reasons}"


def _tokens(request: Mapping[str, Any]) -> int:
    """About how many tokens a request has."""
    return sum(16 + math.ceil(len(m["content"].encode()) / BYTES_PER_TOKEN) for m in request["messages"])


def _usage(reading: Reading) -> tuple[str, int | None, int | None]:
    return reading.model, reading.prompt_tokens, reading.completion_tokens
