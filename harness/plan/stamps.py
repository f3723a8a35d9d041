"""What a page of results is of: a digest of the keys of the stages behind each experiment, by kind of stage.

A key holds the code and the settings that its stage computes with, so a digest that today's plan of the experiment has
as well says that the same code would compute the same results.  What differs is stale, by experiment and kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_bench.harness import cache, fingerprint, forms, store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.pipeline import integrity
from rlhf_bench.harness.plan import experiments, own_experiments

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject, Row

Digests = Mapping[str, str]
"""Kind of stage -> digest of the short keys of all its stages."""

DIGITS = 12
Place = tuple[str, str]
"""Kind and short key of a stage."""


Judges = Mapping[str, Sequence[str]]
"""Run -> the names of the judges that an experiment has there."""


def of_results(record: Row, root: Path, judges: Judges | None = None) -> Digests:
    """The digests of an experiment that was run, from its record and the records of its cells in `root`.

    A cell without a sound record leaves its stages out, so the digests then differ from those of a plan.  `judges`: as
    in `places`.
    """
    return _digests((kind, key) for kind, _, key in places(record, root, judges))


def places(record: Row, root: Path, judges: Judges | None = None) -> Iterator[tuple[str, str, str]]:
    """(kind, label, short key) of every stage of an experiment that was run, finished or not.

    Shared stages come several times.  `judges`: the only ones that count, where experiments share a cell and one of
    them has more judges; default: all of a cell's record.
    """
    for own in record["analyses"].values():
        yield from (tuple(stage["place"]) for stage in own)
    for run, cell in sound_cells(record, root):
        judged = cell["judges"].items()
        counted = [place for name, place in judged if judges is None or name in judges.get(run, ())]
        for place in (*cell["stages"].values(), *counted):
            kind, label, key = place
            yield kind, label, key


def sound_cells(record: Row, root: Path) -> Iterator[tuple[str, JsonObject]]:
    """(run, record) of every cell of an experiment whose record can be used, in the order of the plan."""
    for run, names in record["runs"].items():
        for name in names:
            try:
                cell = store.read_json(root / "cells" / f"{name}.json")
            except BenchError:  # unfinished: the page names it as missing
                continue
            if forms.problem(cell, forms.CELL) or integrity.seal_problem(cell, f"{name}.json"):
                continue  # damaged, which the page says as well
            yield run, cell


def of_today(name: str, seeds: Sequence[int] = ()) -> Digests:
    """The digests of a packaged experiment as today's code plans it, on its own seeds or on those given.

    Raises BenchError for an unknown experiment.
    """
    kept = cache.group("plan", _installed())
    return kept.get([name, *seeds], lambda: dict(of_plan(experiments.make(experiments.find(name), seeds, {}))))


def of_plan(made: experiments.Made) -> Digests:
    """The digests of a planned experiment."""
    stages = [stage for found in made.analyses.values() for stage in found.values()]
    for plan in made.plans.values():
        for cell in plan.cells:
            stages += [*cell.stages.values(), *plan.judged[cell.name].values()]
    return _digests((stage.place[0], stage.place[2]) for stage in stages)


def judges_of(name: str) -> Judges:
    """The judges of each run of a packaged experiment.  Raises BenchError for an unknown experiment."""
    found: Judges = cache.group("plan", _installed()).get(["judges", name], lambda: _judges_of(name))
    return found


def _judges_of(name: str) -> Judges:
    made = experiments.make(experiments.find(name), (), {})
    return {run: sorted({judge for own in plan.judged.values() for judge in own}) for run, plan in made.plans.items()}


def _installed() -> list[str]:
    """The plugins that are installed, which a plan may be of beside this package; packaged experiments name ours.

    Part of the key under which plans are kept for the next command (cache.py): to make one generates its data.
    """
    groups = ("tasks", "reward_models", "judges")
    return sorted(str(one) for name in groups for one in metadata.entry_points(group=f"{fingerprint.PACKAGE}.{name}"))


def stale(stamp: Mapping[str, Row]) -> dict[str, list[str]]:
    """The experiments whose results are not of today's code, each with the kinds of stages that differ.

    `stamp` is what `result_files.stamp_of` or `stamped` returns, by experiment.
    """
    found = {}
    for name, row in stamp.items():
        before, now = row["stages"], of_today(name, row["seeds"])
        kinds = sorted(kind for kind in {*before, *now} if before.get(kind) != now.get(kind))
        # a rerun showed that code with these keys writes the same (results/outputs.py)
        if kinds and row.get("confirmed") != now:
            found[name] = kinds
    return found


def stamped(record: Row, root: Path) -> JsonObject:
    """The stamp of an experiment that was run: `seeds` (empty: its own), and `stages`, the digests.

    Raises BenchError for seeds in layers that are not the experiment's own, and for an experiment of a policy from
    elsewhere: no plan can be made of them again.
    """
    own = own_experiments.of_record(record)
    if own.definition:
        raise BenchError(f"{own.name} is of a file of its own.", "It has no page among the packaged results.")
    if own.pretrained:
        raise BenchError(f"{own.name} is of a policy from elsewhere.", "It has no page among the packaged results.")
    kept = cache.group("plan", _installed())
    usual = kept.get(["seeds", own.name], lambda: experiments.record(own, experiments.make(own, (), {}), "")["seeds"])
    asked = record["seeds"] != usual
    if asked and any(isinstance(seed, str) for seed in record["seeds"]):
        raise BenchError(f"{own.name} was run on seeds in layers that are not its own.", "It has no page of results.")
    return {"seeds": record["seeds"] if asked else [], "stages": dict(of_results(record, root, judges_of(own.name)))}


def _digests(places: Iterable[Place]) -> Digests:
    keys: dict[str, set[str]] = {}
    for kind, key in places:
        keys.setdefault(kind, set()).add(key)
    return {kind: store.content_key(sorted(found))[:DIGITS] for kind, found in sorted(keys.items())}
