"""Folders that hold a LoRA adapter alone, as peft saves it for TRL, LLaMA-Factory and others.

Their adapter_config.json names the base model.  The base is loaded as ever, and the adapter is added into its layers.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError, one_line
from rlhf_bench.harness.hub import is_hub_id
from rlhf_bench.harness.models.lora import require_peft
from rlhf_bench.harness.models.tensors import stored_shapes

if TYPE_CHECKING:
    from rlhf_bench.harness.forward.types import Module

M = TypeVar("M", bound="Module")

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What peft puts before the names of the base's tensors."""
MERGE = "Merge it into its base where it was trained (peft: merge_and_unload), and give the merged model's folder."


@dataclass(frozen=True)
class AdapterFolder:
    """An adapter in `folder`; `base` is a folder, or a hub id as ID or ID@REVISION."""

    folder: Path
    base: str


def holds_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no whole model."""
    if not (folder / CONFIG).is_file():
        return False
    # merged models are sometimes saved into the adapter's folder
    return not any(file.name.startswith("model") for file in folder.glob("*.safetensors"))


def read_adapter(source: str | Path) -> AdapterFolder | None:
    """The adapter in a folder; None where `source` is no such folder.

    Raises BenchError for an adapter that cannot be used: of another kind than LoRA, pickled, without a base, or in a
    results folder.
    """
    folder = Path(source).expanduser()
    if not store.is_folder(folder) or not holds_adapter(folder):
        return None
    seen = f"{source} is an adapter"
    # Such folders are shared: what they name is not opened.  Our own stages and reward models hold whole models.
    if any((folder / name).exists() for name in (store.MARKER, "reward_model.json")):
        raise BenchError(f"{seen} in a folder of a run, which holds whole models.", "Copy the folder again.")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        kind, base, revision = (config.get(n) for n in ("peft_type", "base_model_name_or_path", "revision"))
    except (OSError, ValueError, RecursionError, AttributeError) as error:
        raise BenchError(f"{folder / CONFIG} cannot be read: {one_line(error)}.", "Copy the folder again.") from None
    if kind != "LORA":
        raise BenchError(f"{seen} of the kind {kind!r}; only LORA is read here.", MERGE)
    # peft imports the module that megatron_core names
    if config.get("megatron_config"):
        raise BenchError(f"{seen} for Megatron, which runs code that the file names.", MERGE)
    if not (folder / WEIGHTS).is_file():
        pickled = " Only pickle files, which can run code." if list(folder.glob("*.bin")) else ""
        raise BenchError(f"{seen} without {WEIGHTS}.{pickled}", "Save it again with safetensors.")
    if not isinstance(base, str) or not base.strip() or "\0" in base:
        fix = f"Write the base's folder or hub id as base_model_name_or_path in {CONFIG}, or merge the adapter first."
        raise BenchError(f"{seen}, and its {CONFIG} names no base model.", fix)
    require_peft()
    return AdapterFolder(folder, _base(folder, base, revision, seen))


def _base(folder: Path, base: str, revision: object, seen: str) -> str:
    """The base model as loaders take it.  Raises BenchError where it is not there, or is an adapter itself."""
    # a relative path from the adapter first, so that a moved pair means the same from everywhere; then as peft reads it
    for path in (folder / Path(base).expanduser(), Path(base).expanduser()):
        if store.is_folder(path):
            if holds_adapter(path):
                raise BenchError(f"{seen}, and its base {base} is an adapter too.", MERGE)
            return str(path)
    if is_hub_id(base):
        return f"{base}@{revision}" if isinstance(revision, str) and revision.strip() else base
    fix = f"Correct base_model_name_or_path in {CONFIG}, or merge the adapter first."
    raise BenchError(f"{seen}, and its base model {base!r} is not there.", fix)


def check_merged(model: Module, source: str | Path) -> None:
    """Raises BenchError for a model with adapter layers: transformers adds them to the base that a hub id names."""
    if any(".lora_" in name for name, _ in model.named_parameters()):
        seen, fix = (
            f"{source} is an adapter on the hub.",
            "Download it (hf download ID --local-dir FOLDER): give its folder.",
        )
        raise BenchError(seen, fix)


def merge_folder(model: M, adapter: AdapterFolder, left: Collection[str | None] = ()) -> M:
    """The base `model` in float32 with the adapter added into its layers and saved modules in place, on the CPU.

    `left` are tensors of the adapter's file that are no part of the model.  Raises BenchError for an adapter that does
    not fit the model, or that peft cannot read.
    """
    from peft import LoraConfig, PeftModel, get_peft_model_state_dict

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft's own report on tensors: they are compared below
            config = LoraConfig.from_pretrained(str(adapter.folder))
            # peft's class of a task wraps methods that a model of another task lacks: a reward model's adapter is
            # often trained on a language model
            config.task_type = None
            wrapped = PeftModel.from_pretrained(model, str(adapter.folder), config=config, torch_device="cpu")
            needed = {name: list(tensor.shape) for name, tensor in get_peft_model_state_dict(wrapped).items()}
            held = {name: list(shape) for name, shape in stored_shapes([adapter.folder / WEIGHTS]).items()}
            for name in sorted(needed.keys() | held.keys()):
                if name not in left and needed.get(name) != held.get(name):
                    has, wants = (str(x.get(name, "missing")) for x in (held, needed))
                    seen = f"The adapter {adapter.folder} does not fit {adapter.base}: {name} is {has}, needed {wants}."
                    raise BenchError(seen, f"Name the base that it was trained on. Or: {MERGE}")
            merged: M = wrapped.merge_and_unload()
            return merged
    except BenchError:
        raise
    except Exception as error:  # peft raises many kinds
        seen = f"The adapter {adapter.folder} cannot be added to {adapter.base}: {one_line(error)}."
        raise BenchError(seen, MERGE) from error
