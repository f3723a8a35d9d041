"""vLLM as the sampler of PPO's rollouts: the optional extra `vllm`.

Written against vLLM 0.33's sources and run with 0.32 on a CPU.  Used of it: `LLM` in this process
(VLLM_ENABLE_V1_MULTIPROCESSING=0; otherwise the weights would have to be sent to another process), prompts as token
ids, one SamplingParams for each row, and `collective_rpc("reload_weights")`, with which its workers take weights in the
format of a checkpoint and compute again all that they derive from them.

Its log-probabilities come from its own kernels.  PPO computes them again with its own pass and logs the difference.
"""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_bench.harness.errors import BenchError, one_line
from rlhf_bench.harness.models.placement import read_placement
from rlhf_bench.harness.nouns import Rollout
from rlhf_bench.harness.sampling.rollout import make_rollout, pad_prompts
from rlhf_bench.harness.text.chat import end_token_ids
from rlhf_bench.harness.text.templates import encode_prompts

if TYPE_CHECKING:
    import torch
    from torch import Generator, Tensor
    from vllm import LLM, SamplingParams
    from vllm.outputs import CompletionOutput

    from rlhf_bench.harness.forward.types import CausalLM, Module
    from rlhf_bench.harness.text.types import Tokenizer

QUIET = {"VLLM_NO_USAGE_STATS": "1", "VLLM_CONFIGURE_LOGGING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
"""Unless the environment says otherwise: send no statistics, set up no logging, do not pin this process's threads."""
SEEDS = 2**31
"""Seeds of rows are below it."""


class VLLMSampler:
    """`rollout.sample` by vLLM.  Every call copies the model's weights into the engine.

    Each row gets a seed of its own, drawn from the generator, so its draws do not depend on its neighbours.  They are
    not the draws of our own loop.  Greedy log-probabilities are at temperature 1.
    """

    def __init__(self, llm: LLM, sampling_params: type[SamplingParams]) -> None:
        self._llm = llm
        self._sampling_params = sampling_params  # the class, so that this module imports without vLLM

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
        """As `rollout.sample`.  Raises BenchError where vLLM fails or leaves a response unfinished."""
        import torch

        rows = encode_prompts(tokenizer, prompts)
        ids, mask = pad_prompts(rows, tokenizer.pad_token_id, str(model.device))
        # Only our own end tokens end a response, as in our own loop.  logprobs 0: of the sampled token alone.
        common: dict[str, object] = {"max_tokens": max_new, "logprobs": 0, "detokenize": False, "ignore_eos": True}
        common |= {"stop_token_ids": list(end_token_ids(tokenizer))}
        if generator is None:
            params = [self._sampling_params(temperature=0.0, **common) for _ in rows]
        else:
            seeds = torch.randint(SEEDS, (len(rows),), generator=generator).tolist()
            params = [self._sampling_params(temperature=temperature, seed=seed, **common) for seed in seeds]
        # as a checkpoint has them: tied weights once
        weights = [(name, parameter.detach()) for name, parameter in model.named_parameters()]
        try:
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
            self._llm.apply_model(_repack_heads)
            written = self._llm.generate([{"prompt_token_ids": row} for row in rows], params, use_tqdm=False)
        except Exception as error:
            raise BenchError(f"vLLM failed: {one_line(error)}.", "Set ppo.engine=own.") from error
        response, drawn = _tensors([one.outputs[0] for one in written], max_new, tokenizer, ids.device)
        return make_rollout(tokenizer, prompts, ids, mask, response, drawn)


def _repack_heads(model: Module) -> None:
    """On a CPU vLLM packs a copy of every matrix; reload_weights leaves a tied head's copy as it was (seen in 0.32)."""
    for layer in model.modules():
        if type(layer).__name__ == "ParallelLMHead" and hasattr(layer, "cpu_linear"):
            layer.quant_method.process_weights_after_loading(layer)


def _tensors(
    outputs: Sequence[CompletionOutput], max_new: int, tokenizer: Tokenizer, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Tokens [B, T], padded after their ends, and vLLM's log-probabilities of them [B, T].

    Raises BenchError for responses that neither ended nor reached `max_new` tokens: vLLM had to drop them.
    """
    import torch

    ends = end_token_ids(tokenizer)
    cut = [
        one for one in outputs if len(one.token_ids) < max_new and (not one.token_ids or one.token_ids[-1] not in ends)
    ]
    if cut:
        raise BenchError(f"vLLM left {len(cut)} of {len(outputs)} responses unfinished ({cut[0].finish_reason}).")
    width = max(len(one.token_ids) for one in outputs)
    tokens = torch.full((len(outputs), width), tokenizer.pad_token_id, dtype=torch.long)
    drawn = torch.zeros(len(outputs), width)
    for row, one in enumerate(outputs):
        length = len(one.token_ids)
        tokens[row, :length] = torch.tensor(list(one.token_ids))
        drawn[row, :length] = torch.tensor(
            [choices[token].logprob for choices, token in zip(one.logprobs, one.token_ids, strict=True)]
        )
    return tokens.to(device), drawn.to(device)


@contextmanager
def open_vllm(policy: Path, rows: int, context: int, device: str, memory: float) -> Iterator[VLLMSampler]:
    """vLLM over the policy's folder, for `rows` responses at once of at most `context` tokens with their prompts.

    `memory` is the share of the device's memory that it takes for weights and cache.  Nothing is compiled on a CPU.
    Raises BenchError where vLLM cannot open the policy.
    """
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    logging.getLogger("vllm").setLevel(logging.ERROR)  # it warns of what is intended: no tokenizer, tied heads
    import torch

    try:
        from vllm import LLM, SamplingParams
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        llm = LLM(
            model=str(policy),
            skip_tokenizer_init=True,
            trust_remote_code=False,
            dtype=read_placement(policy).dtype,
            seed=0,  # of the engine; each row brings its own
            max_model_len=context,
            max_num_seqs=rows,
            gpu_memory_utilization=memory,
            enforce_eager=not device.startswith("cuda"),  # compiling takes over a minute on a CPU
            enable_prefix_caching=False,  # it would reuse keys and values of earlier weights
            generation_config="vllm",  # none of the folder's own sampling defaults
            logprobs_mode="processed_logprobs",  # at the temperature
        )
    except Exception as error:
        raise BenchError(f"vLLM cannot open {policy}: {one_line(error)}.", "Set ppo.engine=own.") from error
    try:
        yield VLLMSampler(llm, SamplingParams)
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm
        # free what an engine leaves behind in its process, so that another one can be opened
        cleanup_dist_env_and_memory()
        gc.collect()
        if device.startswith("cuda"):
            torch.cuda.empty_cache()
