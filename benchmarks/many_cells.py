"""A results folder of many cells, copied from one real cell per optimiser: what a long study leaves, in seconds.

A copy has another reward model's name and another seed, and its responses, rewards and verdicts are drawn with
replacement from the real cell's prompts, so that seeds and arms differ as samples do.  It says nothing of any reward
model: it is for timing what reads it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_bench.harness import store
from rlhf_bench.harness.pipeline import integrity

OF_PROMPT = ("example_id", "slices", "source", "prompt")
"""What stays with the prompt when its response is another's."""
SHARED = ("sft", "prompts", "pairs", "baseline")
Row = dict[str, Any]


def multiply(real: Path, out: Path, arms: int, seeds: int) -> int:
    """Write arms x seeds copies of every cell below `real` to `out`; returns how many."""
    records = [integrity.unsealed(store.read_json(path)) for path in sorted((real / "cells").glob("*.json"))]
    (out / "cells").mkdir(parents=True)
    for record in records:
        for arm in range(arms):
            for seed in range(seeds):
                _copy(real, out, record, f"{record['reward_model']}-{arm}", seed, arm)
    return len(records) * arms * seeds


def _copy(real: Path, out: Path, record: Mapping[str, Any], name: str, seed: int, arm: int) -> None:
    optimizer = record.get("optimizer", "ppo")
    label = f"{record['task']}-{name}-{optimizer}-s{seed}"
    draw = np.random.default_rng([arm, seed, len(optimizer)])
    places = {}
    for role, place in {**record["stages"], **record["judges"]}.items():
        own = f"{record['task']}-s{seed}" if role in SHARED else f"{place[1].partition('-')[0]}-{label}"
        places[role] = [place[0], own, place[2]]
        _folder(real / place[0] / "-".join(place[1:]), out / place[0] / f"{own}-{place[2]}", draw)
    made = {**record, "reward_model": name, "seed": seed, "arm": store.content_key([record["arm"], arm])[:12]}
    made |= {"stages": {role: places[role] for role in record["stages"]}}
    made |= {"judges": {role: places[role] for role in record["judges"]}}
    path = out / "cells" / f"{label}.json"
    store.write_json(path, integrity.sealed(made, path.name))


def _folder(real: Path, target: Path, draw: np.random.Generator) -> None:
    if target.exists():
        return
    target.mkdir(parents=True)
    for path in sorted(real.iterdir()):
        if change := CHANGED.get(path.name):
            store.write_rows(target / path.name, change(store.read_rows(path), draw))
        elif path.is_file() and path.name != store.MARKER:
            os.link(path, target / path.name)
    record = integrity.unsealed(store.read_json(real / store.MARKER))
    kind, label = target.parent.name, target.name.removesuffix(f"-{record['key'][: store.KEY_LENGTH]}")
    record |= {"kind": kind, "label": label, integrity.FILES: integrity.listed(target)}
    store.write_json(target / store.MARKER, integrity.sealed(record, integrity.stage_place(record)))


def _drawn(rows: Sequence[Row], draw: np.random.Generator) -> list[Row]:
    """Every prompt with what a prompt drawn at random got, at the same checkpoint and decoding."""
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault((row.get("iteration"), row.get("decoding")), []).append(row)
    found: list[Row] = []
    for group in groups.values():
        other = draw.integers(len(group), size=len(group)).tolist()
        found += [
            {**group[k], **{n: row[n] for n in OF_PROMPT if n in row}} for row, k in zip(group, other, strict=True)
        ]
    return found


CHANGED: Mapping[str, Callable[[Sequence[Row], np.random.Generator], list[Row]]] = dict.fromkeys(
    ("generations.jsonl", "verdicts.jsonl", "proxy.jsonl", "pool.jsonl"), _drawn
)
