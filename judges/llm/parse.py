"""A server's response as a verdict, or as the reason why it holds none.  Nothing unclear is guessed.

A verdict is a whole message that is a JSON object of the right schema, else a last line that is a verdict and nothing
else.  Every step is checked, because a 200 response proves nothing: servers ignore `response_format`, and proxies
answer with HTML.  The reasons are counted and stored with the verdicts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject, Row

Choice = Literal["A", "B", "tie"]
"""The first answer shown, the second, or neither."""

CHOICES: dict[str, Choice] = {"a": "A", "b": "B", "tie": "tie"}


@dataclass(frozen=True, slots=True)
class ParsedReply:
    """A verdict, or None with the reason.

    `model` is the name that the response states, "" where it states none.  Numbers of tokens are None where the server
    reports none.
    """

    choice: Choice | None
    reason: str = ""
    model: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class UnusableError(Exception):
    """A response without a verdict; the message is the reason that is counted."""


def parse_response(body: str, candidates: Sequence[str]) -> ParsedReply:
    """The verdict in the body of a 200 response; `candidates` are the texts that the judge was shown.

    A verdict whose words also occur in a candidate is unusable: the judge may be quoting it.
    """
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return ParsedReply(None, "the response is not JSON")
    # any field may be missing, null or of another type: the body is what the server or a proxy sent
    answer = answer if isinstance(answer, dict) else {}
    model = answer["model"] if isinstance(answer.get("model"), str) else ""
    usage = answer["usage"] if isinstance(answer.get("usage"), dict) else {}
    # kept for unusable replies too: they cost tokens, and another model's name must be noticed
    counts = (model, _count(usage, "prompt_tokens"), _count(usage, "completion_tokens"))
    try:
        choice, words = parse_verdict(message_text(answer))
    except UnusableError as error:
        return ParsedReply(None, str(error), *counts)
    # JSON means the same with any white space, so a quotation is searched without it.
    compact = "".join(words.split()) if words.startswith("{") else words
    # a candidate that holds the very words may have been copied by the judge, to quote it or because it obeyed
    if any(words in shown or compact in "".join(shown.split()) for shown in candidates):
        return ParsedReply(None, "verdict may be quoted", *counts)
    return ParsedReply(choice, "", *counts)


def _count(usage: Row, name: str) -> int | None:
    found = usage.get(name)
    # True is an int in Python
    return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else None


def message_text(answer: Row) -> str:
    """The text of a chat completion's first message; raises UnusableError where there is none.

    Unusable are a body of another form, a refusal, a message that a filter or the limit of tokens cut off, and an empty
    one.
    """
    try:
        choice = answer["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason")
        text, refusal = message.get("content"), message.get("refusal")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise UnusableError("the response is no chat completion") from None
    if refusal or finish == "content_filter":
        raise UnusableError("refusal")
    # a truncated message may hold a verdict that the rest would have revised
    if finish == "length":
        raise UnusableError("truncated at max_tokens")
    if text is not None and not isinstance(text, str):
        raise UnusableError("the response is no chat completion")
    if not text or not text.strip():
        raise UnusableError("empty reply")
    return text


# A whole message in a Markdown fence.
_FENCE = re.compile(r"\A```(?:json)?[ \t]*\n(.*)\n[ \t]*```\Z", re.DOTALL)
# Reasoning models write their thoughts before the message; verdicts in them are not final.
_THINKING = re.compile(r"\A<think>.*?</think>", re.DOTALL)
# A line such as "**Verdict:** [[A]]" and nothing else.
_VERDICT = re.compile(r"[\s*_#]*(?:final\s+)?verdict[\s*_]*[:=][\s*_\"'\[(]*(a|b|tie)[\s*_\"'\]).]*", re.IGNORECASE)
_REFUSAL = re.compile(
    r"\A\W*(?:(?:i['’]?m (?:very )?)?sorry|i apologi[sz]e|as an ai|i won['’]t|i can(?:not|['’]t)|i am unable)\b",
    re.IGNORECASE,
)


def parse_verdict(text: str) -> tuple[Choice, str]:
    """(the verdict in a judge's message, the words that state it); raises UnusableError where there is none.

    A reasoning model's thoughts and a fence around the whole message are taken off first.  Conflicting verdicts are
    unusable, and so is one that the judge's last line does not state.
    """
    text = _THINKING.sub("", text.strip()).strip()
    if text.startswith("<think>"):
        raise UnusableError("truncated reasoning")
    if not text:
        raise UnusableError("empty reply")
    fenced = _FENCE.match(text)
    whole = fenced[1].strip() if fenced else text
    # a message that begins as JSON is JSON or nothing: its last line is not tried
    if whole.startswith(("{", "[")) and not whole.startswith("[["):  # [[A]] is another judge's notation, not JSON
        return _from_json(whole), whole
    found, last = _verdict_lines(text), text.splitlines()[-1]
    if len(set(found)) > 1:
        raise UnusableError("conflicting verdicts")
    # The verdict must be the last line: one further up may be a quotation that the judge then comments on.
    if not found or not _VERDICT.fullmatch(last):
        raise UnusableError("refusal" if _REFUSAL.match(text) else "no verdict")
    return found[-1], last.strip()


def _from_json(whole: str) -> Choice:
    def without_duplicates(pairs: list[tuple[str, object]]) -> JsonObject:
        # json keeps the last of two equal keys: an earlier verdict would go unseen
        if len(dict(pairs)) < len(pairs):
            repeated = sum(key == "verdict" for key, _ in pairs) > 1
            raise UnusableError("conflicting verdicts" if repeated else "wrong schema")
        return dict(pairs)

    try:
        found = json.loads(whole, object_pairs_hook=without_duplicates)
    except (ValueError, RecursionError):  # the latter for JSON of a hundred thousand levels
        raise UnusableError("invalid JSON") from None
    verdict, reason = (found.get("verdict"), found.get("reason", "")) if isinstance(found, dict) else (None, "")
    # the key "reason" may be missing, "verdict" may not
    choice = CHOICES.get(verdict.strip().lower()) if isinstance(verdict, str) else None
    if choice is None or not isinstance(reason, str):
        raise UnusableError("wrong schema")
    # the reason may state another verdict than the field
    if any(other != choice for other in _verdict_lines(reason)):
        raise UnusableError("conflicting verdicts")
    return choice


def _verdict_lines(text: str) -> list[Choice]:
    """The verdict of every line that states one and nothing else."""
    matches = (_VERDICT.fullmatch(line) for line in text.splitlines())
    return [CHOICES[match[1].lower()] for match in matches if match]
