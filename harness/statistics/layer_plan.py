"""What seeds in layers say: how much each layer and the prompts vary, what to repeat next, and how many of each.

From nested components (`variance.Nested`) of runs under data seeds, reward seeds in them, and seeds in those.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scipy import special

from rlhf_bench.harness.statistics.cells import Array, Clusters, upper_tail
from rlhf_bench.harness.statistics.layers import Layers, components
from rlhf_bench.harness.statistics.variance import PROMPT, RESIDUAL

DATA, REWARD, SEED = "data seed", "reward seed", "seed"
"""The layers, as harness/seeds.py names them."""
SOURCES = {DATA: "data", REWARD: "reward model", SEED: "PPO", PROMPT: "prompts", RESIDUAL: "prompt by run"}
"""What varies with each, in words; that of the seed holds the SFT policy too."""
MORE = {DATA: "data seeds", REWARD: "reward seeds", SEED: "seeds", PROMPT: "prompts"}
MOST_DATA, MOST_INNER = 60, 6
"""Designs that are searched: this many data seeds (or seeds of the outermost layer), and seeds of each inner layer."""


class Source(NamedTuple):
    """One source of variance.

    share: of the variance of one run's value for one prompt, None where the design cannot tell.   error: the part of
    the squared error of the mean that it makes, None likewise.   levels: how many the pilot has.   why: the reason of
    None.
    """

    name: str
    share: float | None
    error: float | None
    levels: int
    why: str = ""


class Spread(NamedTuple):
    """Components of variance of a measure under layers, in its squared unit; None where the pilot cannot tell.

    own_prompts: whether every data seed has prompts of its own.
    """

    sources: tuple[Source, ...]
    components: dict[str, float | None]
    levels: dict[str, int]
    own_prompts: bool
    note: str = ""


def spread(cells: Array, layers: Layers, clusters: Clusters | None = None) -> Spread | None:
    """The spread in cells [S, P] of runs in layers [S]; None where nothing varies."""
    found = components(cells, layers, clusters)
    if found is None:
        return None
    known = {name: value for name, value in found.components.items() if value is not None}
    rows = math.prod((found.levels[SEED], found.levels[PROMPT]))
    own = DATA in layers and found.levels[DATA] > 1 and _own_prompts(cells, layers[DATA])
    counts = {**found.levels, RESIDUAL: rows // found.levels[DATA] if own else rows}
    total, errors = sum(known.values()), {name: value / counts[name] for name, value in known.items()}
    whole = sum(errors.values())
    sources = []
    for name in (DATA, REWARD, SEED, PROMPT, RESIDUAL):
        if name in known and total > 0:
            sources.append(Source(name, known[name] / total, errors[name] / whole, counts[name]))
        else:
            sources.append(Source(name, None, None, counts.get(name, 0), _why(name, found.levels)))
    return Spread(tuple(sources), dict(found.components), dict(found.levels), own, found.note)


def _own_prompts(cells: Array, levels: Sequence[object]) -> bool:
    """Whether no prompt has a value under two levels of the outermost layer."""
    seen = [{int(p) for s in range(len(cells)) if levels[s] == level for p in (cells[s] == cells[s]).nonzero()[0]}
            for level in dict.fromkeys(levels)]  # fmt: skip
    return all(not a & b for a, b in itertools.combinations(seen, 2))


def _why(name: str, levels: Mapping[str, int]) -> str:
    """Why a component cannot be told."""
    if name not in levels:
        # of the layers alone: prompts and the residual are always there
        return "the data were not redrawn" if name == DATA else "part of PPO: one seed drives both"
    if levels[name] == 1:
        return f"one {name}"
    return f"one {name} in each level above: part of that"


def advice(found: Spread) -> str:
    """What to repeat next, in one sentence."""
    parts = {source.name: source.error for source in found.sources if source.error is not None}
    # what a run makes of a prompt averages out over prompts, which cost less than runs
    parts[PROMPT] = parts.get(PROMPT, 0.0) + parts.pop(RESIDUAL, 0.0)
    largest = max(parts, key=lambda name: parts[name])
    text = (
        f"The largest part of the squared error of the mean comes from {SOURCES[largest]} ({parts[largest]:.0%}): "
        f"add {MORE[largest]} next"
    )
    # a layer that is not asked for: the data stay the same, and a reward model is trained anew with every seed
    blind = ["other data"] if found.levels.get(DATA, 1) == 1 else []
    blind += ["other reward models"] if found.levels.get(REWARD) == 1 else []
    return f"{text}; the interval says nothing of {' and '.join(blind)}." if blind else f"{text}."


# ---- designs --------------------------------------------------------------------------------------------------------


class Design(NamedTuple):
    """Numbers of data seeds, reward seeds in each, seeds in each of those, and prompts of each data seed."""

    data: int
    reward: int
    seeds: int
    prompts: int

    @property
    def runs(self) -> int:
        """The number of PPO runs."""
        return self.data * self.reward * self.seeds


def width(found: Spread, design: Design, level: float = 0.95) -> float:
    """The width of the interval of the mean that a design is expected to give, in the data's unit.

    As `Nested.half_width` of expected mean squares: the t quantiles of the outermost layer with several levels, and of
    prompts that all runs share, weighted by their parts (Cochran 1964).  Conditional on layers with one level.
    """
    part = {name: value or 0.0 for name, value in found.components.items()}
    d, r, s, p = design
    of_runs = part.get(SEED, 0.0) / design.runs + part[RESIDUAL] / (design.runs * p)
    if d * r > 1:
        of_runs += part.get(REWARD, 0.0) / (d * r)
    if d > 1:
        of_runs += part.get(DATA, 0.0) / d
    of_prompts = part[PROMPT] / (p * d if found.own_prompts else p)
    levels = next((count for count in (d, r, s) if count > 1), 1)
    tail = 1 - upper_tail(level)
    t_prompts = -float(special.stdtrit(max(p - 1, 1), tail))
    if levels == 1:  # one run: over its prompts alone
        return 2 * t_prompts * math.sqrt(of_prompts + part[RESIDUAL] / p)
    t_runs = -float(special.stdtrit(levels - 1, tail))
    if found.own_prompts and d > 1:  # prompts differ with the data: their part is in the mean square of the data
        of_runs, of_prompts = of_runs + of_prompts, 0.0
    whole = of_runs + of_prompts
    weighted = (of_runs * t_runs + of_prompts * t_prompts) / math.sqrt(whole) if whole > 0 else 0.0
    return 2 * max(weighted, t_runs * math.sqrt(of_runs), t_prompts * math.sqrt(of_prompts))


def cheapest(found: Spread, wanted: float, prompts: int, level: float = 0.95) -> Design | None:
    """The design with the fewest runs, then the fewest reward models, whose interval is at most `wanted` wide.

    Layers whose component the pilot cannot tell have one level in every design.  None where no design of the search
    does.
    """
    told = {name for name, value in found.components.items() if value is not None}
    outer = next((name for name in (DATA, REWARD, SEED) if name in told), SEED)
    sizes = [
        range(1, (MOST_DATA if name == outer else MOST_INNER) + 1) if name in told else range(1, 2)
        for name in (DATA, REWARD, SEED)
    ]
    designs = [Design(d, r, s, prompts) for d, r, s in itertools.product(*sizes)]
    designs = [one for one in designs if one[(DATA, REWARD, SEED).index(outer)] > 1]
    for design in sorted(designs, key=lambda one: (one.runs, one.data * one.reward, one)):
        if width(found, design, level) <= wanted:
            return design
    return None
