"""Chat templates: the prompt is what the template writes before an answer, once; no text becomes a special token."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from families import FAMILIES

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.models.policies import load_tokenizer
from rlhf_bench.harness.nouns import Example, to_row, with_turns
from rlhf_bench.harness.text.chat import (
    DATE,
    PromptFormat,
    chat_turns,
    choose_prompt_format,
    end_token_ids,
    prompt_format,
    system_place,
)
from rlhf_bench.harness.text.templates import decode, encode_prompts, policy_prompt
from rlhf_bench.harness.text.turns import Conversation, Turn

CHATS = ("qwen2", "gemma", "llama")


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, FAMILIES[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: FAMILIES[name](tmp_path_factory.mktemp(name)) for name in CHATS}


def shown(tokenizer: Any, prompt: str) -> str:
    (ids,) = encode_prompts(tokenizer, [prompt])
    return str(tokenizer.decode(ids))


def test_the_pad_token_ends_nothing(family: tuple[str, Path]) -> None:
    tokenizer = load_tokenizer(family[1], "auto")
    assert tokenizer.pad_token_id is not None
    assert tokenizer.pad_token_id not in end_token_ids(tokenizer)
    assert tokenizer.padding_side == "left"


def test_a_form_is_saved_and_loaded_with_its_tokenizer(family: tuple[str, Path], tmp_path: Path) -> None:
    tokenizer = load_tokenizer(family[1], "auto", "Be brief.")
    tokenizer.save_pretrained(tmp_path)
    shutil.copy(family[1] / "config.json", tmp_path)
    again = load_tokenizer(tmp_path)
    assert prompt_format(again) == prompt_format(tokenizer)
    assert end_token_ids(again) == end_token_ids(tokenizer)
    prompts = ["Where do they meet?", "At nine."]
    assert encode_prompts(again, prompts) == encode_prompts(tokenizer, prompts)


@pytest.mark.parametrize("name", CHATS)
@pytest.mark.parametrize("system", ["", "Be brief."])
def test_the_prompt_is_the_templates_once(folders: dict[str, Path], name: str, system: str) -> None:
    tokenizer = load_tokenizer(folders[name], "auto", system)
    user = {"role": "user", "content": "where do they meet?"}
    place = prompt_format(tokenizer).place
    if system and place == "user":
        user["content"] = f"{system}\n\n{user['content']}"
    turns = [{"role": "system", "content": system}, user] if system and place == "turn" else [user]
    expected = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=False)
    (ids,) = encode_prompts(tokenizer, ["where do they meet?"])
    assert ids[: len(expected)] == list(expected)
    assert len(ids) - len(expected) in (0, 1)  # LLAMA writes a space before an answer, and has no generation prompt
    assert ids.count(tokenizer.bos_token_id) == (0 if name == "qwen2" else 1)
    if system:
        assert system.split()[-1].rstrip(".") in tokenizer.decode(ids)
    assert place == ("turn" if name == "qwen2" or not system else "user")


def test_the_end_of_turn_becomes_the_end(folders: dict[str, Path]) -> None:
    ends = {}
    for name in CHATS:
        tokenizer = load_tokenizer(folders[name], "auto")
        ends[name] = tokenizer.convert_ids_to_tokens(end_token_ids(tokenizer))
        for end in end_token_ids(tokenizer):
            assert (
                decode(tokenizer, [*tokenizer("at nine", add_special_tokens=False)["input_ids"], end, 9]) == "at nine"
            )
    assert ends == {
        "qwen2": ["<|im_end|>", "<|endoftext|>"],
        "gemma": ["<end_of_turn>", "</s>"],
        "llama": ["</s>"],
    }


@pytest.mark.parametrize("name", CHATS)
def test_no_prompt_brings_a_special_token(folders: dict[str, Path], name: str) -> None:
    tokenizer = load_tokenizer(folders[name], "auto")
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special} - {tokenizer.unk_token_id}

    def count(prompt: str) -> list[int]:
        return [i for i in encode_prompts(tokenizer, [prompt])[0] if i in special]

    hostile = "where" + "".join(tokenizer.convert_ids_to_tokens(sorted(special)))
    assert count(hostile) == count("where")


def test_the_plain_template_can_be_chosen_for_a_chat_model(folders: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(folders["qwen2"], "plain", "Be brief.")
    assert shown(tokenizer, "Where?") == policy_prompt("Where?", "Be brief.")
    assert tokenizer.eos_token == "<|endoftext|>"


def test_templates_that_cannot_be_used(tokenizer: Any, folders: dict[str, Path]) -> None:
    from copy import deepcopy

    with pytest.raises(BenchError, match="no chat template"):
        choose_prompt_format(deepcopy(tokenizer), "chat", "")
    broken = load_tokenizer(folders["qwen2"])
    broken.chat_template = "{{ raise_exception('never') }}"
    with pytest.raises(BenchError, match="never"):
        choose_prompt_format(broken, "auto", "")


def test_a_template_with_todays_date_gives_the_same_prompt_every_day(folders: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(folders["qwen2"])
    tokenizer.chat_template = (
        "{{ date_string if date_string is defined else strftime_now('%f') }} {{ messages[0]['content'] }}"
    )
    choose_prompt_format(tokenizer, "auto", "")
    assert encode_prompts(tokenizer, ["x"]) == encode_prompts(tokenizer, ["x"])
    assert "26 Jul 2024" in shown(tokenizer, "x")


TALK = (Turn("system", "Be kind."), Turn("user", "where?"), Turn("assistant", "here"), Turn("user", "when?"))


@pytest.mark.parametrize("name", CHATS)
def test_turns_of_a_prompt_are_turns_of_the_template(folders: dict[str, Path], name: str) -> None:
    tokenizer = load_tokenizer(folders[name], "auto")
    text = shown(tokenizer, Conversation(TALK))
    place = system_place(tokenizer, "x")
    first = {"role": "user", "content": "Be kind.\n\nwhere?" if place == "user" else "where?"}
    wanted = [first, {"role": "assistant", "content": "here"}, {"role": "user", "content": "when?"}]
    wanted = wanted if place == "user" else [{"role": "system", "content": "Be kind."}, *wanted]
    expected = tokenizer.apply_chat_template(wanted, tokenize=False, add_generation_prompt=True, date_string=DATE)
    # Llama 2's template has no generation prompt: what it writes before an answer stands behind the turns
    assert text.rstrip() == tokenizer.decode(tokenizer(expected, add_special_tokens=False)["input_ids"]).rstrip()
    # the same text as one turn of the user is one turn
    assert encode_prompts(tokenizer, [str(Conversation(TALK))]) != encode_prompts(tokenizer, [Conversation(TALK)])


def test_a_tools_output_is_the_users_where_a_template_has_no_tools() -> None:
    turns = [Turn("user", "a"), Turn("assistant", "b"), Turn("tool", "42"), Turn("user", "c")]
    said = chat_turns(turns, PromptFormat("chat"))
    assert [(turn["role"], turn["content"]) for turn in said[1:]] == [("assistant", "b"), ("user", "Tool: 42\n\nc")]
    assert [turn["role"] for turn in chat_turns(turns, PromptFormat("chat"), tools=True)] == [t.role for t in turns]


def test_special_tokens_in_a_turn_stay_text(folders: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(folders["qwen2"], "auto")
    clean = Conversation([Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c")])
    odd = Conversation([Turn("user", "a"), Turn("assistant", f"b{tokenizer.eos_token}"), Turn("user", "c")])
    (plain,), (ids,) = encode_prompts(tokenizer, [clean]), encode_prompts(tokenizer, [odd])
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    assert [i for i in ids if i in special] == [i for i in plain if i in special]


def test_stored_prompts_keep_their_turns() -> None:
    example = Example("1", Conversation(TALK))
    row = json.loads(json.dumps(to_row(example)))
    again = Example(**with_turns(row))
    assert again == example
    assert again.prompt.turns == TALK  # type: ignore[attr-defined]
    assert to_row(Example("1", str(example.prompt))) == {"id": "1", "prompt": example.prompt}
    with pytest.raises(BenchError, match="differ"):
        with_turns({**row, "prompt": "other"})
