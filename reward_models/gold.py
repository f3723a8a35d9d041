"""The arm `gold`: the task's true utility as the reward, which shows what the optimiser could reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Rollout

if TYPE_CHECKING:
    from torch import Tensor

TrueUtility = Callable[[str, str], float | None]


@dataclass(frozen=True)
class Gold:
    """Control: the task's true utility of the response, on its last token.

    What PPO reaches with it is the ceiling of every other arm.  `per_sentence` pays each sentence what it adds to the
    utility of the text so far; the sum is the same, so the best policy is the same too (arXiv cs/9905014 calls this
    potential-based shaping), and it is learnt faster.
    """

    per_sentence: bool = False

    def with_utility(self, utility: TrueUtility) -> GoldScorer:
        """The scorer for one task."""
        return GoldScorer(utility, self.per_sentence)

    def rewards(self, rollout: Rollout) -> Tensor:  # noqa: ARG002  # of the seam
        """Raises BenchError: the utility is the task's, which a scorer gets by `with_utility`."""
        raise BenchError("The reward model 'gold' needs a task with a true utility.", "See: bench list tasks")


@dataclass(frozen=True)
class GoldScorer:
    """Scores responses to the prompts of one task's examples."""

    utility: TrueUtility
    per_sentence: bool = False

    def why_not(self, prompt: str) -> str:
        """Prompts of pairs are no examples: nothing is known about them but their text."""
        return "" if self.utility(prompt, "") is not None else "no example of the task"

    def rewards(self, rollout: Rollout) -> Tensor:
        """Rewards [B, T] float32, in units of the utility.

        Raises BenchError for a prompt that is not one of the examples.
        """
        import torch

        from rlhf_bench.reward_models.extraction import on_last_token

        if not self.per_sentence:
            values = [self._value(*texts) for texts in zip(rollout.prompts, rollout.responses, strict=True)]
            return on_last_token(torch.tensor(values, device=rollout.mask.device), rollout.mask)
        rewards = torch.zeros(rollout.mask.shape)
        for row, spans in enumerate(rollout.spans):
            prompt, response, before = rollout.prompts[row], rollout.responses[row], 0.0
            for at, (_, end) in enumerate(spans):
                last = at == len(spans) - 1
                # the difference of the utility at every end of a sentence, and at the end; other tokens add nothing
                if last or response[:end].endswith("."):
                    after = self._value(prompt, response if last else response[:end])
                    rewards[row, at], before = after - before, after
        return rewards.to(rollout.mask.device)

    def _value(self, prompt: str, response: str) -> float:
        value = self.utility(prompt, response)
        if value is None:
            raise BenchError(f"No example has the prompt {prompt[:60]!r}.", "The reward model 'gold' knows no other.")
        return value
