"""A policy that is a LoRA adapter of others: it writes what the merged model writes, or is refused by one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from refusals import refusal
from tiny import Tiny

from rlhf_bench.harness.models import memory
from rlhf_bench.harness.models.identity import policy_identity
from rlhf_bench.harness.models.policies import check_folder, load_causal, load_tokenizer
from rlhf_bench.harness.presets import make_settings

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # peft asks transformers for a renamed property
peft = pytest.importorskip("peft")


@pytest.fixture
def base(tiny_gpt2: Tiny, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_gpt2.folder, tmp_path / "base"))


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    """A folder as TRL's SFTTrainer saves it: the adapter, and the tokenizer."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["c_attn"], fan_in_fan_out=True,
                             init_lora_weights=False)  # fmt: skip
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    model.save_pretrained(tmp_path / "adapter")
    model.merge_and_unload().save_pretrained(tmp_path / "merged")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / name, tmp_path / "adapter")
    return tmp_path / "adapter"


def settings() -> Any:
    return make_settings("tiny", {}, frozenset())


def test_it_is_loaded_as_the_merged_model(adapter: Path, base: Path) -> None:
    tokenizer = load_tokenizer(adapter)
    found = load_causal(adapter, tokenizer, "cpu").state_dict()
    wanted = load_causal(adapter.parent / "merged", load_tokenizer(base), "cpu").state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.allclose(found[name], wanted[name], atol=1e-6) for name in found)
    plain = load_causal(base, tokenizer, "cpu").state_dict()
    assert not all(torch.equal(found[name], plain[name]) for name in found)
    assert load_causal(adapter, tokenizer, "cpu", "bfloat16").dtype == torch.bfloat16  # type: ignore[attr-defined]
    assert memory.config_of(str(adapter)).vocab_size == memory.config_of(str(base)).vocab_size


def test_without_a_tokenizer_of_its_own_it_has_its_bases(adapter: Path, base: Path) -> None:
    (adapter / "tokenizer.json").unlink()
    (adapter / "tokenizer_config.json").unlink()
    assert load_tokenizer(adapter).get_vocab() == load_tokenizer(base).get_vocab()
    assert policy_identity(str(adapter), settings())["name"] == "adapter"
    for file in base.glob("tokenizer*"):
        file.unlink()
    assert "no tokenizer" in refusal(lambda: policy_identity(str(adapter), settings()))


def test_the_ends_that_its_base_lists_end_its_responses(adapter: Path, base: Path) -> None:
    from rlhf_bench.harness.text.chat import end_token_ids

    file = base / "generation_config.json"
    file.write_text(json.dumps({"eos_token_id": [0, 7]}))
    assert 7 in end_token_ids(load_tokenizer(adapter, "plain"))


def test_its_identity_is_that_of_both_folders(adapter: Path, base: Path) -> None:
    before = policy_identity(str(adapter), settings())["sha256"]
    (base / "more.txt").write_text("x")
    after = policy_identity(str(adapter), settings())["sha256"]
    assert before != after
    (adapter / "more.txt").write_text("x")
    assert policy_identity(str(adapter), settings())["sha256"] != after


def test_adapters_that_are_refused(adapter: Path, base: Path) -> None:
    assert "merge_and_unload" in refusal(lambda: check_folder(adapter))  # where a whole model is needed
    file = adapter / "adapter_config.json"
    whole = json.loads(file.read_text())
    for change, said in (
        ({"base_model_name_or_path": ""}, "names no base model"),
        ({"peft_type": "IA3"}, "only LORA"),
        ({"base_model_name_or_path": str(base / "gone")}, "is not there"),
    ):
        file.write_text(json.dumps(whole | change))
        assert said in refusal(lambda: policy_identity(str(adapter), settings()))
        assert said in refusal(lambda: load_tokenizer(adapter))
    file.write_text(json.dumps(whole))
    (base / "model.safetensors").unlink()
    assert "no safetensors" in refusal(lambda: policy_identity(str(adapter), settings()))


def test_an_adapter_of_another_model_is_named_with_its_tensor(adapter: Path) -> None:
    from safetensors.torch import load_file, save_file

    held = load_file(adapter / "adapter_model.safetensors")
    lost = max(held)
    save_file({n: t for n, t in held.items() if n != lost}, adapter / "adapter_model.safetensors")
    assert lost in refusal(lambda: load_causal(adapter, load_tokenizer(adapter), "cpu"))
