"""The prompt format of a policy: a chat template where its tokenizer has one, and the tokens that end a response.

The format is chosen once, when a policy is loaded for SFT, and stored in its tokenizer's configuration.  So all later
stages, and all reward models that start from the policy, read the same prompt ids.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING

from rlhf_bench.harness.errors import BenchError, one_line
from rlhf_bench.harness.text.thinking import left_open, part, writes_thinking
from rlhf_bench.harness.text.tokens import encode, special_tokens
from rlhf_bench.harness.text.turns import SPEAKERS, Conversation, Turn

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import Tokenizer

KEY = "rlhf_bench"
"""Of the format, in tokenizer_config.json."""

PROMPT_MARK, ANSWER_MARK = "QXPROMPTXQ", "QXANSWERXQ"
"""Texts that mark the places of prompt and answer in a template's output: letters only, which no template changes."""

DATE = "26 Jul 2024"
"""For templates that print today's date (Llama 3.2), because a prompt must not change; it is their own default."""


@dataclass(frozen=True)
class PromptFormat:
    """How a prompt becomes token ids.

    `template`: "plain" or "chat".  `system`: a text in front of every prompt; in the chat template it is a turn of its
    own (`place` "turn"), or part of the user's turn ("user") where the template has no system role.  `ends`: further
    token ids that end a response, besides end-of-sequence.

    `apart`: thinking at the start of a response is no part of its text (text/thinking.py).  `inside`: the closing mark
    of the block of thinking that the template opens before every response, "" where it opens none.
    """

    template: str = "plain"
    system: str = ""
    place: str = "turn"
    ends: tuple[int, ...] = ()
    apart: bool = False
    inside: str = ""


def prompt_format(tokenizer: Tokenizer) -> PromptFormat:
    """The format stored in a tokenizer; the plain one by default.

    It comes with the tokenizer's files, so a policy that is shared keeps it.
    """
    # `init_kwargs` is what transformers writes to tokenizer_config.json and reads back; JSON has no tuples
    stored = getattr(tokenizer, "init_kwargs", {}).get(KEY)
    return PromptFormat(**{**stored, "ends": tuple(stored["ends"])}) if stored else PromptFormat()


def has_prompt_format(tokenizer: Tokenizer) -> bool:
    """Whether a format was chosen for this tokenizer; False for one from elsewhere."""
    return KEY in getattr(tokenizer, "init_kwargs", {})


def store_prompt_format(tokenizer: Tokenizer, chosen: PromptFormat) -> None:
    """Store the format in the tokenizer, in place; `save_pretrained` then writes it, and loading restores it."""
    tokenizer.init_kwargs[KEY] = {**asdict(chosen), "ends": list(chosen.ends)}


def end_token_ids(tokenizer: Tokenizer) -> list[int]:
    """All token ids that end a response, end-of-sequence first, each once.

    Decoding stops at any of them, and `templates.decode` cuts a response's text there.
    """
    return list(dict.fromkeys([tokenizer.eos_token_id, *prompt_format(tokenizer).ends]))


def choose_prompt_format(
    tokenizer: Tokenizer, template: str, system: str, ends: Iterable[int] = (), thinking: str = "auto"
) -> PromptFormat:
    """Choose the format and store it.  `template`: auto, plain or chat; `ends`: those of the generation configuration.

    `thinking`: apart from the text of responses, part of it (text), or apart where the chat template has marks of
    thinking (auto).

    In the chat format the token that the template writes after an answer becomes end-of-sequence: SFT teaches it.
    Raises BenchError for template=chat without a chat template, and for a template that fails.
    """
    listed, place = [*ends], "turn"
    # "auto" takes the template that an instruction-tuned model was trained with; a base model has none
    chat = template == "chat" or (template == "auto" and bool(tokenizer.chat_template))
    if chat:
        if not tokenizer.chat_template:
            raise BenchError("The policy's tokenizer has no chat template.", "Choose --set policy.template=plain.")
        if system:
            place = system_place(tokenizer, system)
        listed.append(tokenizer.eos_token_id)  # still ends a response when another token takes its place
        asked = chat_turns([Turn("user", PROMPT_MARK)], PromptFormat(system=system, place=place))
        turns = [*asked, {"role": "assistant", "content": ANSWER_MARK}]
        # what the template writes right after an answer, behind the line break or space that some put before it
        after = _ids(tokenizer, render(tokenizer, turns).partition(ANSWER_MARK)[2].lstrip())
        if after and after[0] in special_tokens(tokenizer):
            tokenizer.eos_token = tokenizer.convert_ids_to_tokens(after[0])
    # sorted, because the format is stored and hashed: the order of a set may differ from run to run
    others = sorted({int(i) for i in listed if i is not None} - {tokenizer.eos_token_id})
    chosen = PromptFormat("chat" if chat else "plain", system, place, tuple(others))
    if chat and thinking != "text":
        opened = left_open(before_answer(tokenizer, asked).rpartition(PROMPT_MARK)[2])
        apart = thinking == "apart" or bool(opened) or writes_thinking(str(tokenizer.chat_template))
        chosen = replace(chosen, apart=apart, inside=opened)
    elif thinking == "apart":
        chosen = replace(chosen, apart=True)
    store_prompt_format(tokenizer, chosen)
    return chosen


def chat_ids(tokenizer: Tokenizer, prompts: Sequence[str], chosen: PromptFormat) -> list[list[int]]:
    """Token ids of prompts in the chat template, up to where the answer begins.

    The whole text is tokenised at once, as the model was trained to read it; no special token is added to those of the
    template.  Turns that contain a special token's string are tokenised separately and stay plain text.
    """
    special = special_tokens(tokenizer).values()
    form = chosen
    if not chosen.system and any(turn.role == "system" for prompt in prompts for turn in turns_of(prompt)):
        form = replace(chosen, place=system_place(tokenizer, PROMPT_MARK))  # of a system turn in the data
    tools = any(turn.role == "tool" for prompt in prompts for turn in turns_of(prompt)) and takes_tools(tokenizer)
    rows = []
    for prompt in prompts:
        marked: dict[str, str] = {}
        turns = []
        for turn in turns_of(prompt):
            if any(token in turn.content for token in special):
                mark = f"{PROMPT_MARK}{len(marked)}X"  # ends in a letter: mark 1 is no beginning of mark 10
                marked[mark], turn = turn.content, turn._replace(content=mark)
            turns.append(turn)
        text = before_answer(tokenizer, chat_turns(turns, form, tools))
        parts = re.split(f"({'|'.join(marked)})", text) if marked else [text]
        rows.append(
            [
                i
                for part in parts
                for i in (encode(tokenizer, [marked[part]])[0] if part in marked else _ids(tokenizer, part))
            ]
        )
    return rows


def turns_of(prompt: str) -> tuple[Turn, ...]:
    """The turns of a prompt; a plain text is one turn of the user."""
    return prompt.turns if isinstance(prompt, Conversation) else (Turn("user", prompt),)


def chat_turns(turns: Sequence[Turn], form: PromptFormat, tools: bool = False) -> list[dict[str, str]]:
    """Turns as a chat template reads them ({"role", "content"} each).

    System turns at the start follow `form.system`, as a turn or in front of the first turn of the user (`form.place`).
    Without `tools`, a tool's output is a turn of the user that begins with "Tool: ", joined with the next one, because
    templates without tools refuse two turns of one role.
    """
    first = next((at for at, turn in enumerate(turns) if turn.role != "system"), len(turns))
    system = "\n\n".join(filter(None, [form.system, *(turn.content for turn in turns[:first])]))
    found: list[dict[str, str]] = []
    joined = False
    for role, content in turns[first:]:
        as_user = role == "tool" and not tools
        said = f"{SPEAKERS[role]}: {content}" if as_user else content
        if found and found[-1]["role"] == "user" and (as_user or (joined and role == "user")):
            found[-1]["content"] += f"\n\n{said}"
        else:
            found.append({"role": "user" if as_user else role, "content": said})
        joined = as_user
    if not system:
        return found
    if form.place == "user" and found and found[0]["role"] == "user":
        return [{"role": "user", "content": f"{system}\n\n{found[0]['content']}"}, *found[1:]]
    return [{"role": "system", "content": system}, *found]


def system_place(tokenizer: Tokenizer, system: str) -> str:
    """Where the chat template shows a system text: "turn", or "user" where it has no such role."""
    try:
        shown = render(tokenizer, chat_turns([Turn("user", ANSWER_MARK)], PromptFormat(system=system)))
    except BenchError:  # Gemma's template raises an exception for a system turn
        return "user"
    return "turn" if system.strip() in shown else "user"  # LLAMA 2's drops it silently


def takes_tools(tokenizer: Tokenizer) -> bool:
    """Whether the chat template shows a turn of a tool."""
    turns = [Turn("user", "a"), Turn("assistant", "b"), Turn("tool", PROMPT_MARK)]
    try:
        return PROMPT_MARK in render(tokenizer, chat_turns(turns, PromptFormat(), tools=True))
    except BenchError:
        return False


def encode_answers(tokenizer: Tokenizer, answers: Sequence[str]) -> list[list[int]]:
    """Token ids of answers as the policy is to write them: after the end of the block that its template opens.

    The block is closed at once, unless the answer itself begins inside and closes it.
    """
    inside, rows = prompt_format(tokenizer).inside, encode(tokenizer, answers)
    if not inside:
        return rows
    closing = _ids(tokenizer, f"\n{inside}\n\n")
    return [row if inside in text else [*closing, *row] for row, text in zip(rows, answers, strict=True)]


def thinking_tokens(tokenizer: Tokenizer, ids: Sequence[int]) -> int:
    """How many tokens of a response, from its start, are thinking: with its marks, and the white space after them.

    All before the end of the response where the thinking does not end; 0 where the format keeps nothing apart.
    """
    form = prompt_format(tokenizer)
    if not form.apart:
        return 0
    ends = set(end_token_ids(tokenizer))
    row = list(takewhile(lambda token: token not in ends, ids))

    def shown(count: int) -> str:
        # with special tokens: the marks of some models are such
        return str(tokenizer.decode(row[:count], skip_special_tokens=False, clean_up_tokenization_spaces=False))

    text = shown(len(row))
    found = part(text, form.inside)
    if found.open or not found.answer:
        return len(row) if found.open or found.thinking else 0
    at = text.rindex(found.answer)
    # the text of a longer prefix is no shorter
    return bisect_left(range(len(row)), at, key=lambda count: len(shown(count))) if at else 0


def before_answer(tokenizer: Tokenizer, turns: Sequence[dict[str, str]]) -> str:
    """The text of the chat template before an answer to `turns`, the opening of the assistant's turn included.

    Raises BenchError where the template fails.
    """
    with_prompt = render(tokenizer, turns, add_generation_prompt=True)
    if with_prompt != render(tokenizer, turns):  # it has a generation prompt, and that is what stands before the answer
        return with_prompt
    # A template without a generation prompt: a finished conversation shows what it writes before the answer.
    whole = render(tokenizer, [*turns, {"role": "assistant", "content": ANSWER_MARK}])
    shown = whole.partition(ANSWER_MARK)[0]
    return shown if ANSWER_MARK in whole and shown.startswith(with_prompt) else with_prompt


def render(tokenizer: Tokenizer, turns: Sequence[dict[str, str]], **more: object) -> str:
    """The chat template's text of `turns` ({"role", "content"} each); `more` are variables of the template.

    Raises BenchError where the template fails: it is a program, and may refuse roles or their order.
    """
    try:
        return str(tokenizer.apply_chat_template(list(turns), tokenize=False, date_string=DATE, **more))
    except Exception as error:
        raise BenchError(
            f"The policy's chat template fails: {one_line(error)}.", "Choose --set policy.template=plain."
        ) from error


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []
