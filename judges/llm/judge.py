"""Win rate by a language model: any OpenAI-compatible server, pairwise, in both orders, that cannot lie silently.

The same verdict in both orders is a win or a loss, a flip is a tie that the notes count against the judge, and an order
without a usable answer leaves the case undecided with its reason.  Answers are cached raw; failures are asked again.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Case, Measure, Verdict
from rlhf_bench.harness.seams import Task
from rlhf_bench.judges.llm.cache import Cache, cache_path
from rlhf_bench.judges.llm.client import Patience, Server
from rlhf_bench.judges.llm.panel import Limits, Panel
from rlhf_bench.judges.llm.parse import Reading
from rlhf_bench.judges.llm.prompt import Question, flags
from rlhf_bench.judges.llm.rubrics import Rubric, rubric_of

Outcome = Literal["win", "tie", "loss"]
VALUES: Mapping[Outcome, float] = {"win": 1.0, "tie": 0.5, "loss": 0.0}
POSITIVE = ("max_tokens", "votes", "concurrency", "timeout")
NOT_NEGATIVE = (
    "temperature",
    "max_retries",
    "backoff",
    "max_wait",
    "price_in",
    "price_out",
    "max_cost",
    "token_budget",
)


@dataclass(frozen=True)
class WinRateLLM:
    """Asks `model` at `base_url` which of two responses is better, by the task's rubric or the one that is named.

    `key_env` names the environment variable with the key ("" for a server without keys): the key itself is no setting.
    `rubric` is summary, safety, general or a file; without it the task decides.  Prices are per million tokens,
    `max_cost` and `token_budget` (0: none) hold for all that one command judges.  `threshold` is the share of undecided
    cases above which a command exits with 3.  `cache` is a file; see `cache_path`.
    """

    model: str
    base_url: str = "https://api.openai.com/v1"
    key_env: str = "OPENAI_API_KEY"
    rubric: str = ""
    temperature: float = 0.0
    max_tokens: int = 512
    votes: int = 1
    concurrency: int = 4
    timeout: float = 60.0
    max_retries: int = 5
    backoff: float = 0.5
    max_wait: float = 60.0
    price_in: float = 0.0
    price_out: float = 0.0
    max_cost: float = 0.0
    token_budget: int = 0
    cache: str = ""
    threshold: float = 0.05
    _last: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in (*POSITIVE, *NOT_NEGATIVE):
            value = getattr(self, name)
            if value < 0 or (value == 0 and name in POSITIVE):
                raise BenchError(
                    f"winrate-llm.{name} is {value}.", "It must not be negative, nor 0 where 0 is nothing."
                )
        if not 0 <= self.threshold <= 1:
            raise BenchError(f"winrate-llm.threshold is {self.threshold}.", "It is a share between 0 and 1.")
        if not self.model.strip():
            raise BenchError("winrate-llm.model is empty.", "Name the model as the server calls it.")
        if self.max_cost and not (self.price_in or self.price_out):
            raise BenchError("winrate-llm.max_cost needs prices.", "Set price_in and price_out, per million tokens.")
        _check_address(self.base_url)
        if self.key_env and not (self.key_env.isidentifier() and self.key_env.isupper()):
            raise BenchError(
                "winrate-llm.key_env is no name of an environment variable in capitals.",
                "It names the variable that holds the key; the key itself is never a setting.",
            )
        if self.rubric:
            rubric_of(self.rubric, None)

    @property
    def verdict_settings(self) -> Mapping[str, Any]:
        """What an answer depends on, a rubric by its words; patience, prices and budgets change no verdict."""
        named = ("model", "temperature", "max_tokens", "votes")
        criteria = dict(rubric_of(self.rubric, None).criteria) if self.rubric else {}
        return {**{n: getattr(self, n) for n in named}, "base_url": self.base_url.rstrip("/"), "rubric": criteria}

    @property
    def measures(self) -> Sequence[Measure]:
        """Those of the rubric in force: a task's own is known once its cases are measured."""
        used = self._last.get("rubric") or rubric_of(self.rubric, None)
        by = f"better than the SFT baseline's response to the same prompt, by {self.model} with the rubric {used.name}"
        return [Measure(name, "win", by) for name in used.criteria]

    def measure(self, cases: Sequence[Case], task: Task | None) -> Iterable[Verdict]:
        rubric = self._last["rubric"] = rubric_of(self.rubric, task)
        questions = [question for case in cases for question in self._questions(case, rubric)]
        readings = dict(zip(questions, self.readings(questions), strict=True))
        return [self._verdict(case, rubric, readings) for case in cases]

    def against_itself(self, measure: str, texts: Sequence[tuple[str, str]], task: Task | None) -> list[str | None]:
        """The choice (A, B, tie, or None) between each (prompt, response) and itself, which `measure` need not ask."""
        criterion = rubric_of(self.rubric, task).criteria[measure]
        asked = [Question(prompt, text, text, criterion, order=0) for prompt, text in texts]
        return [reading.choice for reading in self.readings(asked)]

    def readings(self, questions: Sequence[Question]) -> list[Reading]:
        """The judge's answer to each question, from the cache or the server, with what it took in `account`."""
        if not questions:
            return []
        cache = Cache(cache_path(self.cache))
        patience = Patience(self.timeout, self.max_retries, self.backoff, self.max_wait)
        server = Server(self.base_url.rstrip("/"), self.model, self.key_env, patience)
        limits = Limits(self.concurrency, self.price_in, self.price_out, self.max_cost, self.token_budget)
        panel = Panel(server, cache, limits, self.temperature, self.max_tokens, _announce)
        try:
            return panel.answers(questions)
        finally:
            self._last["panel"] = panel
            server.close()
            cache.close()

    @property
    def account(self) -> Mapping[str, Any]:
        """What the last measuring took, the model that answered, and what its server honours: JSON for a report."""
        panel = self._last.get("panel")
        if panel is None:
            return {}
        found = panel.found
        honours = {"resolved_model": found.model, "honours": dict(found.honours)} if found else {}
        return {**panel.account.row(panel.limits), **honours}

    def _questions(self, case: Case, rubric: Rubric) -> Iterator[Question]:
        """Every question about a case; none when both responses are the same, which is a tie."""
        after, before = case.generation.response, case.baseline.response
        if after == before:
            return
        for criterion in rubric.criteria.values():
            for order, (first, second) in enumerate(((after, before), (before, after))):
                for vote in range(self.votes):
                    yield Question(case.example.prompt, first, second, criterion, order, vote)

    def _verdict(self, case: Case, rubric: Rubric, readings: Mapping[Question, Reading]) -> Verdict:
        flagged = {"response": flags(case.generation.response), "baseline": flags(case.baseline.response)}
        notes: dict[str, Any] = {"flags": {k: v for k, v in flagged.items() if v}} if any(flagged.values()) else {}
        if case.generation.response == case.baseline.response:
            return Verdict(dict.fromkeys(rubric.criteria, 0.5), notes={**notes, "identical": True})
        asked = list(self._questions(case, rubric))
        values: dict[str, float | None] = {}
        orders: dict[str, list[str]] = {}
        reasons: set[str] = set()
        for name, criterion in rubric.criteria.items():
            pair = [
                order_outcome([readings[q] for q in asked if q.criterion == criterion and q.order == order], order)
                for order in (0, 1)
            ]
            orders[name] = [outcome or reason for outcome, reason in pair]
            values[name] = both_orders(pair[0][0], pair[1][0])
            reasons |= {reason for outcome, reason in pair if outcome is None}
        decided = [name for name, value in values.items() if value is not None]
        notes["orders"] = orders
        notes["consistent"] = {name: orders[name][0] == orders[name][1] for name in decided}
        notes["tokens"] = _tokens([readings[question] for question in asked])
        return Verdict(values, "; ".join(sorted(reasons)), notes)


def order_outcome(readings: Sequence[Reading], order: int) -> tuple[Outcome | None, str]:
    """(what more than half of one order's votes say of the trained policy's response, else tie, or None and why).

    Unusable votes leave the order undecided unless the usable ones have a majority of all without them.
    """
    counts = Counter(reading.choice for reading in readings if reading.choice is not None)
    choice, most = counts.most_common(1)[0] if counts else (None, 0)
    if choice is not None and 2 * most > len(readings):
        if choice == "tie":
            return "tie", ""
        return ("win" if (choice == "A") == (order == 0) else "loss"), ""
    unusable = sorted({reading.reason for reading in readings if reading.choice is None})
    return (None, "; ".join(unusable)) if unusable else ("tie", "")


def both_orders(one: Outcome | None, other: Outcome | None) -> float | None:
    """1, .5 or 0: the verdict that both orders agree on, .5 when they differ; None when one is undecided."""
    if one is None or other is None:
        return None
    return VALUES[one] if one == other else VALUES["tie"]


def _tokens(readings: Sequence[Reading]) -> int | None:
    """Tokens that a case's answers took, in and out; None when the server did not count all of them."""
    counts = [n for reading in readings for n in (reading.prompt_tokens, reading.completion_tokens)]
    known = [n for n in counts if n is not None]
    return sum(known) if len(known) == len(counts) else None


def _check_address(base_url: str) -> None:
    """Addresses are stored and shown: one with a password or a query (keys hide there) is refused, and not repeated."""
    try:
        parts = urlsplit(base_url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    else:
        if parts.username or parts.password or parts.query or parts.fragment:
            raise BenchError(
                "winrate-llm.base_url holds a user, a password or a query.",
                "Give the bare address; the key comes from the environment variable that key_env names.",
            )
    if not usable:
        raise BenchError("winrate-llm.base_url is no http address.", "Such as http://localhost:8000/v1.")


def _announce(text: str) -> None:
    print(f"winrate-llm: {text}", file=sys.stderr)
