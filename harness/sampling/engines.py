"""The samplers of PPO's rollouts: our own decoding loop, or vLLM (`ppo.engine`).

Both have the signature of `rollout.sample`.  Evaluations, scales and baselines always come from the plain loop, so that
what is measured does not depend on what was fast to train with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Rollout
from rlhf_bench.harness.sampling.rollout import sample
from rlhf_bench.harness.text.templates import encode_prompts

if TYPE_CHECKING:
    from rlhf_bench.harness.settings import PPOSettings, Settings


class Sampler(Protocol):
    """As rollout.sample: one response to each prompt, from the model's weights as they are at the call."""

    def __call__(
        self,
        model: Any,
        tokenizer: Any,
        prompts: Sequence[str],
        max_new: int,
        *,
        generator: Any = None,
        temperature: float = 1.0,
    ) -> Rollout: ...


def require_vllm() -> None:
    """Raises BenchError where the optional package is missing."""
    if find_spec("vllm") is None:
        raise BenchError("The engine vllm needs the package vllm.", "pip install 'rlhf-bench[vllm]'")


def check_engine(settings: Settings) -> None:
    """Raises BenchError for an engine that is not there or does not go with the other settings."""
    if settings.ppo.engine != "vllm":
        return
    if settings.policy.lora:
        raise BenchError(
            f"ppo.engine=vllm samples from whole weights; policy.lora is {settings.policy.lora}.",
            "Set policy.lora=0 or ppo.engine=own.",
        )
    require_vllm()


@contextmanager
def open_sampler(
    settings: PPOSettings, policy: Path, tokenizer: Any, prompts: Sequence[str], max_new: int, device: str
) -> Iterator[Sampler]:
    """The sampler that the settings ask for, ready for `ppo.rollouts` of the prompts at a time; closed at the end.

    `policy` is the folder that the policy started from.  Raises BenchError where it cannot be opened.
    """
    if settings.engine == "vllm":
        require_vllm()
        from rlhf_bench.harness.sampling.vllm import open_vllm

        room = _room(tokenizer, prompts, max_new)
        with open_vllm(policy, settings.rollouts, room, device, settings.engine_memory) as sampler:
            yield sampler
    else:
        yield sample


def _room(tokenizer: Any, prompts: Sequence[str], max_new: int) -> int:
    """Tokens of the longest prompt and a response to it."""
    return max(map(len, encode_prompts(tokenizer, prompts))) + max_new
