"""A results folder written by hand: finished cells of any size, with any text, in no time.  Nothing is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_bench.harness import store
from rlhf_bench.harness.nouns import Estimate
from rlhf_bench.harness.results.arms import Arm
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.harness.results.found import find_cells
from rlhf_bench.reports import build

ITERATIONS = (10, 20)
SLICES = ("plain", "corrected")
VERSIONS = {"python": "3.11", "torch": "2.13.0"}
WORDS = ("They", " meet", " at", " the", " station", " on", " Sunday", ".", " Ben", " brings", " a", " lamp", ".")
NAMES = ("scalar", "seq2seq-token", "seq2seq-sentence", "length-only", "copier")
GREEDY = "They meet ."
STAGES = ("sft", "prompts", "pairs", "baseline", "scale", "ppo")

Words = Callable[[str, int, int], Sequence[str]]
"""(reward model, seed, prompt) -> the words of a response."""


def plain_words(rm: str, seed: int, prompt: int) -> Sequence[str]:
    start = (len(rm) + seed + prompt) % 5
    return WORDS[start : start + 4 + prompt % 6]


@dataclass(frozen=True)
class Stored:
    """What the store holds.  `tokens` repeats every response's words so often."""

    rms: Sequence[str] = NAMES[:2]
    seeds: Sequence[int] = (1, 2)
    prompts: int = 6
    task: str = "dialogsum"
    kind: str = "generated"
    words: Words = plain_words
    prompt: Callable[[int], str] = lambda k: f"Anna: Shall we meet? ({k})\nBen: Yes, at the station."
    repeat: int = 1
    undecided: bool = True
    greedy: bool = False
    correction: str = "They meet at the market on Sunday ."
    judge_note: str = "as stored"
    versions: Sequence[str] = ("2.13.0",)
    """Of torch, by seed in turn."""


def make(root: Path, stored: Stored) -> list[Path]:
    """Write the store; returns the cell records."""
    return [_cell(root, stored, rm, seed) for rm in stored.rms for seed in stored.seeds]


def report_of(root: Path, estimator: Estimator | None = None) -> tuple[dict[str, Any], list[Any]]:
    """(report, cells) of a store, what depends on this checkout left out."""
    cells, missing = find_cells([root])
    made = build.build(cells, missing, estimator or Means(), "bench report runs --out report")
    return {**made, "key": "", "manifest": {**made["manifest"], "git_commit": ""}}, cells


@dataclass(frozen=True)
class Means(Estimator):
    """Means with an interval of +-0.1: reports can be tested while statistics change."""

    def arm(self, arm: Arm) -> list[Estimate]:
        found = []
        for judge, name, iteration, slice_name, values in _measured(arm):
            known = [value for value in values if value is not None]
            mean = sum(known) / len(known) if known else None
            ends = (None, None) if mean is None else (mean - 0.1, mean + 0.1)
            holes = len(values) - len(known)
            note = f"{holes} undecided: no answer ({holes})" if holes else ""
            found.append(
                Estimate(arm.task, arm.reward_model, arm.key, judge, name, slice_name, "sample", iteration, mean, *ends,
                         self.level, len(known) // len(arm.seeds), holes, arm.seeds, "mean", note)
            )  # fmt: skip
        return found


def _measured(arm: Arm) -> Iterator[tuple[str, str, int, str, list[float | None]]]:
    tables = {judge: [store.read_rows(cell.judged()[judge] / "verdicts.jsonl") for cell in arm.cells]
              for judge in arm.cells[0].judged()}  # fmt: skip
    runs = [store.read_rows(cell.folder("generations") / "generations.jsonl") for cell in arm.cells]
    tables["run"] = [
        [{**r, "slices": [], "values": {"kl": r.get("kl"), "reward": r["reward"]}} for r in t] for t in runs
    ]
    for judge, found in tables.items():
        rows = [row for table in found for row in table]
        for iteration in ITERATIONS:
            for name in rows[0]["values"]:
                for place in ("all", *(SLICES if iteration == ITERATIONS[-1] and judge != "run" else ())):
                    own = [r for r in rows if r["iteration"] == iteration and (place == "all" or place in r["slices"])]
                    yield judge, name, iteration, place, [r["values"][name] for r in own]


def _cell(root: Path, stored: Stored, rm: str, seed: int) -> Path:
    folders = {role: [role, f"{stored.task}-{rm}-s{seed}", "0" * 12] for role in ("scale", "ppo")}
    folders |= {role: [role, f"{stored.task}-s{seed}", "0" * 12] for role in ("sft", "prompts", "pairs", "baseline")}
    for role in STAGES:
        _stage(root, stored, folders[role], seed)
    _rows(root / "prompts" / f"{stored.task}-s{seed}-{'0' * 12}" / "examples.test.jsonl", _examples(stored))
    own = root / "ppo" / f"{stored.task}-{rm}-s{seed}-{'0' * 12}"
    _rows(own / "generations.jsonl", _generations(stored, rm, seed, ITERATIONS))
    _rows(own / "steps.jsonl", _steps())
    _rows(
        root / "baseline" / f"{stored.task}-s{seed}-{'0' * 12}" / "generations.jsonl",
        _generations(stored, "", seed, (0,)),
    )
    scale = {"scale": 1.0, "sft_samples": _SAMPLES, "pair_accuracy": 0.6 + len(rm) / 100, "rejected": {"copied": 0.25}}
    store.write_json(root / "scale" / f"{stored.task}-{rm}-s{seed}-{'0' * 12}" / "scale.json", scale)
    judges = {}
    for name, (measures, rows) in _verdicts(stored, rm, seed).items():
        judges[name] = ["verdicts", f"{name}-{stored.task}-{rm}-s{seed}", "0" * 12]
        _stage(root, stored, judges[name], seed)
        folder = root / "verdicts" / f"{judges[name][1]}-{'0' * 12}"
        store.write_json(folder / "measures.json", measures)
        _rows(folder / "verdicts.jsonl", rows)
    return _record(root, stored, rm, seed, folders, judges)


_SAMPLES = {"sum": 1.0, "length": 9.0, "negative_share": 0.1, "within_prompt_variance": 0.5, "variance": 1.0}


def _record(root: Path, stored: Stored, rm: str, seed: int, folders: dict[str, Any], judges: dict[str, Any]) -> Path:
    path = root / "cells" / f"{stored.task}-{rm}-s{seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    description = "A world made by hand." if stored.kind == "generated" else "Real dialogues."
    origin = {"kind": stored.kind, "description": description, "sha256": "ab" * 32, "license": "none"}
    spec = {"name": stored.task, "settings": {}, "sha256": "ab" * 32}
    record = {
        "task": stored.task, "home": stored.task, "evaluated": spec, "reward_model": rm, "arm": f"{stored.task}:{rm}",
        "seed": seed, "policy": "tiny", "differing": {}, "origin": origin,
        "stages": {**folders, "generations": folders["ppo"]}, "judges": judges,
        "checkpoints": {"iterations": ITERATIONS[-1], "count": len(ITERATIONS)},
    }  # fmt: skip
    store.write_json(path, record)
    return path


def _stage(root: Path, stored: Stored, place: list[str], seed: int) -> None:
    kind, label, key = place
    folder = root / kind / f"{label}-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    torch = stored.versions[stored.seeds.index(seed) % len(stored.versions)]
    figures = {
        "sft": {"sft_examples": 40, "train_examples": 20, "clipped_demonstrations": 0},
        "pairs": {"train_pairs": 20, "test_pairs": 10, "train_too_long": 0, "test_too_long": 0, "train_equal": 1,
                  "test_equal": 0, "train_chosen_longer": 0.5},
        "prompts": {"test_examples": stored.prompts},
        "verdicts": {"cases": stored.prompts * len(ITERATIONS), "undecided": 0},
    }.get(kind, {})  # fmt: skip
    store.write_json(
        folder / store.MARKER,
        {"kind": kind, "label": label, "key": key, "params": {"judge": {"name": label.partition("-")[0]}}, "inputs": {},
         "device": "cpu", "seconds": 1.5, "cpu_seconds": 1.25, "peak_memory_mb": 512.5, "figures": figures,
         "versions": {**VERSIONS, "torch": torch}, "machine": "Linux x86_64"},
    )  # fmt: skip


def _rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    store.write_rows(path, rows)


def _examples(stored: Stored) -> list[dict[str, Any]]:
    return [
        {"id": f"test-{k}", "prompt": stored.prompt(k), "completion": "They meet.", "slices": [SLICES[k % 2]]}
        for k in range(stored.prompts)
    ]


def _generations(stored: Stored, rm: str, seed: int, iterations: Sequence[int]) -> list[dict[str, Any]]:
    rows = []
    for iteration in iterations:
        for k in range(stored.prompts):
            words = [*stored.words(rm, seed, k)] * stored.repeat
            row = {
                "example_id": f"test-{k}", "iteration": iteration, "decoding": "sample", "prompt": stored.prompt(k),
                "response": "".join(words), "tokens": len(words), "finished": k != 4, "kl": iteration / 10.0,
                "reward": iteration / 20.0,
            }  # fmt: skip
            if iteration == ITERATIONS[-1]:
                row |= _tokens(words)
                row |= {"correction": stored.correction} if k == 0 and rm else {}
            rows.append(row)
            if iteration == ITERATIONS[-1] and stored.greedy:
                plain = ("example_id", "iteration", "prompt", "tokens", "finished", "reward")
                rows.append({**{name: row[name] for name in plain}, "decoding": "greedy", "response": GREEDY})
    return rows


def _tokens(words: Sequence[str]) -> dict[str, Any]:
    spans, at = [], 0
    for word in words:
        spans.append([at, at + len(word)])
        at += len(word)
    rewards = [(-1.0) ** k * (k % 4) / 3 for k in range(len(words))]
    return {"spans": [*spans, [at, at]], "token_rewards": [*rewards, 1.23456]}


def _verdicts(stored: Stored, rm: str, seed: int) -> dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    found: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
        "winrate": ([_measure("win_rate", "win")], []),
        "utility": ([_measure("gold_change", "change"), _measure("gold", "level", "gold_baseline"),
                     _measure("gold_baseline", "level")], []),
    }  # fmt: skip
    for iteration in ITERATIONS:
        for k in range(stored.prompts):
            place = {
                "example_id": f"test-{k}",
                "iteration": iteration,
                "decoding": "sample",
                "slices": [SLICES[k % 2]],
                "source": "",
            }
            before, after = (k % 5) / 5, ((k + len(rm) + seed) % 7) / 7
            hole = stored.undecided and k == 3
            verdict = (
                {"reason": "no answer", "values": {"win_rate": None}}
                if hole
                else {"values": {"win_rate": float(after > before)}}
            )
            found["winrate"][1].append(
                {**place, **verdict, "notes": {"raw": stored.judge_note, "scores": [before, after]}}
            )
            found["utility"][1].append(
                {**place, "values": {"gold_change": after - before, "gold": after, "gold_baseline": before}}
            )
    return found


def _measure(name: str, kind: str, before: str = "") -> dict[str, str]:
    return {"name": name, "kind": kind, "description": f"{name} in words", "before": before}


def _steps() -> list[dict[str, Any]]:
    return [
        {"iteration": i, "reward": 0.1 * i, "kl": 0.1 * i, "empty_share": 0.0, "truncated_share": 0.0,
         "clip_share": 0.1, "explained_variance": 0.5}
        for i in range(1, ITERATIONS[-1] + 1)
    ]  # fmt: skip
