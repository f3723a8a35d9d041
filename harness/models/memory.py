"""What a run of a policy needs: bytes by role, the largest micro-batch, an estimate of hours.  No weights are loaded.

The model is built on torch's meta device from its config.json alone, so parameters are counted exactly for any
architecture; what a forward pass keeps for its backward pass is counted there too.  Checked against measured sizes in
tests/test_memory.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.hub import load_error, split_revision
from rlhf_bench.harness.models.placement import Placement

if TYPE_CHECKING:
    from rlhf_bench.harness.settings import PPOSettings

PROMPT, RESPONSE = 512, 128
"""Tokens where nothing says how long texts are."""
LOGIT_COPIES = 3
"""float32 tables [tokens, vocabulary] alive at once: logits at the temperature, their exponentials, their gradient."""
HALF_SHARE = 0.6
"""What backward needs under bfloat16 as a share of float32: products in half, norms and residuals in full."""
SPARE = 0.9
"""Share of the memory that is planned with; allocators and the system take the rest."""
SPEED_SHARE = 0.4
"""Share of a plain matrix product's speed that a training loop is assumed to reach."""

GEMMA_2B = {
    "model_type": "gemma", "vocab_size": 256000, "hidden_size": 2048, "intermediate_size": 16384,
    "num_hidden_layers": 18, "num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 256,
}  # fmt: skip
LLAMA_2_7B = {
    "model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
}  # fmt: skip
KNOWN: dict[str, dict[str, Any]] = {"google/gemma-2b": GEMMA_2B, "meta-llama/Llama-2-7b-hf": LLAMA_2_7B}
"""config.json of the presets' policies, as on the hub: gated repositories can then be planned for without access."""


@dataclass(frozen=True)
class Sizes:
    """Parameters of a causal model: all, those outside its layers' matrices, its head's own, its adapters'; bytes that
    a forward pass keeps per row; numbers in the key-value cache per token; the vocabulary."""

    total: int
    outside: int
    head: int
    adapters: int
    kept: int
    cached: int
    vocabulary: int


@dataclass(frozen=True)
class Need:
    """One line of the plan."""

    role: str
    what: str
    bytes: int


@dataclass(frozen=True)
class MemoryPlan:
    """`fixed` is there throughout; a micro-batch row costs `row` in an update, a rollout row `sampled` in sampling."""

    needs: tuple[Need, ...]
    row: int
    sampled: int
    flops: float  # of one run

    @property
    def fixed(self) -> int:
        return sum(need.bytes for need in self.needs)

    def peak(self, micro_batch: int, rollouts: int) -> int:
        """Bytes at the worst moment."""
        return self.fixed + max(micro_batch * self.row, rollouts * self.sampled)

    def largest_micro_batch(self, available: int, rollouts: int) -> int:
        """The largest power of two of rows that fits, at most `rollouts`; 0 where one row does not fit."""
        room, size = SPARE * available - self.fixed, 1
        if self.row > room or rollouts * self.sampled > room:
            return 0
        while 2 * size <= rollouts and 2 * size * self.row <= room:
            size *= 2
        return size


def config_of(source: str) -> Any:
    """The configuration of a folder, a cached or known hub id.  Raises BenchError where it cannot be had."""
    from transformers import AutoConfig

    name, revision = split_revision(source)
    if name in KNOWN:
        shape = dict(KNOWN[name])
        return AutoConfig.for_model(shape.pop("model_type"), **shape)
    try:
        return AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    except Exception as error:
        raise load_error(error, source, "configuration") from error


def sizes_of(config: Any, placement: Placement, prompt: int, response: int) -> Sizes:
    """Count a model of this configuration, on the meta device."""
    import torch
    from torch import nn
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except Exception as error:
        raise BenchError(f"No causal model can be made of this configuration: {error}.") from error
    trunk, head = model.base_model, model.get_output_embeddings()
    own = {id(p) for p in trunk.parameters()}
    outside = {id(p): p.numel() for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    outside |= {id(p): p.numel() for p in model.parameters() if p.ndim < 2 or p is head.weight}
    linear = [m for m in trunk.modules() if isinstance(m, nn.Linear) or type(m).__name__ == "Conv1D"]
    return Sizes(
        total=sum(p.numel() for p in model.parameters()),
        outside=sum(outside.values()),
        head=0 if id(head.weight) in own else head.weight.numel(),
        adapters=placement.lora * sum(sum(m.weight.shape) for m in linear),
        kept=_kept_bytes(trunk, placement, prompt + response),
        cached=_cached_numbers(config),
        vocabulary=config.vocab_size,
    )


def _cached_numbers(config: Any) -> int:
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    shared = getattr(config, "num_key_value_heads", None) or heads
    return 2 * int(config.num_hidden_layers) * int(shared) * int(width)


def _kept_bytes(trunk: Any, placement: Placement, tokens: int) -> int:
    """Bytes that a forward pass of one row keeps for backward, in float32 or as much of it as bfloat16 needs."""
    import torch

    from rlhf_bench.harness.models.placement import apply_placement

    held = apply_placement(trunk, Placement(gradient_checkpointing=placement.gradient_checkpointing))
    weights = {p.untyped_storage()._cdata for p in held.parameters()}
    kept: dict[int, Any] = {}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        scores = tuple(tensor.shape[-2:]) == (tokens, tokens)  # attention's, which fused kernels never store
        if storage._cdata not in weights and not scores:
            kept[storage._cdata] = storage  # held on to: a freed one's address could be given again
        return tensor

    ids = torch.zeros(1, tokens, dtype=torch.long, device="meta")
    mask = torch.ones(1, 1, tokens, tokens, dtype=torch.bool, device="meta")  # a whole one: nothing has to look at it
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        held(input_ids=ids, attention_mask=mask, use_cache=False)
    return int(sum(s.nbytes() for s in kept.values()) * (HALF_SHARE if placement.half else 1))


def make_plan(
    sizes: Sizes, placement: Placement, ppo: PPOSettings, prompt: int, response: int, concurrent: bool = False
) -> MemoryPlan:
    """The needs of PPO, its longest stage, with a reward model of the policy's size.

    `at_once`: the critic learns beside the policy (forward/threads.py), and keeps as much for its own backward pass.
    Trained weights take 16 bytes each: themselves, their gradient, Adam's two moments.
    """
    trunk, width = sizes.total - sizes.head, 2 if placement.half else 4
    needs = []
    if placement.lora:
        base = (sizes.total - sizes.outside) * width + sizes.outside * 4
        needs.append(Need("policy, reference, critic", "one frozen base", base))
        needs += [Need(role, "adapter, gradient, Adam", 16 * sizes.adapters) for role in ("policy", "critic")]
    else:
        for role, count in (("policy", sizes.total), ("critic", trunk)):
            needs.append(Need(role, "weights", 4 * count))
            needs.append(Need(role, "gradient", 4 * count))
            needs.append(Need(role, "Adam", 8 * count))
        needs.append(Need("reference", "weights", 4 * sizes.total))
    needs.append(Need("reward model", "weights", 4 * sizes.total))
    row = sizes.kept * (2 if concurrent else 1) + LOGIT_COPIES * 4 * (response + 1) * sizes.vocabulary
    sampled = sizes.cached * (prompt + response) * width + LOGIT_COPIES * 4 * sizes.vocabulary
    return MemoryPlan(tuple(needs), row, sampled, _flops(sizes, placement, ppo, prompt + response))


def _flops(sizes: Sizes, placement: Placement, ppo: PPOSettings, tokens: int) -> float:
    """Of a run: 2 per parameter and token forward, 4 backward (2 where weights are frozen), 2 again when checkpointed.

    Passes forward: sampling, reference, values, and two for the reward model; updates: policy and critic.
    """
    backward = (2 if placement.lora else 4) + (2 if placement.gradient_checkpointing else 0)
    passes = 2 * 5 + ppo.epochs * 2 * (2 + backward)
    return float(passes) * sizes.total * tokens * ppo.rollouts * ppo.iterations


def available_bytes(device: str) -> int:
    """Memory of the device: the GPU's, else the machine's."""
    import os

    import torch

    if device.startswith("cuda"):
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def measured_speed(device: str, half: bool) -> float:
    """Floating-point operations per second of a square matrix product here (a fraction of a second)."""
    import time

    import torch

    size = 4096 if device.startswith("cuda") else 768
    a = torch.ones(size, size, device=device, dtype=torch.bfloat16 if half else torch.float32)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        float((a @ a)[0, 0])  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best
