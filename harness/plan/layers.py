"""Whether a model's configuration asks for more layers than its weights can hold.

A library builds a model before it looks at the weights: a hundred million layers take hours.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from rlhf_bench.harness.errors import BenchError

LAYERS = re.compile(r"(n_layers?|num(_hidden|_encoder|_decoder)?_layers|(encoder|decoder)_layers)")
"""The names of numbers of layers in config.json, of the common families."""


def check_layers(folder: Path) -> None:
    """Raises BenchError for a folder whose config.json states more layers than its safetensors files have tensors.

    Every layer has at least one.  Folders without one or the other pass, and so does what cannot be read: loading it
    says what is wrong.
    """
    config, weights = folder / "config.json", sorted(folder.glob("*.safetensors"))
    try:
        found = json.loads(config.read_text(encoding="utf-8"))
        stated = {name: value for name, value in found.items() if LAYERS.fullmatch(name) and isinstance(value, int)}
        if not stated or not weights:
            return
        tensors = sum(map(_tensors, weights))
    except (OSError, ValueError, AttributeError, RecursionError):
        return
    for name, value in stated.items():
        if value > tensors:
            seen = f"{config} states {name}={value:,}, and the weights beside it hold {tensors:,} tensors."
            raise BenchError(seen, "Correct config.json, or take the weights that belong to it.")


def _tensors(path: Path) -> int:
    """The number of tensors in a safetensors file.  Raises OSError or ValueError for a file that is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return len(file.keys())
    except SafetensorError as error:
        raise ValueError(str(error)) from error
