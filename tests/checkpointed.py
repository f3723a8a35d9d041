"""Cells of PPO with any checkpoints, KL and gold, written by hand: what results about curves need, and no more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf_bench.harness import store
from rlhf_bench.harness.results.arms import Arm, CellFiles

At = Callable[[int, int, int], float]
"""(seed, iteration, prompt's number) -> a number."""
MEASURES = [
    {"name": "gold", "kind": "level", "before": "gold_baseline", "better": "higher", "title": "gold",
     "shown": ["headline", "pairs"]},
    {"name": "gold_change", "kind": "change", "better": "higher", "title": "gold change",
     "shown": ["headline", "pairs"]},
    {"name": "gold_baseline", "kind": "level", "shown": []},
    {"name": "won", "kind": "win", "title": "won", "shown": ["pairs"]},
    {"name": "failed", "kind": "rate", "title": "failed", "shown": ["pairs"]},
]  # fmt: skip


@dataclass(frozen=True)
class Runs:
    """An arm's runs.  `kl`, `gold` and `start` (the SFT policy's gold) by seed, iteration and prompt."""

    rm: str = "scalar"
    iterations: Mapping[int, Sequence[int]] = field(default_factory=lambda: {1: (10, 20, 30), 2: (10, 20, 30)})
    """Checkpoints by seed."""
    kl: At = lambda _seed, iteration, _k: iteration / 10
    gold: At = lambda _seed, iteration, k: iteration / 100 + k / 50
    start: At = lambda _seed, _iteration, k: k / 50
    greedy: Sequence[int] = ()
    """Checkpoints with greedy responses too."""
    settings: Mapping[str, str] = field(default_factory=dict)
    prompts: Sequence[int] = tuple(range(12))
    text: str = "Say"
    source: Callable[[int], str] = lambda _k: ""
    judge_setting: str = ""
    optimizer: str = "ppo"
    logprob: At | None = None
    """The log-probability of a sampled response, of ten tokens then; None: none is stored."""
    temperatures: Sequence[float] = ()
    """Of the control, whose iterations are 1, 2, ..."""
    baseline: str = "k"
    """The key of the stage of the SFT policy's own responses."""


def arm(root: Path, runs: Runs, name: str = "") -> Arm:
    """The arm of these runs, written below `root`; `name` tells arms of one reward model apart."""
    key = f"{runs.rm}{name}"
    return Arm("t", runs.rm, key, tuple(_cell(root, runs, key, seed) for seed in runs.iterations))


def _cell(root: Path, runs: Runs, key: str, seed: int) -> CellFiles:
    label = f"{key}-s{seed}"
    prompts = [{"id": f"p{k}", "prompt": f"{runs.text} {k}.", "source": runs.source(k)} for k in runs.prompts]
    _rows(root / "prompts" / f"{label}-k" / "examples.test.jsonl", prompts)
    places = [(i, "sample") for i in runs.iterations[seed]] + [(i, "greedy") for i in runs.greedy]
    made: list[dict[str, Any]] = []
    verdicts: list[dict[str, Any]] = []
    for iteration, decoding in places:
        for k in runs.prompts:
            place = {"example_id": f"p{k}", "iteration": iteration, "decoding": decoding}
            kl = runs.kl(seed, iteration, k) if decoding == "sample" else None
            row = {**place, "response": "x", "kl": kl, "reward": 0.0, "tokens": 1, "finished": True}
            if runs.logprob is not None and decoding == "sample":
                row |= {"logprob": runs.logprob(seed, iteration, k), "drawn": 10}
            made.append(row)
            gold, start = runs.gold(seed, iteration, k), runs.start(seed, iteration, k)
            values = {"gold": gold, "gold_baseline": start, "gold_change": gold - start, "won": 1.0, "failed": 0.0}
            slices = ["even" if k % 2 == 0 else "odd"]
            verdicts.append({**place, "slices": slices, "source": runs.source(k), "values": values})
    generations = root / "generations" / f"{label}-k"
    _rows(generations / "generations.jsonl", made)
    params = {"temperatures": list(runs.temperatures), "temperature": 1.0}
    store.write_json(generations / store.MARKER, {"params": params, "figures": {}})
    folder = root / "verdicts" / f"utility-{label}-k"
    _rows(folder / "verdicts.jsonl", verdicts)
    store.write_json(folder / "measures.json", MEASURES)
    judge = {"name": "utility", "setting": runs.judge_setting}
    store.write_json(folder / store.MARKER, {"params": {"judge": judge}, "figures": {}})
    record = {
        "seed": seed, "task": "t", "home": "t", "reward_model": runs.rm, "policy": "tiny", "optimizer": runs.optimizer,
        "differing": dict(runs.settings),
        "stages": {role: [role, label, "k"] for role in ("prompts", "generations")}
        | {"baseline": ["baseline", f"s{seed}", runs.baseline]},
        "judges": {"utility": ["verdicts", f"utility-{label}", "k"]},
    }  # fmt: skip
    return CellFiles(record, root)


def _rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    store.write_rows(path, rows)
