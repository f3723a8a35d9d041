"""Curves of policy optimisation, also of stages that run: the rows of steps.jsonl, and gold at judged checkpoints.

    RUNS/ppo/LABEL-KEY/steps.jsonl              of a finished stage
    RUNS/.partial/ppo-KEY/scratch/steps.jsonl   of a stage that runs, written every `ppo.save_every` iterations

A results folder may come from someone else: files are bounded, and a row of another form is left out and named.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rlhf_bench.harness import forms, store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.pipeline import journal
from rlhf_bench.harness.results.found import is_complete

if TYPE_CHECKING:
    from rlhf_bench.harness.results.arms import CellFiles
    from rlhf_bench.harness.text.types import JsonObject, Row

T = TypeVar("T")
FIGURES: Mapping[str, str] = {"reward": "reward", "KL": "kl", "length": "tokens", "entropy": "entropy_estimate"}
"""What is followed while a policy is trained: the name that is shown, and the scalar in steps.jsonl.

Means over an iteration's rollouts: the unscaled reward, KL to the SFT policy in nats per response, tokens per response,
and nats per token.
"""
STEP: forms.Form = {
    str: forms.KNOWN_OR_NOT,
    "iteration": forms.Count,
    **dict.fromkeys(("reward", "kl", "empty_share", "truncated_share"), forms.Number),
}
"""A row of steps.jsonl, as far as it is shown; earlier versions stored fewer figures."""
VERDICT: forms.Form = {"iteration": forms.Count, "decoding": str, "values": {str: forms.KNOWN_OR_NOT}}
JUDGE, GOLD, BEFORE = "utility", "gold", "gold_baseline"
"""The judge that measures the true utility, and its measures of a response and of the SFT policy's."""
LONGEST = 2**26
"""Bytes of a file of rows: a longer one is not read."""
MOST_ROWS = 20_000
"""Rows of steps.jsonl that are read."""


class RowsReader:
    """Reads files of rows below `root` again and again; a file that has not changed is read once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known: dict[tuple[Path, str], tuple[object, object, str]] = {}

    def steps(self, kind: str, label: str, key: str, complain: Callable[[str], object]) -> Sequence[Row]:
        """The rows of a stage that optimises a policy, in order of iteration; [] where it has none (yet)."""
        for path in steps_files(self.root, kind, label, key):
            found = self._read(path, "steps", complain, _steps)
            if found is not None:
                return found
        return []

    def gold(self, cell: CellFiles, complain: Callable[[str], object]) -> Sequence[tuple[int, float]]:
        """(iteration, mean gold of the sampled responses) at judged checkpoints, the SFT policy's at 0; [] if none."""
        folder = cell.judged().get(JUDGE)
        path = folder / "verdicts.jsonl" if folder and is_complete(folder) else None
        return (self._read(path, "gold", complain, _gold) if path else None) or []

    def _read(
        self, path: Path, what: str, complain: Callable[[str], object], make: Callable[[Path], tuple[T, str]]
    ) -> T | None:
        """What `make` makes of a file, with a sentence about damage; None for a file that cannot be read."""
        stamp = stamp_of(path)
        if stamp is None:
            return None
        known = self._known.get((path, what))
        if known is None or known[0] != stamp:
            try:
                store.check_links(path.parent, self.root, depth=0)
                known = (stamp, *make(path))
            except BenchError as error:
                known = stamp, None, error.seen.removesuffix(".")
            except FileNotFoundError:  # the stage has ended meanwhile
                return None
            except OSError as error:
                known = stamp, None, f"{path} cannot be read ({error.strerror})"
            self._known[path, what] = known
        if known[2]:
            complain(known[2])
        return known[1]  # type: ignore[return-value]  # what the same `make` returned


def steps_files(root: Path, kind: str, label: str, key: str) -> tuple[Path, Path]:
    """Where the rows of a stage lie when it has finished, and while it runs."""
    finished = store.Store(root).folder(kind, label, key)
    return finished / "steps.jsonl", root / journal.FOLDER / f"{kind}-{key}" / "scratch" / "steps.jsonl"


def stamp_of(path: Path) -> tuple[int, int, int] | None:
    """What tells that a file has changed; None where there is none."""
    try:
        found = path.stat()
    except (OSError, ValueError):  # also for a name in a record that no file can have
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def latest(row: Row) -> dict[str, float]:
    """The figures of a row by the names that are shown, without those that are not stored."""
    return {name: float(row[scalar]) for name, scalar in FIGURES.items() if row.get(scalar) is not None}


def _steps(path: Path) -> tuple[Sequence[Row], str]:
    rows, problem = _sound(path, STEP)
    # a resumed run writes all rows again: iterations rise unless the file is damaged
    ordered = list({row["iteration"]: row for row in sorted(rows, key=lambda row: int(row["iteration"]))}.values())
    if len(ordered) > MOST_ROWS:
        return ordered[:MOST_ROWS], problem or f"{path} has more than {MOST_ROWS} rows"
    return ordered, problem


def _gold(path: Path) -> tuple[Sequence[tuple[int, float]], str]:
    rows, problem = _sound(path, VERDICT)
    values: dict[int, list[float]] = {}
    for row in rows:
        if row["decoding"] != "sample":
            continue
        for iteration, name in ((row["iteration"], GOLD), (0, BEFORE)):
            if (value := row["values"].get(name)) is not None:
                values.setdefault(iteration, []).append(value)
    return [(iteration, sum(found) / len(found)) for iteration, found in sorted(values.items())], problem


def _sound(path: Path, form: forms.Form) -> tuple[list[JsonObject], str]:
    """The rows of a form, and a sentence about the others; raises OSError, and BenchError for a file that is too long.

    A last line without its end is left out: it is being written, or cut off.
    """
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size > LONGEST:
            raise BenchError(f"{path} is longer than {LONGEST // 2**20} MiB.", "Remove it.")
        data = file.read(LONGEST)
    rows: list[JsonObject] = []
    wrong: list[str] = []
    for number, row in _objects(data):
        problem = forms.problem(row, form)
        if problem:
            wrong.append(f"line {number}: {problem}")
        else:
            rows.append(row)
    if not wrong:
        return rows, ""
    left_out = f"{len(wrong)} rows are left out" if len(wrong) > 1 else "one row is left out"
    return rows, f"{forms.misfit(path, wrong[0])}; {left_out}"


def _objects(data: bytes) -> Iterator[tuple[int, JsonObject]]:
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError):
            yield number, "no JSON"  # type: ignore[misc]  # which fits no form of rows
