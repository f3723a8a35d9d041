"""Asking a reward model: in batches, checked, and put on one scale for all arms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from rlhf_bench.harness.errors import BenchError, one_line
from rlhf_bench.harness.models.micro_batch import Fit
from rlhf_bench.harness.nouns import Rollout
from rlhf_bench.harness.sampling.rollout import map_batches, rows_of
from rlhf_bench.harness.seams import HasCorrections, RewardModel

if TYPE_CHECKING:
    from torch import Tensor


@runtime_checkable
class Diagnosing(Protocol):
    """A reward model that can say more of a response than its rewards."""

    def diagnostics(self, rollout: Rollout) -> Mapping[str, Tensor]:
        """Figures [B] by name, e.g. where a response first diverges from the reward model's own."""


@dataclass(frozen=True)
class NamedRewardModel:
    """A reward model and the name to blame."""

    name: str
    model: RewardModel
    batch: int = 64
    fit: Fit = field(default_factory=Fit, compare=False, repr=False)

    def rewards(self, rollout: Rollout) -> Tensor:
        """Rewards [B, T] float32, checked: see `check_rewards`.  Responses that repeat are asked for once."""
        import torch

        first, same = distinct(rollout)
        if len(first) == len(same):
            return self._rewards(rollout)
        device = rollout.mask.device
        found = self._rewards(rows_of(rollout, torch.tensor(first, device=device)))
        whole = torch.zeros(rollout.mask.shape, dtype=torch.float32, device=device)
        whole[:, : found.shape[1]] = found[torch.tensor(same, device=device)]
        return whole

    def _rewards(self, rollout: Rollout) -> Tensor:
        return map_batches(
            lambda part: check_rewards(self.name, self._ask(part), part), rollout, self.batch, fit=self.fit
        )

    def corrections(self, rollout: Rollout) -> list[str | None]:
        """What the model would have written instead of each of the B responses; None where it cannot tell."""
        if not isinstance(self.model, HasCorrections):
            return [None] * len(rollout.prompts)
        found = list(self._call(self.model.corrections, rollout))
        if len(found) != len(rollout.prompts) or not all(isinstance(text, str) for text in found):
            raise BenchError(f"The reward model {self.name!r} gave no text for every response.", "See HasCorrections.")
        return found

    def _ask(self, rollout: Rollout) -> Any:
        return self._call(self.model.rewards, rollout)

    def _call(self, verb: Callable[[Rollout], Any], rollout: Rollout) -> Any:
        import torch

        try:
            with torch.no_grad():
                return verb(rollout)
        except (BenchError, torch.OutOfMemoryError):
            raise
        except (Exception, SystemExit) as error:
            raise BenchError(f"The reward model {self.name!r} failed while scoring: {one_line(error)}.") from error


def distinct(rollout: Rollout) -> tuple[list[int], list[int]]:
    """The first row of each different response to its prompt, and for every row [B] which of those it repeats.

    A collapsed policy, and a pool of samples, repeat a lot.  Tokens count, not text: rewards are per token.
    """
    lengths, rows = rollout.mask.sum(1).tolist(), rollout.response_ids.tolist()
    keys = [
        (prompt, finished, *row[:length])
        for prompt, finished, row, length in zip(rollout.prompts, rollout.finished.tolist(), rows, lengths, strict=True)
    ]
    first = {key: row for row, key in reversed(list(enumerate(keys)))}
    places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    return sorted(first.values()), [places[key] for key in keys]


def check_rewards(name: str, rewards: Any, rollout: Rollout) -> Tensor:
    """`rewards` as float32 [B, T].

    Raises BenchError unless it is a tensor of the mask's shape, finite, and zero outside the mask.
    """
    import torch

    shape = tuple(rollout.mask.shape)
    if not isinstance(rewards, torch.Tensor):
        raise BenchError(f"The reward model {name!r} returned a {type(rewards).__name__}.", "Return a tensor [B, T].")
    if tuple(rewards.shape) != shape:
        raise BenchError(
            f"The reward model {name!r} returned rewards of shape {list(rewards.shape)}; "
            f"the response mask's is {list(shape)}.",
            "Return one reward per response token.",
        )
    found: Tensor = rewards.to(rollout.mask.device, torch.float32)
    if not bool(torch.isfinite(found).all()):
        bad = int((~torch.isfinite(found)).sum())
        raise BenchError(f"The reward model {name!r} returned {bad} rewards that are NaN or infinite.")
    if bool((found * ~rollout.mask).any()):
        raise BenchError(f"The reward model {name!r} gave rewards outside the response mask.", "Multiply by the mask.")
    return found


def diagnose(scorer: NamedRewardModel, rollout: Rollout, rewards: Tensor) -> dict[str, Tensor]:
    """Figures [B] of any reward model, and those it offers itself: what every run must watch (method.md A, risks)."""
    length = rollout.mask.sum(1).clamp(min=1)
    figures = {
        "sum": rewards.sum(1),
        "length": rollout.mask.sum(1).float(),
        "positive_share": (rewards > 0).sum(1) / length,
        "negative_share": (rewards < 0).sum(1) / length,
    }
    if isinstance(scorer.model, Diagnosing):
        figures |= {name: values.float() for name, values in scorer.model.diagnostics(rollout).items()}
    return figures
