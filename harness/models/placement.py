"""How a policy is held in memory and computed: all weights or adapters trained, in which precision, with gradient
checkpointing or without.

Chosen once, at SFT, and stored in the policy's folder, so that every later stage holds the policy alike.  In bfloat16
the products inside the layers are computed in it (autocast).  These stay in float32: weights that are trained,
adapters, embeddings, the output head with its logits, all that follows (log-probabilities, KL, losses) and the
optimiser.  Only the frozen layers under adapters are stored in bfloat16.
"""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rlhf_bench.harness.errors import BenchError, one_line
from rlhf_bench.harness.forward.torch_private import cpu_multiplies_bfloat16
from rlhf_bench.harness.forward.transformers_private import enable_checkpointing

if TYPE_CHECKING:
    from torch import Tensor

    from rlhf_bench.harness.forward.types import Linear, Module
    from rlhf_bench.harness.settings import PPOSettings
    from rlhf_bench.harness.text.types import Row

M = TypeVar("M", bound="Module")

FILE = "holding.json"
"""In the folder of an SFT policy; its name is part of stored runs."""


@dataclass(frozen=True)
class Placement:
    """The settings of the group `policy` that this file is about, under their names there.

    `lora` is the rank of the adapters, 0 for none.  `dtype` is resolved: float32 or bfloat16, never auto.
    """

    lora: int = 0
    lora_alpha: float = 16.0
    lora_targets: str = "auto"
    dtype: str = "float32"
    gradient_checkpointing: bool = False
    merge_for_sampling: bool = True

    @property
    def half(self) -> bool:
        """Whether layers compute in bfloat16; the module's docstring says what does not."""
        return self.dtype == "bfloat16"


def placement_of(settings: Row) -> Placement:
    """The placement that `settings` (group policy) name, `auto` among them."""
    names = {f.name for f in fields(Placement)}
    return Placement(**{k: v for k, v in settings.items() if k in names})


def choose_placement(settings: Row, device: str) -> Placement:
    """The placement that `settings` (group policy) select on this device.

    auto is bfloat16 on GPUs and on CPUs that multiply in it.

    Raises BenchError for bfloat16 on a device that cannot compute in it.
    """
    import torch

    wanted = placement_of(settings)
    cuda = device.startswith("cuda")
    supported = bool(torch.cuda.is_bf16_supported()) if cuda else device == "cpu"
    if wanted.dtype == "bfloat16" and not supported:
        raise BenchError(f"The device {device!r} cannot compute in bfloat16.", "Set policy.dtype=float32.")
    if wanted.dtype != "auto":
        return wanted
    # every CPU computes in bfloat16; without instructions for it, much more slowly than in float32
    fast = supported and (cuda or cpu_multiplies_bfloat16())
    return replace(wanted, dtype="bfloat16" if fast else "float32")


def save_placement(placement: Placement, folder: Path) -> None:
    """Store it beside the SFT policy, as JSON with the names of the fields."""
    (folder / FILE).write_text(json.dumps(asdict(placement), indent=1) + "\n", encoding="utf-8")


def read_placement(folder: Path) -> Placement:
    """The placement stored in an SFT folder; without one, all weights in float32.

    A folder from elsewhere has none.  Raises BenchError for a damaged one.
    """
    path = folder / FILE
    if not path.is_file():
        return Placement()
    try:
        return Placement(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise BenchError(f"{path} is damaged: {one_line(error)}.", "Delete its folder and run again.") from None


def apply_placement(model: M, placement: Placement) -> M:
    """Make `model` (a causal language model or a trunk) compute as `placement` says.  Changes and returns it.

    Trunk and head are patched separately, so that either may be called alone.
    """
    import torch

    trunk: Module = getattr(model, "base_model", model)
    if placement.lora and placement.merge_for_sampling:
        model.merges_for_sampling = True  # type: ignore[attr-defined]  # as lora.merged_for_sampling does
    if placement.half or placement.gradient_checkpointing:
        _patch_trunk(trunk, placement)
    if placement.half:
        model.computes_half = True  # type: ignore[attr-defined]  # sampling then casts weights once for all steps
        # float32 products (the head's) in TF32 on a GPU: finer than the bfloat16 they get, and many times faster
        torch.set_float32_matmul_precision("high")
        if trunk is not model:
            _patch_head(model.get_output_embeddings())  # type: ignore[attr-defined]
    return model


def _patch_trunk(trunk: Module, placement: Placement) -> None:
    # For good, unlike patch.patched_forward: the model never computes in another way.
    import torch

    switch = enable_checkpointing(trunk) if placement.gradient_checkpointing else None
    inner, kind = trunk.forward, next(trunk.parameters()).device.type

    def forward(*args: object, **kwargs: object) -> object:
        if switch is not None:  # only while gradients are wanted: sampling needs the cache that checkpointing drops
            switch(torch.is_grad_enabled())
        with torch.autocast(kind, torch.bfloat16) if placement.half else nullcontext():
            return inner(*args, **kwargs)

    trunk.forward = forward


def _patch_head(head: Linear) -> None:
    import torch

    inner, kind = head.forward, head.weight.device.type

    def forward(hidden: Tensor) -> Tensor:
        # the trunk's autocast has ended, but a caller may have its own: sampling has one around all steps
        with torch.autocast(kind, enabled=False):
            logits: Tensor = inner(hidden.float())
        return logits

    head.forward = forward


def can_run_concurrently(placement: Placement, settings: PPOSettings, device: str) -> bool:
    """Whether PPO's models may compute at once: on a CPU, unless they share weights or memory is to be saved.

    Not in bfloat16: autocast has one cache of casts for all threads, and which thread finds what in it is left to
    chance (gradients of two equal runs differed when it was tried).
    """
    # with adapters, and with a critic on the policy's trunk, two models compute with the same weights
    shared = placement.lora or placement.half or settings.critic != "own"
    return device == "cpu" and not (shared or placement.gradient_checkpointing or settings.offload)
