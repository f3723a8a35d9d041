"""From a server's answer to a verdict, or to the reason why there is none.  Nothing unclear is ever guessed.

The whole message is a schema-checked JSON object, else its last line is an anchored verdict.  A server's 200 says
nothing: every step is checked here, because servers ignore `response_format` and proxies answer in HTML.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Choice = Literal["A", "B", "tie"]
"""The first answer shown, the second, or neither."""

CHOICES: dict[str, Choice] = {"a": "A", "b": "B", "tie": "tie"}


@dataclass(frozen=True, slots=True)
class Reading:
    """A verdict, or None with the reason.  Tokens are None where the server counts none."""

    choice: Choice | None
    reason: str = ""
    model: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class UnusableError(Exception):
    """An answer that holds no verdict; the message is the reason that is counted."""


def read_body(body: str, candidates: Sequence[str]) -> Reading:
    """The verdict in the body of a 200 response; `candidates` are the texts that were shown (see `_own`)."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return Reading(None, "the response is not JSON")
    answer = answer if isinstance(answer, dict) else {}
    model = answer.get("model") if isinstance(answer.get("model"), str) else ""
    used = answer.get("usage") if isinstance(answer.get("usage"), dict) else {}
    counted = (str(model), _count(used, "prompt_tokens"), _count(used, "completion_tokens"))
    try:
        text = message_text(answer)
        return Reading(_own(text, candidates), "", *counted)
    except UnusableError as error:
        return Reading(None, str(error), *counted)


def _count(used: Any, name: str) -> int | None:
    found = used.get(name)
    return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else None


def message_text(answer: Any) -> str:
    """The text of a chat completion's only message; raises UnusableError for anything else."""
    try:
        choice = answer["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason")
        text, refusal = message.get("content"), message.get("refusal")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise UnusableError("the response is no chat completion") from None
    if refusal or finish == "content_filter":
        raise UnusableError("refusal")
    if finish == "length":
        raise UnusableError("truncated at max_tokens")
    if text is not None and not isinstance(text, str):
        raise UnusableError("the response is no chat completion")
    if not text or not text.strip():
        raise UnusableError("empty reply")
    return text


def _own(text: str, candidates: Sequence[str]) -> Choice:
    """The judge's verdict, if it is its own: words that stand in what it was shown may be a quotation."""
    choice, bearer = parse(text)
    tight = _tight(bearer) if bearer.startswith("{") else bearer
    if any(bearer in shown or tight in _tight(shown) for shown in candidates):
        raise UnusableError("verdict may be quoted")
    return choice


def _tight(text: str) -> str:
    return "".join(text.split())  # JSON is the same in any layout


_FENCE = re.compile(r"\A```(?:json)?[ \t]*\n(.*)\n[ \t]*```\Z", re.DOTALL)
_THINKING = re.compile(r"\A<think>.*?</think>", re.DOTALL)
_VERDICT = re.compile(r"[\s*_#]*(?:final\s+)?verdict[\s*_]*[:=][\s*_\"'\[(]*(a|b|tie)[\s*_\"'\]).]*", re.IGNORECASE)
_REFUSAL = re.compile(
    r"\A\W*(?:(?:i['’]?m (?:very )?)?sorry|i apologi[sz]e|as an ai|i won['’]t|i can(?:not|['’]t)|i am unable)\b",
    re.IGNORECASE,
)


def parse(text: str) -> tuple[Choice, str]:
    """(the verdict in a judge's message, the words that bear it); raises UnusableError."""
    text = _THINKING.sub("", text.strip()).strip()
    if text.startswith("<think>"):
        raise UnusableError("truncated reasoning")
    if not text:
        raise UnusableError("empty reply")
    fenced = _FENCE.match(text)
    whole = fenced[1].strip() if fenced else text
    if whole.startswith(("{", "[")) and not whole.startswith("[["):
        return _from_json(whole), whole
    return _from_last_line(text)


def _from_json(whole: str) -> Choice:
    try:
        found = json.loads(whole, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError):
        raise UnusableError("invalid JSON") from None
    verdict, reason = (found.get("verdict"), found.get("reason", "")) if isinstance(found, dict) else (None, "")
    choice = CHOICES.get(verdict.strip().lower()) if isinstance(verdict, str) else None
    if choice is None or not isinstance(reason, str):
        raise UnusableError("wrong schema")
    if any(other != choice for other in _anchored(reason)):
        raise UnusableError("conflicting verdicts")
    return choice


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise UnusableError("conflicting verdicts" if _twice("verdict", pairs) else "wrong schema")
    return dict(pairs)


def _twice(name: str, pairs: list[tuple[str, Any]]) -> bool:
    return sum(key == name for key, _ in pairs) > 1


def _from_last_line(text: str) -> tuple[Choice, str]:
    """The last line must be the verdict: one further up may be quoted, and the judge went on to say something else."""
    found, last = _anchored(text), text.splitlines()[-1]
    if len(set(found)) > 1:
        raise UnusableError("conflicting verdicts")
    if not found or not _VERDICT.fullmatch(last):
        raise UnusableError("refusal" if _REFUSAL.match(text) else "no verdict")
    return found[-1], last.strip()


def _anchored(text: str) -> list[Choice]:
    """Every line that is a verdict and nothing else."""
    matches = (_VERDICT.fullmatch(line) for line in text.splitlines())
    return [CHOICES[match[1].lower()] for match in matches if match]
