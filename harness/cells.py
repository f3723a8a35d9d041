"""Cells [S seeds, P prompts] as arrays: checked, without what is wholly undecided, prompts grouped by their source."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

from rlhf_bench.harness.errors import BenchError

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.intp]
Clusters = Sequence[Hashable] | Codes


def upper_tail(level: float) -> float:
    """The upper tail's quantile of a two-sided level."""
    if not 0 < level < 1:
        raise BenchError(f"A confidence level of {level}.", "Give one between 0 and 1, such as .95.")
    return (1 + level) / 2


def as_line(values: npt.ArrayLike) -> Array:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1:
        raise BenchError(f"Values of shape {found.shape}.", "Give a list of numbers, one per prompt.")
    return found


def as_matrix(cells: npt.ArrayLike, low: float = -math.inf, high: float = math.inf) -> Array:
    found = np.asarray(cells, dtype=np.float64)
    if found.ndim == 1:
        found = found[None]
    if found.ndim != 2:
        raise BenchError(f"A matrix of shape {found.shape}.", "Give [seeds, prompts].")
    if ((found < low) | (found > high)).any():
        raise BenchError(
            f"Values from {np.nanmin(found):g} to {np.nanmax(found):g}.", f"Give values in [{low:g}, {high:g}]."
        )
    return found


def decided_values(values: npt.ArrayLike, low: float = -math.inf, high: float = math.inf) -> Array:
    """The decided values [n]."""
    found = as_matrix(as_line(values), low, high)
    return found[~np.isnan(found)]


def tidy(
    cells: npt.ArrayLike, clusters: Clusters | None, low: float = -math.inf, high: float = math.inf
) -> tuple[Array, Codes | None, str]:
    """Cells without wholly undecided seeds and prompts; cluster codes 0.. [P], None where all prompts stand alone."""
    found = as_matrix(cells, low, high)
    if clusters is not None and len(clusters) != found.shape[1]:
        raise BenchError(f"{len(clusters)} clusters for {found.shape[1]} prompts.", "Give one per prompt.")
    decided = ~np.isnan(found)
    seeds, prompts = np.flatnonzero(decided.any(axis=1)), np.flatnonzero(decided.any(axis=0))
    note = f"{len(found) - seeds.size} seeds without a decided case left out" if 0 < seeds.size < len(found) else ""
    kept = found[seeds][:, prompts]
    if clusters is None or not kept.size:
        return kept, None, note
    keys = [(i,) if clusters[i] == "" else ("", clusters[i]) for i in prompts.tolist()]
    codes = {key: code for code, key in enumerate(dict.fromkeys(keys))}
    return kept, None if len(codes) == len(keys) else np.array([codes[key] for key in keys]), note


def constant(cells: Array) -> bool:
    """Equal but for rounding: a difference of two columns rarely cancels exactly."""
    low, high = float(np.nanmin(cells)), float(np.nanmax(cells))
    return high - low <= 8 * float(np.finfo(np.float64).eps) * max(abs(low), abs(high))
