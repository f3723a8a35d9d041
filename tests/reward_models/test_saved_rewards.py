"""A trained reward model from its folder: the same rewards for its own policy, the same sums for any other."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import SENTENCES, Tiny
from tokenizers_here import KINDS, make

from rlhf_bench.harness import plugins
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Pair
from rlhf_bench.harness.ppo.scoring import NamedRewardModel
from rlhf_bench.harness.sampling.rollout import text_rollout
from rlhf_bench.harness.sampling.translate import retokenize
from rlhf_bench.harness.seams import TrainingJob
from rlhf_bench.harness.training.record import RECORD, write_record
from rlhf_bench.reward_models.saved import Saved

pytestmark = pytest.mark.training
RESPONSES = (SENTENCES[0], "", "Ben will not. 🤖 é", "They meet")
PROMPTS = ("Where?", "When do they meet?", "Who?", "Why, Ben?")


def trained(name: str, tiny: Tiny, folder: Path) -> Path:
    """A reward model as the stage leaves it, after a step or two."""
    pairs = [Pair(str(i), "Where?", text, SENTENCES[i - 1]) for i, text in enumerate(SENTENCES)]
    settings = {"epochs": 1, "batch": 4, "save_every": 100}
    folder.mkdir()
    job = TrainingJob(pairs, tiny.folder, folder, folder.parent / f"scratch-{name}", 0, 40, "cpu")
    plugins.build("reward-model", name, settings).train(job)
    write_record(folder, name, settings)
    return folder


@pytest.fixture(scope="module")
def folders(tiny_gpt2: Tiny, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("trained")
    return {name: trained(name, tiny_gpt2, root / name) for name in ("seq2seq-token", "scalar")}


@pytest.mark.parametrize("name", ["seq2seq-token", "scalar"])
def test_its_own_policy_gets_the_same_rewards_wherever_it_lies(
    name: str, folders: dict[str, Path], tokenizer: Any, tmp_path: Path
) -> None:
    rollout = text_rollout(tokenizer, PROMPTS, RESPONSES, "cpu")
    copy = shutil.copytree(folders[name], tmp_path / "shared copy")
    arm: Any = plugins.build("reward-model", name, {})
    wanted = arm.load(folders[name], "cpu").rewards(rollout)
    made = plugins.build("reward-model", f"path:{copy}", {})
    assert torch.equal(made.rewards(rollout), wanted)
    assert made.content == Saved(str(folders[name])).content


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("name", ["seq2seq-token", "scalar"])
def test_another_tokenizer_gets_the_same_sums(name: str, kind: str, folders: dict[str, Path], tokenizer: Any) -> None:
    rollout = text_rollout(make(kind), PROMPTS, RESPONSES, "cpu")
    rollout = replace(rollout, responses=tuple(texts_of(rollout)))
    arm: Any = plugins.build("reward-model", name, {})
    own = text_rollout(tokenizer, PROMPTS, rollout.responses, "cpu")
    wanted = arm.load(folders[name], "cpu").rewards(own).sum(1)
    found = NamedRewardModel("x", Saved(str(folders[name])), 2).rewards(rollout)
    assert torch.allclose(found.sum(1), wanted, atol=1e-4)
    assert found.shape == rollout.mask.shape
    if name == "seq2seq-token":
        assert (found[0] != 0).sum() > 1


def texts_of(rollout: Any) -> list[str]:
    """The decoded tokens of the rollout, as a policy's own responses are."""
    from rlhf_bench.harness.text.templates import decode

    rows = zip(rollout.response_ids.tolist(), rollout.mask.sum(1).tolist(), strict=True)
    return [decode(rollout.tokenizer, ids[:length]) for ids, length in rows]


def test_a_response_that_was_cut_off_stays_so(tokenizer: Any) -> None:
    rollout = text_rollout(make("unigram"), ["Where?"] * 2, ["at nine", ""], "cpu")
    cut = replace(rollout, finished=torch.tensor([False, False]))
    read = retokenize(tokenizer, cut)
    assert not (read.response_ids[read.mask] == tokenizer.eos_token_id).any()
    assert read.mask.sum(1).tolist() == [len(tokenizer("at nine")["input_ids"]), 0]


def test_another_arm_of_the_recipe_reads_the_same_weights(folders: dict[str, Path], tokenizer: Any) -> None:
    rollout = text_rollout(tokenizer, PROMPTS, RESPONSES, "cpu")
    source = str(folders["seq2seq-token"])
    whole = Saved(source).rewards(rollout).sum(1)
    read = Saved(source, arm="seq2seq-sentence").rewards(rollout)
    assert torch.allclose(read.sum(1), whole)
    assert ((read != 0).sum(1) <= 1).all()
    assert set(Saved(source).diagnostics(rollout)) == {"agreement_until", "copied"}
    assert Saved(str(folders["scalar"])).diagnostics(rollout) == {}


def test_what_is_no_trained_reward_model(folders: dict[str, Path], tmp_path: Path) -> None:
    def refused(folder: Path, said: str, **more: str) -> None:
        with pytest.raises(BenchError, match=said) as caught:
            Saved(str(folder), **more)
        assert len(str(caught.value).splitlines()) == 1

    copy = Path(shutil.copytree(folders["scalar"], tmp_path / "copy"))
    refused(tmp_path / "no", "There is no folder")
    refused(copy, "cannot read", arm="seq2seq-token")
    refused(copy, "cannot read", arm="length-only")
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    refused(copy, "no safetensors weights")
    (copy / RECORD).write_text('{"name": 3}')
    refused(copy, "cannot be read")
    (copy / RECORD).write_text('{"name": "length-only", "settings": {}}')
    (copy / "model.safetensors").touch()
    refused(copy, "which cannot load it")
    (copy / RECORD).unlink()
    refused(copy, "--rm hf:FOLDER")


def test_an_encoder_decoder_needs_no_base_model_any_more_and_reads_the_text(tokenizer: Any, tmp_path: Path) -> None:
    import transformers as t

    spm = make("unigram")
    torch.manual_seed(0)
    config: Any = t.T5Config(
        vocab_size=len(spm), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, pad_token_id=spm.pad_token_id,
        eos_token_id=spm.eos_token_id, decoder_start_token_id=spm.pad_token_id,
    )  # fmt: skip
    t.T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    spm.save_pretrained(tmp_path)
    write_record(tmp_path, "t5-seq2seq", {"model": str(tmp_path / "base, long gone")})
    rollout = text_rollout(tokenizer, PROMPTS, RESPONSES, "cpu")
    found = Saved(str(tmp_path))
    arm: Any = plugins.build("reward-model", "t5-seq2seq", {"model": "gone"})
    assert torch.equal(found.rewards(rollout), arm.load(tmp_path, "cpu").rewards(rollout))
    assert set(found.diagnostics(rollout)) == {"agreement_until", "copied"}
