"""Stored tensors against those of a model, by name and shape.

Libraries fill a missing tensor with random numbers and leave out one too many, with a warning at most.  A policy with
one random matrix still writes text and still trains, so such a fault shows in no error, only in wrong results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_bench.harness.errors import BenchError

if TYPE_CHECKING:
    from torch import Tensor

    from rlhf_bench.harness.forward.types import Module

Shapes = Mapping[str, Sequence[int]]
"""Shape of each tensor by name."""
FIX = "The files are incomplete or of another model: copy the folder again."
FIX_CHECKPOINT = "Delete it, and run again."


def check_report(
    source: str | Path,
    report: Mapping[str, Any],
    new: Callable[[str], bool] = lambda _: False,
    left: Callable[[str], bool] = lambda _: False,
) -> None:
    """Raises BenchError for a missing, misshapen or extra tensor in transformers' report on a model it has loaded.

    `new` says which tensors are made new on purpose, so that they may be missing or of another shape; `left` which
    stored ones the model leaves out on purpose.
    """
    missing = [str(name) for name in report["missing_keys"] if not new(str(name))]
    misshapen = {str(name): shapes for name, *shapes in report["mismatched_keys"] if not new(str(name))}
    extra = [str(name) for name in report["unexpected_keys"] if not left(str(name))]
    if misshapen:
        name = min(misshapen)
        held, needed = (list(shape) for shape in misshapen[name])
        raise BenchError(f"The tensor {name} of {source} is {held}, the model's is {needed}.", FIX)
    _refuse(f"The weights of {source} lack", missing, FIX)
    _refuse(f"The weights of {source} have what its model lacks:", extra, FIX)


def check_shapes(where: Path, needed: Shapes, held: Shapes, tied: Iterable[frozenset[str]] = ()) -> None:
    """Raises BenchError unless a checkpoint, a file or folder, holds the tensors that are needed, with their shapes.

    `tied` are sets of names of one tensor, which is stored under one of them.
    """
    same = {name: group for group in tied for name in group}
    missing = [name for name in needed if not same.get(name, {name}) & held.keys()]
    _refuse(f"{where} lacks", missing, FIX_CHECKPOINT)
    _refuse(f"{where} has what the model lacks:", [name for name in held if name not in needed], FIX_CHECKPOINT)
    for name in held:
        if list(held[name]) != list(needed[name]):
            seen = f"The tensor {name} in {where} is {list(held[name])}, the model's is {list(needed[name])}."
            raise BenchError(seen, FIX_CHECKPOINT)


def _refuse(what: str, names: Sequence[str], fix: str) -> None:
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise BenchError(f"{what} {min(names)}{more}.", fix)


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, Sequence[int]]:
    """The shapes of tensors."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def stored_shapes(files: Iterable[Path]) -> Shapes:
    """The shapes of all tensors in safetensors files, whose weights are not read."""
    from safetensors import safe_open

    found: dict[str, Sequence[int]] = {}
    for path in files:
        with safe_open(path, "pt") as file:
            found |= {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - not a mapping
    return found


def tied_names(model: Module) -> list[frozenset[str]]:
    """The names of each tensor that has several in the model's state."""
    groups: dict[int, set[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        groups.setdefault(id(tensor), set()).add(name)
    return [frozenset(names) for names in groups.values() if len(names) > 1]
