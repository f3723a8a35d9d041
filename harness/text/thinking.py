"""A model's thinking and its answer, told apart in one text by the marks that reasoning models write.

Marks: `<think>` and its like, `[THINK]` (Mistral), `◁think▷` (Kimi), `<|START_THINKING|>` (Cohere), channels (gpt-oss'
harmony format, Gemma 4), `<|begin_of_thought|>`.  A chat template may have written the opening one, so that a text
begins inside.
"""

from __future__ import annotations

import re
from typing import NamedTuple

NAMES = ("think", "thinking", "thought", "thoughts", "reasoning", "reflection", "scratchpad", "seed:think")
"""Tags, as in <think>...</think>, in any case."""

# no white space before a literal: a search would try every run of it again at each of its characters
_FINAL = r"<\|channel\|>\s*final\s*(?:<\|constrain\|>\s*\w*\s*)?<\|message\|>"
_ANSWER = r"(?:\s*(?:<\|START_RESPONSE\|>|<\|begin_of_solution\|>|<answer>))?"
# (opening, closing); each pair closes itself alone
MARKS: tuple[tuple[re.Pattern[str], re.Pattern[str]], ...] = (
    *((re.compile(rf"<{name}>", re.IGNORECASE), re.compile(rf"</{name}>", re.IGNORECASE)) for name in NAMES),
    (re.compile(r"\[THINK\]"), re.compile(r"\[/THINK\]")),
    (re.compile("◁think▷"), re.compile("◁/think▷")),
    (re.compile(r"<\|START_THINKING\|>"), re.compile(rf"<\|END_THINKING\|>{_ANSWER}")),
    (re.compile(r"<\|begin_of_thought\|>"), re.compile(rf"<\|end_of_thought\|>{_ANSWER}")),
    (re.compile(r"(?:<\|start\|>\s*assistant)?\s*<\|channel\|>\s*(?:analysis|commentary)\b"), re.compile(_FINAL)),
    (re.compile(r"<\|channel>\s*thought\b"), re.compile(r"<channel\|>")),
)
"""Opening and closing marks of a block of thinking."""
# What surrounds an answer in these formats and is no part of it.
_AROUND = re.compile(
    r"\A\s*(?:(?:<\|start\|>\s*assistant)?\s*<\|channel\|>\s*final\s*<\|message\|>|<\|START_RESPONSE\|>)"
    r"|(?:<\|end\|>|<\|return\|>|<\|END_RESPONSE\|>|<\|end_of_solution\|>)\s*\Z"
)


MOST = 50
"""Blocks of thinking in a row that are looked for: each takes a look at all the rest."""


class Parted(NamedTuple):
    """A text in two parts.  `open`: the thinking never ends, so there is no answer."""

    thinking: str
    answer: str
    open: bool = False


def part(text: str, inside: str = "") -> Parted:
    """The thinking at a text's start, and what follows.

    `inside` is the closing mark of a block that was opened before the text begins ("" where none was).  Several blocks
    in a row are all thinking; a mark further on in the answer is text.
    """
    rest, thoughts = text, list[str]()
    if inside:
        before, mark, after = rest.partition(inside)
        if not mark:
            return Parted(text, "", True)
        thoughts, rest = [before], after
    for _ in range(MOST):
        stripped = rest.lstrip()
        found = next(((m, end) for start, end in MARKS if (m := start.match(stripped))), None)
        if found is None:
            break
        opened, closing = found
        closed = closing.search(stripped, opened.end())
        if closed is None:
            return Parted("\n".join([*thoughts, stripped[opened.end() :]]), "", True)
        thoughts.append(stripped[opened.end() : closed.start()])
        rest = stripped[closed.end() :]
    if thoughts or _AROUND.search(rest):
        rest = _AROUND.sub("", rest).lstrip()
    return Parted("\n".join(thoughts), rest)


CLOSING = {
    **{f"<{name}>": f"</{name}>" for name in NAMES},
    "[THINK]": "[/THINK]",
    "◁think▷": "◁/think▷",
    "<|START_THINKING|>": "<|END_THINKING|>",
    "<|begin_of_thought|>": "<|end_of_thought|>",
    "<|channel>thought": "<channel|>",
}
"""The closing mark by the opening one, as templates write them."""


def left_open(text: str) -> str:
    """The closing mark of the block of thinking that a text leaves open, "" for none: a chat template's last words."""
    opened = {at: close for start, close in CLOSING.items() if (at := text.rfind(start)) > text.rfind(close)}
    return opened[max(opened)] if opened else ""


def writes_thinking(template: str) -> bool:
    """Whether a chat template knows of thinking: its model may open a block by itself."""
    return any(mark in template for mark in (*CLOSING.values(), "<|channel|>", "reasoning_content"))


def part_reply(text: str) -> Parted:
    """As `part`, and also what stands before a closing mark without an opening one is thinking.

    For replies of a server, whose template nobody knows.  A text that opens a block is read as `part` reads it.
    """
    found = part(text)
    if found.thinking or found.open:
        return found
    for start, end in MARKS:
        closed = end.search(found.answer)
        if closed is not None and not start.search(found.answer, 0, closed.start()):
            after = part(found.answer[closed.end() :])
            return Parted(found.answer[: closed.start()], after.answer.lstrip(), after.open)
    return found
