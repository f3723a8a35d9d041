"""About how long stages take, from the stages alike that have finished."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from rlhf_bench.harness import forms, store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.pipeline import integrity


class Costed(Protocol):
    """What an estimate needs of a stage: a Stage, or what a journal says of one."""

    @property
    def kind(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def family(self) -> str: ...
    @property
    def cost(self) -> float: ...


Rate = tuple[str, float]
"""Of a finished stage: its family and its seconds per unit of cost."""
LONGEST_RECORD = 2**24
"""Bytes of a stage's record: a longer one gives no rate."""


def rough_seconds(
    stages: Sequence[Costed], root: store.Store, known: dict[Path, Rate | None] | None = None
) -> dict[str, float | None]:
    """About how long each stage takes, by key: its cost at the median rate of stages alike (kind, task, policy).

    Rates come from the finished stages in `root`; without any alike, from measurements with the tiny policy on the
    default synthetic task; None for other policies and tasks.  `known` keeps the rates of the records that were read,
    for the next call.
    """
    rates: dict[tuple[str, str], list[float]] = {}
    known = {} if known is None else known
    for kind in {stage.kind for stage in stages}:
        for path in sorted((root.root / kind).glob(f"*/{store.MARKER}")):
            if path not in known:
                known[path] = _rate(path)
            if (found := known[path]) is not None:
                rates.setdefault((kind, found[0]), []).append(found[1])
    seconds: dict[str, float | None] = {}
    for stage in stages:
        alike = sorted(rates.get((stage.kind, stage.family), ()))
        # a family begins with the task and the policy (`cells.plan_cell`, `shared.shared_stages`)
        typical = stage.family.startswith("dialogsum tiny") and stage.kind in TYPICAL
        rate = alike[len(alike) // 2] if alike else TYPICAL[stage.kind] if typical else None
        if rate is None:
            # a verdict stage states no cost: it counts as 0 s, not as unknown
            seconds[stage.key] = 0.0 if stage.kind == "verdicts" else None
        else:
            seconds[stage.key] = rate * stage.cost
    return seconds


def _rate(path: Path) -> Rate | None:
    """The rate in a stage's record; None for one that states no cost, as verdicts do, or cannot be read."""
    try:
        store.check_links(path.parent, path.parents[2], depth=0)  # a named pipe would be waited for
        if path.stat().st_size > LONGEST_RECORD:
            return None
        record = store.read_json(path)
    except (BenchError, OSError):
        return None  # the estimate needs no single stage, and a run names what is damaged
    if forms.problem(record, forms.MARKER) or any(integrity.damage(path.parent, integrity.no_file, record)):
        return None
    return (record.get("family", ""), record["seconds"] / record["cost"]) if record.get("cost") else None


TYPICAL = {
    "sft": 0.006,
    "prompts": 0.5,
    "transfer": 0.015,
    "pairs": 1.5,
    "reward": 20.0,
    "scale": 0.02,
    "baseline": 0.012,
    "ppo": 0.024,
    "pool": 0.003,
    "tempered": 0.003,
    "best_of_n": 0.001,
    "proxy": 0.002,
    "fluency": 0.01,
}
"""Seconds per unit of cost, measured on one core with the default task and policy."""
