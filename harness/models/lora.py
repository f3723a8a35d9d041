"""Low-rank adapters (arXiv 2106.09685, by peft): made, saved, merged; and models that share one set of frozen weights.

Under adapters PPO's three models are three module trees over the same frozen tensors: the policy with its adapter, the
critic with an adapter of its own and a value head, and the reference with none, which is the base itself.
"""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.models.placement import Placement

NAME = "default"


def require_peft() -> None:
    """Raises BenchError where the optional package is missing."""
    if find_spec("peft") is None:
        raise BenchError("policy.lora needs the package peft.", "pip install 'rlhf-bench[lora]'")


def copy_sharing_weights(model: Any) -> Any:
    """Another module tree over the same tensors: changing its modules leaves the first one's alone."""
    from copy import deepcopy

    shared: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return deepcopy(model, shared)


def add_adapter(model: Any, placement: Placement, seed: int) -> Any:
    """`model` with float32 adapters that change nothing yet (B is zero), everything else frozen.

    The random half is drawn from `seed`, so every arm starts alike.  Raises BenchError for targets it does not have.
    """
    import torch
    from peft import inject_adapter_in_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            made = inject_adapter_in_model(adapter_config(model, placement), model)
        except ValueError as error:
            raise BenchError(
                f"policy.lora_targets={placement.lora_targets!r} fits no layer of the policy.",
                "auto takes every linear layer; or give names such as q_proj,v_proj.",
            ) from error
    for parameter in trainable_parameters(made):
        parameter.data = parameter.data.float()
    return made


def wrap_for_trainer(model: Any, placement: Placement, seed: int, head: str = "") -> Any:
    """peft's own wrapper around `add_adapter`'s layers: trainers then store checkpoints of the adapter alone.

    `head` names a classifier's new head, which is trained whole.
    """
    import torch
    from peft import get_peft_model

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft 0.21 asks transformers 5.23 for a renamed property
        torch.manual_seed(seed)
        config = adapter_config(model, placement)
        if head:
            config.task_type, config.modules_to_save = "SEQ_CLS", [head]
        return get_peft_model(model, config)


def adapter_config(model: Any, placement: Placement) -> Any:
    """peft's configuration: no dropout, because PPO's ratios need a deterministic policy."""
    from peft import LoraConfig
    from transformers.pytorch_utils import Conv1D

    targets = [name.strip() for name in placement.lora_targets.split(",") if name.strip()]
    return LoraConfig(
        r=placement.lora,
        lora_alpha=placement.lora_alpha,  # peft's type says int; fractions work
        target_modules="all-linear" if placement.lora_targets == "auto" else targets,
        lora_dropout=0.0,
        bias="none",
        fan_in_fan_out=any(isinstance(m, Conv1D) for m in model.modules()),
    )


def trainable_parameters(model: Any) -> list[Any]:
    """The parameters that training changes."""
    return [p for p in model.parameters() if p.requires_grad]


def save_adapter(model: Any, placement: Placement, folder: Path) -> None:
    """adapter_config.json and adapter_model.safetensors, as peft itself writes and reads them."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config = adapter_config(model, placement)
    config.inference_mode = True
    config.task_type = "CAUSAL_LM"
    config.save_pretrained(str(folder))
    tensors = get_peft_model_state_dict(model, adapter_name=NAME, state_dict=model.state_dict())
    named = {f"base_model.model.{name}": t.detach().cpu().contiguous() for name, t in tensors.items()}
    save_file(named, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def merge_adapters(model: Any) -> Any:
    """The adapters added into their layers (W + alpha/r B A, in float32), which are put back in their place."""
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    for name, module in list(model.named_modules()):
        parent, _, last = name.rpartition(".")
        if isinstance(module, ModulesToSaveWrapper):
            setattr(model.get_submodule(parent), last, module.modules_to_save[NAME])
        elif isinstance(module, BaseTunerLayer):
            layer: Any = module.get_base_layer()
            with torch.no_grad():
                layer.weight.copy_(layer.weight.float() + module.get_delta_weight(NAME).float())
            setattr(model.get_submodule(parent), last, layer)
    return model
