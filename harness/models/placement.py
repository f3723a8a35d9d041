"""How a policy is held and computed: all weights or adapters trained, in which precision, with what kept for backward.

Decided once, at SFT, and kept in its folder, so that every later stage holds the policy alike.  In bfloat16 the
products inside the layers are computed in it (autocast); what stays float32: weights that are trained, adapters,
embeddings, the output head with its logits, everything after them (log-probabilities, KL, losses) and the optimiser.
Only the frozen layers under adapters are kept in bfloat16.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.settings import PPOSettings

FILE = "holding.json"


@dataclass(frozen=True)
class Placement:
    """Those settings of the group `policy` that say how it is held; `dtype` is resolved: float32 or bfloat16."""

    lora: int = 0
    lora_alpha: float = 16.0
    lora_targets: str = "auto"
    dtype: str = "float32"
    gradient_checkpointing: bool = False

    @property
    def half(self) -> bool:
        return self.dtype == "bfloat16"


def choose_placement(settings: Mapping[str, Any], device: str) -> Placement:
    """The holding that `settings` (group policy) ask for on this device.

    Raises BenchError for bfloat16 on a GPU that has none.
    """
    names = {f.name for f in fields(Placement)}
    wanted = Placement(**{k: v for k, v in settings.items() if k in names})
    has = _has_bfloat16(device)
    if wanted.dtype == "bfloat16" and not has:
        raise BenchError(f"The device {device!r} cannot compute in bfloat16.", "Set policy.dtype=float32.")
    fast = has and device.startswith("cuda")
    resolved = ("bfloat16" if fast else "float32") if wanted.dtype == "auto" else wanted.dtype
    return Placement(**{**asdict(wanted), "dtype": resolved})


def _has_bfloat16(device: str) -> bool:
    import torch

    return bool(torch.cuda.is_bf16_supported()) if device.startswith("cuda") else device == "cpu"


def save_placement(placement: Placement, folder: Path) -> None:
    """Keep it beside the SFT policy."""
    (folder / FILE).write_text(json.dumps(asdict(placement), indent=1) + "\n", encoding="utf-8")


def read_placement(folder: Path) -> Placement:
    """The holding kept in an SFT folder; all weights in float32 where none is."""
    path = folder / FILE
    return Placement(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else Placement()


def apply_placement(model: Any, placement: Placement) -> Any:
    """`model` (a causal language model or a trunk), computing as `holding` says from now on; returned for chaining.

    The trunk and the head are prepared apart, so that either may be called alone.
    """
    trunk = getattr(model, "base_model", model)
    if placement.gradient_checkpointing:
        _checkpoint(trunk)
    if placement.half or placement.gradient_checkpointing:
        _wrap_trunk(trunk, placement)
    head = model.get_output_embeddings() if trunk is not model else None
    if placement.half:
        model.computes_half = True  # sampling then casts weights once for all its steps
        _prefer_tensor_cores()
        if head is not None:
            _wrap_head(head)
    return model


def _checkpoint(trunk: Any) -> None:
    """Turn it on, under the method's new name where there is one."""
    turn_on = getattr(trunk, "activation_checkpointing_enable", None) or trunk.gradient_checkpointing_enable
    turn_on({"use_reentrant": False})


def _wrap_trunk(trunk: Any, placement: Placement) -> None:
    import torch
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [m for m in trunk.modules() if isinstance(m, GradientCheckpointingLayer)]
    inner, kind = trunk.forward, next(trunk.parameters()).device.type

    def forward(*args: Any, **kwargs: Any) -> Any:
        if placement.gradient_checkpointing:
            for layer in layers:  # only while gradients are wanted: sampling needs the cache that checkpointing forbids
                layer.training = torch.is_grad_enabled()
        with torch.autocast(kind, torch.bfloat16) if placement.half else nullcontext():
            return inner(*args, **kwargs)

    trunk.forward = forward


def _wrap_head(head: Any) -> None:
    import torch

    inner, kind = head.forward, head.weight.device.type

    def forward(hidden: Any) -> Any:
        with torch.autocast(kind, enabled=False):
            return inner(hidden.float())

    head.forward = forward


def _prefer_tensor_cores() -> None:
    """float32 products (the head's) in TF32 on a GPU: finer than the bfloat16 they get, and many times faster."""
    import torch

    torch.set_float32_matmul_precision("high")


def can_run_concurrently(placement: Placement, settings: PPOSettings, device: str) -> bool:
    """Whether PPO's models may compute at once: on a CPU, unless they share weights, or memory is to be saved.

    Nor in bfloat16: autocast has one cache of casts for all threads, and which finds what in it is chance (tried:
    gradients of two equal runs differed).
    """
    shared = placement.lora or placement.half or settings.critic != "own"
    return device == "cpu" and not (shared or placement.gradient_checkpointing or settings.offload)
