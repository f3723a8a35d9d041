"""Reward models as other tools save them: equal to the classifier that they were made from, or refused by one line.

The layouts are those of OpenRLHF (openrlhf/models/model.py), TRL's value-head models, LLaMA-Factory
(train/callbacks.py), UltraRM and peft.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign import classifier
from refusals import refusal
from safetensors.torch import load_file, save_file

from rlhf_bench.harness.nouns import Answer, Example
from rlhf_bench.judges.winrate_rm import WinRateRM
from rlhf_bench.reward_models.classifier import ClassifierScorer
from rlhf_bench.reward_models.hub import HubReward
from rlhf_bench.reward_models.sources import model_content

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # peft asks transformers for a renamed property
ANSWERS = [Answer(Example("", "Where?"), text, ended) for text in ("At nine.", "They meet") for ended in (True, False)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier("llama", tmp_path_factory.mktemp("whole") / "rm", chat=True)


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "rm"))


def scores(source: Path, **more: Any) -> list[float]:
    return [one.value for one in ClassifierScorer(str(source), **more).scores(ANSWERS)]  # type: ignore[misc]


def rewrite(
    folder: Path, tensors: dict[str, str | None] | None = None, drop: tuple[str, ...] = (), **config: Any
) -> None:
    """Rename tensors (None: remove), drop keys of config.json and set others."""
    file = folder / "model.safetensors"
    held = load_file(file)
    for old, new in (tensors or {}).items():
        tensor = held.pop(old)
        if new:
            held[new] = tensor
    save_file(held, file, {"format": "pt"})
    values = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps({k: v for k, v in values.items() if k not in drop}))


LABELS = ("id2label", "label2id", "num_labels", "problem_type")


@pytest.mark.parametrize("head", ["score", "value_head", "v_head", "v_head.summary", "regression_head", "classifier"])
@pytest.mark.parametrize("architecture", ["LLMForSequenceRegression", "RewardModel", "LlamaForCausalLM", None])
def test_heads_of_other_tools_score_as_the_classifier_does(
    whole: Path, folder: Path, head: str, architecture: str | None
) -> None:
    if architecture is None and head != "score":
        pytest.skip("a folder that names no class is transformers' own")
    rewrite(folder, {"score.weight": f"{head}.weight"}, LABELS, architectures=architecture and [architecture])
    assert scores(folder) == pytest.approx(scores(whole), abs=1e-6)
    HubReward(str(folder))
    WinRateRM(str(folder))


def test_without_a_number_of_labels_the_head_says_it(whole: Path, folder: Path) -> None:
    rewrite(folder, drop=LABELS)
    assert scores(folder) == scores(whole)
    held = load_file(folder / "model.safetensors")
    save_file(
        held | {"score.weight": held["score.weight"].repeat(2, 1)}, folder / "model.safetensors", {"format": "pt"}
    )
    assert "score.weight" in refusal(lambda: scores(folder))


def test_llama_factory_keeps_the_head_in_a_file_of_its_own(whole: Path, folder: Path) -> None:
    weight = load_file(folder / "model.safetensors")["score.weight"]
    rewrite(folder, {"score.weight": None}, LABELS, architectures=["LlamaForCausalLM"])
    assert "no reward model" in refusal(lambda: HubReward(str(folder)))
    head = {"v_head.summary.weight": weight, "v_head.summary.bias": torch.tensor([0.25])}
    save_file(head, folder / "value_head.safetensors", {"format": "pt"})
    assert scores(folder) == pytest.approx([one + 0.25 for one in scores(whole)], abs=1e-6)


def test_a_bias_of_transformers_own_head_counts(whole: Path, folder: Path) -> None:
    held = load_file(folder / "model.safetensors")
    save_file(held | {"score.bias": torch.tensor([0.5])}, folder / "model.safetensors", {"format": "pt"})
    assert scores(folder) == pytest.approx([one + 0.5 for one in scores(whole)], abs=1e-6)


def test_openrlhf_normalises_rewards(whole: Path, folder: Path) -> None:
    given: dict[str, Any] = {"architectures": ["RewardModel"], "normalize_reward": True, "mean": 0.5, "std": 2.0}
    rewrite(folder, {"score.weight": "value_head.weight"}, **given)
    assert scores(folder) == pytest.approx([(one - 0.5) / 2 for one in scores(whole)], abs=1e-6)
    rewrite(folder, normalize_reward=False)
    assert scores(folder) == pytest.approx(scores(whole), abs=1e-6)
    for bad in (0.0, "x", None):
        rewrite(folder, normalize_reward=True, std=bad)
        assert "mean and std" in refusal(lambda: scores(folder))


def test_what_is_no_head_is_refused_before_training(folder: Path) -> None:
    rewrite(folder, {"score.weight": "own.weight"}, architectures=["RewardModel"])
    assert "is a RewardModel, no reward model" in refusal(lambda: HubReward(str(folder)))
    assert scores(folder, head="own")
    assert "no head 'other'" in refusal(lambda: HubReward(str(folder), head="other"))
    held = load_file(folder / "model.safetensors")
    two = {"value_head.weight": held["own.weight"].clone(), "v_head.weight": held["own.weight"].clone()}
    save_file(held | two, folder / "model.safetensors", {"format": "pt"})
    assert "several heads: v_head, value_head" in refusal(lambda: HubReward(str(folder)))
    assert HubReward(str(folder), head="v_head")
    many = {"value_head.weight": held["own.weight"].repeat(19, 1)}
    save_file(held | many, folder / "model.safetensors", {"format": "pt"})
    assert "has the shape [19, 16]" in refusal(lambda: HubReward(str(folder)))
    narrow = {"value_head.weight": held["own.weight"][:, :8].clone()}
    save_file(held | narrow, folder / "model.safetensors", {"format": "pt"})
    assert "reads 8 numbers" in refusal(lambda: scores(folder))


def test_a_trunk_that_lacks_a_tensor_is_never_made_up(folder: Path) -> None:
    lost = "model.layers.0.mlp.up_proj.weight"
    rewrite(folder, {"score.weight": "value_head.weight", lost: None}, architectures=["RewardModel"])
    assert lost in refusal(lambda: scores(folder))


def test_a_folder_names_no_code_of_the_hub(folder: Path) -> None:
    rewrite(folder, attn_implementation="evil/kernel")
    assert "asks for code of the hub" in refusal(lambda: HubReward(str(folder)))
    assert "is for folders" in refusal(lambda: HubReward("org/name", head="v_head"))


def test_labels_that_contradict_the_head_are_named(folder: Path) -> None:
    rewrite(folder, id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1})
    assert "remove id2label" in refusal(lambda: HubReward(str(folder)))


# -- adapters ---------------------------------------------------------------------------------------------------------

Adapter = Callable[..., Path]


@pytest.fixture
def adapter(folder: Path, tmp_path: Path) -> Adapter:
    """adapter(saved, ...) makes an adapter of the classifier in `folder` (and writes the merged model beside it)."""
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForSequenceClassification

    def make(saved: tuple[str, ...] = ("score",), **config: Any) -> Path:
        torch.manual_seed(1)
        base = AutoModelForSequenceClassification.from_pretrained(folder)
        settings = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=list(saved), init_lora_weights=False)
        model = peft.get_peft_model(base, settings)
        if saved:
            torch.nn.init.normal_(model.base_model.model.score.modules_to_save["default"].weight)
        model.save_pretrained(tmp_path / "adapter")
        model.merge_and_unload().save_pretrained(tmp_path / "merged")
        for file in folder.glob("*oken*"):
            shutil.copy(file, tmp_path / "merged")
        shutil.copy(folder / "chat_template.jinja", tmp_path / "merged")
        file = tmp_path / "adapter" / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": str(folder)} | config))
        return tmp_path / "adapter"

    return make


@pytest.mark.parametrize("saved", [("score",), ()])
def test_an_adapter_scores_as_the_merged_model_does(adapter: Adapter, saved: tuple[str, ...], whole: Path) -> None:
    source = adapter(saved)
    found = scores(source)
    assert found == pytest.approx(scores(source.parent / "merged"), abs=1e-5)
    assert found != pytest.approx(scores(whole), abs=1e-3)
    HubReward(str(source))
    WinRateRM(str(source))


def test_an_adapter_of_a_language_model_with_a_head_beside_it(adapter: Adapter, folder: Path) -> None:
    """As LLaMA-Factory saves them: the base is no classifier, the head lies in value_head.safetensors."""
    source = adapter(())
    merged = source.parent / "merged"
    weight = load_file(merged / "model.safetensors")["score.weight"]
    rewrite(folder, {"score.weight": None}, LABELS, architectures=["LlamaForCausalLM"])
    assert "no reward model" in refusal(lambda: HubReward(str(source)))
    head = {"v_head.summary.weight": weight, "v_head.summary.bias": torch.zeros(1)}
    save_file(head, source / "value_head.safetensors", {"format": "pt"})
    assert scores(source) == pytest.approx(scores(merged), abs=1e-5)


def test_the_base_is_found_beside_the_adapter(adapter: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    source = adapter(base_model_name_or_path="../rm")
    monkeypatch.chdir("/")
    assert scores(source)


def test_the_identity_of_an_adapter_holds_its_base(adapter: Adapter, folder: Path) -> None:
    source = adapter()
    before = model_content(str(source))
    rewrite(folder, {"score.weight": None})
    assert model_content(str(source)) != before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"base_model_name_or_path": ""}, "names no base model"),
        ({"base_model_name_or_path": None}, "names no base model"),
        ({"base_model_name_or_path": 3}, "names no base model"),
        ({"base_model_name_or_path": "gone/far/away"}, "'gone/far/away' is not there"),
        ({"base_model_name_or_path": "."}, "is an adapter too"),
        ({"peft_type": "PREFIX_TUNING"}, "only LORA"),
        ({"peft_type": None}, "only LORA"),
        ({"megatron_config": {"a": 1}, "megatron_core": "os"}, "runs code"),
    ],
)
def test_adapters_that_cannot_be_used(adapter: Adapter, change: dict[str, Any], said: str) -> None:
    source = adapter(**change)
    assert said in refusal(lambda: HubReward(str(source)))
    assert said in refusal(lambda: WinRateRM(str(source)))


def test_damaged_adapters(adapter: Adapter) -> None:
    source = adapter()
    held = load_file(source / "adapter_model.safetensors")
    first = min(name for name in held if "lora_A" in name)
    short = {name: tensor for name, tensor in held.items() if name != first}
    save_file(short, source / "adapter_model.safetensors")
    assert first in refusal(lambda: scores(source))
    save_file(held | {first: held[first][:, :4].contiguous()}, source / "adapter_model.safetensors")
    refusal(lambda: scores(source))
    (source / "adapter_config.json").write_text("[")
    assert "cannot be read" in refusal(lambda: HubReward(str(source)))
    (source / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "a/b"}))
    (source / "adapter_model.safetensors").rename(source / "adapter_model.bin")
    assert "pickle" in refusal(lambda: HubReward(str(source)))


def test_an_adapter_in_a_folder_of_a_run_is_not_opened(adapter: Adapter) -> None:
    """Results folders are shared, and what their files name is not opened."""
    source = adapter()
    for name in ("stage.json", "reward_model.json"):
        (source / name).write_text("{}")
        assert "folder of a run" in refusal(lambda: HubReward(str(source)))
        (source / name).unlink()
