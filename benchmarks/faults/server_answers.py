"""Behaviours of a server that the judge asks, for servers.py: what it answers, and what must come of that."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fault_server import Asked, FaultServer, Reply, completion, goods, prefer

DECIDED = "decided"
SOUND = prefer(goods)
Answer = Callable[[Asked], Reply]


@dataclass(frozen=True)
class Behaviour:
    """A server and what must come of it.

    `expected`: DECIDED, "undecided: PATTERN" or "refused: PATTERN", the pattern searched in the reason or the message.
    """

    group: str
    name: str
    answer: Answer
    expected: str
    settings: dict[str, Any] = field(default_factory=dict)
    path: str = "/v1"
    check: Callable[[FaultServer], bool] = lambda _: True


class Behaviours(list[Behaviour]):
    """Behaviours, added by their fields."""

    def add(self, group: str, name: str, answer: Answer, expected: str, **more: Any) -> None:
        self.append(Behaviour(group, name, answer, expected, **more))


def judged(reply: Reply) -> Answer:
    """Sound for the probe; `reply` to every question."""
    return lambda asked: reply if asked.judging else completion("yes")


def first(reply: Reply) -> Answer:
    """`reply` to the first try of each question, then sound."""
    return lambda asked: reply if asked.judging and not asked.before else SOUND(asked)


def always(reply: Reply) -> Answer:
    """`reply` to everything, the probe too."""
    return lambda _: reply


def worded(words: Callable[[str], str]) -> Answer:
    """The right verdict, its JSON put into other words."""

    def answer(asked: Asked) -> Reply:
        sound = SOUND(asked)
        if not asked.judging:
            return sound
        text = json.loads(sound.body)["choices"][0]["message"]["content"]
        return completion(words(text), usage={"prompt_tokens": 9, "completion_tokens": 9})

    return answer


def shaped(change: Callable[[str], dict[str, Any]], finish: str = "stop") -> Answer:
    """The right verdict in a message of another shape; `change` makes the message's fields of its text."""

    def answer(asked: Asked) -> Reply:
        body = json.loads(SOUND(asked).body)
        choice = body["choices"][0]
        if asked.judging:
            choice["message"] = {"role": "assistant", **change(choice["message"]["content"])}
            choice["finish_reason"] = finish
        return Reply(json.dumps(body))

    return answer


def error(message: object, **fields: Any) -> str:
    return json.dumps({"error": {"message": message, **fields}})
