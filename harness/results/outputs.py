"""What an experiment's runs wrote, as digests: whether other code writes the same can then be asked of one seed.

A key holds the code of its stage, so any change of that code makes results stale, also one that changes no number.  A
rerun of one seed of every arm under today's code shows which of the two it is: after a whole training, on the same kind
of processor, the same responses, rewards and verdicts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.plan import stamps
from rlhf_bench.harness.results.stored import stored_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rlhf_bench.harness.text.types import Row

DIGITS = 12
GENERATION = ("example_id", "iteration", "decoding", "response", "tokens", "finished", "kl", "reward")
VERDICT = ("example_id", "iteration", "decoding", "values")
CREDIT = ("pair", "side", "spans", "rewards")
"""The fields of a row that count; others say where it belongs, or how it is shown."""

Outputs = dict[str, dict[str, dict[str, str]]]
"""Arm or analysis -> seed -> part (generations, or a judge's name) -> digest."""


class Part(NamedTuple):
    """A file of rows, and the fields of a row that count."""

    path: Path
    fields: tuple[str, ...]


def outputs(record: Row, root: Path) -> Outputs:
    """The digests of the finished cells and analyses of an experiment that was run, from its record.

    What is unfinished or cannot be read is left out; analyses of times have nothing that is written twice.
    """
    found: Outputs = {}
    for arm, seed, parts in (*_cells(record, root), *_analyses(record, root)):
        try:
            digests = {name: _digest(part) for name, part in parts.items()}
        except BenchError:
            continue
        found.setdefault(arm, {})[seed] = digests
    return found


def _digest(part: Part) -> str:
    rows = [[row.get(field) for field in part.fields] for row in stored_rows(part.path)]
    return store.content_key(rows)[:DIGITS]


def _cells(record: Row, root: Path) -> Iterator[tuple[str, str, Mapping[str, Part]]]:
    """(arm, seed, parts) of every finished cell.

    An arm is named by its run, reward model and task, and by its place among several of these in the run: of one seed
    the cells stand in the order of the plan, whatever their keys.
    """
    taken: dict[tuple[str, str], int] = {}
    for run, cell in stamps.sound_cells(record, root):
        arm, seed = f"{run}: {cell['reward_model']} on {cell['task']}", _seed(cell)
        number = taken[arm, seed] = taken.get((arm, seed), 0) + 1
        parts = {"generations": Part(_folder(root, cell["stages"]["generations"]) / "generations.jsonl", GENERATION)}
        for judge, place in cell["judges"].items():
            if place[0] != "verdicts":
                continue  # what the harness measures itself follows from the responses, which are compared
            parts[judge] = Part(_folder(root, place) / "verdicts.jsonl", VERDICT)
        yield arm if number == 1 else f"{arm} ({number})", seed, parts


def _analyses(record: Row, root: Path) -> Iterator[tuple[str, str, Mapping[str, Part]]]:
    for run, stages in record["analyses"].items():
        for stage in stages:
            if stage["place"][0] == "credit":
                parts = {"credit": Part(_folder(root, stage["place"]) / "credit.jsonl", CREDIT)}
                yield f"{run}: {stage['reward_model']}", str(stage["seed"]), parts


def _seed(cell: Row) -> str:
    layers = "".join(f" {name} {seed}" for name, seed in sorted(cell.get("layers", {}).items()))
    return f"{cell['seed']}{layers}"


def _folder(root: Path, place: tuple[str, str, str]) -> Path:
    kind, label, key = place
    if not all(map(store.is_plain_name, place)):
        raise BenchError(f"{kind!r} {label!r} is no place of a stage.", "Run the experiment again.")
    return root / kind / f"{label}-{key}"


# ---- two sets of runs -----------------------------------------------------------------------------------------------


def unlike(stored: Outputs, again: Outputs) -> list[str]:
    """Why a rerun does not show that the stored results are what today's code computes; [] where it does.

    It has to hold at least one seed of every stored arm, and whatever it holds has to be the same.  A part
    that only the rerun has is a judge or a measure that the stored code had not.
    """
    problems = [f"{arm}: no seed of it was run again" for arm in stored if not {*stored[arm]} & {*again.get(arm, {})}]
    if not stored:
        problems.append("the stored results have no digests of what was written")
    for arm, seeds in again.items():
        for seed, parts in seeds.items():
            before = stored.get(arm, {}).get(seed)
            differing = [name for name in parts if name in (before or {}) and (before or {})[name] != parts[name]]
            differing += [name for name in before or () if name not in parts]
            if differing:
                problems.append(f"{arm}, seed {seed}: other {', '.join(differing)}")
    return problems
