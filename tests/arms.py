"""Arms of finished cells whose verdicts a test chooses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlhf_bench.harness import store
from rlhf_bench.harness.results.arms import Arm, CellFiles, arms_of


def make_arm(
    root: Path,
    name: str,
    values: Callable[[int, int], float | None],
    seeds: tuple[int, ...],
    prompt: str = "say",
    settings: dict[str, Any] | None = None,
    task: str = "t",
) -> Arm:
    """An arm with verdicts of one judge, of 10 prompts at two checkpoints; `settings` are the judge's."""
    (root / "prompts" / f"{name}-0").mkdir(parents=True)
    examples = [{"id": f"t{i}", "prompt": f"{prompt} {i}"} for i in range(10)]
    store.write_rows(root / "prompts" / f"{name}-0" / "examples.test.jsonl", examples)
    cells = []
    for seed in seeds:
        folder = root / "verdicts" / f"{name}-{seed}"
        folder.mkdir(parents=True)
        store.write_json(folder / store.MARKER, {"params": {"judge": {"name": "gold", "settings": settings or {}}}})
        store.write_json(folder / "measures.json", [{"name": "gold", "kind": "level", "description": "", "before": ""}])
        rows: list[dict[str, Any]] = []
        for iteration in (1, 2):
            for i in range(10):
                value = values(i, seed) if iteration == 2 else -99.0
                place = {"example_id": f"t{i}", "iteration": iteration, "decoding": "sample"}
                reason = {"reason": "?"} if value is None else {}
                rows.append({**place, "slices": ["even"] if i % 2 == 0 else [], "values": {"gold": value}, **reason})
        store.write_rows(folder / "verdicts.jsonl", rows)
        record = {"task": task, "reward_model": name, "arm": name, "seed": seed}
        judges = {"gold": ["verdicts", name, str(seed)]}
        cells.append(CellFiles({**record, "stages": {"prompts": ["prompts", name, "0"]}, "judges": judges}, root))
    (arm,) = arms_of(cells)
    return arm
