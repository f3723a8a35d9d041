"""Sentence encoders: what modules.json asks for, against the definitions written out by hand; what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from refusals import refusal
from tiny import SENTENCES

from rlhf_bench.reward_models.embeddings import Encoder, check_encoder, folder_content
from rlhf_bench.reward_models.sentence_modules import pooled
from rlhf_bench.reward_models.whitebox import Whitebox

TYPE = "sentence_transformers.models."
WIDTH = 16


@pytest.fixture(scope="module")
def made(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT with the byte-level tokenizer, nothing of sentence-transformers beside it."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    size = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    folder = tmp_path_factory.mktemp("encoder")
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=40, **size)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def bert(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "encoder"))


def write(folder: Path, *kinds: str, pooling: Mapping[str, Any] | None = None, **own: object) -> None:
    """The files of sentence-transformers: modules in this order, the Pooling's configuration, the Transformer's."""
    modules = [{"idx": i, "path": f"{i}_{kind}" if i else "", "type": TYPE + kind} for i, kind in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling or {}))
    if own:
        (folder / "sentence_bert_config.json").write_text(json.dumps(own))


def states(folder: Path, text: str, longest: int = 40) -> torch.Tensor:
    """The last layer [T, width] of one text by transformers alone, the text's start where it is too long."""
    from transformers import AutoModel, AutoTokenizer

    ids = AutoTokenizer.from_pretrained(folder)(text)["input_ids"][:longest]
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(folder).eval()(input_ids=torch.tensor([ids])).last_hidden_state
    return hidden[0].double()


def flags(*names: str) -> dict[str, bool]:
    every = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    return {f"pooling_mode_{name}": name in names for name in (*every, *names)}


BY_HAND = {
    "cls_token": lambda h: h[0],
    "max_tokens": lambda h: h.max(0).values,
    "mean_tokens": lambda h: h.mean(0),
    "mean_sqrt_len_tokens": lambda h: h.sum(0) / len(h) ** 0.5,
    "weightedmean_tokens": lambda h: sum((i + 1) * row for i, row in enumerate(h)) / sum(range(1, len(h) + 1)),
    "lasttoken": lambda h: h[-1],
}


@pytest.mark.parametrize("mode", BY_HAND)
def test_every_pooling_by_its_definition(bert: Path, mode: str) -> None:
    write(bert, "Transformer", "Pooling", pooling=flags(mode))
    found = Encoder(str(bert), batch=3).embed(SENTENCES)  # of several lengths: rows are padded
    wanted = [BY_HAND[mode](states(bert, text)).numpy() for text in SENTENCES]
    assert found == pytest.approx(np.array(wanted), abs=1e-5)
    write(bert, "Transformer", "Pooling", pooling={"pooling_mode": mode.removesuffix("_token").removesuffix("_tokens")})
    assert Encoder(str(bert), batch=3).embed(SENTENCES).tolist() == found.tolist()


def test_several_modes_are_joined_in_their_fixed_order(bert: Path) -> None:
    write(bert, "Transformer", "Pooling", pooling=flags("mean_tokens", "cls_token"))
    (found,) = Encoder(str(bert)).embed(SENTENCES[:1])
    hidden = states(bert, SENTENCES[0])
    assert found == pytest.approx(torch.cat([hidden[0], hidden.mean(0)]).numpy(), abs=1e-5)


def test_normalised_vectors_have_length_one_and_products_are_cosines(bert: Path) -> None:
    write(bert, "Transformer", "Pooling", "Normalize", pooling=flags("mean_tokens"))
    encoder = Encoder(str(bert))
    assert np.linalg.norm(encoder.embed(SENTENCES), axis=1) == pytest.approx(1, abs=1e-6)
    means = [states(bert, text).mean(0) for text in SENTENCES]
    wanted = [float(torch.cosine_similarity(a, b, dim=0)) for a, b in zip(means, means[::-1], strict=True)]
    assert encoder.dots(SENTENCES, SENTENCES[::-1]) == pytest.approx(wanted, abs=1e-5)
    assert encoder.dots([SENTENCES[0], ""], ["", ""]).tolist() == [0, 0]


def test_the_whitebox_reward_reads_the_encoder_so(bert: Path) -> None:
    write(bert, "Transformer", "Pooling", "Normalize", pooling=flags("mean_tokens"))
    scorer = Whitebox(formula="qr", embedding=str(bert))._without_examples
    mean = [states(bert, text).mean(0) for text in SENTENCES[:2]]
    wanted = float(torch.cosine_similarity(mean[0], mean[1], dim=0))
    assert scorer.scores(SENTENCES[:1], SENTENCES[1:2]) == pytest.approx([wanted], abs=1e-5)


def test_the_longest_text_keeps_its_start(bert: Path) -> None:
    write(bert, "Transformer", "Pooling", pooling=flags("mean_tokens"), max_seq_length=6, do_lower_case=True)
    found = Encoder(str(bert)).embed(["ABC" + "x" * 50, "abc" + "x" * 9])
    assert found[0].tolist() == found[1].tolist()
    assert found[0] == pytest.approx(states(bert, "abc" + "x" * 9, 6).mean(0).numpy(), abs=1e-5)
    assert Encoder(str(bert), tokens=3).embed(["abcdef"])[0] == pytest.approx(
        states(bert, "abcdef", 3).mean(0).numpy(), abs=1e-5
    )


def test_the_default_prompt_stands_before_every_text(bert: Path) -> None:
    write(bert, "Transformer", "Pooling", pooling=flags("mean_tokens"))
    file = bert / "config_sentence_transformers.json"
    file.write_text(json.dumps({"prompts": {"query": "query: "}, "default_prompt_name": "query"}))
    assert Encoder(str(bert)).embed(["abc"])[0] == pytest.approx(states(bert, "query: abc").mean(0).numpy(), abs=1e-5)
    write(bert, "Transformer", "Pooling", pooling={**flags("mean_tokens"), "include_prompt": False})
    assert "leaves out the prompt" in refusal(lambda: check_encoder(str(bert)))
    file.write_text(json.dumps({"default_prompt_name": "query"}))
    assert "not among its prompts" in refusal(lambda: check_encoder(str(bert)))
    file.write_text(json.dumps({"prompts": {"query": "query: "}, "default_prompt_name": None}))
    assert Encoder(str(bert)).embed(["abc"])[0] == pytest.approx(states(bert, "abc").mean(0).numpy(), abs=1e-5)


def test_a_dense_module_is_applied_where_it_stands(bert: Path) -> None:
    from safetensors.torch import save_file

    write(bert, "Transformer", "Pooling", "Dense", "Normalize", pooling=flags("cls_token"))
    weight, bias = torch.randn(3, WIDTH), torch.randn(3)
    place = bert / "2_Dense"
    place.mkdir()
    config = {"in_features": WIDTH, "out_features": 3, "activation_function": "torch.nn.modules.activation.Tanh"}
    (place / "config.json").write_text(json.dumps(config))
    save_file({"linear.weight": weight, "linear.bias": bias}, place / "model.safetensors")
    (found,) = Encoder(str(bert)).embed(SENTENCES[:1])
    wanted = torch.tanh(weight.double() @ states(bert, SENTENCES[0])[0] + bias.double())
    assert found == pytest.approx((wanted / wanted.norm()).numpy(), abs=1e-5)

    (place / "config.json").write_text(json.dumps({**config, "activation_function": "os.path.Tanh"}))
    assert "activation 'os.path.Tanh'" in refusal(lambda: check_encoder(str(bert)))
    (place / "config.json").write_text(json.dumps(config))
    save_file({"linear.weight": torch.randn(3, 5)}, place / "model.safetensors")
    assert "width 16" in refusal(lambda: Encoder(str(bert)).embed(["a"]))
    (place / "model.safetensors").write_bytes(b"x" * 20)
    assert "cannot be read" in refusal(lambda: Encoder(str(bert)).embed(["a"]))
    (place / "model.safetensors").unlink()
    assert "no model.safetensors" in refusal(lambda: check_encoder(str(bert)))


def test_a_transformer_in_a_folder_of_its_own(bert: Path) -> None:
    write(bert, "Transformer", "Pooling", "Normalize", pooling=flags("mean_tokens"))
    wanted = Encoder(str(bert)).embed(SENTENCES)
    inner = bert / "0_Transformer"
    inner.mkdir()
    for file in [*bert.glob("*.json"), *bert.glob("*.safetensors")]:
        if file.name not in ("modules.json",):
            file.rename(inner / file.name)
    listed = json.loads((bert / "modules.json").read_text())
    listed[0]["path"] = inner.name
    (bert / "modules.json").write_text(json.dumps(listed))
    before = folder_content(str(bert))
    assert Encoder(str(bert)).embed(SENTENCES).tolist() == wanted.tolist()
    (inner / "config.json").write_text((inner / "config.json").read_text() + "\n")
    assert folder_content(str(bert)) != before
    (inner / "config.json").unlink()
    assert "no config.json" in refusal(lambda: check_encoder(str(bert)))


def test_the_modules_files_are_part_of_the_identity(bert: Path) -> None:
    plain = folder_content(str(bert))
    write(bert, "Transformer", "Pooling", pooling=flags("mean_tokens"))
    mean = folder_content(str(bert))
    write(bert, "Transformer", "Pooling", pooling=flags("cls_token"))
    assert plain != mean
    assert mean != folder_content(str(bert))


BAD: dict[str, tuple[object, str]] = {
    "no Pooling": ([{"path": "", "type": TYPE + "Transformer"}], "its modules are Transformer."),
    "another module": (
        [{"path": p, "type": TYPE + k} for p, k in (("", "Transformer"), ("1", "Pooling"), ("2", "LayerNorm"))],
        "its modules are Transformer, Pooling, LayerNorm",
    ),
    "code": ([{"path": "", "type": "custom_st.Transformer"}], "code of another package"),
    "outside": ([{"path": "", "type": TYPE + "Transformer"}, {"path": "../x", "type": TYPE + "Pooling"}], "'../x'"),
    "no list": ({"a": 1}, "no list of modules"),
    "empty": ([], "no list of modules"),
}


@pytest.mark.parametrize("case", BAD)
def test_modules_that_are_refused_when_a_run_is_planned(bert: Path, case: str) -> None:
    listed, said = BAD[case]
    (bert / "modules.json").write_text(json.dumps(listed))
    assert said in refusal(lambda: Whitebox(embedding=str(bert)).content)
    assert said in refusal(lambda: Encoder(str(bert)).embed(["a"]))


def test_files_that_cannot_be_read(bert: Path) -> None:
    (bert / "modules.json").write_text("[")
    assert "modules.json cannot be read" in refusal(lambda: check_encoder(str(bert)))
    write(bert, "Transformer", "Pooling", pooling=flags("median_tokens"))
    assert "pooling mode median_tokens is unknown" in refusal(lambda: check_encoder(str(bert)))
    write(bert, "Transformer", "Pooling", pooling=flags())
    assert "pooling mode none" in refusal(lambda: check_encoder(str(bert)))
    (bert / "1_Pooling" / "config.json").write_text("[1]")
    assert "no object" in refusal(lambda: check_encoder(str(bert)))
    write(bert, "Transformer", "Pooling", max_seq_length="many")
    assert "max_seq_length" in refusal(lambda: check_encoder(str(bert)))


def test_padding_may_be_anything() -> None:
    hidden, mask = torch.full((2, 3, 4), float("nan")), torch.tensor([[1, 1, 0], [0, 0, 0]])
    hidden[0, :2] = torch.arange(8.0).reshape(2, 4)
    for mode, by_hand in BY_HAND.items():
        found = pooled(mode, hidden, mask)
        assert torch.allclose(found[0], by_hand(hidden[0, :2])), mode
        assert found[1].tolist() == [0] * 4, mode


def test_a_hub_encoder_without_modules_and_one_that_is_not_known_to_have_none(
    bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    write(bert, "Transformer", "Pooling", "Normalize")
    answers: dict[str, Exception] = {}

    def download(source: str, name: str, revision: str | None = None) -> str:
        assert (source, revision) == ("org/encoder", "v1")
        if not answers and not (bert / name).is_file():
            raise EntryNotFoundError(name)
        if answers:
            raise answers["now"]
        return str(bert / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    modules = Encoder("org/encoder@v1").modules
    assert modules is not None
    assert list(modules.after) == ["normalize"]
    answers["now"] = EntryNotFoundError("modules.json")
    assert Encoder("org/encoder@v1").modules is None
    answers["now"] = LocalEntryNotFoundError("offline")
    assert "not known without the hub" in refusal(lambda: Encoder("org/encoder@v1").modules)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: object())
    assert Encoder("org/encoder@v1").modules is None
