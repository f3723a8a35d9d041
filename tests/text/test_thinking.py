"""Thinking is kept apart from the answer: in a judge's reply, and in what a policy writes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import make_tokenizer

from rlhf_bench.harness.ppo.scoring import NamedRewardModel
from rlhf_bench.harness.sampling.rollout import answers_alone, make_rollout, pad_prompts, rows_of, to_whole
from rlhf_bench.harness.stages.policy import demonstrations
from rlhf_bench.harness.text.chat import choose_prompt_format, encode_answers, prompt_format, thinking_tokens
from rlhf_bench.harness.text.templates import encode, encode_prompts
from rlhf_bench.harness.text.thinking import CLOSING, left_open, part, part_reply

OPENING = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)
OWN = OPENING.replace("<think>\n", "") + "{# </think> #}"
PLAIN = OPENING.replace("<think>\n", "")
WORD = st.text(st.characters(codec="utf-8", exclude_characters="<[◁")).filter(str.strip)


@pytest.mark.parametrize(("start", "end"), CLOSING.items())
@given(thought=WORD, answer=WORD)
def test_every_pair_of_marks(start: str, end: str, thought: str, answer: str) -> None:
    whole = f"{start}\n{thought}{end}{answer}"
    assert part(whole) == (f"\n{thought}", answer.lstrip(), False)
    assert part(f"{start}\n{thought}").open
    assert part(f"{thought}{end}{answer}", inside=end) == (thought, answer.lstrip(), False)
    assert part(thought, inside=end).open
    assert part_reply(f"{thought}{end}{answer}").answer == answer.lstrip()
    assert left_open(f"x {start}") == end
    assert left_open(whole) == ""


@given(WORD)
def test_a_text_without_marks_is_an_answer(text: str) -> None:
    assert part(text) == part_reply(text) == ("", text, False)
    assert part(f"{text} <think>x</think>").answer == f"{text} <think>x</think>"


def tokenizer_of(template: str, thinking: str = "auto", special: bool = False) -> Any:
    tokenizer = make_tokenizer()
    if special:
        tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    tokenizer.chat_template = template
    choose_prompt_format(tokenizer, "auto", "", thinking=thinking)
    return tokenizer


@pytest.mark.parametrize(
    ("template", "thinking", "apart", "inside"),
    [
        (OPENING, "auto", True, "</think>"),
        (OPENING, "text", False, ""),
        (OWN, "auto", True, ""),
        (PLAIN, "auto", False, ""),
        (PLAIN, "apart", True, ""),
    ],
)
def test_the_template_tells_whether_a_policy_thinks(template: str, thinking: str, apart: bool, inside: str) -> None:
    form = prompt_format(tokenizer_of(template, thinking))
    assert (form.apart, form.inside) == (apart, inside)


def rollout_of(tokenizer: Any, texts: list[str], finished: bool = True) -> Any:
    import torch

    ids, mask = pad_prompts(encode_prompts(tokenizer, ["Q"] * len(texts)), tokenizer.pad_token_id, "cpu")
    rows = [[*tokenizer(text)["input_ids"], *([tokenizer.eos_token_id] if finished else [])] for text in texts]
    width = max(map(len, rows))
    response = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows])
    return make_rollout(tokenizer, ["Q"] * len(texts), ids, mask, response)


@pytest.mark.parametrize("special", [False, True])
def test_a_response_is_its_answer(special: bool) -> None:
    tokenizer = tokenizer_of(OPENING, special=special)
    rollout = rollout_of(tokenizer, ["Ben is slow.\n</think>\n\nAnna will go.", "\n</think>\n\nBen", "Ben is"])
    assert rollout.responses == ("Anna will go.", "Ben", "")
    for row, (text, spans) in enumerate(zip(rollout.responses, rollout.spans, strict=True)):
        assert len(spans) == int(rollout.mask[row].sum())
        assert "".join(text[a:b] for a, b in spans) == text
    same = rows_of(rollout, __import__("torch").tensor([1, 0]))
    assert same.responses == ("Ben", "Anna will go.")
    assert same.spans == (rollout.spans[1][: same.mask.shape[1]], rollout.spans[0])


class Counts:
    """A reward model that gives every token of a response its number, from 1; it keeps what it was shown."""

    def rewards(self, rollout: Any) -> Any:
        self.shown = rollout
        return rollout.mask.cumsum(1).float() * rollout.mask


def test_rewards_are_those_of_the_answer_and_stand_on_its_tokens() -> None:
    tokenizer = tokenizer_of(OPENING)
    rollout = rollout_of(tokenizer, ["Ben is slow.\n</think>\n\nAnna", "Ben is"], finished=True)
    model = Counts()
    rewards = NamedRewardModel("counts", model).rewards(rollout)
    answer = [*encode(tokenizer, ["Anna"])[0], tokenizer.eos_token_id]
    pad = tokenizer.pad_token_id
    shown = [[i for i in row if i != pad] for row in model.shown.response_ids.tolist()]
    assert sorted(shown) == sorted([answer, [tokenizer.eos_token_id]])
    thought, length = rollout.thoughts[0], int(rollout.mask[0].sum())
    assert rewards[0].tolist()[:thought] == [0.0] * thought
    assert rewards[0].tolist()[thought:length] == [float(n + 1) for n in range(length - thought)]
    last = int(rollout.mask[1].sum()) - 1
    assert rewards[1].nonzero().flatten().tolist() == [last]  # the thinking never ended: end-of-sequence alone


def test_nothing_changes_without_thinking() -> None:
    rollout = rollout_of(tokenizer_of(PLAIN), ["<think>a</think>b"])
    assert rollout.thoughts is None
    assert rollout.responses == ("<think>a</think>b",)
    assert answers_alone(rollout) is rollout


def test_a_cut_off_thought_has_one_token_to_be_scored() -> None:
    tokenizer = tokenizer_of(OPENING)
    rollout = rollout_of(tokenizer, ["Ben is slow and"], finished=False)
    answers = answers_alone(rollout)
    assert answers.response_ids.tolist() == [[tokenizer.eos_token_id]]
    whole = to_whole(answers.mask.float(), rollout)
    assert whole.sum() == whole[0, -1] == 1.0


def test_demonstrations_close_the_block_that_the_template_opens() -> None:
    from rlhf_bench.harness.nouns import Example

    tokenizer = tokenizer_of(OPENING)
    ((row,), _) = demonstrations(tokenizer, [Example("e", "Q", "Anna")], 99)
    written = [label for label in row["labels"] if label >= 0][:-1]
    assert tokenizer.decode(written) == "\n</think>\n\nAnna"
    assert thinking_tokens(tokenizer, written) == len(written) - len(encode(tokenizer, ["Anna"])[0])
    own = "so\n</think>\n\nAnna"
    assert tokenizer.decode(encode_answers(tokenizer, [own])[0]) == own
