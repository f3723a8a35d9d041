"""Every reported number follows from stored rows: a small store made by hand, and each number recomputed."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Estimate, MeasureKind
from rlhf_bench.harness.results.arms import CellFiles, arms_of
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.harness.statistics import collapse, intervals, runs
from rlhf_bench.harness.statistics.intervals import Interval

Values = dict[str, float | None]
Judge = tuple[list[tuple[str, MeasureKind, str]], Callable[[int, int], Values]]

PROMPTS = 12
CHECKPOINTS = (("sample", 4), ("sample", 8), ("greedy", 8))
GOLD: Judge = (
    [("win", "win", ""), ("gold", "level", "before"), ("before", "level", "")],
    lambda i, it: {"win": (0.0, 0.5, 1.0)[i % 3], "gold": i / 7 + it, "before": (i * i % 11) / 5},
)
EMPTY: Judge = ([("empty", "rate", "")], lambda i, it: {"empty": float(i < it / 4)})
HOLES: Judge = ([("score", "win", "")], lambda i, _: {"score": None if i % 4 == 0 else float(i % 2)})
SILENT: Judge = ([("score", "win", "")], lambda *_: {"score": None})


def make_cell(
    root: Path,
    seed: int = 0,
    judges: dict[str, Judge] | None = None,
    prompts: Sequence[int] = range(PROMPTS),
    sources: Callable[[int], str] = lambda _: "",
    shuffle: bool = False,
    settings: dict[str, str] | None = None,
) -> CellFiles:
    """A finished cell: sft/, ppo/ and verdicts/ folders with rows in the order of the prompts, or in a random one."""
    judges = {"gold": GOLD, "empty": EMPTY} if judges is None else judges
    places = [(i, decoding, iteration) for decoding, iteration in CHECKPOINTS for i in prompts]
    if shuffle:
        random.Random(seed).shuffle(places)
    folders = {role: root / role / f"x-{seed}" for role in ("prompts", "generations")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    examples = [{"id": f"t{i}", "prompt": f"p{i}", "source": sources(i)} for i in prompts]
    store.write_rows(folders["prompts"] / "examples.test.jsonl", examples)
    store.write_rows(folders["generations"] / "generations.jsonl", [_generation(seed, *place) for place in places])
    for name, (measures, values) in judges.items():
        folder = root / "verdicts" / f"{name}-{seed}"
        folder.mkdir(parents=True)
        store.write_json(folder / "measures.json", [{"name": n, "kind": k, "before": b} for n, k, b in measures])
        rows = [_verdict(i, d, it, sources(i), values(i + seed, it)) for i, d, it in places]
        store.write_rows(folder / "verdicts.jsonl", rows)
        store.write_json(folder / store.MARKER, {"params": {"judge": {"name": name, "settings": settings or {}}}})
    record = {
        "task": "words",
        "reward_model": "vowels",
        "arm": "a1",
        "seed": seed,
        "stages": {role: [role, "x", str(seed)] for role in folders},
        "judges": {name: ["verdicts", name, str(seed)] for name in judges},
    }
    return CellFiles(record, root)


def _generation(seed: int, i: int, decoding: str, iteration: int) -> dict[str, Any]:
    row = {"example_id": f"t{i}", "iteration": iteration, "decoding": decoding, "reward": 0.1 * i + seed}
    kl = {"kl": 0.01 * i * iteration} if decoding == "sample" else {}
    return {**row, **kl, "response": ["same words", "other words", ""][i % 3]}


def _verdict(i: int, decoding: str, iteration: int, source: str, values: Values) -> dict[str, Any]:
    row = {"example_id": f"t{i}", "iteration": iteration, "decoding": decoding, "source": source, "values": values}
    reason = {"reason": "no reply" if i % 8 else "cut off"} if None in values.values() else {}
    return {**row, "slices": ["even" if i % 2 == 0 else "odd"], **reason}


def estimates(*cells: CellFiles) -> list[Estimate]:
    (arm,) = arms_of(cells)
    return Estimator().arm(arm)


def one(found: Sequence[Estimate], statistic: str, **wanted: Any) -> Estimate:
    """The only estimate of a statistic; by default on all prompts, sampled, at the last checkpoint."""
    wanted = {"slice": "all", "decoding": "sample", "iteration": 8, **wanted}
    chosen = [e for e in found if e.statistic == statistic and all(getattr(e, k) == v for k, v in wanted.items())]
    assert len(chosen) == 1, [(e.judge, e.statistic) for e in chosen]
    return chosen[0]


def bounds(found: Estimate | Interval) -> tuple[float | None, ...]:
    return found.value, found.low, found.high


def test_numbers_follow_from_the_rows(tmp_path: Path) -> None:
    found = estimates(make_cell(tmp_path))
    wins = [(0.0, 0.5, 1.0)[i % 3] for i in range(PROMPTS)]
    assert bounds(one(found, "win")) == bounds(intervals.wilson(wins, 0.95))
    assert bounds(one(found, "empty", iteration=4)) == bounds(intervals.wilson([1.0] + [0.0] * 11, 0.95))
    gold = [i / 7 + 8 for i in range(PROMPTS)]
    assert one(found, "gold").value == pytest.approx(np.mean(gold))
    assert one(found, "gold", decoding="greedy").method == "BCa bootstrap"
    assert one(found, "kl", iteration=4).value == pytest.approx(0.04 * np.mean(range(PROMPTS)))
    assert one(found, "reward").value == pytest.approx(0.55)
    before = [(i * i % 11) / 5 for i in range(PROMPTS)]
    known = collapse.collapse(before, gold, np.random.default_rng(0), 0.95)
    assert one(found, "gold variance ratio").value == pytest.approx(known["variance ratio"].value)
    assert one(found, "gold ks").value == known["ks"].value
    assert bounds(one(found, "top share")) == (pytest.approx(1 / 3), None, None)
    assert all(e.seeds == (0,) and e.n_invalid == 0 for e in found)
    assert all(e.n == (PROMPTS if e.slice == "all" else PROMPTS / 2) for e in found)


def test_no_bound_lies_beyond_the_limit_of_a_change(tmp_path: Path) -> None:
    def nearly_all(i: int, _: int) -> dict[str, float]:
        return {"more": float(i < 12), "length": float(i < 12)}

    judges: dict[str, Judge] = {"refusal": ([("more", "change", ""), ("length", "change", "")], nearly_all)}
    cells = [make_cell(tmp_path / str(seed), seed, judges) for seed in range(2)]
    for cell in cells:
        path = cell.judged()["refusal"] / "measures.json"
        store.write_json(path, [{**m, "limit": 1.0 if m["name"] == "more" else None} for m in store.read_json(path)])
    limited, free = (one(estimates(*cells), name) for name in ("more", "length"))
    assert free.high is not None
    assert free.high > 1
    assert (limited.value, limited.low, limited.high) == (free.value, free.low, 1.0)
    assert "cut off at 1, the largest there can be" in limited.note
    assert "cut off" not in free.note


def change_of(gain: float) -> Judge:
    """A judge of gold that changes by `gain` on every prompt."""
    measures: list[tuple[str, MeasureKind, str]] = [
        ("gold_change", "change", ""), ("gold", "level", "gold_baseline"), ("gold_baseline", "level", "")
    ]  # fmt: skip

    def values(i: int, _: int) -> Values:
        before = (i % 5) / 4
        return {"gold_change": gain + i / 100, "gold": before + gain + i / 100, "gold_baseline": before}

    return measures, values


def test_collapsed_runs_stand_beside_a_mean_over_seeds(tmp_path: Path) -> None:
    gains = (0.2, 0.25, -0.6, 0.21, 0.22)
    cells = [make_cell(tmp_path / str(s), s, {"utility": change_of(gain)}) for s, gain in enumerate(gains)]
    found = estimates(*cells)
    share = one(found, "gold runs collapsed")
    assert bounds(share) == bounds(intervals.exact(1, 5, 0.95))
    assert "1 of 5 runs collapsed: seed 2 (-0.52)" in share.note
    assert "outlying: seed 2 (-0.52)" in share.note
    mean, over_all = one(found, "gold_change"), one(found, "gold change over all runs")
    assert (mean.low, mean.high, mean.method) == (over_all.low, over_all.high, runs.MIXTURE)
    assert "the runs have two modes: 1 of 5 runs collapsed" in mean.note
    cells = [cell for cell in cells if cell.record["seed"] != 2]
    others = estimates(*cells)
    assert bounds(one(found, "gold change of other runs")) == bounds(one(others, "gold_change"))
    assert one(others, "gold_change").method == "two-way t"
    assert bounds(one(others, "gold runs collapsed")) == bounds(intervals.exact(0, 4, 0.95))
    assert one(found, "gold runs collapsed", slice="even").value == 0.2
    assert one(found, "gold runs collapsed", decoding="greedy").value == 0.2
    assert not [e for e in estimates(cells[0]) if "runs" in e.statistic]  # one run says nothing about others


def test_slices_only_at_the_end(tmp_path: Path) -> None:
    found = estimates(make_cell(tmp_path))
    for name, start in (("even", 0), ("odd", 1)):
        wins = [(0.0, 0.5, 1.0)[i % 3] for i in range(start, PROMPTS, 2)]
        assert bounds(one(found, "win", slice=name)) == bounds(intervals.wilson(wins, 0.95))
        assert one(found, "gold wasserstein", slice=name).n == 6
    assert {e.slice for e in found if e.iteration == 4} == {"all"}


def test_the_same_rows_give_the_same_bits_in_any_order(tmp_path: Path) -> None:
    for seeds in (1, 3):
        plain, again, mixed = (
            estimates(*(make_cell(tmp_path / f"{seeds}{name}", seed, shuffle=name == "mixed") for seed in range(seeds)))
            for name in ("plain", "again", "mixed")
        )
        assert plain == again
        assert plain == mixed


def test_another_judge_moves_no_other_number(tmp_path: Path) -> None:
    fewer = estimates(make_cell(tmp_path / "fewer"))
    more = estimates(make_cell(tmp_path / "more", judges={"gold": GOLD, "empty": EMPTY, "a": HOLES}))
    assert fewer == [e for e in more if e.judge != "a"]
    assert len(more) > len(fewer)


def test_only_judges_of_every_seed_are_reported(tmp_path: Path) -> None:
    found = estimates(make_cell(tmp_path, 0), make_cell(tmp_path, 1, judges={"gold": GOLD}))
    assert {e.judge for e in found} == {"run", "gold"}


def test_undecided_cases_are_counted_named_and_bounded(tmp_path: Path) -> None:
    found = one(estimates(make_cell(tmp_path, judges={"holes": HOLES})), "score")
    decided = [float(i % 2) for i in range(PROMPTS) if i % 4]
    assert bounds(found) == bounds(intervals.wilson(decided, 0.95))
    assert (found.n, found.n_invalid) == (9, 3)
    assert "3 undecided: cut off (2), no reply (1)" in found.note
    assert "if all were 0 or all 1, the value would be 0.500 or 0.750" in found.note


def test_a_judge_that_decides_nothing(tmp_path: Path) -> None:
    found = one(estimates(make_cell(tmp_path, judges={"silent": SILENT})), "score")
    assert bounds(found) == (None, None, None)
    assert (found.n, found.n_invalid) == (0, PROMPTS)
    assert "no decided case; 12 undecided: no reply (10), cut off (2)" in found.note


def test_several_seeds(tmp_path: Path) -> None:
    found = estimates(*(make_cell(tmp_path, seed) for seed in (2, 0, 1)))
    assert all(e.seeds == (0, 1, 2) for e in found)
    gold = np.array([[(i + seed) / 7 + 8 for i in range(PROMPTS)] for seed in range(3)])
    assert bounds(one(found, "gold")) == bounds(intervals.two_way(gold, 0.95))
    empty = [[float(i + seed < 2) for i in range(PROMPTS)] for seed in range(3)]
    assert bounds(one(found, "empty")) == bounds(intervals.rate_over_seeds(empty, 0.95))
    assert one(found, "gold ks p").note.startswith("p-values of 3 seeds: ")
    ratios = [
        collapse.collapse([((i + s) ** 2 % 11) / 5 for i in range(PROMPTS)], row, np.random.default_rng(0), 0.95)
        for s, row in enumerate(gold)
    ]
    logs = [math.log(r["variance ratio"].value or 0) for r in ratios]
    assert one(found, "gold variance ratio").value == pytest.approx(math.exp(np.mean(logs)))


def test_seeds_with_partly_different_prompts(tmp_path: Path) -> None:
    judges = {"gold": GOLD, "holes": HOLES}
    found = estimates(make_cell(tmp_path, 0, judges), make_cell(tmp_path, 1, judges, range(3, PROMPTS + 1)))
    gold = np.array([[(i + seed) / 7 + 8 for i in range(3, PROMPTS)] for seed in range(2)])
    assert one(found, "gold").value == pytest.approx(gold.mean())
    assert all(e.n <= 9 for e in found)
    assert "4 prompts that only some seeds have are left out" in one(found, "gold").note
    score = one(found, "score")
    assert score.n_invalid == 2 + 3  # undecided among prompts 3 .. 11, under seeds 0 and 1
    assert "5 undecided" in score.note
    assert sum(map(int, re.findall(r"\((\d+)\)", score.note))) == 5


def test_seeds_without_a_prompt_in_common(tmp_path: Path) -> None:
    found = estimates(make_cell(tmp_path, 0, prompts=range(3)), make_cell(tmp_path, 1, prompts=range(3, 6)))
    assert all(e.value is None and e.note for e in found)
    assert "6 prompts that only some seeds have" in one(found, "win").note


def test_prompts_of_one_source_are_one_cluster(tmp_path: Path) -> None:
    apart = estimates(make_cell(tmp_path / "apart"))
    grouped = estimates(make_cell(tmp_path / "grouped", sources=lambda i: f"page {i // 3}"))
    for name in ("win", "gold", "kl", "reward"):
        assert one(apart, name).value == pytest.approx(one(grouped, name).value)
        assert bounds(one(apart, name)) != bounds(one(grouped, name)), name


def test_greedy_decoding_has_no_kl(tmp_path: Path) -> None:
    found = estimates(make_cell(tmp_path))
    assert {e.decoding for e in found if e.statistic == "kl"} == {"sample"}
    assert {e.decoding for e in found if e.statistic == "reward"} == {"sample", "greedy"}


def test_arms_are_grouped_and_ordered(tmp_path: Path) -> None:
    cells = [make_cell(tmp_path, seed) for seed in (1, 0)]
    other = CellFiles({**cells[0].record, "reward_model": "brevity"}, tmp_path)
    arms = arms_of([*cells, other])
    assert [(a.reward_model, a.seeds) for a in arms] == [("brevity", (1,)), ("vowels", (0, 1))]


def test_seeds_judged_with_other_settings_do_not_mix(tmp_path: Path) -> None:
    cells = [make_cell(tmp_path, seed, settings={"scorer": "rouge-l"} if seed else None) for seed in (0, 1)]
    with pytest.raises(BenchError, match="different settings"):
        Estimator().arm(arms_of(cells)[0])


def test_one_cell_found_twice_is_one_seed(tmp_path: Path) -> None:
    cell = make_cell(tmp_path)
    assert arms_of([cell, cell])[0].seeds == (0,)
