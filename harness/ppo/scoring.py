"""Calling a reward model: in batches, with its results checked, and with the figures that every run must watch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from rlhf_bench.harness.errors import BenchError, one_line
from rlhf_bench.harness.faults import is_out_of_memory, machine_fault
from rlhf_bench.harness.forward.passes import first_of_each
from rlhf_bench.harness.models.micro_batch import MicroBatchLimit, Row
from rlhf_bench.harness.nouns import Rollout
from rlhf_bench.harness.sampling.rollout import answers_alone, longest_row, map_batches, rows_of, to_whole
from rlhf_bench.harness.seams import HasCorrections, HasDiagnostics, RewardModel

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class NamedRewardModel:
    """A reward model with the name that error messages give it; `batch` rows are scored at once.

    `limit` lowers that number where the device's memory is too small for it.
    """

    name: str
    model: RewardModel
    batch: int = 64
    # Apart from the policy's limit: the reward model has a size of its own.
    limit: MicroBatchLimit = field(default_factory=MicroBatchLimit, compare=False, repr=False)

    def rewards(self, rollout: Rollout) -> Tensor:
        """Rewards [B, T] float32, unscaled and checked (`check_rewards`); 0 on thinking that is kept apart.

        A response that repeats is scored once.  Raises BenchError where the reward model fails.
        """
        import torch

        answers = answers_alone(rollout)
        if answers is not rollout:
            return to_whole(self.rewards(answers), rollout)
        first, same = distinct(rollout)
        if len(first) == len(same):
            return self._score(rollout)
        device = rollout.mask.device
        found = self._score(rows_of(rollout, torch.tensor(first, device=device)))
        # `rows_of` trims columns that none of its rows needs.
        whole = torch.zeros(rollout.mask.shape, dtype=torch.float32, device=device)
        whole[:, : found.shape[1]] = found[torch.tensor(same, device=device)]
        return whole

    def corrections(self, rollout: Rollout) -> list[str | None]:
        """What the model would have written instead of each of the B responses; None where it cannot tell.

        Raises BenchError unless there is one text per response.
        """
        if not isinstance(self.model, HasCorrections):
            return [None] * len(rollout.prompts)
        parts = self.in_parts(self.model.corrections, answers_alone(rollout), len(rollout.prompts))
        found: list[str | None] = [text for part in parts for text in part]
        if len(found) != len(rollout.prompts) or not all(isinstance(text, str) for text in found):
            raise BenchError(f"The reward model {self.name!r} gave no text for every response.", "See HasCorrections.")
        return found

    def _score(self, rollout: Rollout) -> Tensor:
        def score(part: Rollout) -> Tensor:
            return check_rewards(self.name, self._call(self.model.rewards, part), part)

        return map_batches(score, rollout, self.batch, limit=self.limit, doing=self._doing)

    @property
    def _doing(self) -> str:
        return f"scoring with the reward model {self.name!r}"

    def in_parts(self, method: Callable[[Rollout], T], rollout: Rollout, size: int) -> list[T]:
        """What a method of the model returns for the rollout's rows in their order, at most `size` at a time.

        Fewer where the memory requires it.  Raises BenchError where the method fails.
        """
        import torch

        def attempt(rows: int) -> list[T]:
            if rows >= len(rollout.prompts):
                return [self._call(method, rollout)]
            everything = torch.arange(len(rollout.prompts), device=rollout.mask.device)
            return [self._call(method, rows_of(rollout, part)) for part in torch.split(everything, rows)]

        return self.limit.run(attempt, min(size, len(rollout.prompts)), Row(self._doing, longest_row(rollout)))

    def _call(self, method: Callable[[Rollout], T], rollout: Rollout) -> T:
        import torch

        try:
            with torch.no_grad():
                return method(rollout)
        except BenchError:
            raise
        except (Exception, SystemExit) as error:  # a plugin may raise anything
            if is_out_of_memory(error):  # for the limit, which tries fewer rows
                raise
            if fault := machine_fault(error, f"The reward model {self.name!r}, scoring"):
                raise fault from error
            raise BenchError(f"The reward model {self.name!r} failed while scoring: {one_line(error)}.") from error


def distinct(rollout: Rollout) -> tuple[list[int], list[int]]:
    """The first row of each different response to its prompt, and for every row [B] which of those it repeats.

    Responses of a collapsed policy and of a pool of samples repeat often.  Tokens are compared, not texts: rewards are
    per token.
    """
    lengths, rows = rollout.mask.sum(1).tolist(), rollout.response_ids.tolist()
    keys = [
        (prompt, finished, *row[:length])
        for prompt, finished, row, length in zip(rollout.prompts, rollout.finished.tolist(), rows, lengths, strict=True)
    ]
    return first_of_each(keys)


def check_rewards(name: str, rewards: object, rollout: Rollout) -> Tensor:
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
    # They would be lost in a sum over the mask and counted in one without: a plugin's error, found here once.
    if bool((found * ~rollout.mask).any()):
        raise BenchError(f"The reward model {name!r} gave rewards outside the response mask.", "Multiply by the mask.")
    return found


def diagnose(scorer: NamedRewardModel, rollout: Rollout, rewards: Tensor) -> dict[str, Tensor]:
    """Figures [B] by name that every run must watch: the sum of `rewards` [B, T], length, shares of signs.

    A length bias, or rewards that are negative everywhere, show here first.  Figures of the reward model's own
    (`HasDiagnostics`) are added.
    """
    import torch

    length = rollout.mask.sum(1).clamp(min=1)  # an empty response has shares 0
    figures = {
        "sum": rewards.sum(1),
        "length": rollout.mask.sum(1).float(),
        "positive_share": (rewards > 0).sum(1) / length,
        "negative_share": (rewards < 0).sum(1) / length,
    }
    if isinstance(scorer.model, HasDiagnostics):
        # a reward model that corrects may pass the rollout through its model once more
        parts = scorer.in_parts(scorer.model.diagnostics, answers_alone(rollout), scorer.batch)
        figures |= {name: torch.cat([part[name].float() for part in parts]) for name in parts[0]}
    return figures
