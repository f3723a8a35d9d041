"""The samplers of PPO's rollouts: our own decoding loop, or vLLM (setting `ppo.engine`).

Both have the signature of `rollout.sample`.  Evaluations, scales and baselines always use our own loop, so that what is
measured does not depend on the engine that was fast to train with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Rollout
from rlhf_bench.harness.sampling.rollout import sample
from rlhf_bench.harness.text.templates import encode_prompts

if TYPE_CHECKING:
    from torch import Generator

    from rlhf_bench.harness.forward.types import CausalLM
    from rlhf_bench.harness.settings import PPOSettings, Settings
    from rlhf_bench.harness.text.types import Tokenizer


class Sampler(Protocol):
    """As `rollout.sample`: one response to each prompt, from the model's weights at the time of the call."""

    def __call__(
        self,
        model: CausalLM,
        tokenizer: Tokenizer,
        prompts: Sequence[str],
        max_new: int,
        *,
        generator: Generator | None = None,
        temperature: float = 1.0,
    ) -> Rollout:
        """Responses of at most `max_new` tokens; greedy without a generator.

        With one, all random numbers derive from it, and none from torch's global state.
        """


def require_vllm() -> None:
    """Raises BenchError where the optional package is missing.

    It is looked for, not imported: importing it takes seconds.
    """
    if find_spec("vllm") is None:
        raise BenchError("The engine vllm needs the package vllm.", "pip install 'rlhf-bench[vllm]'")


def check_engine(settings: Settings) -> None:
    """Raises BenchError for an engine that is not installed or does not go with the other settings.

    For plans: nothing is loaded.
    """
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
    settings: PPOSettings, policy: Path, tokenizer: Tokenizer, prompts: Sequence[str], max_new: int, device: str
) -> Iterator[Sampler]:
    """The sampler of the settings, ready for `ppo.rollouts` of the prompts at a time; closed at the end.

    `policy` is the folder that the policy started from.  Raises BenchError where the engine cannot open it.
    """
    if settings.engine != "vllm":
        yield sample  # nothing to open: it samples from the model that it gets with each call
        return
    require_vllm()
    # here, because importing it costs seconds and needs the optional package
    from rlhf_bench.harness.sampling.vllm import open_vllm

    context = max(map(len, encode_prompts(tokenizer, prompts))) + max_new  # of the longest prompt and its response
    with open_vllm(policy, settings.rollouts, context, device, settings.engine_memory) as sampler:
        yield sampler
