"""The prompt format of a policy: a chat template where its tokenizer has one, and the tokens that end a response.

The format is chosen once, when a policy is loaded for SFT, and stored in its tokenizer's configuration.  So all later
stages, and all reward models that start from the policy, read the same prompt ids.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING

from rlhf_bench.harness.errors import BenchError, one_line
from rlhf_bench.harness.text.thinking import left_open, part, writes_thinking
from rlhf_bench.harness.text.tokens import encode, special_tokens

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
            try:
                shown = render(tokenizer, _turns(PROMPT_MARK, system, "turn"))
            except BenchError:  # Gemma's template raises an exception for a system turn
                place = "user"
            else:  # LLAMA 2's drops it silently
                place = "turn" if system.strip() in shown else "user"
        listed.append(tokenizer.eos_token_id)  # still ends a response when another token takes its place
        turns = [*_turns(PROMPT_MARK, system, place), {"role": "assistant", "content": ANSWER_MARK}]
        # what the template writes right after an answer, behind the line break or space that some put before it
        after = _ids(tokenizer, render(tokenizer, turns).partition(ANSWER_MARK)[2].lstrip())
        if after and after[0] in special_tokens(tokenizer):
            tokenizer.eos_token = tokenizer.convert_ids_to_tokens(after[0])
    # sorted, because the format is stored and hashed: the order of a set may differ from run to run
    others = sorted({int(i) for i in listed if i is not None} - {tokenizer.eos_token_id})
    chosen = PromptFormat("chat" if chat else "plain", system, place, tuple(others))
    if chat and thinking != "text":
        opened = left_open(before_answer(tokenizer, PROMPT_MARK, chosen).rpartition(PROMPT_MARK)[2])
        apart = thinking == "apart" or bool(opened) or writes_thinking(str(tokenizer.chat_template))
        chosen = replace(chosen, apart=apart, inside=opened)
    elif thinking == "apart":
        chosen = replace(chosen, apart=True)
    store_prompt_format(tokenizer, chosen)
    return chosen


def chat_ids(tokenizer: Tokenizer, prompts: Sequence[str], chosen: PromptFormat) -> list[list[int]]:
    """Token ids of prompts in the chat template, up to where the answer begins.

    The whole text is tokenised at once, as the model was trained to read it; no special token is added to those of the
    template.  A prompt that contains a special token's string is tokenised separately and stays plain text.
    """
    special = special_tokens(tokenizer).values()
    before, _, after = before_answer(tokenizer, PROMPT_MARK, chosen).partition(PROMPT_MARK)
    return [
        [*_ids(tokenizer, before), *encode(tokenizer, [prompt])[0], *_ids(tokenizer, after)]
        if any(token in prompt for token in special)
        else _ids(tokenizer, before_answer(tokenizer, prompt, chosen))
        for prompt in prompts
    ]


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


def before_answer(tokenizer: Tokenizer, prompt: str, chosen: PromptFormat) -> str:
    """The text of the chat template before an answer to `prompt`, the opening of the assistant's turn included.

    Raises BenchError where the template fails.
    """
    turns = _turns(prompt, chosen.system, chosen.place)
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


def _turns(prompt: str, system: str, place: str) -> list[dict[str, str]]:
    if not system:
        return [{"role": "user", "content": prompt}]
    if place == "user":
        return [{"role": "user", "content": f"{system}\n\n{prompt}"}]
    return [{"role": "system", "content": system}, {"role": "user", "content": prompt}]


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []
