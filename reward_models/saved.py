"""A reward model that a run trained, from its folder: `--rm path:FOLDER`, shared or moved, for any policy.

The folder's record names the arm that was trained and its settings.  A folder may come from someone else, so its record
may name registered arms alone (trust.py).  The policy may have another tokenizer: texts are encoded with the reward
model's own, and its rewards are moved to the policy's tokens of the same characters.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

from rlhf_bench.harness import plugins, store, trust
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Rollout
from rlhf_bench.harness.seams import HasDiagnostics, RewardModel, TrainableRewardModel
from rlhf_bench.harness.training.record import RECORD, read_record

if TYPE_CHECKING:
    from torch import Tensor

    from rlhf_bench.harness.text.types import Tokenizer

BASE = "model"
"""The setting with the model that training started from; `load` opens the folder alone."""


@dataclass(frozen=True)
class Saved:
    """The reward model of another run: path:FOLDER, its runs/reward/... folder or a copy.

    `source` is that folder.  `arm` uses the weights as another arm of the same recipe, with that arm's default settings
    (seq2seq-sentence for what seq2seq-token trained); "": as the arm that trained them, with its settings.  An arm at
    module:attribute is imported only if `arm` names it.  Raises BenchError where no arm can load the folder.
    """

    source: str
    arm: str = ""

    def __post_init__(self) -> None:
        self._trained  # noqa: B018  # another folder must be refused now, not after hours of training

    @property
    def _folder(self) -> Path:
        return Path(self.source).expanduser()

    @property
    def content(self) -> Mapping[str, str]:
        """The hash of the folder's files."""
        from rlhf_bench.harness.models.identity import folder_hash

        # without the stage's record, which names the run: a copy is the same reward model
        return {"sha256": folder_hash(self._folder, without=(store.MARKER,))}

    @property
    def plugins(self) -> Sequence[str]:
        """The arm that was trained, and the one that its weights are used as (seams.LoadsPlugins)."""
        return [name for name in (read_record(self._folder)[0], self.arm) if name]

    @cached_property
    def _trained(self) -> TrainableRewardModel:
        """The arm that loads the weights."""
        folder = self._folder
        # the hub's cache is a folder of links to its `blobs`, beside `snapshots`
        store.check_links(folder, folder.parent.parent if folder.parent.name == "snapshots" else folder)
        name, settings = read_record(folder)
        if self.arm == name:  # named by the user, and nothing else of the record is used
            return self._loading(plugins.build("reward-model", name, {}), name)
        own = f"If you trust it, load it with default settings: --set path:{self.source}.arm={shlex.quote(name)}"
        spec = {"name": name, "settings": settings}
        trust.check_recorded("reward-model", spec, folder / RECORD, unopened=[BASE], fix=lambda _: own)
        trained = plugins.build("reward-model", name, settings)
        if not self.arm:
            return self._loading(trained, name)
        arm = plugins.build("reward-model", self.arm, {})
        # arms of one recipe share their trained weights, and only they can read each other's
        if getattr(arm, "recipe", None) != getattr(trained, "recipe", None):
            seen = f"{self.source} was trained as {name!r}, which {self.arm!r} cannot read."
            raise BenchError(seen, "Choose an arm of the same recipe, or none.")
        return self._loading(arm, name)

    def _loading(self, arm: object, name: str) -> TrainableRewardModel:
        """The arm.  Raises BenchError where it cannot load weights; `name` is the arm that was trained."""
        # Not isinstance: it would read the training settings, and they a base model that may not be on this machine.
        if not callable(getattr(arm, "load", None)):
            raise BenchError(f"{self.source} names {name!r}, which cannot load it.", "Give a reward stage's folder.")
        return cast("TrainableRewardModel", arm)

    def rewards(self, rollout: Rollout) -> Tensor:
        """Rewards [B, T] on the policy's tokens; a response's rewards keep their sum."""
        from rlhf_bench.harness.sampling.translate import translate_rewards

        model, tokenizer = self._loaded(str(rollout.mask.device))
        return translate_rewards(model, tokenizer, rollout)

    def diagnostics(self, rollout: Rollout) -> dict[str, Tensor]:
        """The reward model's own diagnostics [B] of the responses, on its own tokens; none where it has none."""
        from rlhf_bench.harness.sampling.translate import reads_text, retokenize

        model, tokenizer = self._loaded(str(rollout.mask.device))
        if not isinstance(model, HasDiagnostics):
            return {}
        return dict(model.diagnostics(rollout if reads_text(model) else retokenize(tokenizer, rollout)))

    def _loaded(self, device: str) -> tuple[RewardModel, Tokenizer]:
        """(reward model, its tokenizer), loaded at the first use."""
        found: tuple[RewardModel, Tokenizer] | None = self.__dict__.get("loaded")
        if found is None:
            from rlhf_bench.harness.models.policies import load_tokenizer

            found = (self._trained.load(self._folder, device), load_tokenizer(self._folder))
            self.__dict__["loaded"] = found  # the dataclass is frozen: stored as cached_property would store it
        return found
