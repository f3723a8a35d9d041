"""Seq2seq reward models (arXiv 2409.00162): the reward is a response's agreement with a model that corrects it.

The corrector starts from the SFT policy, shares its tokenizer, and is trained on correction (prompt, rejected ->
chosen) and identity (prompt, chosen -> chosen) mappings.  The settings that say how a response is compared with its
correction, and what a divergence costs, apply after training: all arms that differ only in them share one training.
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
    unpadded_rows,
)

if TYPE_CHECKING:
    from torch import Tensor

    from rlhf_bench.harness.forward.types import CausalLM
    from rlhf_bench.harness.text.types import Tokenizer

# The settings that are names, and the names that each may be.
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
    """Agreement with a corrector of responses: +1 per token until the first difference, then -1 per difference.

    Training.  `positions` "reuse" gives the correction the position ids of the response that it corrects, which lets
    tiny models copy; "plain" counts on, as pretrained models expect.  `mappings` "correction" or "identity" trains on
    one kind of example alone, with half of the rows and steps; trained on identity alone the model is a copier.
    `micro_batch` is the most rows in one pass of a step (0: all; it bounds memory and changes no result).

    Comparison.  `divergence` "teacher": with the corrector's next token after the response so far, in one pass;
    "free": with the corrector's own greedy correction, which must be generated.

    Score of a token.  `score` "sign": the paper's rule.  "graded": a divergence costs its log-probability margin, at
    most `floor` nats (-5: less than 0.7% as likely as the corrector's own token).  "aligned": +1 and -1 by an alignment
    of the whole texts, for which the correction may have `extra_tokens` more than the response (extraction.py).

    Reading.  `reading` "token": all token rewards; "positive": the positive ones alone; "sentence": their `summary`
    ("sum" or "mean") on the last token.  `shuffle` permutes the token rewards within a response: the control for which
    token gets which reward.
    """

    reading: str = "token"
    epochs: int = 2
    batch: int = 16
    micro_batch: int = 0
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

    # arms with an equal recipe and equal training settings share one training
    recipe = "seq2seq"

    def __post_init__(self) -> None:
        for key, allowed in CHOICES.items():
            if getattr(self, key) not in allowed:
                raise BenchError(f"{key}={getattr(self, key)!r} is unknown.", f"Choose one of: {', '.join(allowed)}.")
        if min(self.epochs, self.batch, self.save_every) < 1 or self.lr <= 0:
            raise BenchError("epochs, batch, save_every and lr of a seq2seq reward model must be above 0.")
        if self.micro_batch < 0:
            raise BenchError(f"micro_batch={self.micro_batch} is below 0.", "0 takes a step's rows at once.")
        # written so that NaN is refused too
        if not -inf < self.floor < 0:
            raise BenchError(f"floor={self.floor} is not a number below 0.", "It is a margin in nats: try floor=-5.")
        if self.extra_tokens < 0:
            raise BenchError(f"extra_tokens={self.extra_tokens} is below 0.", "0 cuts corrections at the response.")
        # an alignment needs a second text; teacher forcing gives one token after each prefix
        if self.score == "aligned" and self.divergence != "free":
            raise BenchError(
                f"score=aligned needs the whole correction; divergence={self.divergence} writes none.",
                "Set divergence=free.",
            )
        if self.shuffle and self.reading == "sentence":
            raise BenchError("shuffle=true has no token rewards to shuffle under reading=sentence.", "Set one of them.")

    @property
    def training_settings(self) -> Mapping[str, Any]:
        """The settings that change the trained weights."""
        # without save_every and micro_batch, which change no weight, and the comparison, score and
        # reading, which follow training
        names = ("epochs", "batch", "lr", "warmup", "positions", "mappings")
        return {name: getattr(self, name) for name in names}

    def train(self, job: TrainingJob) -> Mapping[str, float]:
        """Fine-tune the SFT policy on the mapping rows of all pairs and write a causal language model.

        Returns the trainer's figures, such as the final loss.  Raises BenchError where a row needs more positions than
        the model's context has.
        """
        from rlhf_bench.harness.models import policies
        from rlhf_bench.harness.training import trl
        from rlhf_bench.harness.training.trainee import causal_trainee

        trainee = causal_trainee(job.policy, job.device, job.seed)
        tokenizer = trainee.tokenizer
        # `load` makes the same layout: `positions` is a training setting
        layout = Layout.of(tokenizer, self.positions)
        rows = [row for pair in job.pairs for row in mapping_rows(layout, tokenizer, pair, self.mappings)]
        # the largest position id, not the number of tokens: reused positions need less context
        check_context(
            max(max(row["position_ids"]) for row in rows) + 1, policies.context_length(trainee.model), "pairs"
        )
        options = trl.TrainOptions.of_job(job, len(rows), self, trainee.placement)
        figures = trl.train_lm(trainee.trained, tokenizer, rows, options)
        policies.save_model(trainee.finished(), tokenizer, job.folder)
        return figures

    def load(self, folder: Path, device: str) -> Seq2SeqScorer:
        """The scorer with the weights in `folder`."""
        from rlhf_bench.harness.models import policies

        return Seq2SeqScorer(*policies.load_policy(folder, device), self)


# `bench list` shows the docstrings of the variants.
token = partial(Seq2Seq, reading="token")
token.__doc__ = "+1 per token until a corrector would write something else, then -1 per difference."
sentence = partial(Seq2Seq, reading="sentence")
sentence.__doc__ = "The seq2seq token rewards summed (or averaged) on the last token."
token_positive = partial(Seq2Seq, reading="positive")
token_positive.__doc__ = "The +1 of the seq2seq token rewards alone: the length of the agreement with the corrector."
free_running = partial(Seq2Seq, divergence="free")
free_running.__doc__ = "As seq2seq-token, but compared position by position with the corrector's generated text."
graded = partial(Seq2Seq, score="graded")
graded.__doc__ = "As seq2seq-token, but a difference costs how much less likely it is than the corrector's token."
aligned = partial(Seq2Seq, score="aligned", divergence="free")
aligned.__doc__ = "+1 and -1 by alignment with the corrector's generated text: an edit costs only itself."
shuffled = partial(Seq2Seq, shuffle=True)
shuffled.__doc__ = "Control: the seq2seq token rewards in random order within each response."

CACHED_DIVERGENCES = 1024
"""Responses, besides the last batch, whose t* is kept for `diagnostics`: one integer under the token ids."""


class Seq2SeqScorer:
    """Rewards from a corrector that shares the policy's tokenizer, by the comparison and rule in `settings`."""

    def __init__(self, model: CausalLM, tokenizer: Tokenizer, settings: Seq2Seq) -> None:
        self.corrector = Corrector(model, tokenizer, Layout.of(tokenizer, settings.positions))
        self.settings = settings
        # t* by (prompt ids, response ids)
        self._divergences: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}

    def to(self, device: str) -> None:
        """Move the corrector to another device."""
        self.corrector.model.to(device)

    def rewards(self, rollout: Rollout) -> Tensor:
        """Rewards [B, T], 0 outside the mask, by the rules of extraction.py; a sentence reward is on the last token."""
        from rlhf_bench.reward_models import extraction

        comparison, mask = self.compare(rollout), rollout.mask
        if self.settings.score == "graded":
            rewards = extraction.graded(comparison.matches, comparison.margins, mask, self.settings.floor)
        elif self.settings.score == "aligned":
            assert comparison.written is not None
            rewards = extraction.aligned_signs(rollout.response_ids, mask, rollout.finished, comparison.written)
        else:
            rewards = extraction.token_signs(comparison.matches, mask)
        if self.settings.reading == "positive":
            rewards = extraction.positive_part(rewards)
        # after the rule, so that the shuffled control has the very rewards of the arm that it is a control for
        if self.settings.shuffle:
            rewards = extraction.shuffled(rewards, mask, rollout.prompts, rollout.responses)
        if self.settings.reading != "sentence":
            return rewards
        scores = rewards.sum(1)
        if self.settings.summary == "mean":
            scores = scores / mask.sum(1).clamp(min=1)
        return extraction.on_last_token(scores, mask)

    def compare(self, rollout: Rollout) -> Comparison:
        """Every token against what the corrector would write there, by the setting `divergence`.

        Stores t* of the responses for `diagnostics`.  Raises BenchError where a response and its correction exceed the
        context.
        """
        from rlhf_bench.reward_models.extraction import divergence

        # Never cached: cached rewards could come from a batch of another padding, and a resumed run must get the
        # rewards of an undisturbed one to the bit.
        if self.settings.divergence == "teacher":
            comparison = self.corrector.teacher_forced(rollout)
        else:
            extra = self.settings.extra_tokens if self.settings.score == "aligned" else 0
            comparison = self.corrector.free_running(rollout, extra)
        first = divergence(comparison.matches, rollout.mask).tolist()
        fresh = dict(zip(self._keys(rollout), first, strict=True))
        # dicts keep insertion order: the oldest entries are dropped first, those of this batch never
        older = [item for item in self._divergences.items() if item[0] not in fresh]
        self._divergences = dict(older[-CACHED_DIVERGENCES:]) | fresh
        return comparison

    def corrections(self, rollout: Rollout) -> list[str]:
        """The greedy correction of each response, as text.

        At most `extra_tokens` tokens longer than the response.
        """
        return self.corrector.corrections(rollout, self.settings.extra_tokens)

    def diagnostics(self, rollout: Rollout) -> dict[str, Tensor]:
        """Per response [B]: t*/T (`agreement_until`), and whether the corrector changes nothing (`copied`).

        A copier rewards length and distinguishes nothing: watch the copy rate on rejected responses.  t* does not
        depend on the score or reading; of responses that were compared a moment ago it is cached.
        """
        import torch

        from rlhf_bench.harness.sampling.rollout import rows_of

        keys = self._keys(rollout)
        missing = [row for row, key in enumerate(keys) if key not in self._divergences]
        # copied before `compare`, whose new entries may push these out of the cache
        found = {key: self._divergences[key] for key in keys if key in self._divergences}
        if missing:
            part = rows_of(rollout, torch.tensor(missing, device=rollout.mask.device))
            self.compare(part)
            found |= {key: self._divergences[key] for key in self._keys(part)}
        first = torch.tensor([found[key] for key in keys], device=rollout.mask.device)
        length = rollout.mask.sum(1)
        return {"agreement_until": first / length.clamp(min=1), "copied": (first == length).float()}

    def _keys(self, rollout: Rollout) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        return [(row.prompt, row.response) for row in unpadded_rows(rollout, self.corrector.end)]
