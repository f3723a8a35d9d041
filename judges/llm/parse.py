"""A server's response as a verdict, or as the reason why it holds none.  Nothing unclear is guessed.

A verdict is the one JSON object of a message, else a last line that is a verdict and nothing else.  The object may
stand in a fence, after other words, or before words that cannot take it back, and may break rules of JSON that leave no
doubt about its verdict.  Every step is checked, because a 200 response proves nothing: servers ignore
`response_format`, and proxies answer with HTML.  The reasons are counted and stored with the verdicts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rlhf_bench.harness.text.thinking import part, part_reply

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject, Row

Choice = Literal["A", "B", "tie"]
"""The first answer shown, the second, or neither."""

CHOICES: dict[str, Choice] = {"a": "A", "b": "B", "tie": "tie"}

REMEDY = "raise winrate-llm.max_tokens or turn reasoning off by winrate-llm.extra_body"
SPENT = f"max_tokens spent on reasoning: {REMEDY}"
"""The reason of a reply that ended before its answer began."""
UNANSWERED = f"reasoning without an answer: {REMEDY}"
CUT_OFF = frozenset({"length", "max_tokens", "MAX_TOKENS"})
"""What servers state as `finish_reason` at the limit of tokens."""
FILTERED = frozenset({"content_filter", "safety", "SAFETY", "refusal"})
THOUGHT_PARTS = frozenset({"thinking", "redacted_thinking", "reasoning", "reasoning_text", "summary_text"})
"""Types of parts of a message that hold no answer."""


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

    Unusable are a body of another form, a refusal, a tool call, a message that a filter or the limit of tokens cut off,
    and an empty one.  Text in a field of its own for reasoning is no message.
    """
    try:
        choice = answer["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason")
        text, refusal, thought = _content(message.get("content"), message.get("refusal"))
    except (KeyError, IndexError, TypeError, AttributeError):
        raise UnusableError("the response is no chat completion") from None
    thought = thought or any(message.get(name) for name in ("reasoning_content", "reasoning", "thinking"))
    if refusal or (isinstance(finish, str) and finish in FILTERED):
        raise UnusableError("refusal")
    # a truncated message may hold a verdict that the rest would have revised
    if isinstance(finish, str) and finish in CUT_OFF:
        spent = part(text).open or (not text.strip() and (thought or _reasoning_tokens(answer)))
        raise UnusableError(SPENT if spent else "truncated at max_tokens")
    if not text.strip():
        if message.get("tool_calls") or message.get("function_call"):
            raise UnusableError("a tool call instead of an answer")
        raise UnusableError(UNANSWERED if thought or _reasoning_tokens(answer) else "empty reply")
    return text


def _content(content: object, refusal: object) -> tuple[str, bool, bool]:
    """(the text of a message, whether it is a refusal, whether it holds parts of reasoning).

    Raises TypeError or KeyError for a content that is neither text, nor null, nor a list of parts.
    """
    if content is None or isinstance(content, str):
        return content or "", bool(refusal), False
    if not isinstance(content, list) or not all(
        isinstance(one, dict) and isinstance(one["type"], str) for one in content
    ):
        raise TypeError("no content of a message")
    texts = [one["text"] for one in content if one["type"] in ("text", "output_text")]
    kinds = {one["type"] for one in content}
    return "".join(texts), bool(refusal) or "refusal" in kinds, bool(kinds & THOUGHT_PARTS)


def _reasoning_tokens(answer: Row) -> bool:
    """Whether the response states that it took tokens of reasoning, which it need not show."""
    usage = answer.get("usage")
    details = usage.get("completion_tokens_details") if isinstance(usage, dict) else None
    return bool(isinstance(details, dict) and _count(details, "reasoning_tokens"))


FENCE = "```"
_LANGUAGE = re.compile(r"`*\w*\s*")
_QUOTE = "[\"'\u201c\u201d\u201e\uff02]"
_KEY = re.compile(rf"verdict\\*{_QUOTE}\s*:", re.IGNORECASE)
# Objects that json.loads refuses, for a quotation mark or a comma too many or marks of another kind, with one verdict.
_VERDICT_LAST = re.compile(
    rf"\{{\s*{_QUOTE}reason{_QUOTE}\s*:.*{_QUOTE}verdict{_QUOTE}\s*:\s*{_QUOTE}([^\"'{{}}]{{1,12}}){_QUOTE}\s*,?\s*\}}",
    re.DOTALL | re.IGNORECASE,
)
_VERDICT_FIRST = re.compile(
    rf"\{{\s*{_QUOTE}verdict{_QUOTE}\s*:\s*{_QUOTE}([^\"'{{}}]{{1,12}}){_QUOTE}\s*(?:,\s*{_QUOTE}reason{_QUOTE}\s*:.*)?\}}",
    re.DOTALL | re.IGNORECASE,
)
_CHOICE = re.compile(r"[\s\[*]*(?:(?:answer|response)[\s_-]*(?=[ab]))?(a|b|tie)[\s\]*.]*", re.IGNORECASE)
# Words after an object that may take its verdict back, or say that it was a quotation.
_RETRACTS = re.compile(
    r"\b[AB]\b|(?i:\b(?:tie|verdict|wait|actually|however|instead|correct\w*|mistake\w*|sorry|but|not|no|never|ignore\w*"
    r"|quot\w*|sway\w*|better|best|worse|winner|prefer\w*|first|second|answer is|answer says|above)\b|n['\u2019]t\b)"
)
# A line such as "**Verdict:** [[A]]" and nothing else.
_VERDICT = re.compile(r"[\s*_#]*(?:final\s+)?verdict[\s*_]*[:=][\s*_\"'\[(]*(a|b|tie)[\s*_\"'\]).]*", re.IGNORECASE)
_REFUSAL = re.compile(
    r"\A\W*(?:(?:i['’]?m (?:very )?)?sorry|i apologi[sz]e|as an ai|i won['’]t|i can(?:not|['’]t)|i am unable)\b",
    re.IGNORECASE,
)


def parse_verdict(text: str) -> tuple[Choice, str]:
    """(the verdict in a judge's message, the words that state it); raises UnusableError where there is none.

    A reasoning model's thoughts are taken off first.  Conflicting verdicts are unusable, and so are one that neither an
    object nor the last line states, and one that is followed by words that may take it back.
    """
    text = text.strip().lstrip("\ufeff").strip()
    before, whole, after = split_object(text)
    # an object may quote the marks of thoughts; one that stands before such a mark is a draft
    if part(text).thinking or not _is_object(whole) or part_reply(f"{before}\n{after}").thinking:
        found = part_reply(text)
        if found.open:
            raise UnusableError("truncated reasoning")
        text = found.answer.strip()
    if not text:
        raise UnusableError("empty reply")
    before, whole, after = split_object(text)
    if whole:
        choice = _from_json(whole)
        rest = f"{before}\n{after}"
        # a second object, or a line, may state another verdict
        if _KEY.search(rest) or any(other != choice for other in _verdict_lines(rest)):
            raise UnusableError("conflicting verdicts")
        if _RETRACTS.search(after) and not _VERDICT.fullmatch(after.strip()):
            raise UnusableError("words after the verdict may change it")
        return choice, whole
    lines, last = _verdict_lines(text), text.splitlines()[-1]
    if len(set(lines)) > 1:
        raise UnusableError("conflicting verdicts")
    # The verdict must be the last line: one further up may be a quotation that the judge then comments on.
    if not lines or not _VERDICT.fullmatch(last):
        raise UnusableError("refusal" if _REFUSAL.match(text) else "no verdict")
    return lines[-1], last.strip()


def split_object(text: str) -> tuple[str, str, str]:
    """(the text before a message's JSON, the JSON, the text after it); the JSON is "" where the message has none.

    A message that begins as JSON has it in any case, and it need not be valid.  Elsewhere it must name a verdict: it is
    the one fenced block that does, else what stands between the first brace and the last.
    """
    starts_as_json = text.startswith("{") or (text.startswith("[") and not text.startswith("[["))  # [[A]] is no JSON
    if starts_as_json:
        end = text.rfind("}") + 1 if text.startswith("{") else 0
        return ("", text[:end], text[end:]) if end else ("", text, "")
    # outside, inside, outside, ...; split, because a pattern would try every mark as an opening one
    pieces = text.split(FENCE)
    fenced = [at for at in range(1, len(pieces) - 1, 2) if _KEY.search(pieces[at])]
    whole_fence = len(pieces) == 3 and not pieces[0] and not pieces[2]
    if len(fenced) == 1 or whole_fence:
        at = 1 if whole_fence else fenced[0]
        inside = _LANGUAGE.sub("", pieces[at], count=1).strip()
        # a fence around a whole message promises JSON, valid or not
        if fenced or inside.startswith(("{", "[")):
            return FENCE.join(pieces[:at]), inside, FENCE.join(pieces[at + 1 :])
    start, end = text.find("{"), text.rfind("}") + 1
    whole = text[start:end] if 0 <= start < end else ""
    return (text[:start], whole, text[end:]) if _KEY.search(whole) else (text, "", "")


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text, strict=False), dict)
    except (ValueError, RecursionError):
        return False


def _from_json(whole: str) -> Choice:
    def without_duplicates(pairs: list[tuple[str, object]]) -> JsonObject:
        # json keeps the last of two equal keys: an earlier verdict would go unseen
        names = [key.strip().lower() for key, _ in pairs]
        if len(set(names)) < len(names):
            raise UnusableError("conflicting verdicts" if names.count("verdict") > 1 else "wrong schema")
        return dict(zip(names, (value for _, value in pairs), strict=True))

    try:
        # not strict: a line break inside a string is no doubt about the verdict
        found = json.loads(whole, strict=False, object_pairs_hook=without_duplicates)
    except (ValueError, RecursionError):  # the latter for JSON of a hundred thousand levels
        near = _VERDICT_LAST.fullmatch(whole) or _VERDICT_FIRST.fullmatch(whole)
        if near is None or len(_KEY.findall(whole)) > 1:
            raise UnusableError("invalid JSON") from None
        found = {"verdict": near[1], "reason": whole}
    verdict, reason = (found.get("verdict"), found.get("reason", "")) if isinstance(found, dict) else (None, "")
    # the key "reason" may be missing, "verdict" may not
    match = _CHOICE.fullmatch(verdict) if isinstance(verdict, str) else None
    if match is None or not isinstance(reason, str):
        raise UnusableError("wrong schema")
    choice = CHOICES[match[1].lower()]
    # the reason may state another verdict than the field
    if any(other != choice for other in _verdict_lines(reason)):
        raise UnusableError("conflicting verdicts")
    return choice


def _verdict_lines(text: str) -> list[Choice]:
    """The verdict of every line that states one and nothing else."""
    matches = (_VERDICT.fullmatch(line) for line in text.splitlines())
    return [CHOICES[match[1].lower()] for match in matches if match]
