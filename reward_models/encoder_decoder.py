"""A seq2seq reward model that is an encoder-decoder (T5, BART): prompt and response in, the correction out.

Its rewards come from one teacher-forced pass, as those of seq2seq.py do, on its own tokens; they are then moved to the
policy's tokens of the same characters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_bench.harness.errors import BenchError, did_you_mean
from rlhf_bench.harness.nouns import Pair, Rollout
from rlhf_bench.harness.seams import TrainingJob
from rlhf_bench.harness.text.tokens import Span
from rlhf_bench.reward_models.corrector import MAPPINGS
from rlhf_bench.reward_models.sources import model_content, pinned, read_config

if TYPE_CHECKING:
    from torch import Tensor

    from rlhf_bench.harness.forward import types
    from rlhf_bench.harness.text.types import Row, Tokenizer

CHOICES = {
    "reading": ("token", "sentence", "positive"),
    "summary": ("sum", "mean"),
    "score": ("sign", "graded"),
    "mappings": MAPPINGS,
}


@dataclass(frozen=True)
class EncoderDecoder:
    """As seq2seq-token, by an encoder-decoder (T5, BART): --set t5-seq2seq.model=FOLDER_OR_HUB_ID.

    `model` is the folder or hub id (pinned as ID@REVISION) that training starts from.  `micro_batch` is the most
    rows in one pass of a step (0: all; it bounds memory and changes no result).  The other settings are those of
    seq2seq.Seq2Seq, applied to this model's own tokens.
    """

    model: str
    reading: str = "token"
    epochs: int = 2
    batch: int = 16
    micro_batch: int = 0
    lr: float = 3e-4
    warmup: float = 0.05
    save_every: int = 200
    summary: str = "sum"
    score: str = "sign"
    floor: float = -5.0
    mappings: str = "both"

    # arms with an equal recipe and equal training settings share one training
    recipe = "t5-seq2seq"

    def __post_init__(self) -> None:
        for key, allowed in CHOICES.items():
            if getattr(self, key) not in allowed:
                raise BenchError(f"{key}={getattr(self, key)!r} is unknown.", did_you_mean(getattr(self, key), allowed))
        if min(self.epochs, self.batch, self.save_every) < 1 or self.lr <= 0:
            raise BenchError("epochs, batch, save_every and lr of an encoder-decoder reward model must be above 0.")
        if self.micro_batch < 0:
            raise BenchError(f"micro_batch={self.micro_batch} is below 0.", "0 takes a step's rows at once.")
        # written so that NaN is refused too
        if not -inf < self.floor < 0:
            raise BenchError(f"floor={self.floor} is not a number below 0.", "It is a margin in nats: try floor=-5.")

    @cached_property
    def content(self) -> Mapping[str, str]:
        """The hash or commit of the model that training starts from (sources.model_content).

        Raises BenchError for one that is no encoder-decoder.
        """
        path = Path(self.model).expanduser()
        if path.exists() and not (path / "config.json").is_file():
            raise BenchError(f"{self.model} is no model folder.", "Give a folder made by save_pretrained.")
        if not read_config(self.model).get("is_encoder_decoder"):
            raise BenchError(f"{self.model} is no encoder-decoder.", "Give a T5 or its like, or use seq2seq-token.")
        return model_content(self.model)

    @property
    def training_settings(self) -> Row:
        """The settings that change the trained weights, with the base model by its content."""
        # without save_every and micro_batch, which change no weight, and the reading, summary and score,
        # which follow training
        names = ("epochs", "batch", "lr", "warmup", "mappings")
        return {name: getattr(self, name) for name in names} | {"model": dict(self.content)}

    def train(self, job: TrainingJob) -> Mapping[str, float]:
        """Fine-tune on the mapping rows of all pairs and write an encoder-decoder.

        Returns the trainer's figures, such as the final loss.  Raises BenchError where a row exceeds the model's
        context.
        """
        from rlhf_bench.harness.models import policies
        from rlhf_bench.harness.training import trl

        model, tokenizer = _load(pinned(self.model, self.content), job.device)
        rows = [row for pair in job.pairs for row in mapping_rows(tokenizer, pair, self.mappings)]
        _check_context(model, [len(row["input_ids"]) for row in rows], [len(row["labels"]) for row in rows], "pairs")
        # `of_job` reads epochs, batch, micro_batch, lr, warmup and save_every of these settings
        figures = trl.train_encoder_decoder(model, tokenizer, rows, trl.TrainOptions.of_job(job, len(rows), self))
        policies.save_model(model, tokenizer, job.folder)
        return figures

    def load(self, folder: Path, device: str) -> EncoderDecoderScorer:
        """The scorer with the weights in `folder`."""
        return EncoderDecoderScorer(*_load(str(folder), device), self)


def _load(source: str, device: str) -> tuple[types.EncoderDecoder, Tokenizer]:
    """(model, tokenizer) of an encoder-decoder."""
    from rlhf_bench.harness.models import policies

    tokenizer = policies.load_tokenizer(source)
    return policies.load_encoder_decoder(source, tokenizer, device), tokenizer


def mapping_rows(tokenizer: Tokenizer, pair: Pair, mappings: str = "both") -> list[dict[str, list[int]]]:
    """Training rows of one pair: the correction (rejected -> chosen) and the identity example (chosen -> chosen).

    `mappings` is one of MAPPINGS.  A row has `input_ids` for the encoder and `labels` for the decoder.
    """
    from rlhf_bench.harness.text.templates import encode

    assert pair.rejected is not None
    assert tokenizer.eos_token_id is not None
    target = [*encode(tokenizer, [pair.chosen])[0], tokenizer.eos_token_id]
    responses = {"correction": pair.rejected, "identity": pair.chosen}
    return [
        {"input_ids": encoder_ids(tokenizer, [pair.prompt], [response])[0], "labels": target}
        for mapping, response in responses.items()
        if mappings in ("both", mapping)
    ]


def encoder_ids(tokenizer: Tokenizer, prompts: Sequence[str], responses: Sequence[str]) -> list[list[int]]:
    """The encoder's input ids: prompt and response in the form of all trained reward models, and end-of-sequence."""
    from rlhf_bench.harness.text.templates import encode, encode_prompts

    assert tokenizer.eos_token_id is not None
    rows = zip(encode_prompts(tokenizer, prompts), encode(tokenizer, responses), strict=True)
    return [[*prompt, *response, tokenizer.eos_token_id] for prompt, response in rows]


def _check_context(model: types.EncoderDecoder, inputs: Sequence[int], outputs: Sequence[int], what: str) -> None:
    """Raises BenchError where a number of input or output tokens exceeds the context."""
    # T5's positions are relative and its configuration names no limit; BART's are learned.
    context = getattr(model.config, "max_position_embeddings", None)
    longest = max(*inputs, *outputs)
    if context and longest > context:
        seen = f"The longest of the {what} has {longest} tokens; the encoder-decoder's context is {context}."
        raise BenchError(seen, "Drop long prompts with --set data.max_prompt_tokens=N.")


class EncoderDecoderScorer:
    """Rewards from an encoder-decoder that corrects, by the rule in `settings`, moved to the policy's tokens."""

    # uses the texts of a rollout alone, so rollouts of any policy may be passed (sampling/translate.py)
    reads_text = True

    def __init__(self, model: types.EncoderDecoder, tokenizer: Tokenizer, settings: EncoderDecoder) -> None:
        # `load_tokenizer` refuses a tokenizer without end-of-sequence and gives every other a pad token.
        assert tokenizer.eos_token_id is not None
        assert tokenizer.pad_token_id is not None
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self.end, self.pad = tokenizer.eos_token_id, tokenizer.pad_token_id

    def to(self, device: str) -> None:
        """Move the model to another device."""
        self.model.to(device)

    def rewards(self, rollout: Rollout) -> Tensor:
        """Rewards [B, T] on the policy's tokens; a sentence reward is on the last token.

        0 outside the mask; a response's token rewards keep their sum.  Raises BenchError where a text exceeds the
        context.
        """
        from rlhf_bench.harness.models.align import align_rows
        from rlhf_bench.reward_models import extraction

        matches, margins, mask, spans = self.compare(rollout)
        if self.settings.score == "graded":
            rewards = extraction.graded(matches, margins, mask, self.settings.floor)
        else:
            rewards = extraction.token_signs(matches, mask)
        if self.settings.reading == "positive":
            rewards = extraction.positive_part(rewards)
        if self.settings.reading == "sentence":
            scores = rewards.sum(1)
            # the mean over this model's own tokens
            scores = scores / mask.sum(1).clamp(min=1) if self.settings.summary == "mean" else scores
            return extraction.on_last_token(scores, rollout.mask)
        # each row without its padding
        return align_rows([row[: len(s)] for row, s in zip(rewards.tolist(), spans, strict=True)], spans, rollout)

    def compare(self, rollout: Rollout) -> tuple[Tensor, Tensor, Tensor, list[list[Span]]]:
        """matches, margins, mask [B, S] on the model's own tokens of the responses, and the characters of these tokens.

        As in corrector.Comparison: whether the model would write the token after those before it, and
        log p(y_t) - max_v log p(v) in nats.
        """
        import torch

        from rlhf_bench.harness.training.collate import IGNORED, pad_sides

        responses = self.response_ids(rollout)
        inputs = encoder_ids(self.tokenizer, rollout.prompts, rollout.responses)
        # a response without tokens still needs a column
        rows = [{"input_ids": ids, "labels": own or [IGNORED]} for ids, (own, _) in zip(inputs, responses, strict=True)]
        _check_context(self.model, list(map(len, inputs)), [len(own) for own, _ in responses], "responses")
        sides = pad_sides(rows, self.pad)
        batch = {name: value.to(rollout.mask.device) for name, value in sides.items()}
        labels = batch.pop("labels")
        # teacher forcing: position t reads the labels before t, so its logits predict y_t
        decoder_ids = self.model.prepare_decoder_input_ids_from_labels(labels=labels)
        with torch.no_grad():
            logits = self.model(**batch, decoder_input_ids=decoder_ids, use_cache=False).logits.float()
        mask = labels != IGNORED
        top = logits.max(-1)
        # IGNORED is negative and no index: 0 stands in its place, outside the mask
        margins = logits.gather(-1, labels.clamp(min=0)[..., None]).squeeze(-1) - top.values
        return (top.indices == labels) & mask, margins, mask, [spans for _, spans in responses]

    def response_ids(self, rollout: Rollout) -> list[tuple[list[int], list[Span]]]:
        """Of each response the model's own token ids, ended unless it was truncated, and each token's characters.

        Characters are spans [start, end) in the response; end-of-sequence has the empty one at its end.
        """
        from rlhf_bench.harness.models.align import encode_with_spans

        found = []
        rows = zip(encode_with_spans(self.tokenizer, rollout.responses), rollout.responses, strict=True)
        for ((ids, spans), text), finished in zip(rows, rollout.finished.tolist(), strict=True):
            # a truncated response did not choose to end, so its end is not judged
            found.append(([*ids, self.end], [*spans, (len(text), len(text))]) if finished else (ids, spans))
        return found

    def diagnostics(self, rollout: Rollout) -> dict[str, Tensor]:
        """Per response [B]: t*/T on the model's own tokens (`agreement_until`), and whether it is `copied` (0 or 1).

        Compares again: nothing is cached from `rewards`.
        """
        from rlhf_bench.reward_models.extraction import divergence

        matches, _, mask, _ = self.compare(rollout)
        first, length = divergence(matches, mask), mask.sum(1)
        return {"agreement_until": first / length.clamp(min=1), "copied": (first == length).float()}
