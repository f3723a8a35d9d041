"""Policies that cannot be used: one clear line each, before anything is computed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from families import FAMILIES
from refusals import refusal
from safetensors.torch import load_file, save_file

from rlhf_bench.harness.api.runs import RunPlan, plan
from rlhf_bench.harness.models import policies
from rlhf_bench.harness.models.identity import policy_identity
from rlhf_bench.harness.models.policies import load_causal, load_tokenizer
from rlhf_bench.harness.plan.layers import check_layers
from rlhf_bench.harness.presets import make_settings
from rlhf_bench.harness.settings import Settings
from rlhf_bench.harness.store import MARKER, Store


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FAMILIES["llama"](tmp_path_factory.mktemp("llama"))


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "policy"))


def opened(folder: Path) -> object:
    """As the SFT stage opens it."""
    return load_causal(folder, load_tokenizer(folder, "auto"), "cpu")


def test_a_sound_one_opens(folder: Path) -> None:
    assert policy_identity(str(folder), Settings())["sha256"]
    assert opened(folder)


def test_another_models_tokenizer(folder: Path, tmp_path: Path) -> None:
    other = FAMILIES["gpt2"](tmp_path / "other")
    for path in other.glob("tokenizer*"):
        shutil.copy(path, folder)
    said = refusal(lambda: opened(folder))
    assert "ids up to" in said
    assert "embeddings" in said


def test_pickled_weights_alone(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    assert "pickled weights only (pytorch_model.bin)" in refusal(lambda: policy_identity(str(folder), Settings()))
    assert "pickled" in refusal(lambda: opened(folder))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(folder: Path, value: float) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = sorted(tensors)[3]
    tensors[name].view(-1)[5] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert f"NaN or infinite: {name}" in refusal(lambda: opened(folder))


def test_weights_that_are_cut_off(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "No model can be loaded" in refusal(lambda: opened(folder))


def test_no_end_of_sequence(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in config.items() if k != "eos_token"}))
    assert "no end-of-sequence token" in refusal(lambda: opened(folder))


def test_quantised_weights(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "quantization_config": {"quant_method": "gptq", "bits": 4}})
    )
    assert refusal(lambda: opened(folder))


def test_a_type_of_numbers_that_is_none_of_ours() -> None:
    said = refusal(lambda: make_settings("small", {"policy": {"dtype": "float16"}}, frozenset()))
    assert "float32, bfloat16" in said


@pytest.mark.parametrize("text", ["{broken", "[]", '{"model_type": "no-such-model"}'])
def test_a_configuration_that_is_none(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    refusal(lambda: opened(folder))


def test_a_repository_that_is_not_there() -> None:
    assert "HF_HUB_OFFLINE is set" in refusal(lambda: load_tokenizer("nobody/nothing@v1"))


@pytest.mark.parametrize("family", ["gpt2", "qwen2", "gemma"])
def test_a_tokenizer_made_up_for_a_folder_without_one_is_refused(family: str, tmp_path: Path) -> None:
    folder = FAMILIES[family](tmp_path / family)
    for path in folder.iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            path.unlink()
    said = refusal(lambda: load_tokenizer(folder))
    assert "reads nothing" in said or "No tokenizer can be loaded" in said


@pytest.mark.parametrize("template", ["{{ '' }}", "{% for m in messages %}{% endfor %}"])
def test_a_chat_template_that_writes_no_prompt_is_refused_at_planning(folder: Path, template: str) -> None:
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}))
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    said = refusal(lambda: plan("dialogsum", ["length-only"], policy=str(folder)))
    assert "writes no token of a prompt" in said
    assert "policy.template=plain" in said
    assert plan("dialogsum", ["length-only"], policy=str(folder), settings={"policy.template": "plain"})


@pytest.mark.parametrize("template", ["auto", "plain"])
def test_a_tokenizer_that_is_a_model_is_refused_at_planning(folder: Path, template: str) -> None:
    config = json.loads((folder / "tokenizer_config.json").read_text())
    named = {**config, "tokenizer_class": "AutoModelForCausalLM"}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    said = refusal(
        lambda: plan("dialogsum", ["length-only"], policy=str(folder), settings={"policy.template": template})
    )
    assert "cannot be used" in said
    assert "tokenizer_config.json" in said


def test_more_layers_than_weights_are_refused_at_planning(folder: Path) -> None:
    """transformers would build them first, for hours."""
    config = json.loads((folder / "config.json").read_text())
    for value in (10**8, 10**30):
        (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": value}))
        for call in ({"policy": str(folder)}, {"rms": f"hf:{folder}"}):
            said = refusal(lambda call=call: plan("dialogsum", **{"rms": ["length-only"], **call}))
            assert f"num_hidden_layers={value:,}" in said
            assert "tensors" in said
    for odd in ("{", "[]", json.dumps({**config, "num_hidden_layers": "many"})):
        (folder / "config.json").write_text(odd)
        check_layers(folder)  # loading it says what is wrong


def test_a_plan_whose_results_are_all_there_loads_no_tokenizer(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would take seconds, and nothing is computed."""
    loaded: list[object] = []
    monkeypatch.setattr(policies, "load_tokenizer", lambda *given: loaded.append(given) or load_tokenizer(*given))

    def planned() -> RunPlan:
        return plan("dialogsum", ["length-only"], policy=str(folder), out=tmp_path / "runs")

    for stage in planned().cells.order:
        made = stage.folder(Store(tmp_path / "runs"))
        made.mkdir(parents=True)
        (made / MARKER).write_text("{}")
    assert len(loaded) == 1
    planned()
    assert len(loaded) == 1
