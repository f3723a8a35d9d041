"""Low-rank adapters (LoRA, arXiv 2106.09685, by peft): add, save and merge them.

With adapters PPO's three models are three module trees over the same frozen tensors: the policy with its adapter, the
critic with another adapter and a value head, and the reference with none, which is the base itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.forward.patch import patched_forward
from rlhf_bench.harness.forward.transformers_private import is_conv1d
from rlhf_bench.harness.models.placement import Placement

if TYPE_CHECKING:
    from peft import LoraConfig
    from torch import Tensor

    from rlhf_bench.harness.forward.types import HasParameters, Module

M = TypeVar("M", bound="Module")

NAME = "default"
"""The name that peft gives a model's only adapter."""


def require_peft() -> None:
    """Raises BenchError where the optional package is missing.

    `policy_identity` calls it, so that the error comes when a run is planned.
    """
    if find_spec("peft") is None:
        raise BenchError("policy.lora needs the package peft.", "pip install 'rlhf-bench[lora]'")


def copy_sharing_weights(model: M) -> M:
    """A copy of the module tree over the same tensors; modules of the copy can be replaced without changing `model`.

    It takes no memory for weights.  A change of a tensor in place shows in both.
    """
    shared: dict[int, object] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return deepcopy(model, shared)  # deepcopy takes what its memo has instead of copying it


def add_adapter(model: M, placement: Placement, seed: int) -> M:
    """Add float32 adapters that change nothing yet (B is zero), freeze everything else, and return `model`.

    A is drawn from `seed`, so every arm starts alike.  Raises BenchError for target layers that the model lacks.
    """
    import torch
    from peft import inject_adapter_in_model

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():  # peft draws from the global generator
        # of a head that is tied to the embeddings: `merge_adapters` gives it a weight of its own
        warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`")
        torch.manual_seed(seed)
        try:
            made: M = inject_adapter_in_model(adapter_config(model, placement), model)
        except ValueError as error:
            raise BenchError(
                f"policy.lora_targets={placement.lora_targets!r} fits no layer of the policy.",
                "auto takes every linear layer; or give names such as q_proj,v_proj.",
            ) from error
    # peft may create adapters in the precision of their layer, which is bfloat16 for a frozen base
    for parameter in trainable_parameters(made):
        parameter.data = parameter.data.float()
    return made


def wrap_for_trainer(model: M, placement: Placement, seed: int, head: str = "") -> M:
    """The layers of `add_adapter` in peft's own model class, of which trainers store the adapter alone.

    The result is peft's `PeftModel`, which passes on every attribute of the model it wraps; `model` itself now has the
    adapters, too, and is what `merge_adapters` takes.  `head` names a classifier's new head, all weights of which are
    trained.
    """
    import torch
    from peft import get_peft_model

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft 0.21 asks transformers 5.23 for a renamed property
        warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`")  # as in `add_adapter`
        torch.manual_seed(seed)
        config = adapter_config(model, placement)
        if head:
            config.task_type, config.modules_to_save = "SEQ_CLS", [head]
        wrapped: M = get_peft_model(model, config)
        return wrapped


def adapter_config(model: Module, placement: Placement) -> LoraConfig:
    """peft's configuration of the adapters: without dropout, because PPO's ratios need a deterministic policy.

    The rank is `policy.lora`, the scale of an adapter lora_alpha / rank, as in the paper (section 4.1).
    """
    from peft import LoraConfig

    targets = [name.strip() for name in placement.lora_targets.split(",") if name.strip()]
    return LoraConfig(
        r=placement.lora,
        lora_alpha=placement.lora_alpha,  # peft's type says int; fractions work
        # peft's name for every linear layer but the output head
        target_modules="all-linear" if placement.lora_targets == "auto" else targets,
        lora_dropout=0.0,
        bias="none",
        # Conv1D keeps its weight as [in, out]; peft would warn and correct it
        fan_in_fan_out=any(is_conv1d(m) for m in model.modules()),
    )


def trainable_parameters(model: HasParameters) -> list[Tensor]:
    """The parameters that training changes, in the model's order: all, or those of adapters and new heads."""
    return [p for p in model.parameters() if p.requires_grad]


def save_adapter(model: Module, placement: Placement, folder: Path) -> None:
    """Write adapter_config.json and adapter_model.safetensors, as peft writes and reads them.

    `model` has the adapters of `add_adapter`.  The base is not written: the adapter goes with the SFT policy.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config = adapter_config(model, placement)
    config.inference_mode = True
    config.task_type = "CAUSAL_LM"
    config.save_pretrained(str(folder))
    # the base's embeddings are frozen: an adapter on the head needs no copy of them
    tensors = get_peft_model_state_dict(
        model, adapter_name=NAME, state_dict=model.state_dict(), save_embedding_layers=False
    )
    # the prefix of peft's own wrapper, which the policy does not have
    named = {f"base_model.model.{name}": t.detach().cpu().contiguous() for name, t in tensors.items()}
    save_file(named, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def merge_adapters(model: M) -> M:
    """Add the adapters into their layers (W + alpha/r B A, in float32), remove them, and return `model`.

    A head that shares its weight with the embeddings and has an adapter gets a weight of its own, and the configuration
    says so: the embeddings stay as they are, as they did while the adapter was apart.
    """
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    users: dict[int, int] = {}
    for one in model.modules():
        for parameter in one.parameters(recurse=False):
            users[id(parameter)] = users.get(id(parameter), 0) + 1
    for name, module in list(model.named_modules()):  # a list, because modules are replaced on the way
        parent, _, last = name.rpartition(".")
        if isinstance(module, ModulesToSaveWrapper):  # a classifier's new head
            setattr(model.get_submodule(parent), last, module.modules_to_save[NAME])
        elif isinstance(module, BaseTunerLayer):
            layer = module.get_base_layer()
            weight = merged_weight(module)
            if users[id(layer.weight)] > 1:
                layer.weight = torch.nn.Parameter(weight, requires_grad=layer.weight.requires_grad)
                model.config.tie_word_embeddings = False  # type: ignore[attr-defined]
            else:
                with torch.no_grad():
                    layer.weight.copy_(weight)
            setattr(model.get_submodule(parent), last, layer)
    return model


def merged_weight(layer: Module) -> Tensor:
    """The weight of a layer with an adapter as one matrix, W + alpha/r B A, in the precision of W.

    A bfloat16 layer gets the sum rounded once, not a sum of rounded terms.
    """
    import torch

    with torch.no_grad():
        weight: Tensor = layer.get_base_layer().weight  # type: ignore[attr-defined]
        whole: Tensor = weight.float() + layer.get_delta_weight(NAME).float()  # type: ignore[attr-defined]
        return whole.to(weight.dtype)


@contextmanager
def merged_for_sampling(model: Module) -> Iterator[None]:
    """Inside, the layers of a model that `merges_for_sampling` have one matrix each, adapter and all; any other model
    is left alone.

    No weight is changed: the model's own modules get other tensors, and at the end, also by an error, the ones that
    they had.  So models that share those tensors (reference, critic) compute as ever.  It takes memory for one copy of
    the layers with adapters.  The model itself may only sample meanwhile: a pass outside of torch's inference mode,
    from another thread for example, raises RuntimeError.  Equal to the adapters apart up to rounding.
    """
    import torch

    if not getattr(model, "merges_for_sampling", False):
        yield
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    def sampling(plain: Callable[..., object], *given: object, **named: object) -> object:
        if not torch.is_inference_mode_enabled():
            raise RuntimeError("A pass would read adapters that are merged for sampling.")
        return plain(*given, **named)

    # a head that is patched to compute in float32 (placement.py) keeps its adapter apart
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, BaseTunerLayer) and "forward" not in vars(m)]
    with ExitStack() as undo:
        for name, module in layers:
            parent, _, last = name.rpartition(".")
            layer, above = module.get_base_layer(), model.get_submodule(parent)
            undo.callback(setattr, layer, "weight", layer.weight)
            undo.callback(setattr, above, last, module)
            # out of inference mode, in which this may be called: such tensors cannot be used elsewhere
            layer.weight = torch.nn.Parameter(merged_weight(module), requires_grad=False)
            setattr(above, last, layer)
        if layers:
            undo.enter_context(patched_forward(getattr(model, "base_model", model), sampling))
        yield
