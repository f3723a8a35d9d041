"""Puts many questions to one server: each once, from the cache where it was answered before, within a budget.

The thread that receives a response stores it before anything else: after an interrupt of any kind, all that was
received is in the cache.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from rlhf_bench.harness.printable import well_formed
from rlhf_bench.harness.store import content_key
from rlhf_bench.judges.llm.cache import Cache
from rlhf_bench.judges.llm.client import RequestError, Server
from rlhf_bench.judges.llm.parse import ParsedReply, parse_response
from rlhf_bench.judges.llm.probe import Asking, RequestFormat, ServerProfile, probe, stored_profile
from rlhf_bench.judges.llm.prompt import Question, escape, render

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject, Row

Tokens = tuple[int, int]
"""Numbers of tokens in and out."""

BUDGET = "budget"
FAILURES = 10
"""After so many questions in a row without an answer the server is taken for broken, and the rest is not sent."""
BYTES_PER_TOKEN = 3
"""Fewer than common tokenizers need for English prose; only an estimate, because a token may be a single byte."""
ADDED = 20_000
"""Tokens that a server may add of its own: instructions, or thoughts."""
GRACE = 1.0
"""Seconds that an interrupt waits for open requests, whose answers are paid for."""
MARGIN = 1.25
"""A question reserves this times the largest ratio of counted to estimated tokens that was seen so far."""


@dataclass(frozen=True)
class Limits:
    """Prices per million tokens; budgets of one command, 0 for none; how many questions are sent at once.

    A question is sent only when the most that it may use is left.  The number of its tokens is predicted from the
    counts of earlier questions, and for the first from its bytes, which is the most there can be.  The few tokens of a
    probe and tries that timed out come on top of the budget.
    """

    concurrency: int
    price_in: float
    price_out: float
    max_cost: float
    token_budget: int

    @property
    def any(self) -> bool:
        """Whether there is a budget."""
        return bool(self.max_cost or self.token_budget)

    def cost(self, tokens_in: float, tokens_out: float) -> float:
        """The price of tokens, in the currency of the prices."""
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6


@dataclass
class Account:
    """What a run used: questions answered from the cache, questions sent and their tokens, unusable ones by reason.

    `uncounted` is the number of responses without usage; their estimates are in the tokens.  The field names are those
    of account.json.
    """

    cached: int = 0
    asked: int = 0
    tokens_in: float = 0
    tokens_out: float = 0
    uncounted: int = 0
    timeouts: int = 0
    unusable: Counter[str] = field(default_factory=Counter)

    def row(self, limits: Limits) -> JsonObject:
        """As JSON, with the cost where prices are known.

        The cost is in the currency of the prices, None where neither is set.
        """
        cost = limits.cost(self.tokens_in, self.tokens_out) if limits.price_in or limits.price_out else None
        return {**self.__dict__, "unusable": dict(sorted(self.unusable.items())), "cost": cost}


@dataclass
class QuestionRunner:
    """Sends questions to one server.  `report` gets a line with the estimate before and one with the account after.

    Its threads share the account and the private fields and change them under `_changed` alone.
    """

    server: Server
    cache: Cache
    limits: Limits
    asking: Asking
    report: Callable[[str], None]
    account: Account = field(default_factory=Account)
    profile: ServerProfile | None = None
    _stopped: str = ""  # the reason why no further question is sent
    _failures: int = 0  # questions in a row without an answer
    _pending: int = 0  # reserved, not settled
    _ratio: float = 0.0  # the largest ratio of counted to estimated tokens, 0 before the first count
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def answers(self, questions: Sequence[Question]) -> list[ParsedReply]:
        """One reply per question, in order; equal questions are sent once.

        The server is not contacted when the cache answers everything.  Raises BenchError when the server cannot be used
        at all.
        """
        if not questions:
            return []
        self.server.stop.clear()
        self.server.abandon.clear()
        self.profile = stored_profile(self.server, self.cache)
        # by the model of the last probe: without one no key is known, and everything is missing
        keys, replies = self._from_cache(questions)
        if len(replies) < len(set(keys)):
            self.server.check_key()
            # The model behind an alias may have moved since the last probe, and keys hold the model: look again.
            self.profile = probe(self.server, self.cache, self.asking)
            if self.profile.format.own_temperature:
                seen = f"refuses temperature={self.asking.temperature:g} and is asked at its own temperature"
                self.report(f"{self.server.name}: {seen}")
            keys, replies = self._from_cache(questions)
        missing = {key: q for key, q in zip(keys, questions, strict=True) if key not in replies}
        self.account.cached += len(replies)
        tokens_in = sum(_tokens(self._request(question)) for question in missing.values())
        tokens_out = len(missing) * self.asking.max_tokens
        priced = self.limits.price_in or self.limits.price_out
        cost = f"${self.limits.cost(tokens_in, tokens_out):.2f}" if priced else "cost unknown (no price_in, price_out)"
        self.report(
            f"{self.server.name}: {len(replies)} questions answered before, {len(missing)} to ask; "
            f"about {tokens_in:,} tokens in and at most {tokens_out:,} out, {cost}"
        )
        replies |= self._send_all(missing)
        self.account.unusable.update(r.reason for r in replies.values() if r.choice is None)
        if missing:
            row = self.account.row(self.limits)
            cost = "" if row["cost"] is None else f", ${row['cost']:.2f}"
            reasons = ", ".join(f"{count} {reason}" for reason, count in row["unusable"].items()) or "none"
            tokens = f"{self.account.tokens_in:,.0f} tokens in and {self.account.tokens_out:,.0f} out"
            self.report(f"{self.server.name}: {self.account.asked} answers, {tokens}{cost}; unusable: {reasons}")
        return [replies[key] for key in keys]

    def _from_cache(self, questions: Sequence[Question]) -> tuple[list[str], dict[str, ParsedReply]]:
        """(the key of each question, the usable stored replies by key)."""
        keys = [content_key(self._request(question)) for question in questions]
        replies = {}
        for key, question in zip(keys, questions, strict=True):
            # before the first probe the model that answers is unknown, so every key is wrong
            body = self.cache.response(key) if self.profile and key not in replies else None
            if body is not None and (reply := self._parse(body, question)).choice is not None:
                replies[key] = reply
        return keys, replies

    def _request(self, question: Question) -> JsonObject:
        """Everything that an answer depends on: the cache's key is a hash of it."""
        form = self.profile.format if self.profile else RequestFormat()
        return {
            "model": self.profile.model if self.profile else "",
            "base_url": self.server.base_url,
            "messages": render(question, form.folded),
            "parameters": form.judging(self.asking),
            "vote": question.vote,
            "order": question.order,
        }

    def _parse(self, body: str, question: Question) -> ParsedReply:
        # The judge saw the texts with escaped tags and may quote either form.
        texts = [well_formed(text) for text in (question.prompt, question.first, question.second)]
        reply = sensible(parse_response(body, [*texts, *map(escape, texts)]), question, self.asking.max_tokens)
        if self.profile and reply.model and reply.model != self.profile.model:
            counts = reply.prompt_tokens, reply.completion_tokens
            return ParsedReply(None, "another model answered", reply.model, *counts)
        return reply

    def _send_all(self, missing: Mapping[str, Question]) -> dict[str, ParsedReply]:
        """The replies to questions by key.

        When one question shows that none can be answered, pending requests finish and are stored; on an interrupt,
        those that finish within GRACE seconds.
        """
        self._stopped, self._failures = "", 0
        pool = ThreadPoolExecutor(self.limits.concurrency, thread_name_prefix="judge")
        try:
            futures = {pool.submit(self._send, key, question): key for key, question in missing.items()}
            # result() raises a BenchError of a thread here, which ends the other threads by `stop`
            return {futures[future]: future.result() for future in as_completed(futures)}
        except KeyboardInterrupt:
            self.server.stop.set()
            wait(futures, GRACE)
            self.server.abandon.set()
            raise
        finally:
            self.server.stop.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def _send(self, key: str, question: Question) -> ParsedReply:
        """The reply to one question, in a thread of the pool."""
        request = self._request(question)
        most = (_tokens(request), self.asking.max_tokens)  # counted where the server reports no usage
        reserved = self._reserve(*most)
        if self._stopped:
            # another thread stopped the runner while this one waited for its reservation
            self._settle(reserved, (0, 0), 0, most)
            return ParsedReply(None, self._stopped)
        try:
            response = self.server.request(request["messages"], request["parameters"])
        except RequestError as failure:
            self._settle(reserved, (0, 0), failure.timeouts, most)
            with self._changed:
                # a refused request (400, too long for example) says nothing about other questions
                self._failures = self._failures + 1 if failure.status not in (400, 413, 422) else 0
                if self._failures >= FAILURES:
                    self._stopped = f"not asked: {FAILURES} questions in a row without an answer"
            return ParsedReply(None, str(failure))
        # a fatal error or an interrupt: the reservation must not stay in the shared budget
        except BaseException:
            self._settle(reserved, (0, 0), 0, most)
            raise
        reply = self._parse(response.body, question)
        # stored before it is counted: an interrupt after this line loses nothing
        self.cache.store_response(key, request, response.body, reply.choice is not None)
        counted = reply.prompt_tokens, reply.completion_tokens
        used = [upper if count is None else count for count, upper in zip(counted, most, strict=True)]
        with self._changed:
            self._failures = 0
            self.account.asked += 1
            self.account.uncounted += None in counted
            # servers count their own chat format too: later predictions must not be below what was counted
            self._ratio = max(self._ratio, (counted[0] or 0) / most[0])
        self._settle(reserved, (used[0], used[1]), response.timeouts, most)
        return reply

    def _reserve(self, tokens_in: int, tokens_out: int) -> int | None:
        """Reserve the most that a question may use; stop the runner when that would exceed a budget.

        Returns the reservation's id, None where there is no budget or the runner has stopped.
        """
        # read without the lock: `_send` looks again before it sends
        if self._stopped or not self.limits.any:
            return None
        limits = self.limits
        with self._changed:
            while not self._stopped and not self.server.stop.is_set():
                upper = math.ceil(tokens_in * (self._ratio * MARGIN or BYTES_PER_TOKEN))
                cost = limits.cost(upper, tokens_out)
                reserved = self.cache.reserve(upper + tokens_out, cost, limits.token_budget, limits.max_cost)
                if reserved is not None:
                    self._pending += 1
                    return reserved
                # Pending questions mostly use less than they reserved: the budget is spent only when none is left.
                if not self._pending:
                    self._stopped = BUDGET
                # with a time-out, because an interrupt sets `stop` without a notification
                self._changed.wait(0 if self._stopped else 0.2)
            # the loop ended without a reservation: stopped by another thread, or by an interrupt
            self._stopped = self._stopped or "interrupted"
        return None

    def _settle(self, reserved: int | None, used: Tokens, timeouts: int, most: Tokens) -> None:
        """Count what a question used.  A try that timed out may have been charged, so it counts in full."""
        used_in, used_out = (one + timeouts * upper for one, upper in zip(used, most, strict=True))
        with self._changed:
            self.account.tokens_in += used_in
            self.account.tokens_out += used_out
            self.account.timeouts += timeouts
            if reserved is not None:
                self._pending -= 1
                self.cache.settle(reserved, used_in + used_out, self.limits.cost(used_in, used_out))
            self._changed.notify_all()


def sensible(reply: ParsedReply, question: Question, max_tokens: int) -> ParsedReply:
    """The reply without counts of tokens that cannot be: one would end a budget, or reserve all of it.

    A prompt has at most a token for each byte, and what the server adds to it; a reply may exceed its limit where the
    server counts reasoning apart.
    """
    most = 4 * len("".join((question.prompt, question.first, question.second, question.criterion))) + ADDED
    known = replace(reply, prompt_tokens=None) if (reply.prompt_tokens or 0) > most else reply
    return replace(known, completion_tokens=None) if (reply.completion_tokens or 0) > 10 * max_tokens + ADDED else known


def _tokens(request: Row) -> int:
    """An estimate of a request's tokens; 16 a message for the chat format."""
    return sum(16 + math.ceil(len(m["content"].encode()) / BYTES_PER_TOKEN) for m in request["messages"])
