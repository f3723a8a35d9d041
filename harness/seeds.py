"""The identity of a training run among those of its arm: its seed, or its seeds in layers.

Layers, outermost first: a data seed draws the data, a reward seed trains the reward model, a seed trains the policy.
Every layer is nested in the one before: seed 3 under data seed 0 and seed 3 under data seed 1 have no random number in
common, so that each run adds its own part to what is learned of the layers' spread (statistics/variance.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import total_ordering
from itertools import product

LAYERS = {"data": "data seed", "reward": "reward seed", "seed": "seed"}
"""The fields of `RunSeed` and what the layers are called, outermost first."""


@total_ordering
@dataclass(frozen=True, slots=True, eq=True)
class RunSeed:
    """The seeds of a run in layers; None for a layer that is not asked for.  In order of data, reward and seed."""

    seed: int
    data: int | None = None
    reward: int | None = None

    def __str__(self) -> str:
        """As readers see it: "data 1 · reward 0 · seed 3", without the layers that are not asked for."""
        return " · ".join(f"{name} {value}" for name, value in self.named())

    def named(self) -> Iterator[tuple[str, int]]:
        """(name, seed) of the layers asked for, outermost first."""
        for name in LAYERS:
            value = getattr(self, name)
            if value is not None:
                yield name, value

    def __lt__(self, other: object) -> bool:
        # plain seeds come before all layers: a folder may hold both
        return _order(self) < _order(other) if isinstance(other, int | RunSeed) else NotImplemented

    def __gt__(self, other: object) -> bool:
        return _order(self) > _order(other) if isinstance(other, int | RunSeed) else NotImplemented


Seed = int | RunSeed
"""What tells the runs of an arm apart: a number where one seed drives the whole run, else the seeds of its layers."""


def _order(seed: Seed) -> tuple[int, ...]:
    if isinstance(seed, int):
        return (-2, -2, seed)
    return tuple(-1 if value is None else value for value in (seed.data, seed.reward, seed.seed))


def make_seed(seed: int, data: int | None = None, reward: int | None = None) -> Seed:
    """The seed itself without layers."""
    return seed if data is None and reward is None else RunSeed(seed, data, reward)


def grid(seeds: Sequence[int], data: Sequence[int] = (), rewards: Sequence[int] = ()) -> tuple[Seed, ...]:
    """Every run of the full nested grid, data seeds outermost; the seeds themselves without layers."""
    wanted: tuple[Sequence[int | None], Sequence[int | None]] = (data or (None,), rewards or (None,))
    return tuple(make_seed(seed, one, other) for one, other, seed in product(*wanted, seeds))


def training_seed(seed: Seed) -> int:
    """The number that the generators of a run start from, 0 .. 2**31 - 1.

    Of a run in layers it is a hash of all of its seeds: with the bare seed, runs under two data seeds or two reward
    seeds would share weights at the start and samples, and the layers would be crossed instead of nested.
    """
    if isinstance(seed, int):
        return seed
    # not the text that readers see: a change of words must change no number
    text = "/".join(f"{name}={value}" for name, value in seed.named())
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def derived_seed(seed: int, *parts: str | int) -> int:
    """A seed of its own for one purpose of a run, 0 .. 2**31 - 1: the same for equal arguments in every process.

    `parts` name the purpose, such as "gold", a recipe and the digest of the data.  A gold model that started from the
    run's own seed would share the draw of its head with every proxy, and so agree with their errors.
    """
    # as JSON, so that ("a", "b") and ("a/b",) are two purposes
    text = json.dumps([seed, *parts])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def of_reward(seed: Seed) -> Seed:
    """The run whose SFT policy a run's reward model starts from: its data seed with the reward seed as the seed.

    A reward model belongs to a data seed and a reward seed, and to no seed of PPO.
    """
    if isinstance(seed, int) or seed.reward is None:
        return seed
    return make_seed(seed.reward, seed.data)


def tag(seed: Seed) -> str:
    """As part of a file's name: "s3", or "d1-r0-s3"."""
    return f"s{seed}" if isinstance(seed, int) else "-".join(f"{name[0]}{value}" for name, value in seed.named())


def shown(seed: Seed) -> int | str:
    """As reports store it: the number itself, or the text of its layers."""
    return seed if isinstance(seed, int) else str(seed)


def run_name(seed: Seed | str) -> str:
    """In a sentence: "seed 3", or "data 1 · reward 0 · seed 3"; also of what `shown` returns."""
    return f"seed {seed}" if isinstance(seed, int) else str(seed)


def named(seeds: Iterable[Seed]) -> str:
    """In a sentence: "seeds 1, 2", or the runs in layers one after the other."""
    found = list(seeds)
    plain = all(isinstance(seed, int) for seed in found)
    return f"seeds {', '.join(map(str, found))}" if plain else "; ".join(map(str, found))


def joined(seeds: Sequence[int | str]) -> str:
    """Several of what `shown` returns in one field: numbers with spaces, texts of layers with semicolons."""
    return ("; " if any(isinstance(seed, str) for seed in seeds) else " ").join(map(str, seeds))


def layers_of(seeds: Sequence[Seed]) -> dict[str, list[int]] | None:
    """The level of each run in each layer asked for, by the layer's name, outermost first; None without layers."""
    if not seeds or any(isinstance(seed, int) for seed in seeds):
        return None
    levels = [dict(seed.named()) for seed in seeds if isinstance(seed, RunSeed)]
    return {shown_as: [own[name] for own in levels] for name, shown_as in LAYERS.items() if name in levels[0]}


def layers_asked(seed: Seed) -> dict[str, int]:
    """The seeds of the layers around the seed itself, by name, outermost first; {} without layers."""
    return {} if isinstance(seed, int) else {name: value for name, value in seed.named() if name != "seed"}
