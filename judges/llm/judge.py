"""Win rate by a language model on any OpenAI-compatible server: pairwise, in both orders.

Two orders with the same verdict are a win or a loss.  Two with different verdicts are a tie, which the notes mark as
inconsistent.  An order without a usable reply leaves the case undecided with its reason.  Raw responses are cached;
failed questions are sent again by the next command.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Case, Measure, Verdict
from rlhf_bench.harness.seams import Task
from rlhf_bench.judges.llm.address import parse_address
from rlhf_bench.judges.llm.cache import Cache, cache_path
from rlhf_bench.judges.llm.client import RetryPolicy, Server
from rlhf_bench.judges.llm.parse import ParsedReply
from rlhf_bench.judges.llm.probe import Asking
from rlhf_bench.judges.llm.prompt import Question, flags
from rlhf_bench.judges.llm.rubrics import COMPLIES_MORE, Rubric, rubric_of
from rlhf_bench.judges.llm.runner import Limits, QuestionRunner

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject, Row

Outcome = Literal["win", "tie", "loss"]
"""Of the trained policy's response."""
VALUES: Mapping[Outcome, float] = {"win": 1.0, "tie": 0.5, "loss": 0.0}
POSITIVE = ("max_tokens", "votes", "concurrency", "timeout")
OURS = frozenset(
    {
        *("model", "messages", "temperature", "max_tokens", "max_completion_tokens", "response_format", "stream", "n"),
        *("tools", "tool_choice", "functions", "function_call", "logprobs"),
    }
)
"""Fields of a request that `extra_body` may not set."""
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
    """Win rate against the SFT baseline by a language model on an OpenAI-compatible server.

    Asks `model` at `base_url` which of two responses is better.  `base_url` may end in Azure's ?api-version=DATE.
    `key_env` names the environment variable with the API key ("" for a server without keys); the key itself is never a
    setting.  `key_header` names the header that carries it: "" is api-key on Azure, else Authorization.  `rubric` is
    summary, safety, general, refusal or a file; without it the task's own is used, else the general one.  Each question
    is sent `votes` times in each order, `concurrency` at once.

    `extra_body` is a JSON object of further fields of a request, such as {"reasoning_effort": "low"}.
    `response_format` is "auto" (the server is held to JSON of a verdict where it honours that) or "off".  A model that
    refuses `temperature` is asked at its own, and the account says so; thoughts of a reasoning model count against
    `max_tokens` and are not read.

    `timeout`, `backoff` and `max_wait` are in seconds.  Prices are per million tokens; `max_cost` and `token_budget`
    (0: none) hold for everything that one command judges.  `threshold` is the share of undecided cases above which a
    command exits with 3.  `cache` is a file; see `cache_path`.
    """

    model: str
    base_url: str = "https://api.openai.com/v1"
    key_env: str = "OPENAI_API_KEY"
    key_header: str = ""
    rubric: str = ""
    temperature: float = 0.0
    max_tokens: int = 512
    extra_body: str = ""
    response_format: str = "auto"
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
    # the rubric and the runner of the last measuring: a dict, because the dataclass is frozen
    _last: JsonObject = field(default_factory=dict, init=False, repr=False, compare=False)

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
        # without prices every cost is 0, and the budget would never be reached
        if self.max_cost and not (self.price_in or self.price_out):
            raise BenchError("winrate-llm.max_cost needs prices.", "Set price_in and price_out, per million tokens.")
        parse_address(self.base_url, self.key_header)
        extra_fields(self.extra_body)
        if self.response_format not in ("auto", "off"):
            seen = f"winrate-llm.response_format is {self.response_format!r}."
            raise BenchError(seen, "It is auto or off.")
        # a key pasted here by mistake is refused, and not repeated in the message
        if self.key_env and not (self.key_env.isidentifier() and self.key_env.isupper()):
            raise BenchError(
                "winrate-llm.key_env is no name of an environment variable in capitals.",
                "It names the variable that holds the key; the key itself is never a setting.",
            )
        if self.rubric:
            rubric_of(self.rubric, None)  # an unusable one is refused before training

    @property
    def verdict_settings(self) -> Row:
        """What a verdict depends on, a rubric by its words; retries, prices and budgets change no verdict."""
        named = ("model", "temperature", "max_tokens", "votes", "response_format")
        criteria = dict(rubric_of(self.rubric, None).criteria) if self.rubric else {}
        # servers treat all spellings of the address alike, so they share verdicts
        address = parse_address(self.base_url, self.key_header).text
        own = {"base_url": address, "rubric": criteria, "extra_body": extra_fields(self.extra_body)}
        return {**{n: getattr(self, n) for n in named}, **own}

    @property
    def measures(self) -> Sequence[Measure]:
        """Those of the rubric in force: a task's own is known once its cases are measured."""
        used = self._last.get("rubric") or rubric_of(self.rubric, None)
        by = f"better than the SFT baseline's response to the same prompt, by {self.model} with the rubric {used.name}"
        # of the built-in rubrics; a measure of a file is titled by its name
        titles = {
            "win_rate": "win rate by a language model",
            "win_rate_helpful": "more helpful",
            "win_rate_harmless": "more harmless",
            COMPLIES_MORE: "refuses less",
        }
        return [Measure(name, "win", by, title=titles.get(name, "")) for name in used.criteria]

    def measure(self, cases: Sequence[Case], task: Task | None) -> Iterable[Verdict]:
        """One verdict per case, in order; undecided measures are None.

        Raises BenchError when the server or the cache cannot be used at all.
        """
        rubric = self._last["rubric"] = rubric_of(self.rubric, task)
        # all cases together, so that the threads always have questions to send
        questions = [question for case in cases for question in self._questions(case, rubric)]
        # equal questions, of two cases with the same texts, share one reply
        replies = dict(zip(questions, self.replies(questions), strict=True))
        return [self._verdict(case, rubric, replies) for case in cases]

    def against_itself(self, measure: str, texts: Sequence[tuple[str, str]], task: Task | None) -> list[str | None]:
        """The choice (A, B, tie, or None) between the response of each (prompt, response) and itself.

        For calibration: `measure` counts identical responses as a tie and sends no question.
        """
        criterion = rubric_of(self.rubric, task).criteria[measure]
        questions = [Question(prompt, text, text, criterion, order=0) for prompt, text in texts]
        return [reply.choice for reply in self.replies(questions)]

    def replies(self, questions: Sequence[Question]) -> list[ParsedReply]:
        """The judge's reply to each question, from the cache or the server; `account` has what they used.

        Raises BenchError when the server or the cache cannot be used at all; a question without a usable reply has its
        reason in the reply.
        """
        if not questions:
            return []
        cache = Cache(cache_path(self.cache))
        policy = RetryPolicy(self.timeout, self.max_retries, self.backoff, self.max_wait)
        address = parse_address(self.base_url, self.key_header)
        server = Server(address, self.model, self.key_env, policy)
        asking = Asking(
            self.temperature, self.max_tokens, extra_fields(self.extra_body), self.response_format == "auto"
        )
        server.check_holds_no_key(self.extra_body)
        limits = Limits(self.concurrency, self.price_in, self.price_out, self.max_cost, self.token_budget)

        def report(line: str) -> None:
            print(f"winrate-llm: {line}", file=sys.stderr)

        runner = QuestionRunner(server, cache, limits, asking, report)
        try:
            return runner.answers(questions)
        finally:
            # in `finally`, so that an interrupted command still has an account
            self._last["runner"] = runner
            server.close()
            cache.close()

    @property
    def account(self) -> Row:
        """What the last measuring used, the model that answered, and what its server honours, as JSON.

        {} before any question was put.
        """
        runner: QuestionRunner | None = self._last.get("runner")
        if runner is None:
            return {}
        profile = runner.profile
        server = {"resolved_model": profile.model, "honours": dict(profile.honours)} if profile else {}
        return {**runner.account.row(runner.limits), **server}

    def _questions(self, case: Case, rubric: Rubric) -> Iterator[Question]:
        """Every question about a case; none when both responses are identical, which is a tie."""
        after, before = case.generation.response, case.baseline.response
        # identical texts need no judge: no tokens are spent on them
        if after == before:
            return
        for criterion in rubric.criteria.values():
            # Judges prefer a position, so each question is asked with both responses in either place.
            for order, (first, second) in enumerate(((after, before), (before, after))):
                for vote in range(self.votes):
                    yield Question(case.example.prompt, first, second, criterion, order, vote)

    def _verdict(self, case: Case, rubric: Rubric, replies: Mapping[Question, ParsedReply]) -> Verdict:
        flagged = {"response": flags(case.generation.response), "baseline": flags(case.baseline.response)}
        notes: JsonObject = {"flags": {k: v for k, v in flagged.items() if v}} if any(flagged.values()) else {}
        if case.generation.response == case.baseline.response:
            return Verdict(dict.fromkeys(rubric.criteria, 0.5), notes={**notes, "identical": True})
        # made again instead of passed on: questions are compared by their words, so these find their replies
        questions = list(self._questions(case, rubric))
        values: dict[str, float | None] = {}
        orders: dict[str, list[str]] = {}
        reasons: set[str] = set()
        for name, criterion in rubric.criteria.items():
            pair = [
                order_outcome([replies[q] for q in questions if q.criterion == criterion and q.order == order], order)
                for order in (0, 1)
            ]
            orders[name] = [outcome or reason for outcome, reason in pair]
            values[name] = both_orders(pair[0][0], pair[1][0])
            reasons |= {reason for outcome, reason in pair if outcome is None}
        decided = [name for name, value in values.items() if value is not None]
        notes["orders"] = orders
        # outcomes are those of the policy's response, so a judge that prefers a position differs between orders
        notes["consistent"] = {name: orders[name][0] == orders[name][1] for name in decided}
        # tokens of the case's replies, in and out; None when the server did not count all of them
        counts = [n for q in questions for n in (replies[q].prompt_tokens, replies[q].completion_tokens)]
        known = [n for n in counts if n is not None]
        notes["tokens"] = sum(known) if len(known) == len(counts) else None
        return Verdict(values, "; ".join(sorted(reasons)), notes)


def extra_fields(text: str) -> JsonObject:
    """The fields of the setting extra_body; raises BenchError for what is no JSON object, and for fields of ours."""
    if not text.strip():
        return {}
    try:
        found = json.loads(text)
        json.dumps(found, allow_nan=False)  # JSON has no NaN, though Python reads one
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        fix = """Such as '{"reasoning_effort": "low"}'."""
        raise BenchError("winrate-llm.extra_body is no JSON object.", fix)
    taken = sorted(OURS & found.keys())
    if taken:
        seen = f"winrate-llm.extra_body holds {', '.join(taken)}, which the judge sets itself."
        raise BenchError(seen, "Leave it out; model, temperature, max_tokens and response_format are settings.")
    return found


def order_outcome(replies: Sequence[ParsedReply], order: int) -> tuple[Outcome | None, str]:
    """(outcome of the trained policy's response by one order's votes, ""), or (None, why it is undecided).

    The outcome is what more than half of all votes say.  Without such a majority it is a tie if every vote is usable,
    else undecided: the unusable votes could have made a majority.
    """
    counts = Counter(reply.choice for reply in replies if reply.choice is not None)
    choice, most = counts.most_common(1)[0] if counts else (None, 0)
    if choice is not None and 2 * most > len(replies):
        if choice == "tie":
            return "tie", ""
        # order 0 shows the trained policy's response as A
        return ("win" if (choice == "A") == (order == 0) else "loss"), ""
    unusable = sorted({reply.reason for reply in replies if reply.choice is None})
    return (None, "; ".join(unusable)) if unusable else ("tie", "")


def both_orders(one: Outcome | None, other: Outcome | None) -> float | None:
    """1, 0.5 or 0: the outcome of both orders, 0.5 where they differ; None where one is undecided.

    A judge that prefers a position more than a text gives two different outcomes: a tie, no win.
    """
    if one is None or other is None:
        return None
    return VALUES[one] if one == other else VALUES["tie"]
