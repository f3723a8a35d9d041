"""From stored rows to estimates: every number that is reported, recomputed from files alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rlhf_bench.harness import collapse, statistics, store
from rlhf_bench.harness.nouns import Estimate, Measure

ALL = "all"
Rows = Sequence[Mapping[str, Any]]
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CellFiles:
    """One finished cell on disk."""

    record: Mapping[str, Any]
    root: Path

    def folder(self, role: str) -> Path:
        kind, label, key = self.record["stages"][role]
        return self.root / kind / f"{label}-{key}"

    def judged(self) -> dict[str, Path]:
        """Folder of each judge's verdicts, by the judge's name."""
        return {name: self.root / kind / f"{label}-{key}" for name, (kind, label, key) in self.record["judges"].items()}


@dataclass(frozen=True)
class Arm:
    """All seeds of one (task, reward model, settings)."""

    task: str
    reward_model: str
    key: str
    cells: tuple[CellFiles, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(cell.record["seed"] for cell in self.cells)


def arms_of(cells: Sequence[CellFiles]) -> list[Arm]:
    """Cells grouped into arms, seeds in order; arms in order of task, reward model and key."""
    groups: dict[tuple[str, str, str], list[CellFiles]] = {}
    for cell in cells:
        r = cell.record
        groups.setdefault((r["task"], r["reward_model"], r["arm"]), []).append(cell)
    return [
        Arm(task, rm, key, tuple(sorted(found, key=lambda c: c.record["seed"])))
        for (task, rm, key), found in sorted(groups.items(), key=lambda item: item[0])
    ]


@dataclass(frozen=True)
class Estimator:
    """How intervals are made: nominal level and the seed of their generators."""

    level: float = 0.95
    seed: int = 0

    def arm(self, arm: Arm) -> list[Estimate]:
        """Everything that can be said of one arm."""
        found = list(self._run_statistics(arm))
        for judge in sorted(set.intersection(*(set(cell.judged()) for cell in arm.cells))):
            folders = [cell.judged()[judge] for cell in arm.cells]
            measures = [Measure(**row) for row in store.read_json(folders[0] / "measures.json")]
            tables = [store.read_rows(folder / "verdicts.jsonl") for folder in folders]
            found += self._judge(arm, judge, measures, tables)
        return found

    def _judge(self, arm: Arm, judge: str, measures: Sequence[Measure], tables: Sequence[Rows]) -> Iterator[Estimate]:
        for decoding, iteration in checkpoints(tables):
            final = iteration == max(i for _, i in checkpoints(tables))
            chosen = [[r for r in t if (r["decoding"], r["iteration"]) == (decoding, iteration)] for t in tables]
            names = sorted({s for rows in chosen for row in rows for s in row["slices"]}) if final else []
            for slice_name in [ALL, *names]:
                part = [[r for r in rows if slice_name == ALL or slice_name in r["slices"]] for rows in chosen]
                for m in measures:
                    yield self._one(arm, judge, m, slice_name, decoding, iteration, part)
                    if m.before and final and decoding == "sample":
                        yield from self._collapse(arm, judge, m, slice_name, iteration, part)

    def _one(
        self, arm: Arm, judge: str, m: Measure, slice_name: str, decoding: str, iteration: int, part: Sequence[Rows]
    ) -> Estimate:
        cells, clusters = matrix(part, m.name)
        place = (arm.task, arm.reward_model, arm.key, judge, m.name, slice_name, decoding, str(iteration))
        interval = statistics.interval(m.kind, cells, self.level, self.generator(*place), clusters)
        undecided = int(np.isnan(cells).sum())
        if undecided:
            interval = interval.noted(f"{undecided} undecided: {reasons(part, m.name)}")
        return self._estimate(arm, judge, m.name, slice_name, decoding, iteration, interval, cells)

    def _collapse(
        self, arm: Arm, judge: str, m: Measure, slice_name: str, iteration: int, part: Sequence[Rows]
    ) -> Iterator[Estimate]:
        """Each seed's distribution statistics; over several seeds the variance ratio's mean logarithm, by t."""
        after, _ = matrix(part, m.name)
        before, _ = matrix(part, m.before)
        place = (arm.task, arm.reward_model, arm.key, judge, m.name, slice_name, "collapse")
        found = [
            collapse.collapse(b, a, self.generator(*place, str(seed)), self.level)
            for b, a, seed in zip(before, after, arm.seeds, strict=True)
        ]
        for name in found[0]:
            interval = collapse.over_seeds(name, [one[name] for one in found], self.level)
            yield self._estimate(arm, judge, f"{m.name} {name}", slice_name, "sample", iteration, interval, after)

    def _run_statistics(self, arm: Arm) -> Iterator[Estimate]:
        """KL to the SFT policy and the reward model's own (unscaled) reward at every checkpoint; repeated responses."""
        tables = [store.read_rows(cell.folder("ppo") / "generations.jsonl") for cell in arm.cells]
        rows = [[{**row, "slices": [], "values": row} for row in table] for table in tables]
        yield from self._judge(arm, "run", [Measure("kl", "level"), Measure("reward", "level")], rows)
        for decoding, iteration in checkpoints(tables):
            texts = [
                [r.get("response", "") for r in t if (r["decoding"], r["iteration"]) == (decoding, iteration)]
                for t in tables
            ]
            found = [collapse.repetition(part) for part in texts]
            for name in found[0]:
                interval = collapse.over_seeds(name, [one[name] for one in found], self.level)
                cells = np.zeros((len(texts), len(texts[0])))
                yield self._estimate(arm, "run", name, ALL, decoding, iteration, interval, cells)

    def generator(self, *place: str) -> np.random.Generator:
        """A generator of its own for every number, so that what else is reported never moves it."""
        digest = hashlib.sha256("\x1f".join((str(self.seed), *place)).encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "big"))

    def _estimate(
        self,
        arm: Arm,
        judge: str,
        statistic: str,
        slice_name: str,
        decoding: str,
        iteration: int,
        interval: statistics.Interval,
        cells: Array,
    ) -> Estimate:
        decided = ~np.isnan(cells)
        return Estimate(
            task=arm.task,
            reward_model=arm.reward_model,
            arm=arm.key,
            judge=judge,
            statistic=statistic,
            slice=slice_name,
            decoding=decoding,  # type: ignore[arg-type]
            iteration=iteration,
            value=interval.value,
            low=interval.low,
            high=interval.high,
            level=self.level,
            n=round(float(decided.sum(1).mean())) if cells.size else 0,
            n_invalid=int((~decided).sum()),
            seeds=arm.seeds,
            method=interval.method,
            note=interval.note,
        )


def checkpoints(tables: Sequence[Rows]) -> list[tuple[str, int]]:
    """(decoding, iteration) found in every seed's rows, in order."""
    common = set.intersection(*({(r["decoding"], r["iteration"]) for r in table} for table in tables))
    return sorted(common, key=lambda c: (c[0] != "sample", c[1]))


def matrix(part: Sequence[Rows], name: str) -> tuple[Array, list[str]]:
    """(cells [S, P], cluster of each prompt): prompts found under every seed, NaN where undecided."""
    tables = [{row["example_id"]: row for row in rows} for rows in part]
    ids = [i for i in tables[0] if all(i in table for table in tables)]
    values = [[table[i]["values"].get(name) for i in ids] for table in tables]
    cells = np.array([[np.nan if v is None else float(v) for v in row] for row in values]).reshape(len(part), len(ids))
    return cells, [tables[0][i].get("source", "") for i in ids]


def reasons(part: Sequence[Rows], name: str) -> str:
    """Why cases are undecided, the commonest first, with counts."""
    counts: dict[str, int] = {}
    for rows in part:
        for row in rows:
            if row["values"].get(name) is None:
                reason = row.get("reason", "not measured")
                counts[reason] = counts.get(reason, 0) + 1
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{reason} ({count})" for reason, count in ordered)
