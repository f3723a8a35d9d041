"""A reward model that a run trained, from its folder: `--rm path:FOLDER`, shared or moved, for any policy.

The folder says which arm trained it and with which settings.  A policy with another tokenizer is no obstacle: texts are
read with the reward model's own, and its rewards go to the policy's tokens by their characters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_bench.harness import plugins
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Rollout
from rlhf_bench.harness.seams import HasDiagnostics, RewardModel, TrainableRewardModel
from rlhf_bench.harness.training.record import read_record

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Saved:
    """`source` is the folder of a finished reward stage (runs/reward/...) or a copy of it.

    `arm` reads the weights as another arm of the same recipe would (seq2seq-sentence what seq2seq-token trained), in
    that arm's own settings; "" as the one that trained them.
    """

    source: str
    arm: str = ""

    def __post_init__(self) -> None:
        self._trained  # noqa: B018  # what is no such folder must not show only after hours of training

    @property
    def _folder(self) -> Path:
        return Path(self.source).expanduser()

    @property
    def content(self) -> Mapping[str, str]:
        """The folder's files by hash, without the stage's own record: a copy is the same reward model."""
        from rlhf_bench.harness.models.identity import folder_hash
        from rlhf_bench.harness.store import MARKER

        return {"sha256": folder_hash(self._folder, without=(MARKER,))}

    @property
    def plugins(self) -> Sequence[str]:
        """The arm that the folder was trained as, and the one that reads it."""
        return [name for name in (read_record(self._folder)[0], self.arm) if name]

    @cached_property
    def _trained(self) -> TrainableRewardModel:
        """The arm that can load the weights."""
        name, settings = read_record(self._folder)
        made: Any = plugins.build("reward-model", name, settings)
        if self.arm:
            first, made = made, plugins.build("reward-model", self.arm, {})
            if getattr(made, "recipe", None) != first.recipe:
                raise BenchError(f"{self.source} was trained as {name!r}, which {self.arm!r} cannot read.",
                                 "Choose an arm of the same recipe, or none.")  # fmt: skip
        # no isinstance: it would ask for the training settings, and so for a base model that need not be here
        if not callable(getattr(made, "load", None)):
            raise BenchError(f"{self.source} names {name!r}, which cannot load it.", "Give a reward stage's folder.")
        trained: TrainableRewardModel = made
        return trained

    def rewards(self, rollout: Rollout) -> Tensor:
        """Rewards [B, T] on the policy's tokens, whatever the reward model's are."""
        from rlhf_bench.harness.sampling.translate import translated

        model, tokenizer = self._loaded(str(rollout.mask.device))
        return translated(model, tokenizer, rollout)

    def diagnostics(self, rollout: Rollout) -> dict[str, Tensor]:
        """What the reward model itself says of the responses, in its own tokens."""
        from rlhf_bench.harness.sampling.translate import in_tokens_of, reads_text

        model, tokenizer = self._loaded(str(rollout.mask.device))
        if not isinstance(model, HasDiagnostics):
            return {}
        return dict(model.diagnostics(rollout if reads_text(model) else in_tokens_of(tokenizer, rollout)))

    def _loaded(self, device: str) -> tuple[RewardModel, Any]:
        found: tuple[RewardModel, Any] | None = self.__dict__.get("loaded")
        if found is None:
            from rlhf_bench.harness.models.policies import load_tokenizer

            found = (self._trained.load(self._folder, device), load_tokenizer(self._folder))
            self.__dict__["loaded"] = found  # a frozen dataclass keeps it as cached_property would
        return found
