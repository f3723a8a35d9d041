"""The scalar reward model: Bradley-Terry on preference pairs, one score per response.

The score sits on the last token.  Spread evenly over the response's tokens it is a control: it gives as many rewards as
a token-level reward model and no more information, so it separates dense credit from correct credit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Rollout
from rlhf_bench.harness.seams import TrainingJob

if TYPE_CHECKING:
    from torch import Tensor

    from rlhf_bench.harness.forward.types import Classifier


@dataclass(frozen=True)
class Scalar:
    """Bradley-Terry score of the whole response, on its last token.

    A sequence classifier with one label that starts from the SFT policy and is trained by TRL's RewardTrainer.
    `spread` "last" puts the score on the last token, "uniform" an equal share on every token; both share one training.
    `head_std` is the standard deviation of the fresh head's weights, `warmup` the warmed-up share of the steps.  A head
    much above 1e-4 on a pretrained policy dominates the score: its states are wide, and the rates that suit it small.
    `micro_batch` is the most pairs in one pass of a step (0: all; it bounds memory and changes no result).
    """

    epochs: int = 2
    batch: int = 16
    micro_batch: int = 0
    lr: float = 3e-3
    warmup: float = 0.05
    save_every: int = 200
    head_std: float = 1e-4
    spread: str = "last"

    # arms with an equal recipe and equal training settings share one training
    recipe = "scalar"

    def __post_init__(self) -> None:
        if self.spread not in ("last", "uniform"):
            raise BenchError(f"spread={self.spread!r} is unknown.", "Choose one of: last, uniform.")
        if self.micro_batch < 0:
            raise BenchError(f"micro_batch={self.micro_batch} is below 0.", "0 takes a step's pairs at once.")
        if min(self.epochs, self.batch, self.save_every) < 1 or min(self.lr, self.head_std) <= 0:
            raise BenchError("epochs, batch, save_every, lr and head_std of the scalar reward model must be above 0.")

    @property
    def training_settings(self) -> Mapping[str, Any]:
        """The settings that change the trained weights."""
        # without save_every and micro_batch, which change no weight, and spread, which is applied after training
        return {n: getattr(self, n) for n in ("epochs", "batch", "lr", "warmup", "head_std")}

    def train(self, job: TrainingJob) -> Mapping[str, float]:
        """Train on the job's pairs and write an AutoModelForSequenceClassification with one label.

        Returns the trainer's figures, such as the final loss, and how much of the scores is the untrained model's
        (untrained.py).
        """
        from rlhf_bench.harness.models import policies
        from rlhf_bench.harness.text.templates import encode, encode_prompts
        from rlhf_bench.harness.training import trl
        from rlhf_bench.harness.training.trainee import classifier_trainee
        from rlhf_bench.reward_models import untrained

        trainee = classifier_trainee(job.policy, job.device, job.seed, self.head_std)
        tokenizer = trainee.tokenizer
        end = tokenizer.eos_token_id
        assert end is not None
        # The prompt ids are those that the policy reads, in its plain or chat form.
        prompts = encode_prompts(tokenizer, [pair.prompt for pair in job.pairs])
        chosen = encode(tokenizer, [pair.chosen for pair in job.pairs])
        # a pair's missing response was filled with a sample of the SFT policy before training
        rejected = encode(tokenizer, [pair.rejected or "" for pair in job.pairs])
        # Both sides end with end-of-sequence, as a finished response does when it is scored.
        rows = [
            {"chosen_ids": [*p, *c, end], "rejected_ids": [*p, *r, end]}
            for p, c, r in zip(prompts, chosen, rejected, strict=True)
        ]
        options = trl.TrainOptions.of_job(job, len(rows), self, trainee.placement)
        figures = trl.train_preferences(trainee.trained, tokenizer, rows, options)
        policies.save_model(trainee.finished(), tokenizer, job.folder)
        del trainee  # its memory, which the two models of the comparison need
        return {**figures, **untrained.agreement(job, self.head_std)}

    def load(self, folder: Path, device: str) -> ScalarScorer:
        """The scorer with the weights in `folder`."""
        from rlhf_bench.harness.models import policies

        tokenizer = policies.load_tokenizer(folder)
        return ScalarScorer(policies.load_classifier(folder, tokenizer, device), self.spread)


uniform = partial(Scalar, spread="uniform")
# `bench list` shows it.
uniform.__doc__ = "Control: the scalar score spread evenly over the response's tokens."


class ScalarScorer:
    """Scores of a one-label sequence classifier that shares the policy's tokenizer."""

    def __init__(self, model: Classifier, spread: str = "last") -> None:
        self.model, self.spread = model, spread

    def to(self, device: str) -> None:
        """Move the model to another device."""
        self.model.to(device)

    def rewards(self, rollout: Rollout) -> Tensor:
        """Rewards [B, T]: the classifier's score of prompt + response, on the last response token or spread evenly."""
        from rlhf_bench.reward_models.extraction import on_last_token, spread_evenly

        place = spread_evenly if self.spread == "uniform" else on_last_token
        return place(self.scores(rollout), rollout.mask)

    def scores(self, rollout: Rollout) -> Tensor:
        """The classifier's scores [B] of prompt + response, read from the last token of each row, without gradients."""
        import torch

        from rlhf_bench.harness.forward.passes import hidden_states, last_positions, pack

        packed = pack(rollout, self.model)
        # The last real token is chosen by its position: the class's own pooling looks for pad ids, which a policy may
        # sample.
        with torch.no_grad():
            hidden = hidden_states(self.model.base_model, packed, last_positions(packed))
            scores: Tensor = self.model.score(hidden).squeeze(-1)
        return scores
