"""Frozen models take turns on an accelerator: under `ppo.offload` one that is not asked waits in main memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

from rlhf_bench.harness.ppo.actors import Actors
from rlhf_bench.harness.seams import RewardModel

RESTING_PLACE = "cpu"


@runtime_checkable
class Movable(Protocol):
    """A model, or a reward model that can be put on another device."""

    def to(self, device: str) -> Any: ...


def sleepers(actors: Actors, reward_model: RewardModel) -> list[Movable]:
    """The reference, unless its weights are the policy's own (under adapters), and the reward model if it can move."""
    own = [] if actors.holding.lora else [actors.reference]
    return [*own, *([reward_model] if isinstance(reward_model, Movable) else [])]


def rest(models: Sequence[Movable]) -> None:
    """Send models away, and give the memory that they held back to the device."""
    import torch

    for model in models:
        model.to(RESTING_PLACE)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def awake(models: Sequence[Movable], device: str) -> Iterator[None]:
    """Inside, `models` are on `device`; afterwards they rest."""
    for model in models:
        model.to(device)
    try:
        yield
    finally:
        rest(models)
