"""Several reward models as one: their mean, their minimum, a weighted sum, or a mean less its uncertainty.

Rewards of different models have different units, and a sum of them is ruled by the one that varies most.  So each
member's reward is standardised first: by the standard deviation and the mean of its sequence sums on samples of the SFT
policy, which the stage `combined` keeps beside the members' weights (stages/combined.py).

Coste et al. (arXiv 2310.02743) combine one reward per response.  Here a reward has a value per token, and the sum of a
combination over a response is theirs:

- mean, wsum: per token.  A member with one reward per response has it on the last token, and adds it there.
- min: the token rewards of the member whose sum over the response is lowest (of equal ones the first).  Its sum is the
  minimum of the members' sums, and the credit of tokens is that of one member, not a patchwork of several.
- uwo: the mean per token, less `penalty` times the variance (over members, divided by their number) of the sums over
  the response, on the last token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_bench.harness import plugins, store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Example, Rollout
from rlhf_bench.harness.seams import (
    MayDecline,
    ReadsExamples,
    ReadsFiles,
    ReadsUtility,
    RewardModel,
    TrainableRewardModel,
    TrainingJob,
)

if TYPE_CHECKING:
    from torch import Tensor

    from rlhf_bench.harness.text.types import JsonObject, Row

MEAN, MIN, SUM, PENALISED = "mean", "min", "wsum", "uwo"
HOWS = (MEAN, MIN, SUM, PENALISED)
RECORD = "combined.json"
"""{"parts": [{"label", "scale", "offset"}]} in the order of the members; member I's weights lie in the folder I."""

TrueUtility = Callable[[str, str], float | None]


class Combined:
    """Several reward models as one; written as mean(A,B), min(A,B), wsum(A:1,B:.3) or uwo(A*5:.1), not by this name.

    `how` is one of HOWS.  `members` are JSON objects {"name", "settings", "weight"}: two or more; an ensemble
    of one recipe has a member for every training.  `weight` counts in wsum alone, `penalty` in uwo.
    """

    # arms are told apart by their members, each of which is trained as itself
    recipe = "combined"

    def __init__(self, how: str, members: Sequence[Row], penalty: float = 0.0) -> None:
        if how not in HOWS or len(members) < 2:
            raise BenchError(f"A combination {how!r} of {len(members)} reward models.", "Write --rm 'mean(A,B)'.")
        self.how, self.members, self.penalty = how, members, penalty
        self.made = [plugins.build("reward-model", one["name"], one["settings"]) for one in members]
        _take(self, self.made, lambda _: self, lambda _: self)

    @property
    def labels(self) -> list[str]:
        """What figures call the members: their labels, with a number, from 1, where one name has several."""
        names = [plugins.find("reward-model", one["name"]).label for one in self.members]
        return [
            f"{name} #{names[:at].count(name) + 1}" if names.count(name) > 1 else name for at, name in enumerate(names)
        ]

    @property
    def training_settings(self) -> Row:
        """None: what is trained are the members."""
        return {}

    @cached_property  # hashing files takes long, and asking whether it is there reads it
    def content(self) -> Row:
        """What the members' files are, by the member's place; {} where no member reads any."""
        found = {str(at): dict(made.content) for at, made in enumerate(self.made) if isinstance(made, ReadsFiles)}
        return {at: content for at, content in found.items() if content}

    def train(self, job: TrainingJob) -> Mapping[str, float]:
        """Raises BenchError: the plan trains every member in a stage of its own, which plain arms share."""
        raise BenchError(f"A combination is not trained: its members are ({job.folder.name}).", "Train the members.")

    def load(self, folder: Path, device: str) -> CombinedScorer:
        """The scorer of the members in `folder`, which the stage `combined` wrote.  Raises BenchError naming a member
        that cannot be loaded."""
        parts = []
        stored = store.read_json(folder / RECORD)["parts"]
        for at, (one, label, made, kept) in enumerate(zip(self.members, self.labels, self.made, stored, strict=True)):
            model = made
            if isinstance(made, TrainableRewardModel):
                try:
                    model = made.load(folder / str(at), device)
                except BenchError as error:
                    raise BenchError(f"The member {label}: {error.seen}", error.fix) from error
            weight = one["weight"] if self.how == SUM else 1.0
            parts.append(Part(label, model, weight, kept["scale"], kept["offset"]))
        return CombinedScorer(self.how, parts, self.penalty)


@dataclass(frozen=True)
class Part:
    """A member that scores: its reward is divided by `scale` after `offset` was subtracted from its sum."""

    label: str
    model: Any
    weight: float
    scale: float
    offset: float

    def standardised(self, rollout: Rollout) -> Tensor:
        """Rewards [B, T] in standard deviations of the member's own sums on SFT samples, checked.

        Raises BenchError, naming the member, where it fails or cannot score.
        """
        from rlhf_bench.harness.ppo.arithmetic import Standard, standardised
        from rlhf_bench.harness.ppo.scoring import NamedRewardModel

        # after with_examples and with_utility, without which a member may have no rewards
        if not isinstance(self.model, RewardModel):
            raise BenchError(f"The member {self.label} has no rewards(rollout) here.", "Leave it out.")
        rewards = NamedRewardModel(self.label, self.model).rewards(rollout)
        return standardised(rewards, rollout.mask, Standard(self.scale, self.offset))


class CombinedScorer:
    """The rewards of a combination, and what each member's reward is."""

    def __init__(self, how: str, parts: Sequence[Part], penalty: float = 0.0) -> None:
        self.how, self.parts, self.penalty = how, list(parts), penalty
        _take(self, [part.model for part in self.parts], self._showing, self._paying)

    def rewards(self, rollout: Rollout) -> Tensor:
        """Rewards [B, T] of the combination, in standard deviations of the members' sums on SFT samples."""
        return combine(self.how, self._standardised(rollout), rollout.mask, self._weights, self.penalty)

    def diagnostics(self, rollout: Rollout) -> dict[str, Tensor]:
        """Figures [B]: "part NAME", each member's sum over the response, standardised and not weighted.

        For all but wsum "disagreement", their variance over members; for min "lowest NAME" in addition, 1 where the
        member's sum is the lowest.
        """
        sums = self._standardised(rollout).double().sum(2)  # [M, B]
        found = {f"part {part.label}": own for part, own in zip(self.parts, sums, strict=True)}
        if self.how != SUM:
            found["disagreement"] = sums.var(0, correction=0)
        if self.how == MIN:
            lowest = sums.argmin(0)
            found |= {f"lowest {part.label}": lowest == at for at, part in enumerate(self.parts)}
        return {name: values.float() for name, values in found.items()}

    def why_not(self, prompt: str) -> str:
        """Why a member cannot score responses to this prompt; "" where all can."""
        for part in self.parts:
            if isinstance(part.model, MayDecline) and (reason := part.model.why_not(prompt)):
                return f"{part.label}: {reason}"
        return ""

    def to(self, device: str) -> None:
        """Move the members that can be moved to another device."""
        for part in self.parts:
            if callable(move := getattr(part.model, "to", None)):
                move(device)

    @property
    def _weights(self) -> list[float]:
        return [part.weight for part in self.parts]

    def _standardised(self, rollout: Rollout) -> Tensor:
        import torch

        return torch.stack([part.standardised(rollout) for part in self.parts])

    def _with(self, models: Sequence[object]) -> CombinedScorer:
        parts = [replace(part, model=model) for part, model in zip(self.parts, models, strict=True)]
        return CombinedScorer(self.how, parts, self.penalty)

    def _showing(self, examples: Mapping[str, Sequence[Example]]) -> CombinedScorer:
        models = [part.model for part in self.parts]
        return self._with([m.with_examples(examples) if isinstance(m, ReadsExamples) else m for m in models])

    def _paying(self, utility: TrueUtility) -> CombinedScorer:
        models = [part.model for part in self.parts]
        return self._with([m.with_utility(utility) if isinstance(m, ReadsUtility) else m for m in models])


def combine(how: str, parts: Tensor, mask: Tensor, weights: Sequence[float], penalty: float = 0.0) -> Tensor:
    """Rewards [B, T] of a combination from standardised ones [M, B, T], as the module's docstring says.

    `weights` [M] count in "wsum" alone, `penalty` in "uwo".
    """
    import torch

    from rlhf_bench.harness.ppo.arithmetic import last_tokens

    # in float64: float32 sums depend on how wide the padding is, and min could then choose another member
    sums = parts.double().sum(2)
    if how == SUM:
        return torch.einsum("m,mbt->bt", torch.tensor(weights, dtype=parts.dtype, device=parts.device), parts)
    if how == MIN:
        return parts[sums.argmin(0), torch.arange(parts.shape[1], device=parts.device)]
    mean = parts.mean(0)
    if how == MEAN:
        return mean
    variance = sums.var(0, correction=0).to(mean.dtype)
    return torch.where(last_tokens(mask), mean - penalty * variance[:, None], mean)


def _take(
    taker: Combined | CombinedScorer,
    models: Sequence[object],
    showing: Callable[[Mapping[str, Sequence[Example]]], object],
    paying: Callable[[TrueUtility], object],
) -> None:
    """Give `taker` the seams of its members: with_examples and with_utility where a member has them.

    On the object and not on its class: a method that every combination had would make all of them read the examples,
    and pay the true utility.
    """
    if any(isinstance(model, ReadsExamples) for model in models):
        vars(taker)["with_examples"] = showing
    if any(isinstance(model, ReadsUtility) for model in models):
        vars(taker)["with_utility"] = paying


def record(labels: Sequence[str], standards: Sequence[Row]) -> JsonObject:
    """The content of RECORD; `standards` are the members' scale.json in the order of `labels`."""
    parts = zip(labels, standards, strict=True)
    return {"parts": [{"label": label, "scale": one["scale"], "offset": one["offset"]} for label, one in parts]}
