"""Seq2seq reward models (arXiv 2409.00162): a corrector of responses, whose agreement with a response is its reward.

Trained on correction (prompt, rejected -> chosen) and identity (prompt, chosen -> chosen) mappings, starting from the
SFT policy and sharing its tokenizer.  How a response is compared with its correction and what a divergence costs are
settings of the reading: all readings share one training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Rollout
from rlhf_bench.harness.seams import TrainingJob
from rlhf_bench.reward_models.corrector import (
    MAPPINGS,
    Comparison,
    Corrector,
    Layout,
    check_context,
    mapping_rows,
    rows_of_rollout,
)

if TYPE_CHECKING:
    from torch import Tensor

CHOICES = {
    "reading": ("token", "sentence", "positive"),
    "positions": ("reuse", "plain"),
    "summary": ("sum", "mean"),
    "divergence": ("teacher", "free"),
    "score": ("sign", "graded", "aligned"),
    "mappings": MAPPINGS,
}


@dataclass(frozen=True)
class Seq2Seq:
    """The trainable arm.

    Training.  `positions` "reuse" gives the correction the position ids of the response it corrects, which lets tiny
    models copy; "plain" counts on, as pretrained models expect.  `mappings` leaves one of the two out (and with it half
    of the rows and steps); trained on identity alone it is a copier.

    Comparison.  `divergence` "teacher": with the corrector's next token after the response so far, in one pass;
    "free": with its own greedy correction, which must be generated.

    Score of a token.  `score` "sign": the paper's rule.  "graded": a divergence costs its log-probability margin,
    `floor` nats being the worst (-5: less than .7% as likely as what the corrector would write).  "aligned": +1 and -1
    by an alignment of the whole texts (alignment.py); the correction may have `extra_tokens` more than the response.

    Reading.  "token", only its "positive" part, or a "sentence" reward whose `summary` sits on the last token.
    `shuffle` puts the token rewards in another order: the control for which token gets what.
    """

    reading: str = "token"
    epochs: int = 2
    batch: int = 16
    lr: float = 2e-3
    warmup: float = 0.05
    save_every: int = 200
    positions: str = "reuse"
    summary: str = "sum"
    divergence: str = "teacher"
    score: str = "sign"
    floor: float = -5.0
    extra_tokens: int = 16
    mappings: str = "both"
    shuffle: bool = False

    recipe = "seq2seq"

    def __post_init__(self) -> None:
        for key, allowed in CHOICES.items():
            if getattr(self, key) not in allowed:
                raise BenchError(f"{key}={getattr(self, key)!r} is unknown.", f"Choose one of: {', '.join(allowed)}.")
        if min(self.epochs, self.batch, self.save_every) < 1 or self.lr <= 0:
            raise BenchError("epochs, batch, save_every and lr of a seq2seq reward model must be above 0.")
        if not -inf < self.floor < 0:
            raise BenchError(f"floor={self.floor} is not a number below 0.", "It is a margin in nats: try floor=-5.")
        if self.extra_tokens < 0:
            raise BenchError(f"extra_tokens={self.extra_tokens} is below 0.", "0 cuts corrections at the response.")
        if self.score == "aligned" and self.divergence != "free":
            raise BenchError(
                f"score=aligned needs the whole correction; divergence={self.divergence} writes none.",
                "Set divergence=free.",
            )
        if self.shuffle and self.reading == "sentence":
            raise BenchError("shuffle=true has no token rewards to shuffle under reading=sentence.", "Set one of them.")

    @property
    def training_settings(self) -> Mapping[str, Any]:
        names = ("epochs", "batch", "lr", "warmup", "positions", "mappings")
        return {name: getattr(self, name) for name in names}

    def train(self, job: TrainingJob) -> Mapping[str, float]:
        """Fine-tune the SFT policy on the mappings, one to one; writes an ordinary causal language model."""
        from rlhf_bench.harness.models import policies
        from rlhf_bench.harness.training import trl
        from rlhf_bench.harness.training.trainee import causal_trainee

        trainee = causal_trainee(job.policy, job.device, job.seed)
        tokenizer = trainee.tokenizer
        layout = Layout.of(tokenizer, self.positions)
        rows = [row for pair in job.pairs for row in mapping_rows(layout, tokenizer, pair, self.mappings)]
        check_context(
            max(max(row["position_ids"]) for row in rows) + 1, policies.context_length(trainee.model), "pairs"
        )
        figures = trl.train_lm(
            trainee.trained,
            tokenizer,
            rows,
            job.progress,
            **trl.options(job, len(rows), self),
            **trainee.options,
        )
        policies.save_model(trainee.finished(), tokenizer, job.folder)
        return figures

    def load(self, folder: Path, device: str) -> Seq2SeqScorer:
        from rlhf_bench.harness.models import policies

        return Seq2SeqScorer(*policies.load_policy(folder, device), self)


token = partial(Seq2Seq, reading="token")
sentence = partial(Seq2Seq, reading="sentence")
token_positive = partial(Seq2Seq, reading="positive")
free_running = partial(Seq2Seq, divergence="free")
graded = partial(Seq2Seq, score="graded")
aligned = partial(Seq2Seq, score="aligned", divergence="free")
shuffled = partial(Seq2Seq, shuffle=True)

REMEMBERED = 1024
"""Responses, besides the last batch, whose divergence is kept for `diagnostics`: an integer under its token ids."""


class Seq2SeqScorer:
    """Rewards from a corrector that shares the policy's tokenizer, read as `settings` say."""

    def __init__(self, model: Any, tokenizer: Any, settings: Seq2Seq) -> None:
        self.corrector = Corrector(model, tokenizer, Layout.of(tokenizer, settings.positions))
        self.settings = settings
        self._divergences: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}

    def to(self, device: str) -> None:
        """Put the corrector on another device."""
        self.corrector.model.to(device)

    def rewards(self, rollout: Rollout) -> Tensor:
        """Rewards [B, T]: see extraction.py for the token rules; a sentence's sum or mean sits on its last token."""
        from rlhf_bench.reward_models import extraction

        rewards = self._token_rewards(rollout, self.compare(rollout))
        if self.settings.reading == "positive":
            rewards = extraction.positive_part(rewards)
        if self.settings.shuffle:
            rewards = extraction.shuffled(rewards, rollout.mask, rollout.prompts, rollout.responses)
        if self.settings.reading != "sentence":
            return rewards
        scores = rewards.sum(1)
        if self.settings.summary == "mean":
            scores = scores / rollout.mask.sum(1).clamp(min=1)
        return extraction.on_last_token(scores, rollout.mask)

    def _token_rewards(self, rollout: Rollout, comparison: Comparison) -> Tensor:
        from rlhf_bench.reward_models import extraction
        from rlhf_bench.reward_models.alignment import aligned_signs

        if self.settings.score == "graded":
            return extraction.graded(comparison.matches, comparison.margins, rollout.mask, self.settings.floor)
        if self.settings.score == "aligned":
            assert comparison.written is not None
            return aligned_signs(rollout.response_ids, rollout.mask, rollout.finished, comparison.written)
        return extraction.token_signs(comparison.matches, rollout.mask)

    def compare(self, rollout: Rollout) -> Comparison:
        """Every token against what the corrector would write there, as the setting `divergence` says.

        Always computed, never remembered: a resumed run must get the same rewards to the bit as an undisturbed one.
        """
        if self.settings.divergence == "teacher":
            comparison = self.corrector.teacher_forced(rollout)
        else:
            extra = self.settings.extra_tokens if self.settings.score == "aligned" else 0
            comparison = self.corrector.free_running(rollout, extra)
        self._remember(rollout, comparison)
        return comparison

    def corrections(self, rollout: Rollout) -> list[str]:
        """What the corrector writes greedily in place of each response."""
        return self.corrector.corrections(rollout, self.settings.extra_tokens)

    def diagnostics(self, rollout: Rollout) -> dict[str, Tensor]:
        """Per response [B]: t*/T (`agreement_until`), and whether the corrector changes nothing (`copied`).

        A pure copier rewards length and tells nothing apart: watch the copy rate on rejected responses.  t* is the same
        for all readings; of responses whose rewards were just asked for, in whatever batches, it is known already.
        """
        import torch

        from rlhf_bench.harness.sampling.rollout import rows_of

        keys = self._keys(rollout)
        unknown = [row for row, key in enumerate(keys) if key not in self._divergences]
        known = {key: self._divergences[key] for key in keys if key in self._divergences}
        if unknown:
            self.compare(part := rows_of(rollout, torch.tensor(unknown, device=rollout.mask.device)))
            known |= {key: self._divergences[key] for key in self._keys(part)}
        first = torch.tensor([known[key] for key in keys], device=rollout.mask.device)
        length = rollout.mask.sum(1)
        return {"agreement_until": first / length.clamp(min=1), "copied": (first == length).float()}

    def _remember(self, rollout: Rollout, comparison: Comparison) -> None:
        from rlhf_bench.reward_models.extraction import divergence

        first = divergence(comparison.matches, rollout.mask).tolist()
        fresh = dict(zip(self._keys(rollout), first, strict=True))
        older = [item for item in self._divergences.items() if item[0] not in fresh]
        self._divergences = dict(older[-REMEMBERED:]) | fresh

    def _keys(self, rollout: Rollout) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        rows = rows_of_rollout(rollout, self.corrector.tokenizer.eos_token_id)
        return [(row.prompt, row.response) for row in rows]
