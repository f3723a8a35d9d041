"""The head of a reward model in the weights of a folder, whatever class of whatever tool saved it.

A scalar reward model is a decoder with a linear layer of one output on the last token.  Tools name that layer in their
own ways, and their config.json names a class that transformers does not have:

    score             transformers' and TRL's classifiers, OpenRLHF
    value_head        OpenRLHF's default until 0.8 (config.json may hold `value_head_prefix`)
    v_head.summary    TRL's value-head models; LLaMA-Factory keeps it in value_head.safetensors
    v_head            DeepSpeed-Chat, InternLM2
    regression_head   UltraRM, Eurus-RM

With `normalize_reward`, OpenRLHF subtracts `mean` of config.json from the score and divides it by `std`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError, one_line
from rlhf_bench.harness.models.adapter_folders import PREFIX, read_adapter
from rlhf_bench.harness.models.tensors import stored_shapes

if TYPE_CHECKING:
    from rlhf_bench.harness.forward.types import Classifier

NAMES = ("score", "value_head", "v_head.summary", "v_head", "regression_head", "reward_head", "rm_head", "classifier")
"""Modules that are taken for a head where the setting `head` names none."""


@dataclass(frozen=True)
class Head:
    """A stored linear layer: `weight` [1, width] and perhaps `bias` [1], tensors of `file`; `name` is the module's."""

    name: str
    file: Path
    weight: str
    bias: str | None
    width: int


def find_head(source: str | Path, wanted: str = "") -> Head | None:
    """The head in the weights of a folder, or of an adapter's folder and, where it has none, its base's; None if none.

    `wanted` names the module.  Raises BenchError where that one is not there, where a head has several outputs, where
    there are several heads, and for files that cannot be read.
    """
    folder = Path(source).expanduser()
    adapter = read_adapter(folder)
    found = _heads(folder, wanted)
    if not found and adapter and store.is_folder(Path(adapter.base)):
        found = _heads(Path(adapter.base), wanted)
    if len(found) > 1:
        seen = f"{source} has several heads: {', '.join(sorted(found))}."
        raise BenchError(seen, f"Name one: --set 'hf:*.head={min(found)}'.")
    if wanted and not found:
        raise BenchError(f"{source} has no head {wanted!r} among its tensors.", "Give the name before .weight.")
    return next(iter(found.values()), None)


def _heads(folder: Path, wanted: str) -> dict[str, Head]:
    """The heads with one output by their modules' names.  Raises BenchError for one with another number of outputs."""
    found: dict[str, Head] = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            shapes = stored_shapes([file])
        except Exception as error:  # safetensors has its own kinds
            raise BenchError(
                f"{file} cannot be read: {one_line(error)}.", "The file is damaged: copy it again."
            ) from None
        plain = {name.removeprefix(PREFIX): (name, shape) for name, shape in shapes.items()}
        for module in (wanted,) if wanted else NAMES:
            name, shape = plain.get(f"{module}.weight", ("", ()))
            if not name:
                continue
            if len(shape) != 2 or shape[0] != 1:
                seen = f"The head {module} of {folder} has the shape {list(shape)}."
                raise BenchError(seen, "A scalar reward model has one output: [1, width].")
            bias = plain.get(f"{module}.bias", (None,))[0]
            found[module] = Head(module, file, name, bias, shape[1])
    return found


def install_head(model: Classifier, head: Head, config: Mapping[str, object], source: str) -> None:
    """Put a stored head into the place of a classifier's own, in place, in float32 on the CPU.

    `config` is the model's config.json.  Raises BenchError where it does not fit the model, and for a mean and std that
    are no numbers.
    """
    import torch
    from safetensors import safe_open

    if not hasattr(model, "score"):
        raise BenchError(
            f"{source} has the head {head.name} on a {type(model).__name__}.", "Such heads are of decoders."
        )
    width = model.score.weight.shape[1]
    if head.width != width:
        seen = f"The head {head.name} of {source} reads {head.width} numbers, its model gives {width}."
        raise BenchError(seen, "Give the head and the model that were trained together.")
    layer = torch.nn.Linear(width, 1, bias=True)
    mean, std = _normalisation(config, source)
    with safe_open(head.file, "pt") as file, torch.no_grad():
        bias = file.get_tensor(head.bias).float() if head.bias else torch.zeros(1)
        layer.weight.copy_(file.get_tensor(head.weight).float() / std)
        layer.bias.copy_((bias.reshape(1) - mean) / std)
    if not bool(torch.isfinite(layer.weight).all() and torch.isfinite(layer.bias).all()):
        raise BenchError(f"The head {head.name} of {source} is not finite.", "The file is damaged.")
    model.score = layer  # type: ignore[assignment]  # a Linear in all but the Protocol's setter


def _normalisation(config: Mapping[str, object], source: str) -> tuple[float, float]:
    """(mean, std) that OpenRLHF stored in config.json and applies where `normalize_reward` is true; else (0, 1)."""
    if config.get("normalize_reward") is not True or "mean" not in config:
        return 0.0, 1.0
    values = config["mean"], config.get("std", 1.0)
    if not all(isinstance(x, int | float) and math.isfinite(x) for x in values) or values[1] == 0:
        seen = f"{source}: mean and std of its rewards are {json.dumps(values)}."
        raise BenchError(seen, "Correct them in config.json, or remove normalize_reward.")
    return float(values[0]), float(values[1])  # type: ignore[arg-type]
