"""Offloading (`ppo.offload`): frozen models are in main memory except during their own passes.

It saves accelerator memory at the cost of two copies of each model per iteration, and changes no number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch

from rlhf_bench.harness.ppo.actors import Actors
from rlhf_bench.harness.seams import RewardModel

if TYPE_CHECKING:
    from rlhf_bench.harness.ppo.run import PPORun

OFFLOAD_DEVICE = "cpu"  # tests put another device here


@runtime_checkable
class Movable(Protocol):
    """A model, or a reward model, that can be moved to another device in place."""

    def to(self, device: str) -> object: ...


def offloadable(actors: Actors, reward_model: RewardModel) -> list[Movable]:
    """The frozen models that can leave the device: the reference, and a reward model with a method `to`.

    Under adapters the reference shares its weights with the policy, so it stays.
    """
    reference: list[Movable] = [] if actors.placement.lora else [actors.reference]
    return [*reference, *([reward_model] if isinstance(reward_model, Movable) else [])]


def offloaded(run: PPORun) -> list[Movable]:
    """The models of a run that are offloaded while idle (`offloadable`); none unless `ppo.offload`."""
    return offloadable(run.actors, run.reward_model.model) if run.settings.offload else []


def offload(models: Sequence[Movable]) -> None:
    """Move models to main memory, and return the device memory that torch caches, theirs included.

    In place: everything that refers to a model sees it move.  `[]` moves nothing, yet returns the memory.
    """
    for model in models:
        model.to(OFFLOAD_DEVICE)
    # Torch keeps freed memory for itself, where other libraries on the device (vLLM) cannot use it.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def on_device(run: PPORun, *models: object) -> Iterator[None]:
    """Inside, the offloaded ones of `models` are on the policy's device; no models given: all that are offloaded.

    At the end, also by an error, they are in main memory again.  Nothing moves unless `ppo.offload`.
    """
    needed = [one for one in offloaded(run) if not models or any(one is model for model in models)]
    for model in needed:
        model.to(str(run.actors.policy.device))  # in place, so that everything that refers to the model sees it
    try:
        yield
    finally:
        offload(needed)
