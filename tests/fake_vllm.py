"""What passes for vLLM in tests: of its API as much as is used, with the names and forms of vLLM 0.32 and 0.33.

It generates by transformers' plain forward pass, row by row and without a cache, so nothing of ours is behind it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


@dataclass(kw_only=True)
class SamplingParams:
    """The fields of vllm.SamplingParams that are set, with its defaults."""

    temperature: float = 1.0
    seed: int | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    logprobs: int | None = None
    detokenize: bool = True


class LLM:
    """The weights are those of `folder`, until reload_weights brings others."""

    opened: list[LLM]
    shift = 0.0  # added to every log-probability: another engine's rounding
    deaf = False  # weights are taken and not used
    most: int | None = None  # no response has more tokens: preempted

    def __init__(self, model: str, **given: Any) -> None:
        from transformers import AutoModelForCausalLM

        known = {
            "skip_tokenizer_init", "trust_remote_code", "dtype", "seed", "max_model_len", "max_num_seqs",
            "gpu_memory_utilization", "enforce_eager", "enable_prefix_caching", "generation_config", "logprobs_mode",
        }  # fmt: skip
        if given.keys() - known:
            raise TypeError(f"unexpected keyword arguments {given.keys() - known}")
        self.given = given
        self.asked: list[SamplingParams] = []
        self.closed = False
        self._model = AutoModelForCausalLM.from_pretrained(model).eval()
        self.llm_engine = SimpleNamespace(engine_core=SimpleNamespace(shutdown=self._shutdown))
        LLM.opened.append(self)

    def _shutdown(self) -> None:
        self.closed = True

    def collective_rpc(self, method: str, *, kwargs: dict[str, Any]) -> list[None]:
        import torch

        assert method == "reload_weights"
        own = dict(self._model.named_parameters())
        weights = dict(kwargs["weights_iterator"])
        assert weights.keys() == own.keys()
        if not self.deaf:
            with torch.no_grad():
                for name, weight in weights.items():
                    own[name].copy_(weight)
        return [None]

    def apply_model(self, func: Callable[[Any], Any]) -> list[Any]:
        return [func(self._model)]

    def generate(
        self, prompts: Sequence[dict[str, list[int]]], sampling_params: Sequence[SamplingParams], *, use_tqdm: bool
    ) -> list[Any]:
        assert not use_tqdm
        self.asked = list(sampling_params)
        pairs = zip(prompts, sampling_params, strict=True)
        return [SimpleNamespace(outputs=[self._write(prompt["prompt_token_ids"], one)]) for prompt, one in pairs]

    def _write(self, prompt: list[int], asked: SamplingParams) -> Any:
        import torch

        tokens: list[int] = []
        logprobs: list[dict[int, Any]] = []
        generator = torch.Generator().manual_seed(asked.seed or 0)
        assert asked.max_tokens is not None
        while len(tokens) < (self.most or asked.max_tokens):
            with torch.no_grad():
                logits = self._model(input_ids=torch.tensor([prompt + tokens]), use_cache=False).logits[0, -1]
            table = (logits / (asked.temperature or 1.0)).log_softmax(-1)
            drawn = torch.multinomial(table.exp(), 1, generator=generator) if asked.temperature else table.argmax()
            tokens.append(int(drawn))
            logprobs.append({int(drawn): SimpleNamespace(logprob=float(table[int(drawn)]) + self.shift)})
            if tokens[-1] in (asked.stop_token_ids or []):
                return SimpleNamespace(token_ids=tokens, logprobs=logprobs, finish_reason="stop")
        reason = "length" if len(tokens) == asked.max_tokens else "abort"
        return SimpleNamespace(token_ids=tokens, logprobs=logprobs, finish_reason=reason)


def install(monkeypatch: pytest.MonkeyPatch) -> type[LLM]:
    """Puts the fake where `import vllm` finds it; returns a class of its own, to be made worse."""
    made = type("LLM", (LLM,), {})
    LLM.opened = []
    parts = {
        "vllm": {"LLM": made, "SamplingParams": SamplingParams},
        "vllm.distributed": {},
        "vllm.distributed.parallel_state": {"cleanup_dist_env_and_memory": lambda: None},
    }
    for name, members in parts.items():
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        module.__dict__.update(members)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "")  # the engine sets it: undone after the test
    return made
