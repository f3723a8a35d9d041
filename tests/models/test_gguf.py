"""Policies in GGUF: converted once to the weights that the file holds, or refused by one line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from ggufs import write_gguf
from refusals import refusal
from tiny import SENTENCES, make_llama

from rlhf_bench.harness.api.runs import plan
from rlhf_bench.harness.models import gguf_files
from rlhf_bench.harness.models.gguf_files import as_folder
from rlhf_bench.harness.models.identity import policy_identity
from rlhf_bench.harness.models.policies import load_causal, load_tokenizer
from rlhf_bench.harness.presets import make_settings
from rlhf_bench.judges.scorers import load_scorer
from rlhf_bench.reward_models.embeddings import check_encoder
from rlhf_bench.reward_models.hub import HubReward

gguf = pytest.importorskip("gguf")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "rlhf-bench" / "weights"


@pytest.fixture
def llama(tokenizer: Any) -> Any:
    return make_llama(tokenizer)


@pytest.fixture
def file(llama: Any, tokenizer: Any, tmp_path: Path) -> Path:
    return write_gguf(llama, tokenizer, tmp_path / "Small-Q8_0.gguf")


def identity(source: Path) -> Any:
    return policy_identity(str(source), make_settings("tiny", {}, frozenset()))


def test_the_weights_and_the_tokenizer_are_those_of_the_file(file: Path, llama: Any, tokenizer: Any) -> None:
    folder = Path(as_folder(str(file)))
    words = load_tokenizer(folder, "auto")
    found, wanted = load_causal(folder, words, "cpu").state_dict(), llama.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert words(list(SENTENCES))["input_ids"] == tokenizer(list(SENTENCES))["input_ids"]
    assert words.eos_token == tokenizer.eos_token
    assert words.chat_template.startswith("{% for m in messages %}")
    assert not hasattr(load_causal(folder, words, "cpu").config, "quantization_config")


def test_quantised_weights_are_unpacked_exactly(tokenizer: Any, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=2, tie_word_embeddings=True, **size, **ids)
    )
    folder = as_folder(str(write_gguf(model, tokenizer, tmp_path / "q.gguf", quantised=True)))
    found = load_causal(folder, load_tokenizer(folder), "cpu")
    assert found.get_output_embeddings().weight is found.get_input_embeddings().weight  # type: ignore[attr-defined]
    up = "model.layers.0.mlp.up_proj.weight"
    packed = gguf.quantize(model.state_dict()[up].numpy(), gguf.GGMLQuantizationType.Q8_0)
    wanted = gguf.dequantize(packed, gguf.GGMLQuantizationType.Q8_0)
    assert found.state_dict()[up].numpy().tolist() == wanted.tolist()
    assert not torch.equal(found.state_dict()[up], model.state_dict()[up])


def test_it_is_converted_once_and_named_by_its_content(
    file: Path, llama: Any, tokenizer: Any, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = identity(file)
    assert first["name"] == "Small-Q8_0"
    monkeypatch.setattr(gguf_files, "_write", lambda *_: pytest.fail("converted again"))
    moved = Path(shutil.copy(file, tmp_path / "Other.gguf"))
    assert identity(file) == first
    inside = tmp_path / "inside"
    inside.mkdir()
    shutil.copy(file, inside)
    assert identity(inside) == first  # a folder whose only weights are the file
    assert identity(Path(first["source"])) == first  # the folder that it was converted to
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parents[1]))
    assert identity(moved)["sha256"] == first["sha256"]
    with torch.no_grad():
        llama.lm_head.weight.add_(1)
    other = identity(write_gguf(llama, tokenizer, file))
    assert other["name"] == first["name"]
    assert other["sha256"] != first["sha256"]
    assert len(list(cache.iterdir())) == 3


def test_a_tokenizer_beside_the_file_goes_before_its_own(file: Path, tokenizer: Any, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    tokenizer.save_pretrained(folder)
    shutil.copy(file, folder)
    assert identity(folder)["sha256"] != identity(file)["sha256"]
    assert load_tokenizer(as_folder(str(folder))).chat_template is None


def test_a_record_in_another_folder_says_nothing(file: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(as_folder(str(file)), tmp_path / "shared"))
    assert identity(folder)["name"] == "shared"
    assert identity(folder)["sha256"] != identity(file)["sha256"]


def test_a_run_is_planned_with_it(file: Path, tmp_path: Path) -> None:
    made = plan("dialogsum", ["length-only"], policy=str(file), out=tmp_path / "runs")
    (sft,) = [stage for stage in made.cells.order if stage.kind == "sft"]
    assert "Small-Q8_0" in sft.label
    assert sft.params["policy"]["sha256"] == identity(file)["sha256"]
    assert Path(sft.params["policy"]["source"], "model.safetensors").is_file()


def test_without_the_package_the_line_names_the_extra(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_files, "find_spec", lambda name: None if name == "gguf" else pytest.fail(name))
    assert "pip install 'rlhf-bench[gguf]'" in refusal(lambda: identity(file))


def test_files_that_are_no_whole_model(file: Path, llama: Any, tokenizer: Any, tmp_path: Path, cache: Path) -> None:
    whole, bad = file.read_bytes(), tmp_path / "bad.gguf"

    def said(data: bytes) -> str:
        bad.write_bytes(data)
        return refusal(lambda: identity(bad))

    assert "is empty" in said(b"")
    assert "does not begin with GGUF" in said(b"\x00" * 100)
    assert "version is 9" in said(whole[:4] + b"\x09" + whole[5:])
    assert "cut off" in said(whole[:-40])
    for length in (3, 10, 23, 40, 100, 700, 2000):
        assert "no whole GGUF file" in said(whole[:length]), length
    assert "entries and ends before them" in said(whole[:8] + b"\xff" * 16 + whole[24:])
    assert "no file" in refusal(lambda: identity(tmp_path / "gone.gguf"))

    def written(**more: Any) -> str:
        return refusal(lambda: identity(write_gguf(llama, tokenizer, bad, **more)))

    assert "names no architecture" in written(architecture="")
    assert "transformers cannot read" in written(architecture="rwkv6")
    assert "not supported" in written(architecture="rwkv6")
    assert "has no tokenizer" in written(words=False)
    assert "states 100000000 layers" in written(block_count=10**8)
    assert "scales its rotary positions (yarn)" in written(rope_scaling_type=gguf.RopeScalingType.YARN)
    assert not list(cache.iterdir())  # nothing half-made is left


def test_parts_of_a_model(file: Path, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    parts.mkdir()
    for i in (1, 2, 3):
        shutil.copy(file, parts / f"m-0000{i}-of-00003.gguf")
    for source in (parts, parts / "m-00002-of-00003.gguf"):
        assert "one of 3 parts" in refusal(lambda source=source: identity(source))
    several = tmp_path / "several"
    several.mkdir()
    for name in ("a.gguf", "b.gguf"):
        shutil.copy(file, several / name)
    assert "Name one" in refusal(lambda: identity(several))


def test_where_other_models_are_wanted_it_is_refused(file: Path, tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    shutil.copy(file, inside)
    for source in (str(file), str(inside)):
        for call in (
            lambda: HubReward(source),  # noqa: B023
            lambda: load_scorer(f"rm:{source}"),  # noqa: B023
            lambda: check_encoder(source),  # noqa: B023
            lambda: load_causal(source, None, "cpu"),  # type: ignore[arg-type]  # noqa: B023
        ):
            assert "is in GGUF" in refusal(call)


def test_a_cache_that_cannot_be_used(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "taken"))
    assert "XDG_CACHE_HOME" in refusal(lambda: identity(file))


def test_a_full_disk_leaves_nothing(file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_source: Path, _file: Path, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf_files, "_write", full)
    assert "No space left" in refusal(lambda: identity(file))
    assert not list(cache.iterdir())
