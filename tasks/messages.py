"""Conversations in data: lists of messages in the usual forms, the same as JSON texts, and transcripts.

What decides is a whole column, never one text: an answer that looks like JSON or like a transcript is a text.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import takewhile

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.text.turns import Turn
from rlhf_bench.harness.text.types import Row as Values
from rlhf_bench.tasks.sources import Row, check_unicode

Value = str | list[Turn]
"""What a cell holds: a text, or the turns of a conversation."""

# Who speaks, as messages of OpenAI's form, ShareGPT's, Gemini's, Open Assistant's and LLaMA-Factory's call it.
ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatgpt", "bard", "bing", "function_call"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "ipython", "tool_response"), "tool"),
}
ROLE_KEYS, CONTENT_KEYS = ("role", "from", "speaker"), ("content", "value", "text")

# The labels of transcripts, each at the start of a paragraph, as in HH-RLHF.
LABEL = re.compile(r"(?:\A\s*|\n\n)(Human|User|Assistant|System):[ \n]?")


def turns_of(row: Row, column: str, value: object) -> list[Turn]:
    """The turns of a list of messages, or of one message.  System turns without content are left out.

    Raises BenchError, with the row's place, for what is no message.
    """
    messages = [value] if isinstance(value, Mapping) else value
    found = []
    for one in messages if isinstance(messages, list) and messages else [None]:
        role = _first(one, ROLE_KEYS)
        if not isinstance(one, Mapping) or not isinstance(role, str) or not any(key in one for key in CONTENT_KEYS):
            seen = f"{row.where}: {column!r} is neither text nor a list of messages with role and content."
            raise BenchError(seen, 'Give "text" or [{"role": "user", "content": "text"}].')
        known = ROLES.get(role.lower())
        if known is None:
            seen = f"{row.where}: {column!r} has a turn of {role!r}."
            raise BenchError(seen, f"Known: {', '.join(ROLES)}.")
        content = _content(row, column, role, one)
        if content.strip() or known != "system":  # converters add an empty system turn where there is none
            found.append(Turn(known, check_unicode(row, column, content)))
    return found


def _first(one: object, keys: Iterable[str]) -> object:
    return next((one[key] for key in keys if one.get(key) is not None), None) if isinstance(one, Mapping) else None


def _content(row: Row, column: str, role: str, message: Values) -> str:
    """The text of a message: its content, its text parts each on a line, or the calls of tools as JSON."""
    content, calls = _first(message, CONTENT_KEYS), message.get("tool_calls") or message.get("function_call")
    if isinstance(content, Mapping):
        content = [content]
    if isinstance(content, list):
        parts = [
            one if isinstance(one, str) else one.get("text") if isinstance(one, Mapping) else None for one in content
        ]
        for one, text in zip(content, parts, strict=True):
            if not isinstance(text, str):
                kind = one.get("type") if isinstance(one, Mapping) else type(one).__name__
                seen = f"{row.where}: {column!r} has a part of type {kind!r} in a turn of {role!r}."
                raise BenchError(seen, "Parts must be text.")
        content = "\n".join(map(str, parts))
    if content is not None and not isinstance(content, str):
        seen = f"{row.where}: the content of a turn of {role!r} in {column!r} is of type {type(content).__name__}."
        raise BenchError(seen, 'Give "text" or [{"type": "text", "text": "..."}].')
    if calls:
        # each call without the wrapping that names its type and id; Parquet files fill missing keys with null
        plain = [call.get("function") or call if isinstance(call, Mapping) else call for call in _listed(calls)]
        return "\n".join(filter(None, [content, json.dumps(plain, ensure_ascii=False, default=str)]))
    if content is None and ROLES[role.lower()] not in ("system", "tool"):
        raise BenchError(f"{row.where}: the content of a turn of {role!r} in {column!r} is null.", "Give its text.")
    return content or ""


def _listed(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else [value]


def decoded(text: str) -> list[Values] | None:
    """The messages that a text holds as JSON, or as Python writes them; None for a text that is a text.

    CSV files hold messages so: every item must have a role and a content, or it is an answer in JSON.
    """
    start = text.lstrip()[:64]
    if not re.match(r"\[\s*\{", start):
        return None
    for read in (json.loads, ast.literal_eval):  # a literal of Python runs no code
        try:
            found = read(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return found if isinstance(found, list) and all(map(_is_message, found)) else None
    return None


def is_python_array(text: str) -> bool:
    """Whether it is a list of messages as numpy prints it, without commas, which pandas writes into CSV files."""
    return bool(re.match(r"\[\{'(?:role|content|from|value)':", text.lstrip()[:64])) and decoded(text) is None


def _is_message(one: object) -> bool:
    known = isinstance(one, Mapping) and isinstance(role := _first(one, ROLE_KEYS), str) and role.lower() in ROLES
    return known and any(key in one for key in CONTENT_KEYS)  # type: ignore[operator]


def transcript(text: str) -> list[Turn] | None:
    """The turns of a text as "\\n\\nHuman: ...\\n\\nAssistant: ..."; None where it begins with no label.

    Labels (Human, User, Assistant, System) stand at the start of a paragraph.  Contents have no white space around.
    """
    parts = LABEL.split(text)
    if len(parts) < 2 or parts[0].strip() or parts[1] == "Assistant":
        return None
    return [
        Turn(ROLES[label.lower()], content.strip()) for label, content in zip(parts[1::2], parts[2::2], strict=True)
    ]


def asked(text: str) -> list[Turn] | None:
    """The turns of a transcript that is a prompt: it ends where the assistant is to speak; else None."""
    turns = transcript(text)
    if turns and turns[-1] == ("assistant", ""):
        return turns[:-1]
    return turns if turns and turns[-1].role == "user" and any(turn.role == "assistant" for turn in turns) else None


def mostly(values: Sequence[object], test: Callable[[str], object]) -> bool:
    """Whether at least half of the texts among `values`, and one of them, pass a test: what a column is made of."""
    texts = [value for value in values if isinstance(value, str) and value.strip()]
    return bool(texts) and 2 * sum(bool(test(text)) for text in texts) >= len(texts)


def split_conversations(
    row: Row, prompt: Value | None, chosen: list[Turn], rejected: list[Turn]
) -> tuple[list[Turn], str, str]:
    """(turns of the prompt, chosen, rejected) of two conversations with a prompt, or with a common beginning.

    The prompt may be the last question alone, the first, or all turns, and both may repeat it.  Raises BenchError
    without either, and where what follows is not one turn of the assistant.
    """
    given = [Turn("user", prompt)] if isinstance(prompt, str) else list(prompt or [])
    count = shared(chosen[:-1], rejected[:-1])  # never the answers themselves, even where they are equal
    common = chosen[:count]
    if common and (not given or _holds(common, given)):
        # instructions may stand in the prompt alone
        missing = [] if any(turn.role == "system" for turn in common) else [t for t in given if t.role == "system"]
        before, chosen, rejected = [*missing, *common], chosen[count:], rejected[count:]
    else:
        before = given
    if not before:
        seen = f"{row.where}: no column 'prompt', and both conversations begin differently."
        raise BenchError(seen, "Add the prompt.")
    for name, left in (("chosen", chosen), ("rejected", rejected)):
        if [turn.role for turn in left] != ["assistant"]:
            roles = ", ".join(turn.role for turn in left) or "nothing"
            seen = f"{row.where}: after the prompt {name!r} holds {roles}."
            raise BenchError(seen, "Give one turn of the assistant.")
    return before, chosen[0].content, rejected[0].content


def _holds(common: list[Turn], given: list[Turn]) -> bool:
    """Whether a common beginning is the given prompt, or its question among earlier turns and instructions."""
    plain = [turn for turn in common if turn.role != "system"]
    same = [(turn.role, turn.content.strip()) for turn in given if turn.role != "system"]
    found = [(turn.role, turn.content.strip()) for turn in plain]
    return bool(same) and (found[-len(same) :] == same or found[: len(same)] == same)


def shared(a: Sequence[object], b: Sequence[object]) -> int:
    """The number of items that two sequences have in common at their start."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def check_question(row: Row, turns: Sequence[Turn]) -> list[Turn]:
    """The turns of a prompt; raises BenchError where the last is not the user's or a tool's."""
    if not turns or turns[-1].role not in ("user", "tool"):
        last = f"with a turn of {turns[-1].role!r}" if turns else "with nothing"
        raise BenchError(f"{row.where}: the prompt ends {last}.", "It must end with a turn of the user or a tool.")
    return list(turns)
