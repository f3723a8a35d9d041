"""What stands around a prompt: a chat template where the tokenizer has one, and the tokens that end a response.

The form is chosen once, when a policy is loaded for SFT, and kept in its tokenizer's own configuration, so that every
later stage, and every reward model made from the policy, reads the same prompt ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rlhf_bench.harness.errors import BenchError, one_line
from rlhf_bench.harness.text.tokens import encode, special_tokens

KEY = "rlhf_bench"
"""Of the form, in tokenizer_config.json."""
HERE, THERE = "QXPROMPTXQ", "QXANSWERXQ"
"""Stand for the texts where a template is looked at; letters alone, which no template changes."""
DATE = "26 Jul 2024"
"""Templates that print today's date (Llama 3.2) get the one they themselves fall back on: a prompt must not change."""


@dataclass(frozen=True)
class PromptFormat:
    """`template` "plain" or "chat"; `system` is put in front ("turn": a system turn, "user": in the user's own, where
    the template knows no system role).  `ends` are further tokens that end a response, besides end-of-sequence."""

    template: str = "plain"
    system: str = ""
    place: str = "turn"
    ends: tuple[int, ...] = ()


def prompt_format(tokenizer: Any) -> PromptFormat:
    """The form kept in a tokenizer; the plain one where there is none."""
    kept = getattr(tokenizer, "init_kwargs", {}).get(KEY)
    return PromptFormat(**{**kept, "ends": tuple(kept["ends"])}) if kept else PromptFormat()


def has_prompt_format(tokenizer: Any) -> bool:
    """Whether a form was chosen for this tokenizer."""
    return KEY in getattr(tokenizer, "init_kwargs", {})


def store_prompt_format(tokenizer: Any, form: PromptFormat) -> None:
    """Keep `form` in the tokenizer: it is saved and loaded with it."""
    tokenizer.init_kwargs[KEY] = {**asdict(form), "ends": list(form.ends)}


def end_token_ids(tokenizer: Any) -> list[int]:
    """All token ids that end a response, end-of-sequence first."""
    return list(dict.fromkeys([tokenizer.eos_token_id, *prompt_format(tokenizer).ends]))


def choose_prompt_format(tokenizer: Any, template: str, system: str, ends: Iterable[int] = ()) -> PromptFormat:
    """Choose and keep the form: `template` auto, plain or chat; `ends` as the generation configuration lists them.

    In chat form the token that the template writes after an answer becomes end-of-sequence: it is what SFT teaches.
    Raises BenchError for template=chat without a chat template, and for a template that cannot be used.
    """
    chat = template == "chat" or (template == "auto" and bool(tokenizer.chat_template))
    if not chat:
        form = PromptFormat("plain", system, ends=_others(tokenizer, ends))
        store_prompt_format(tokenizer, form)
        return form
    if not tokenizer.chat_template:
        raise BenchError("The policy's tokenizer has no chat template.", "Choose --set policy.template=plain.")
    place = _place(tokenizer, system)
    listed = [tokenizer.eos_token_id, *ends]
    turn = _end_of_turn(tokenizer, system, place)
    if turn is not None:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(turn)
    form = PromptFormat("chat", system, place, _others(tokenizer, listed))
    store_prompt_format(tokenizer, form)
    return form


def _others(tokenizer: Any, ends: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted({int(i) for i in ends if i is not None} - {tokenizer.eos_token_id}))


def chat_ids(tokenizer: Any, prompts: Sequence[str], form: PromptFormat) -> list[list[int]]:
    """Token ids of prompts in the chat template, up to where the answer begins.

    The whole text is tokenised at once, as the model was trained to see it, with no special token added to those of the
    template.  Where a prompt holds a special token's string, it is tokenised apart and stays plain text.
    """
    special = special_tokens(tokenizer).values()
    frame = before_answer(tokenizer, HERE, form)
    rows = []
    for prompt in prompts:
        if any(token in prompt for token in special):
            rows.append(_apart(tokenizer, frame, prompt))
        else:
            rows.append(_ids(tokenizer, before_answer(tokenizer, prompt, form)))
    return rows


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []


def _apart(tokenizer: Any, frame: str, prompt: str) -> list[int]:
    before, _, after = frame.partition(HERE)
    return [*_ids(tokenizer, before), *encode(tokenizer, [prompt])[0], *_ids(tokenizer, after)]


def before_answer(tokenizer: Any, prompt: str, form: PromptFormat) -> str:
    """The template's text before an answer to `prompt`.

    A template that knows no generation prompt shows in a finished conversation what it writes before the answer.
    """
    turns = _turns(prompt, form.system, form.place)
    asked = render(tokenizer, turns, add_generation_prompt=True)
    if asked != render(tokenizer, turns):
        return asked
    whole = render(tokenizer, [*turns, {"role": "assistant", "content": THERE}])
    shown = whole.partition(THERE)[0]
    return shown if THERE in whole and shown.startswith(asked) else asked


def _turns(prompt: str, system: str, place: str) -> list[dict[str, str]]:
    if not system:
        return [{"role": "user", "content": prompt}]
    if place == "user":
        return [{"role": "user", "content": f"{system}\n\n{prompt}"}]
    return [{"role": "system", "content": system}, {"role": "user", "content": prompt}]


def render(tokenizer: Any, turns: Sequence[dict[str, str]], **more: Any) -> str:
    """The chat template's text.  Raises BenchError where the template fails: it is a program."""
    try:
        return str(tokenizer.apply_chat_template(list(turns), tokenize=False, date_string=DATE, **more))
    except Exception as error:
        raise BenchError(
            f"The policy's chat template fails: {one_line(error)}.", "Choose --set policy.template=plain."
        ) from error


def _place(tokenizer: Any, system: str) -> str:
    """Where the system text goes: its own turn, or the user's where the template refuses or leaves out that role."""
    if not system:
        return "turn"
    try:
        shown = render(tokenizer, _turns(HERE, system, "turn"))
    except BenchError:
        return "user"
    return "turn" if system.strip() in shown else "user"


def _end_of_turn(tokenizer: Any, system: str, place: str) -> int | None:
    """The special token that the template writes right after an answer, None where it writes none."""
    whole = render(tokenizer, [*_turns(HERE, system, place), {"role": "assistant", "content": THERE}])
    after = _ids(tokenizer, whole.partition(THERE)[2].lstrip())
    return after[0] if after and after[0] in special_tokens(tokenizer) else None
