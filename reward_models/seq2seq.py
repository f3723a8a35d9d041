"""Seq2seq reward models (arXiv 2409.00162): a corrector of responses, whose agreement with a response is its reward.

Trained on correction (prompt, rejected -> chosen) and identity (prompt, chosen -> chosen) mappings, starting from the
SFT policy and sharing its tokenizer.  Scoring is one teacher-forced pass over [prompt; response; marker; response]:
before the first divergence greedy decoding and teacher forcing agree, so nothing is generated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Pair, Rollout
from rlhf_bench.harness.seams import TrainingJob

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Seq2Seq:
    """The trainable arm.  `positions` "reuse" gives the correction the position ids of the response it corrects, which
    lets tiny models copy; "plain" counts on, as pretrained models expect.  `summary` is how a sentence reward adds up.
    """

    reading: str = "token"
    epochs: int = 2
    batch: int = 16
    lr: float = 2e-3
    warmup: float = 0.05
    save_every: int = 200
    positions: str = "reuse"
    summary: str = "sum"

    recipe = "seq2seq"

    def __post_init__(self) -> None:
        for key, allowed in {
            "reading": ("token", "sentence", "positive"),
            "positions": ("reuse", "plain"),
            "summary": ("sum", "mean"),
        }.items():
            if getattr(self, key) not in allowed:
                raise BenchError(f"{key}={getattr(self, key)!r} is unknown.", f"Choose one of: {', '.join(allowed)}.")
        if min(self.epochs, self.batch, self.save_every) < 1 or self.lr <= 0:
            raise BenchError("epochs, batch, save_every and lr of a seq2seq reward model must be above 0.")

    @property
    def training_settings(self) -> Mapping[str, Any]:
        names = ("epochs", "batch", "lr", "warmup", "positions")
        return {name: getattr(self, name) for name in names}

    def train(self, job: TrainingJob) -> Mapping[str, float]:
        """Fine-tune the SFT policy on both mappings, one to one; writes an ordinary causal language model."""
        from rlhf_bench.harness import policies, training

        model, tokenizer = policies.load_policy(job.policy, job.device)
        layout = Layout.of(tokenizer, self.positions)
        rows = [row for pair in job.pairs for row in mapping_rows(layout, tokenizer, pair)]
        check_context(max(max(row["position_ids"]) for row in rows) + 1, policies.context_length(model), "pairs")
        figures = training.train_lm(
            model,
            tokenizer,
            rows,
            job.progress,
            **training.options(job, len(rows), self),
        )
        policies.save_model(model, tokenizer, job.folder)
        return figures

    def load(self, folder: Path, device: str) -> Seq2SeqScorer:
        from rlhf_bench.harness import policies

        model, tokenizer = policies.load_policy(folder, device)
        return Seq2SeqScorer(model, tokenizer, Layout.of(tokenizer, self.positions), self.reading, self.summary)


token = partial(Seq2Seq, reading="token")
sentence = partial(Seq2Seq, reading="sentence")
token_positive = partial(Seq2Seq, reading="positive")


@dataclass(frozen=True)
class Layout:
    """How prompt, response and correction follow each other, as token ids and positions."""

    marker: tuple[int, ...]
    reuse: bool

    @classmethod
    def of(cls, tokenizer: Any, positions: str) -> Layout:
        from rlhf_bench.harness.text import CORRECTION, encode

        return cls(tuple(encode(tokenizer, [CORRECTION])[0]), positions == "reuse")

    def positions(self, prompt: int, response: int, correction: int) -> list[int]:
        """Position ids of prompt + response + marker + correction tokens.

        Reused: the correction counts from where the response began, and the marker leads up to it.
        """
        count = len(self.marker)
        if not self.reuse:
            return list(range(prompt + response + count + correction))
        lead = range(max(0, prompt - count), prompt) if prompt >= count else [0] * count
        return [*range(prompt + response), *lead, *range(prompt, prompt + correction)]


def mapping_rows(layout: Layout, tokenizer: Any, pair: Pair) -> list[dict[str, list[int]]]:
    """The correction and the identity example of one pair; the loss is on the corrected text and its end alone."""
    from rlhf_bench.harness.text import encode, encode_prompts
    from rlhf_bench.harness.training import IGNORED

    assert pair.rejected is not None
    prompt = encode_prompts(tokenizer, [pair.prompt])[0]
    chosen, rejected = encode(tokenizer, [pair.chosen, pair.rejected])
    rows = []
    for response in (rejected, chosen):
        context = [*prompt, *response, *layout.marker]
        target = [*chosen, tokenizer.eos_token_id]
        rows.append(
            {
                "input_ids": context + target,
                "labels": [IGNORED] * len(context) + target,
                "position_ids": layout.positions(len(prompt), len(response), len(target)),
            }
        )
    return rows


def check_context(needed: int, context: int | None, what: str) -> None:
    """Raises BenchError when the longest of `what` does not fit the model."""
    if context is not None and needed > context:
        raise BenchError(
            f"The longest of the {what} needs {needed} tokens with its correction; the model's context is {context}.",
            "Drop long prompts with --set data.max_prompt_tokens=N.",
        )


class Seq2SeqScorer:
    """Rewards from a corrector that shares the policy's tokenizer."""

    def __init__(
        self, model: Any, tokenizer: Any, layout: Layout, reading: str = "token", summary: str = "sum"
    ) -> None:
        self.model, self.tokenizer, self.layout = model, tokenizer, layout
        self.reading, self.summary = reading, summary

    def rewards(self, rollout: Rollout) -> Tensor:
        """Rewards [B, T]: see extraction.py for the token rule; a sentence's sum or mean sits on its last token."""
        from rlhf_bench.reward_models import extraction

        signs = extraction.token_signs(self.matches(rollout), rollout.mask)
        if self.reading == "positive":
            return extraction.positive_part(signs)
        if self.reading == "token":
            return signs
        scores = signs.sum(1)
        if self.summary == "mean":
            scores = scores / rollout.mask.sum(1).clamp(min=1)
        return extraction.on_last_token(scores, rollout.mask)

    def matches(self, rollout: Rollout) -> Tensor:
        """m [B, T] bool: having read prompt, response and correction up to t, the corrector would write y_t next."""
        import torch

        inputs, mask, positions = self._inputs(rollout)
        width = rollout.response_ids.shape[1]
        with torch.no_grad():
            logits = self.model(
                input_ids=inputs, attention_mask=mask, position_ids=positions, logits_to_keep=width + 1, use_cache=False
            ).logits
        matches: Tensor = (logits[:, :-1].argmax(-1) == rollout.response_ids) & rollout.mask
        return matches

    def diagnostics(self, rollout: Rollout) -> dict[str, Tensor]:
        """Per response [B]: t*/T (`agreement_until`), and whether the corrector changes nothing (`copied`).

        A pure copier rewards length and tells nothing apart: watch the copy rate on rejected responses.
        """
        from rlhf_bench.reward_models.extraction import divergence

        matches, length = self.matches(rollout), rollout.mask.sum(1).clamp(min=1)
        first = divergence(matches, rollout.mask)
        return {"agreement_until": first / length, "copied": (first == rollout.mask.sum(1)).float()}

    def _inputs(self, rollout: Rollout) -> tuple[Tensor, Tensor, Tensor]:
        """ids, mask, position ids [B, C + T]: contexts right-aligned in C columns, so that responses start in one."""
        import torch

        end, pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        prompts = _rows(rollout.prompt_ids, rollout.prompt_mask)
        responses = _rows(rollout.response_ids, rollout.mask)
        bodies = [row[:-1] if row and row[-1] == end else row for row in responses]  # as in training: no end inside
        contexts = [[*p, *b, *self.layout.marker] for p, b in zip(prompts, bodies, strict=True)]
        left, width = max(map(len, contexts)), rollout.response_ids.shape[1]
        inputs, mask, positions = [], [], []
        for p, b, c, r in zip(prompts, bodies, contexts, responses, strict=True):
            before, after = left - len(c), width - len(r)
            inputs.append([pad] * before + c + r + [pad] * after)
            mask.append([0] * before + [1] * (len(c) + len(r)) + [0] * after)
            positions.append([0] * before + self.layout.positions(len(p), len(b), len(r)) + [0] * after)
        device = rollout.response_ids.device
        return tuple(torch.tensor(x, device=device) for x in (inputs, mask, positions))  # type: ignore[return-value]


def _rows(ids: Tensor, mask: Tensor) -> list[list[int]]:
    """The unpadded rows of a padded batch."""
    return [row[keep].tolist() for row, keep in zip(ids, mask.bool(), strict=True)]
