"""Arms as frontiers: a measure against KL to the SFT policy, over the checkpoints of all arms of one reward model.

Arms that differ in the strength of the KL penalty or in how long they ran are points of one frontier (Gao et al.
2210.10760 find that the penalty moves a policy along it).  Everything is read from stored rows.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rlhf_bench.harness.nouns import MeasureKind
from rlhf_bench.harness.results import columns
from rlhf_bench.harness.results.arms import Arm, CellFiles
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.harness.results.sheets import NO_PROMPT, NO_SEED
from rlhf_bench.harness.results.stored import stored_rows
from rlhf_bench.harness.seeds import Seed, layers_asked, layers_of
from rlhf_bench.harness.statistics import frontier
from rlhf_bench.harness.statistics.cells import Array
from rlhf_bench.harness.statistics.frontier import Curve
from rlhf_bench.harness.statistics.intervals import Interval
from rlhf_bench.harness.statistics.layers import outer_means

ALONG = frozenset(("ppo.kl", "ppo.kl_target", "ppo.iterations", "ppo.checkpoints"))
"""Settings that move a policy along the frontier, or add points to it: arms that differ in them alone are one."""
FEWEST = 2
"""The fewest trained points of each seed: with one, a curve would be a guess between it and the SFT policy."""
SFT_VALUE: dict[MeasureKind, float] = {"win": 0.5, "change": 0.0}
"""The SFT policy's own value, where the kind says it: it ties with itself in the mean, and does not differ."""


@dataclass(frozen=True)
class Frontier:
    """The arms of one task, reward model and optimiser whose settings differ along the frontier alone."""

    arms: tuple[Arm, ...]

    @property
    def key(self) -> str:
        return "+".join(arm.key for arm in self.arms)


class What(NamedTuple):
    """One measure of a judge under a decoding.  before: the column of the baseline's value, "" where there is none."""

    judge: str
    statistic: str
    kind: MeasureKind
    before: str = ""
    decoding: str = "sample"


def frontiers_of(arms: Sequence[Arm]) -> list[Frontier]:
    """The arms grouped into frontiers, in order of their first arm."""
    groups: dict[tuple[str, ...], list[Arm]] = {}
    for arm in arms:
        settings = [f"{name}={value}" for name, value in fixed_settings(arm, ALONG).items()]
        groups.setdefault((arm.task, arm.reward_model, *place_of(arm), *settings), []).append(arm)
    return [Frontier(tuple(own)) for own in groups.values()]


def fixed_settings(arm: Arm, without: Collection[str]) -> dict[str, str]:
    """The arm's settings by hand except those in `without`, by name in order."""
    found = arm.cells[0].record["differing"]
    return {name: str(found[name]) for name in sorted(set(found) - set(without))}


def settings_but_rewards(arm: Arm, names: Collection[str]) -> dict[str, str]:
    """The arm's settings by hand that are of none of the reward models called `names` (a group may be a pattern)."""
    found = fixed_settings(arm, ())
    own = {name for name in found if fnmatch.filter(names, name.rpartition(".")[0])}
    return {name: value for name, value in found.items() if name not in own}


def place_of(arm: Arm) -> tuple[str, str, str, str]:
    """What else must agree: the policy, the task that it was trained on, the optimiser, and the layers of the seeds."""
    record = arm.cells[0].record
    layers = " x ".join(layers_asked(arm.seeds[0]))
    return str(record["policy"]), str(record["home"]), str(record.get("optimizer", "ppo")), layers


# ---- points ---------------------------------------------------------------------------------------------------------


Prompt = tuple[str, str]
"""An example's id and its text: two data sets may give one id to different prompts."""


class ByPrompt(Mapping[Prompt, float]):
    """A number for each prompt: `numbers` [P] in the order of `prompts`.  Points of a data set share their prompts."""

    def __init__(self, prompts: tuple[Prompt, ...], numbers: Array) -> None:
        self.prompts, self.numbers = prompts, numbers

    def __getitem__(self, prompt: Prompt) -> float:
        try:
            return float(self.numbers[self.prompts.index(prompt)])
        except ValueError:
            raise KeyError(prompt) from None

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self.prompts)

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def is_undecided(self) -> bool:
        """Whether no prompt has a number."""
        return bool(np.isnan(self.numbers).all())

    def filled(self, number: float) -> ByPrompt:
        """The same prompts, each with this number."""
        return ByPrompt(self.prompts, np.full(len(self.prompts), number))


class Point(NamedTuple):
    """One checkpoint of one seed: KL of a sampled response, in nats, and the measure's value, by prompt."""

    kl: ByPrompt
    value: ByPrompt

    @property
    def is_start(self) -> bool:
        """Whether it is the SFT policy, whose KL to itself is 0 on every prompt."""
        return not self.kl.numbers.any()


@dataclass(frozen=True)
class Points:
    """The points of a frontier by seed, the SFT policy last.  left_out: seeds with fewer than FEWEST trained ones."""

    by_seed: dict[Seed, list[Point]]
    sources: dict[Prompt, str]
    left_out: tuple[Seed, ...] = ()
    made: dict[object, Curve] = field(default_factory=dict, compare=False, repr=False)
    """Curves that were made of them: a frontier is compared with every other one, mostly on the same prompts."""

    @cached_property
    def prompts(self) -> dict[Seed, frozenset[Prompt]]:
        """The prompts that all points of a seed have, in KL and value."""
        found = {}
        for seed, points in self.by_seed.items():
            # by identity: points share their prompts, and to compare thousands of tuples takes time
            own = {id(part.prompts): part.prompts for point in points for part in point}
            found[seed] = _common([frozenset(prompts) for prompts in own.values()])
        return found

    def curve(self, by_seed: Mapping[Seed, frozenset[Prompt]], prompts: tuple[Prompt, ...]) -> Curve:
        """KL and value [S, C, P] under the seeds of `by_seed`, NaN where a prompt is of none of the seed's own.

        Seeds with fewer points are filled with NaN.  Of runs in layers: the mean curves of the outermost layer, which
        are independent as seeds are.
        """
        place = tuple(by_seed.items())  # which say the prompts
        if place not in self.made:
            most = max(len(self.by_seed[seed]) for seed in by_seed)
            found: Array = np.full((2, len(by_seed), most, len(prompts)), np.nan)
            for s, (seed, of) in enumerate(by_seed.items()):
                at = np.array([k for k, prompt in enumerate(prompts) if prompt in of], dtype=np.intp)
                own = [prompts[k] for k in at]
                places: dict[int, npt.NDArray[np.intp]] = {}  # where points have the prompts, by identity of these
                for c, point in enumerate(self.by_seed[seed]):
                    for part, values in zip(found[:, s, c], point, strict=True):
                        if id(values.prompts) not in places:
                            known = {prompt: k for k, prompt in enumerate(values.prompts)}
                            places[id(values.prompts)] = np.array([known[prompt] for prompt in own], dtype=np.intp)
                        part[at] = values.numbers[places[id(values.prompts)]]
            self.made[place] = Curve(*(outer_means(part, layers_of(tuple(by_seed))) for part in found))
        return self.made[place]


@lru_cache(256)
def _interned(prompts: frozenset[Prompt]) -> frozenset[Prompt]:
    """The first of equal sets: the same object is compared with itself at once."""
    return prompts


def _common(sets: Sequence[frozenset[Prompt]]) -> frozenset[Prompt]:
    """The intersection."""
    same = all(one is sets[0] for one in sets)
    return _interned(sets[0] if same else frozenset.intersection(*sets))


@lru_cache(64)
def _ordered(prompts: frozenset[Prompt]) -> tuple[Prompt, ...]:
    return tuple(sorted(prompts))


class _Known(NamedTuple):
    """Of a group's examples: where those are that are held out, their prompts, and the prompts' sources."""

    at: slice | npt.NDArray[np.intp]
    prompts: tuple[Prompt, ...]
    sources: dict[Prompt, str]


@dataclass
class Reader:
    """Reads points, each of a cell's files once."""

    prompts: dict[Path, dict[str, tuple[Prompt, str]]] = field(default_factory=dict)
    known: dict[tuple[Path, tuple[str, ...], tuple[str, ...]], _Known] = field(default_factory=dict)

    def points(self, found: Frontier, what: What) -> Points:
        """The points of a frontier under a measure; no seeds where the judge did not measure all of its arms."""
        by_seed: dict[Seed, list[Point]] = {}
        sources: dict[Prompt, str] = {}
        for arm in found.arms:
            for cell in arm.cells:
                own = list(self._of_cell(cell, what, sources))
                known = by_seed.setdefault(cell.seed, [])
                # The SFT policy is the last point of every arm, and one point of the seed.
                by_seed[cell.seed] = [*(point for point in known if not point.is_start), *own]
        trained = {seed: sum(not point.is_start for point in own) for seed, own in by_seed.items()}
        kept = {seed: by_seed[seed] for seed in sorted(by_seed) if trained[seed] >= FEWEST}
        return Points(kept, sources, tuple(sorted(set(by_seed) - set(kept))))

    def _of_cell(self, cell: CellFiles, what: What, sources: dict[Prompt, str]) -> Iterator[Point]:
        if what.judge not in cell.judged():
            return
        path = cell.folder("prompts") / "examples.test.jsonl"
        written = columns.read(cell.folder("generations") / "generations.jsonl")
        judged = columns.read(cell.judged()[what.judge] / "verdicts.jsonl")
        iterations = sorted(i for decoding, i in judged.groups if decoding == what.decoding)
        last = ByPrompt((), np.empty(0))
        for iteration in iterations:
            # Greedy decoding has no KL of its own: its log-ratios do not estimate one (nouns.Generation).
            sampled, group = written.groups.get(("sample", iteration)), judged.groups[what.decoding, iteration]
            if sampled is None:
                continue
            kl, value = self._named(sampled, "kl", path), self._named(group, what.statistic, path)
            sources |= self._known(group, path).sources
            if not kl.is_undecided and not value.is_undecided:
                yield Point(kl, value)
                last = self._named(group, what.before, path) if what.before else value.filled(np.nan)
        start = SFT_VALUE.get(what.kind)
        values = last if what.before else last.filled(np.nan if start is None else start)
        if not values.is_undecided:
            yield Point(values.filled(0.0), values)

    def _known(self, group: columns.Group, path: Path) -> _Known:
        """Which of the group's examples are among the held-out ones of `path`."""
        place = path, group.ids, group.sources
        if place not in self.known:
            if path not in self.prompts:
                rows = stored_rows(path)
                self.prompts[path] = {row["id"]: ((row["id"], row["prompt"]), row.get("source", "")) for row in rows}
            named = self.prompts[path]  # ((id, text), source) of every held-out prompt, by id
            at = [k for k, name in enumerate(group.ids) if name in named]
            found = [(*named[group.ids[k]], group.sources[k]) for k in at]
            self.known[place] = _Known(
                slice(None) if len(at) == len(group.ids) else np.array(at, dtype=np.intp),
                tuple(prompt for prompt, _, _ in found),
                {prompt: own or stated for prompt, stated, own in found},
            )
        return self.known[place]

    def _named(self, group: columns.Group, name: str, path: Path) -> ByPrompt:
        of = self._known(group, path)
        return ByPrompt(of.prompts, group.column(name)[of.at])


# ---- curves on common seeds and prompts -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Shared:
    """Curves of one or two frontiers on the seeds and prompts that they share; `why` says why there are none."""

    curves: tuple[Curve, ...] = ()
    clusters: tuple[str, ...] = ()
    seeds: tuple[Seed, ...] = ()
    why: str = ""
    note: str = ""

    @property
    def reach(self) -> float:
        """The largest KL that every seed of every curve reaches, in nats per response."""
        return min((float(curve.reach.min()) for curve in self.curves), default=0.0)


def shared(found: Sequence[Points]) -> Shared:
    """The curves of frontiers on common seeds and prompts, both in order; a prompt counts if each point has it."""
    seeds = tuple(sorted(set.intersection(*(set(points.by_seed) for points in found))))
    left_out = sorted({seed for points in found for seed in points.left_out})
    note = f"seeds with fewer than {FEWEST} checkpoints left out: {', '.join(map(str, left_out))}" if left_out else ""
    if not seeds:
        return Shared(why=NO_SEED, note=note)
    by_data: dict[int | None, frozenset[Prompt]] = {}
    for seed in seeds:  # prompts are common to the seeds of one data seed, which may have drawn its own
        own = _common([points.prompts[seed] for points in found])
        data = layers_asked(seed).get("data")
        by_data[data] = _common([own, by_data.get(data, own)])
    sets = list(by_data.values())
    prompts = _ordered(sets[0] if len(sets) == 1 else _interned(frozenset.union(*sets)))
    if not prompts:
        return Shared(why=NO_PROMPT, note=note)
    of_seeds = {seed: by_data[layers_asked(seed).get("data")] for seed in seeds}
    curves = [points.curve(of_seeds, prompts) for points in found]
    clusters = [found[0].sources.get(prompt, "") for prompt in prompts]
    if any(own != by_data[data] for own in by_data.values()):  # one name under two data seeds is of two sources
        home = [next(at for at, own in by_data.items() if prompt in own) for prompt in prompts]
        clusters = [f"{at}/{source}" if source else "" for at, source in zip(home, clusters, strict=True)]
    return Shared(tuple(curves), tuple(clusters), seeds, note=note)


def matched(found: Shared, kl: Sequence[float], estimator: Estimator) -> list[Interval]:
    """`frontier.at_kl` of shared curves.

    All curves on equal clusters of prompts are read in the same resamples, whatever they are compared with.
    """
    return frontier.at_kl(found.curves, kl, estimator.level, _draws(estimator, found.clusters))


@lru_cache(16)
def _draws(estimator: Estimator, clusters: tuple[str, ...]) -> frontier.Draws:
    return frontier.draws_of(estimator.generator("kl-matched"), len(clusters), clusters)


def rungs(reach: float) -> list[float]:
    """The KL values, fixed beforehand, up to `reach`."""
    return [kl for kl in frontier.LADDER if kl <= reach]
