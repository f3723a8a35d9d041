"""Prompts of several turns: text for people, judges and plain templates, turns for chat templates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rlhf_bench.harness.errors import BenchError

SPEAKERS = {"system": "System", "user": "User", "assistant": "Assistant", "tool": "Tool"}
"""The roles of turns, and how the text form names them."""


class Turn(NamedTuple):
    """One turn of a conversation; the role is one of SPEAKERS."""

    role: str
    content: str


class Conversation(str):
    """The text form of several turns, "User: ...\\n\\nAssistant: ...", with the turns themselves in `turns`.

    It is a plain text to whatever shows, hashes or compares it.  Chat templates read the turns (chat.py): a text that
    only looks like turns is one turn of the user.
    """

    turns: tuple[Turn, ...]

    def __new__(cls, turns: Iterable[Turn]) -> Conversation:
        listed = tuple(turns)
        made = super().__new__(cls, "\n\n".join(f"{SPEAKERS[role]}: {content}" for role, content in listed))
        made.turns = listed
        return made

    def __getnewargs__(self) -> tuple[tuple[Turn, ...]]:  # type: ignore[override]
        return (self.turns,)  # for copies, which `dataclasses.asdict` makes


def as_prompt(turns: Sequence[Turn]) -> str:
    """A prompt of turns: the content of a single one, else a `Conversation`."""
    return turns[0].content if len(turns) == 1 else Conversation(turns)


def stored_turns(prompt: str) -> list[list[str]]:
    """The turns of a prompt as JSON holds them beside its text; [] for a prompt of one turn."""
    return [list(turn) for turn in prompt.turns] if isinstance(prompt, Conversation) else []


def restored_prompt(text: str, turns: Sequence[Sequence[str]]) -> str:
    """The prompt of a stored row, from its text and `stored_turns`; raises BenchError where the two differ."""
    try:
        prompt = Conversation(Turn(role, content) for role, content in turns) if turns else text
    except (KeyError, TypeError, ValueError):
        prompt = ""
    if prompt != text:
        raise BenchError("A stored prompt and its turns differ.", "Copy the results folder again.")
    return prompt
