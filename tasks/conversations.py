"""Preference rows in the standard columns, plain or conversational, as (prompt, chosen, rejected) texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.tasks.sources import Row

ANSWERS = "\n\nAssistant:"
"""What an implicit prompt ends with in transcripts of plain text."""
NAMES = {"system": "System", "user": "User", "assistant": "Assistant"}


class Message(NamedTuple):
    """One turn of a conversation."""

    role: str
    content: str


def parted(row: Row) -> tuple[str, str, str]:
    """(prompt, chosen, rejected) of a row.  Raises BenchError, with its place, for a row that is none of the kinds."""
    chosen, rejected = _value(row, "chosen"), _value(row, "rejected")
    prompt = _value(row, "prompt") if "prompt" in row.values else None
    if isinstance(chosen, str) and isinstance(rejected, str):
        asked = _asked(row, prompt)
        found = _plain(row, chosen, rejected) if asked is None else (asked, chosen, rejected)
    elif isinstance(chosen, list) and isinstance(rejected, list):
        found = _conversation(row, prompt, chosen, rejected)
    else:
        raise BenchError(f"{row.where}: one response is text, the other a list of messages.", "Give both alike.")
    if not found[0].strip() or not found[1].strip():
        empty = "chosen response" if found[0].strip() else "prompt"
        raise BenchError(f"{row.where}: the {empty} is empty.", "Fill it in or drop the row.")
    return found


def _asked(row: Row, prompt: str | list[Message] | None) -> str | None:
    return flattened(row, prompt) if isinstance(prompt, list) else prompt


def _plain(row: Row, chosen: str, rejected: str) -> tuple[str, str, str]:
    """The prompt is what both begin with, up to the last answer's beginning, else the last line that both have."""
    shared = chosen[: _shared(chosen, rejected)]
    end = shared.rfind(ANSWERS)
    cut = end + len(ANSWERS) if end >= 0 else shared.rfind("\n") + 1
    if not shared[:cut].strip():
        raise BenchError(f"{row.where}: no column 'prompt', and both responses begin differently.", "Add the prompt.")
    asked = shared[:end] if end >= 0 else shared[:cut]
    return asked.strip().removeprefix("Human:").strip(), chosen[cut:].strip(), rejected[cut:].strip()


def _conversation(
    row: Row, prompt: str | list[Message] | None, chosen: list[Message], rejected: list[Message]
) -> tuple[str, str, str]:
    """Messages: with a prompt, or beginning alike.  What follows must be one turn of the assistant."""
    before = [Message("user", prompt)] if isinstance(prompt, str) else prompt or []
    if before and chosen[: len(before)] == before and rejected[: len(before)] == before:
        chosen, rejected = chosen[len(before) :], rejected[len(before) :]  # some data repeat the prompt in both
    elif not before:
        count = _shared(chosen[:-1], rejected[:-1])
        before, chosen, rejected = chosen[:count], chosen[count:], rejected[count:]
    if not before:
        raise BenchError(
            f"{row.where}: no column 'prompt', and both conversations begin differently.", "Add the prompt."
        )
    for name, left in (("chosen", chosen), ("rejected", rejected)):
        if [message.role for message in left] != ["assistant"]:
            roles = ", ".join(message.role for message in left) or "nothing"
            raise BenchError(
                f"{row.where}: after the prompt {name!r} holds {roles}.", "Give one turn of the assistant."
            )
    return flattened(row, before), chosen[0].content, rejected[0].content


def _shared(a: Sequence[object], b: Sequence[object]) -> int:
    """How many items two sequences begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def flattened(row: Row, messages: Sequence[Message]) -> str:
    """A prompt of messages as one text: that of a single question as it is, more turns each after who speaks."""
    if not messages or messages[-1].role != "user":
        last = f"with a turn of {messages[-1].role!r}" if messages else "with nothing"
        raise BenchError(f"{row.where}: the prompt ends {last}.", "It must end with a turn of the user.")
    if len(messages) == 1:
        return messages[0].content
    return "\n\n".join(f"{NAMES[message.role]}: {message.content}" for message in messages)


def _value(row: Row, column: str) -> str | list[Message]:
    """A column's text, or its messages; a CSV file holds those as JSON."""
    if column not in row.values:
        raise BenchError(
            f"{row.where}: no column {column!r}, only {', '.join(map(repr, row.values))}.",
            "Preference data have the columns chosen and rejected, and prompt unless both begin with it.",
        )
    value: Any = row.values[column]
    if isinstance(value, str):
        value = _decoded(value)
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise BenchError(f"{row.where}: {column!r} is not valid Unicode ({error.reason}).", "Mend it.") from error
        return value
    return _messages(row, column, value)


def _decoded(text: str) -> Any:
    if not text.lstrip().startswith('[{"'):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _messages(row: Row, column: str, value: Any) -> list[Message]:
    seen = f"{row.where}: {column!r} is neither text nor a list of messages with role and content."
    if not isinstance(value, list) or not value:
        raise BenchError(seen, 'Give "text" or [{"role": "user", "content": "text"}].')
    found = []
    for one in value:
        if not isinstance(one, dict) or not all(isinstance(one.get(name), str) for name in ("role", "content")):
            raise BenchError(seen, 'Give "text" or [{"role": "user", "content": "text"}].')
        if one["role"] not in NAMES:
            raise BenchError(f"{row.where}: {column!r} has a turn of {one['role']!r}.", f"Known: {', '.join(NAMES)}.")
        found.append(Message(one["role"], one["content"]))
    return found
