"""What PPO with a policy needs: bytes by role, the largest micro-batch, an estimate of hours.  No weights are loaded.

The model is built on torch's meta device from its config.json, so parameters are counted exactly for any architecture,
and so is what a forward pass keeps for its backward pass.  tests/models/test_memory.py compares with measured sizes.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.forward.transformers_private import is_conv1d
from rlhf_bench.harness.hub import load_error, split_revision
from rlhf_bench.harness.models.adapter_folders import read_adapter
from rlhf_bench.harness.models.placement import Placement, apply_placement

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, UntypedStorage

    from rlhf_bench.harness.forward.types import Config, Module
    from rlhf_bench.harness.settings import PPOSettings
    from rlhf_bench.harness.text.types import JsonObject

PROMPT, RESPONSE = 512, 128
"""Tokens of a prompt and a response where no setting or task states them."""
LOGIT_COPIES = 3
"""float32 tables [tokens, vocabulary] alive at once: logits at the temperature, their exponentials, their gradient."""
HALF_SHARE = 0.6
"""What a backward pass needs under bfloat16, as a share of float32: products in half, norms and residuals in full."""
SPARE = 0.9
"""The share of the memory that a plan may use; allocators and the system need the rest."""
SPEED_SHARE = 0.4
"""The share of a plain matrix product's speed that a training loop is assumed to reach."""

GEMMA_2B = {
    "model_type": "gemma", "vocab_size": 256000, "hidden_size": 2048, "intermediate_size": 16384,
    "num_hidden_layers": 18, "num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 256,
}  # fmt: skip
LLAMA_2_7B = {
    "model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
}  # fmt: skip
KNOWN: dict[str, JsonObject] = {"google/gemma-2b": GEMMA_2B, "meta-llama/Llama-2-7b-hf": LLAMA_2_7B}
"""config.json of the presets' policies, as on the hub: their repositories are gated, and a plan needs no access."""


@dataclass(frozen=True)
class Sizes:
    """Counts of a causal language model.

    Parameters: `total`; `outside` the matrices of its layers; `head`, its own if not tied; `adapters`.
    `kept`: bytes that the forward pass of one row keeps for the backward pass.  `cached`: numbers in the KV cache for
    each token.  `vocabulary`: tokens.  `hidden`: the width.  `widest`: numbers of a token that a layer holds at once in
    a pass without gradients.  `layers`: how many.
    """

    total: int
    outside: int
    head: int
    adapters: int
    kept: int
    cached: int
    vocabulary: int
    hidden: int = 0
    widest: int = 0
    layers: int = 0


@dataclass(frozen=True)
class Need:
    """One line of the plan: bytes that one of PPO's models needs for one purpose."""

    role: str
    what: str
    bytes: int


@dataclass(frozen=True)
class MemoryPlan:
    """`needs` are occupied throughout.  Each row of a micro-batch needs `row` bytes during an update, each rollout
    `sampled` bytes during sampling.  `flops`: floating-point operations of the run."""

    needs: tuple[Need, ...]
    row: int
    sampled: int
    flops: float

    @property
    def fixed(self) -> int:
        """Bytes of all needs: what is occupied before the first row is computed."""
        return sum(need.bytes for need in self.needs)

    def peak(self, micro_batch: int, rollouts: int) -> int:
        """Bytes during an update or during sampling, the larger of the two: they do not overlap.

        `micro_batch`: rows of one pass of an update.  `rollouts`: rows that are sampled at once.
        """
        return self.fixed + max(micro_batch * self.row, rollouts * self.sampled)

    def largest_micro_batch(self, available: int, rollouts: int) -> int:
        """The largest power of two of rows that fits, at most `rollouts`; 0 where one row does not fit."""
        room, size = SPARE * available - self.fixed, 1
        if self.row > room or rollouts * self.sampled > room:
            return 0
        while 2 * size <= rollouts and 2 * size * self.row <= room:
            size *= 2
        return size


def config_of(source: str) -> Config:
    """The configuration of a folder or of a hub id, of which config.json alone is loaded.

    Of an adapter's folder it is that of its base.  Raises BenchError where it cannot be loaded.  Those of KNOWN need
    neither a network nor access.
    """
    from transformers import AutoConfig

    adapter = read_adapter(source)
    name, revision = split_revision(adapter.base if adapter else source)
    if name in KNOWN:
        shape = dict(KNOWN[name])
        config: Config = AutoConfig.for_model(shape.pop("model_type"), **shape)
        return config
    try:
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    except Exception as error:
        raise load_error(error, source, "configuration") from error
    return config


def sizes_of(config: Config, placement: Placement, prompt: int, response: int) -> Sizes:
    """The sizes of a model of this configuration for rows of `prompt` + `response` tokens, counted on the meta device.

    Raises BenchError where no causal language model has such a configuration.
    """
    import torch
    from torch import nn
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except Exception as error:
        raise BenchError(f"No causal model can be made of this configuration: {error}.") from error
    trunk, head = model.base_model, model.get_output_embeddings()
    in_trunk = {id(p) for p in trunk.parameters()}
    # by id: a tied head is an embedding, too, and counts once
    outside = {id(p): p.numel() for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    outside |= {id(p): p.numel() for p in model.parameters() if p.ndim < 2 or p is head.weight}
    linear = [m for m in trunk.modules() if isinstance(m, nn.Linear) or is_conv1d(m)]
    heads = config.num_attention_heads
    # Gemma sets the width of a head freely; grouped queries share keys and values (arXiv 2305.13245)
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    return Sizes(
        total=sum(p.numel() for p in model.parameters()),
        outside=sum(outside.values()),
        head=0 if id(head.weight) in in_trunk else head.weight.numel(),
        adapters=placement.lora * sum(sum(m.weight.shape) for m in linear),  # A [r, in] and B [out, r]
        kept=_kept_bytes(trunk, placement, prompt + response),
        cached=2 * config.num_hidden_layers * kv_heads * width,  # keys and values
        vocabulary=config.vocab_size,
        hidden=config.hidden_size,
        # the feed-forward part: its input and output, and both factors with their product
        widest=3 * (getattr(config, "intermediate_size", None) or 4 * config.hidden_size) + 4 * config.hidden_size,
        layers=config.num_hidden_layers,
    )


def _kept_bytes(trunk: Module, placement: Placement, tokens: int) -> int:
    """Bytes that the forward pass of one row keeps for backward: in float32, or the share of it that bfloat16 needs."""
    import torch

    trunk = apply_placement(trunk, Placement(gradient_checkpointing=placement.gradient_checkpointing))
    # Storages compare by identity.  The set keeps them alive: the address of a freed one could be given again.
    weights = {p.untyped_storage() for p in trunk.parameters()}
    kept: set[UntypedStorage] = set()

    def pack(tensor: Tensor) -> Tensor:
        scores = tuple(tensor.shape[-2:]) == (tokens, tokens)  # attention's, which fused kernels never store
        if tensor.untyped_storage() not in weights and not scores:
            kept.add(tensor.untyped_storage())
        return tensor

    ids = torch.zeros(1, tokens, dtype=torch.long, device="meta")
    # A complete mask: to build one, the model would have to look at values, which tensors on the meta device lack.
    mask = torch.ones(1, 1, tokens, tokens, dtype=torch.bool, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        trunk(input_ids=ids, attention_mask=mask, use_cache=False)
    return int(sum(storage.nbytes() for storage in kept) * (HALF_SHARE if placement.half else 1))


def make_plan(
    sizes: Sizes, placement: Placement, ppo: PPOSettings, prompt: int, response: int, concurrent: bool = False
) -> MemoryPlan:
    """The needs of PPO with a reward model of the policy's size; the other stages need less.

    `concurrent`: the critic is trained beside the policy (forward/threads.py) and keeps as much for its own backward
    pass.
    """
    # the critic is a trunk with a head of width + 1 numbers, which are not counted
    trunk, width = sizes.total - sizes.head, 2 if placement.half else 4
    needs = []
    # a trained weight takes 16 bytes: itself, its gradient and Adam's two moments, all float32
    if placement.lora:
        # embeddings, norms and the head are never stored in bfloat16 (policies.cast_layers)
        base = (sizes.total - sizes.outside) * width + sizes.outside * 4
        needs.append(Need("policy, reference, critic", "one frozen base", base))
        needs += [Need(role, "adapter, gradient, Adam", 16 * sizes.adapters) for role in ("policy", "critic")]
    else:
        for role, count in (("policy", sizes.total), ("critic", trunk)):
            needs.append(Need(role, "weights", 4 * count))
            needs.append(Need(role, "gradient", 4 * count))
            needs.append(Need(role, "Adam", 8 * count))
        # float32 also under bfloat16: only frozen layers under adapters are stored in it (placement.py)
        needs.append(Need("reference", "weights", 4 * sizes.total))
    needs.append(Need("reward model", "weights", 4 * sizes.total))
    row = sizes.kept * (2 if concurrent else 1) + LOGIT_COPIES * 4 * (response + 1) * sizes.vocabulary
    # sampling keeps no activations: a row needs its KV cache and the logits of one step
    sampled = sizes.cached * (prompt + response) * width + LOGIT_COPIES * 4 * sizes.vocabulary
    # 2 operations for each parameter and token forward, 4 backward (2 where weights are frozen), 2 again for the pass
    # that checkpointing repeats.  5 passes forward: sampling, reference, values, two by the reward model.
    backward = (2 if placement.lora else 4) + (2 if placement.gradient_checkpointing else 0)
    operations = 2 * 5 + ppo.epochs * 2 * (2 + backward)  # an update trains policy and critic
    flops = float(operations) * sizes.total * (prompt + response) * ppo.rollouts * ppo.iterations
    return MemoryPlan(tuple(needs), row, sampled, flops)


def available_bytes(device: str) -> int:
    """Bytes of memory of the device in all, used or not: the GPU's, or the machine's."""
    import torch

    if device.startswith("cuda"):
        return int(torch.cuda.get_device_properties(device).total_memory)
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:  # a container may have less (control groups, version 2; "max" is no limit)
        return min(whole, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    except (OSError, ValueError):
        return whole


def free_bytes(device: str) -> int:
    """Bytes of the device's memory that are free now; all of it where the system does not say."""
    import torch

    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return available_bytes(device)
    return min(free, available_bytes(device))


def measured_bandwidth(device: str) -> float:
    """Bytes per second of memory that is read once, measured here in a fraction of a second."""
    import torch

    source = torch.ones(2**26 if device.startswith("cuda") else 2**24, device=device)
    return source.nbytes / shortest(lambda: float(source.sum()), device)  # float() waits for the device


def measured_speed(device: str, half: bool) -> float:
    """Floating-point operations per second of a square matrix product, measured here in a fraction of a second."""
    import torch

    size = 4096 if device.startswith("cuda") else 768
    a = torch.ones(size, size, device=device, dtype=torch.bfloat16 if half else torch.float32)
    # a multiplication and an addition for each of size^3 terms
    return 2.0 * size**3 / shortest(lambda: float((a @ a)[0, 0]), device)


def shortest(function: Callable[[], object], device: str, calls: int = 5) -> float:
    """The shortest time of some calls, in seconds: the first also loads kernels.  Waits for a GPU.

    On a CPU processor time of this process over its threads: others may share the machine.
    """
    import torch

    cpu, cuda = device == "cpu", device.startswith("cuda")
    clock, threads = (time.process_time, torch.get_num_threads()) if cpu else (time.perf_counter, 1)
    best = float("inf")
    for _ in range(calls):
        start = clock()
        function()
        if cuda:
            torch.cuda.synchronize()
        best = min(best, clock() - start)
    return max(best, 1e-9) / threads
