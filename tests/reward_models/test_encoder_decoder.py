"""The encoder-decoder reward model: one pass equals writing step by step, and its rewards reach the policy's tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import CONTEXT, SENTENCES, Tiny, louder
from tokenizers_here import make

from rlhf_bench.harness import plugins
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Pair
from rlhf_bench.harness.sampling.rollout import rows_of, text_rollout
from rlhf_bench.harness.seams import TrainingJob
from rlhf_bench.reward_models.encoder_decoder import EncoderDecoder, EncoderDecoderScorer, encoder_ids, mapping_rows

pytestmark = pytest.mark.training
PROMPTS = ("Where?", "When do they meet?", "Who?", "Why, Ben?")
RESPONSES = (SENTENCES[0], "", "naïve 🤖 \ufffd ﬁ", "They meet")


@pytest.fixture(scope="module", params=["t5", "bart"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Relative positions and a unigram tokenizer; learned positions and byte-level BPE."""
    import transformers as t

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "t5":
        tokenizer = make("unigram")
        config: Any = t.T5Config(
            vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, dropout_rate=0.0,
            pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
            decoder_start_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
    else:
        tokenizer = make("byte-bpe")
        config = t.BartConfig(
            vocab_size=len(tokenizer), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=CONTEXT,
            pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
            decoder_start_token_id=tokenizer.eos_token_id, forced_eos_token_id=None, dropout=0.0,
        )  # fmt: skip
    model = louder(t.AutoModelForSeq2SeqLM.from_config(config), 4.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def scorer(source: Path, **settings: Any) -> EncoderDecoderScorer:
    return EncoderDecoder(str(source), **settings).load(source, "cpu")


def test_one_pass_is_writing_step_by_step(source: Path, tokenizer: Any) -> None:
    reads, rollout = scorer(source), text_rollout(tokenizer, PROMPTS, RESPONSES, "cpu")
    matches, margins, mask, spans = reads.compare(rollout)
    read = encoder_ids(reads.tokenizer, PROMPTS, RESPONSES)
    for row, (ids, (own, _)) in enumerate(zip(read, reads.response_ids(rollout), strict=True)):
        assert int(mask[row].sum()) == len(own) == len(spans[row])
        written = [reads.model.config.decoder_start_token_id]
        for at, token in enumerate(own):
            with torch.no_grad():
                logits = reads.model(input_ids=torch.tensor([ids]), decoder_input_ids=torch.tensor([written])).logits[
                    0, -1
                ]
            assert bool(matches[row, at]) == (int(logits.argmax()) == token)
            assert float(margins[row, at]) == pytest.approx(float(logits[token] - logits.max()), abs=1e-3)
            written.append(token)


@pytest.mark.parametrize("score", ["sign", "graded"])
def test_rewards_keep_their_sum_whatever_the_batch(source: Path, score: str, tokenizer: Any) -> None:
    rollout = text_rollout(tokenizer, PROMPTS, RESPONSES, "cpu")
    whole = scorer(source, score=score).rewards(rollout)
    assert not (whole * ~rollout.mask).any()
    sentence = scorer(source, score=score, reading="sentence").rewards(rollout)
    assert torch.allclose(sentence.sum(1), whole.sum(1), atol=1e-4)
    assert ((sentence != 0).sum(1) <= 1).all()
    assert (scorer(source, score=score, reading="positive").rewards(rollout) >= 0).all()
    for row in range(len(PROMPTS)):
        part = scorer(source, score=score).rewards(rows_of(rollout, torch.tensor([row])))
        assert torch.allclose(part[0], whole[row, : part.shape[1]], atol=1e-4)


def test_a_response_that_was_cut_off_has_no_end(source: Path, tokenizer: Any) -> None:
    from dataclasses import replace

    rollout = text_rollout(tokenizer, ["Who?"] * 2, ["Ben", ""], "cpu")
    cut = replace(rollout, finished=torch.tensor([False, False]))
    _, _, mask, spans = scorer(source).compare(cut)
    _, _, longer, _ = scorer(source).compare(rollout)
    assert mask.sum(1).tolist() == [n - 1 for n in longer.sum(1).tolist()]
    assert spans[1] == []
    assert torch.isfinite(scorer(source).rewards(cut)).all()


def test_what_it_learns_from(source: Path) -> None:
    reads, pair = scorer(source), Pair("1", "Who?", "Ben.", "Anna.")
    both = mapping_rows(reads.tokenizer, pair)
    end = reads.tokenizer.eos_token_id
    assert [row["input_ids"] for row in both] == encoder_ids(reads.tokenizer, ["Who?"] * 2, ["Anna.", "Ben."])
    assert both[0]["labels"] == both[1]["labels"]
    assert both[0]["labels"][-1] == end
    assert mapping_rows(reads.tokenizer, pair, "identity") == both[1:]


def test_training_is_saved_and_lowers_the_loss(source: Path, tiny_gpt2: Tiny, tmp_path: Path) -> None:
    pairs = [Pair(str(i), "Where?", text, SENTENCES[i - 1]) for i, text in enumerate(SENTENCES)]
    losses = {}
    for epochs in (2, 30):
        folder = tmp_path / str(epochs)
        job = TrainingJob(pairs, tiny_gpt2.folder, folder, tmp_path / f"scratch{epochs}", 0, 40, "cpu")
        arm = plugins.build(
            "reward-model", "t5-seq2seq", {"model": str(source), "epochs": epochs, "batch": 4, "lr": 0.01}
        )
        losses[epochs] = arm.train(job)["loss"]
        assert (folder / "model.safetensors").is_file()
        rollout = text_rollout(tiny_gpt2.tokenizer, PROMPTS, RESPONSES, "cpu")
        assert torch.isfinite(arm.load(folder, "cpu").rewards(rollout)).all()
        assert set(arm.load(folder, "cpu").diagnostics(rollout)) == {"agreement_until", "copied"}
    assert losses[30] < losses[2]


def test_what_cannot_be_one(source: Path, tiny_gpt2: Tiny, tmp_path: Path, tokenizer: Any) -> None:
    def refused(call: Any, said: str) -> None:
        with pytest.raises(BenchError, match=said) as caught:
            call()
        assert len(str(caught.value).splitlines()) == 1

    refused(lambda: EncoderDecoder(str(tiny_gpt2.folder)).content, "no encoder-decoder")
    refused(lambda: EncoderDecoder(str(tmp_path)).content, "no model folder")
    refused(lambda: EncoderDecoder("org/never-heard-of").content, "HF_HUB_OFFLINE")
    refused(lambda: EncoderDecoder(str(source), score="aligned"), "score='aligned'")
    refused(lambda: EncoderDecoder(str(source), floor=0.0), "floor")
    refused(lambda: EncoderDecoder(str(source), epochs=0), "above 0")
    if scorer(source).model.config.model_type == "bart":
        long = text_rollout(tokenizer, ["Where?"], ["x" * 2 * CONTEXT], "cpu")
        refused(lambda: scorer(source).rewards(long), f"context is {CONTEXT}")
