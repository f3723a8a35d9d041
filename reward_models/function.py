"""A Python function as a reward model: `--rm module:function`, without a base class and without registration."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from rlhf_bench.harness.errors import BenchError, one_line
from rlhf_bench.harness.nouns import Rollout
from rlhf_bench.harness.plugins import Plugin, parameters

if TYPE_CHECKING:
    from torch import Tensor

FIX = "Return one number per response, or with a parameter `spans` one list per response of a number per span."


@dataclass(frozen=True)
class Function:
    """The result of a Python function of prompts and responses: --rm module:function.

    `source` is module:function, and the function is one of

        (prompts, responses) -> [reward of each response]
        (prompts, responses, spans) -> [[reward of each token] of each response]

    `spans` has for every response the characters [start, end) of its tokens; end-of-sequence, if there is one, has the
    empty span at the end.  A response's reward is put on its last token.
    """

    source: str

    @cached_property
    def _function(self) -> Callable[..., object]:
        return Plugin("reward-model", self.source, self.source).target()

    def rewards(self, rollout: Rollout) -> Tensor:
        """Rewards [B, T] float32: each response's on its last token, or those of its tokens.

        Raises BenchError where the function raises, or returns the wrong number of values or values that are no finite
        numbers.
        """
        import torch

        from rlhf_bench.reward_models.extraction import on_last_token

        device = rollout.mask.device
        # the parameter's name decides which of the two forms the function has
        if "spans" not in parameters(self._function):
            values = self._numbers(self._call(rollout.prompts, rollout.responses), len(rollout.prompts), "responses")
            return on_last_token(torch.tensor(values, dtype=torch.float32, device=device), rollout.mask)
        rows = self._call(rollout.prompts, rollout.responses, rollout.spans)
        self._check_length(rows, len(rollout.prompts), "responses")
        rewards = torch.zeros(rollout.mask.shape, dtype=torch.float32)
        for at, (row, spans) in enumerate(zip(rows, rollout.spans, strict=True)):
            rewards[at, : len(spans)] = torch.tensor(self._numbers(row, len(spans), "tokens"), dtype=torch.float32)
        return rewards.to(device)

    def _call(self, *arguments: Sequence[object]) -> Any:
        try:
            # lists, as documented: the rollout has tuples
            return self._function(*map(list, arguments))
        # a function may report its own bad input
        except BenchError:
            raise
        except (Exception, SystemExit) as error:  # a user's function may call sys.exit
            raise BenchError(f"{self.source} failed: {one_line(error)}.", "Correct the function.") from error

    def _numbers(self, values: Any, count: int, what: str) -> list[float]:
        self._check_length(values, count, what)
        try:
            numbers = [float(value) for value in values]
        except (TypeError, ValueError) as error:
            raise BenchError(f"{self.source} returned no numbers: {one_line(error)}.", FIX) from error
        bad = [value for value in numbers if not math.isfinite(value)]
        if bad:
            raise BenchError(
                f"{self.source} returned {bad[0]} for {len(bad)} of {count} {what}.", "Return finite rewards."
            )
        return numbers

    def _check_length(self, values: Any, count: int, what: str) -> None:
        try:
            length = len(values)
        except TypeError:
            raise BenchError(f"{self.source} returned {type(values).__name__}, no list.", FIX) from None
        # float("1") would make numbers of a string's digits
        if length != count or isinstance(values, str):
            raise BenchError(f"{self.source} returned {length} values for {count} {what}.", FIX)
