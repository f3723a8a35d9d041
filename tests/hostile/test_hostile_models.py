"""Models of others: what their files name is not run and not opened, and no link in them leads outside.

Each case builds a hostile folder for one command.  Nothing outside may change, the code that the folder names may not
run, and one line must say why.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile_place import NAMES, ON_PATH, Place, Refused, shared_reward_model
from safetensors.torch import save_file

from rlhf_bench.harness.cli import main
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.plan import patterns
from rlhf_bench.harness.plan.named import check_named

# -- reward models ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ON_PATH)
@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        *((name, {}, f"names the reward-model '{name}'") for name in NAMES),
        ("function", {"source": "os:system"}, "names 'os:system'"),
        ("function", {"source": "evil"}, "names 'evil'"),
        ("path", {"source": "shared"}, "names 'shared'"),
        ("hf", {"source": "outside"}, "names 'outside'"),
        ("scalar", {"spread": "/etc/passwd"}, "names '/etc/passwd'"),
        ("scalar", {"spread": "evil:run"}, "names 'evil:run'"),
    ],
)
def test_a_shared_reward_model_names_registered_arms_alone(
    place: Place, refused: Refused, line: str, name: str, settings: dict[str, Any], said: str
) -> None:
    shared_reward_model(place, name, **settings)
    assert "--set path:shared.arm=" in refused(line, said)
    assert not (place.home / "new").exists()


def test_the_command_line_may_name_the_code(place: Place, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """The same folder with the arm named by the user: now its module is imported."""
    shared_reward_model(place, "evil:run")
    line = "run --task dialogsum --rm path:shared --set path:shared.arm=evil:run --out new --dry-run"
    monkeypatch.setattr(sys, "argv", ["bench", *line.split()])
    with pytest.raises(SystemExit):
        main.main()
    assert "not registered" not in capsys.readouterr().err
    assert (place.home / "sentinel").exists()


@pytest.mark.parametrize("line", ON_PATH)
def test_links_out_of_a_shared_reward_model(place: Place, refused: Refused, line: str) -> None:
    folder = shared_reward_model(place, "scalar")
    (folder / "config.json").symlink_to(place.outside / "secret")
    refused(line, "leads outside of shared")


def test_the_hubs_cache_is_a_folder_of_links(place: Place) -> None:
    folder = shared_reward_model(place, "scalar")
    snapshot = place.home / "models--a--b" / "snapshots" / "abc"
    blobs = place.home / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    shutil.move(folder, blobs)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(file)
    from rlhf_bench.reward_models.saved import Saved

    assert Saved(str(snapshot)).content


# -- policies and adapters --------------------------------------------------------------------------------------------

MODEL = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}


@pytest.mark.parametrize(
    ("file", "value", "said"),
    [
        ("config.json", {**MODEL, "attn_implementation": "evil/kernel"}, "asks for code of the hub"),
        ("config.json", {**MODEL, "_attn_implementation": "evil/kernel:run"}, "asks for code of the hub"),
        ("config.json", {**MODEL, "attn_implementation": {"": "evil/kernel"}}, "asks for code of the hub"),
        ("config.json", {**MODEL, "text_config": {"attn_implementation": "evil/kernel"}}, "asks for code of the hub"),
        ("config.json", {**MODEL, "experts_implementation": "evil/kernel"}, "asks for code of the hub"),
        ("model.safetensors.index.json", {"weight_map": {"a": "../outside/x.safetensors"}}, "outside of its folder"),
        ("model.safetensors.index.json", {"weight_map": {"a": "/etc/x.safetensors"}}, "outside of its folder"),
    ],
)
def test_a_policy_folder_names_no_code_and_no_other_folder(
    place: Place, refused: Refused, file: str, value: Any, said: str
) -> None:
    folder = place.home / "policy"
    folder.mkdir()
    for name, text in (("config.json", json.dumps(MODEL)), ("tokenizer.json", "{}"), ("x.safetensors", "")):
        (folder / name).write_text(text)
    (folder / file).write_text(json.dumps(value))
    refused("run --task dialogsum --rm length-only --policy policy --out new", said)


def policy_folder(place: Place) -> Path:
    folder = place.home / "policy"
    folder.mkdir()
    for name, text in (("config.json", json.dumps(MODEL)), ("tokenizer.json", "{}"), ("x.safetensors", "")):
        (folder / name).write_text(text)
    return folder


OPENED = (
    "run --task dialogsum --rm length-only --policy policy --out new",
    "run --task dialogsum --rm hf:policy --out new",
    "run --task dialogsum --rm length-only --set dialogsum.data=policy --out new",
    "judge runs --judge winrate-rm --set winrate-rm.model=policy",
    "judge runs --judge winrate --set winrate.scorer=rm:policy",
)
"""Commands that open a folder that the user names."""


@pytest.mark.parametrize("line", OPENED)
@pytest.mark.parametrize("file", ["config.json", "x.index.json", "chat_template.jinja", "data/train.jsonl"])
def test_a_named_folder_has_no_links_and_pipes(place: Place, refused: Refused, line: str, file: str) -> None:
    path = policy_folder(place) / file
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    refused(line, "neither a file nor a folder")
    path.unlink()
    path.symlink_to(place.outside / "secret")
    refused(line, "leads outside of")
    assert not (place.home / "new").exists()


def test_weights_and_the_hubs_blobs_may_be_links(place: Place) -> None:
    folder, blobs = policy_folder(place), place.home / "blobs"
    blobs.mkdir()
    shutil.move(folder / "config.json", blobs / "0a")
    shutil.move(folder / "x.safetensors", place.outside)
    (folder / "config.json").symlink_to(blobs / "0a")
    (folder / "x.safetensors").symlink_to(place.outside / "x.safetensors")
    check_named([str(folder), f"hf:{folder}", "dialogsum", "", "a\0b", "~"])
    (folder / "more").symlink_to(place.outside)
    with pytest.raises(BenchError, match="leads outside of"):
        check_named([f"hf:{folder}"])


@pytest.mark.parametrize("key", ["target_modules", "exclude_modules", "rank_pattern", "layers_pattern"])
def test_the_expressions_of_an_adapter_are_bounded(place: Place, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "CPU_SECONDS", 1)
    adapter, base = place.home / "adapter", policy_folder(place)
    adapter.mkdir()
    save_file({"model.layers.0.self_attn.q_proj.weight": torch.zeros(1)}, base / "x.safetensors")
    (adapter / "adapter_model.safetensors").touch()
    slow, sound = r"(\w*\.*)*(\w*\.*)*!", r".*(q|v)_proj"
    for text in (sound, slow):
        config = {"peft_type": "LORA", "base_model_name_or_path": "../policy"}
        value = {text: 2} if key == "rank_pattern" else text
        (adapter / "adapter_config.json").write_text(json.dumps({**config, key: value}))
        if text is slow:
            with pytest.raises(BenchError, match="was stopped"):
                check_named([str(adapter)])
        else:
            check_named([str(adapter)])
