"""Reward models against each other: every row follows from stored verdicts, and each number is computed again."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_bench.harness import store
from rlhf_bench.harness.results import sheets
from rlhf_bench.harness.results.arms import CellFiles, arms_of
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.harness.results.table import Cell, text
from rlhf_bench.harness.statistics import comparisons, intervals, power
from rlhf_bench.harness.statistics.length_control import length_controlled
from rlhf_bench.harness.statistics.ranking import rank
from rlhf_bench.reports import comparison as report

PROMPTS = 24
Values = Callable[[int, int, int], dict[str, float | None]]  # of (arm, seed, prompt)
JUDGES: dict[str, tuple[list[tuple[str, str]], Values]] = {
    "utility": ([("gold", "level")], lambda a, s, i: {"gold": ((i * 7 + s * 3 + a * 5) % 13) / 13 + a / 20}),
    "winrate": ([("win_rate", "win")], lambda a, s, i: {"win_rate": (0.0, 0.5, 1.0, 1.0)[(i + s + a * i) % 4]}),
    "length": (
        [("length_change", "change"), ("length", "level")],
        lambda a, s, i: {"length_change": float((i * 5 + s + a) % 9 - 4), "length": 9.0},
    ),
}


def make_cell(
    root: Path,
    arm: int,
    seed: int,
    values: dict[str, Values] | None = None,
    prompts: Sequence[int] = range(PROMPTS),
    sources: Callable[[int], str] = lambda _: "",
    task: str = "words",
    data: str = "",
    settings: str = "",
) -> CellFiles:
    """A finished cell with verdicts at two checkpoints; the first must never be read."""
    for name, (measures, made) in JUDGES.items():
        made = (values or {}).get(name, made)
        folder = root / "verdicts" / f"{name}-{arm}-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        store.write_json(folder / "measures.json", [{"name": n, "kind": k, "before": ""} for n, k in measures])
        rows = []
        for iteration in (4, 8):
            for i in prompts:
                found = made(arm, seed, i) if iteration == 8 else dict.fromkeys((n for n, _ in measures), 99.0)
                row = {"example_id": f"t{i}", "iteration": iteration, "decoding": "sample", "source": sources(i)}
                reason = {"reason": "no reply"} if None in found.values() else {}
                rows.append({**row, "slices": [], "values": found, **reason})
        store.write_rows(folder / "verdicts.jsonl", rows)
        store.write_json(folder / store.MARKER, {"params": {"judge": {"name": name, "settings": settings}}})
    judges = {name: ["verdicts", name, f"{arm}-{seed}"] for name in JUDGES}
    examples = root / "prompts" / f"x-{data}"
    examples.mkdir(parents=True, exist_ok=True)
    store.write_rows(examples / "examples.test.jsonl", [{"id": f"t{i}", "prompt": f"{data} {i}"} for i in prompts])
    record = {"task": task, "reward_model": f"rm{arm}", "arm": f"a{arm}", "seed": seed, "judges": judges}
    record["stages"] = {"prompts": ["prompts", "x", data]}
    return CellFiles(record, root)


def compared(cells: Sequence[CellFiles]) -> dict[str, list[dict[str, Any]]]:
    arms = arms_of(cells)
    found = report.comparison(arms, {arm.key: arm.reward_model for arm in arms}, Estimator())
    json.dumps(found, allow_nan=False)
    return found


def grid(name: str, arm: int, seeds: int, measure: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    values = JUDGES[name][1]
    ids = sorted(range(PROMPTS), key=lambda i: f"t{i}")
    rows = [[values(arm, seed, i)[measure] for i in ids] for seed in range(seeds)]
    return np.array(rows, dtype=np.float64)


def pick(rows: Sequence[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    (found,) = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return found


@pytest.mark.parametrize("seeds", [1, 3])
def test_pairs_follow_from_the_rows(tmp_path: Path, seeds: int) -> None:
    found = compared([make_cell(tmp_path, arm, seed) for arm in range(3) for seed in range(seeds)])["pairs"]
    shown = {("utility", "gold"), ("winrate", "win_rate"), ("length", "length_change")}
    assert {(row["judge"], row["statistic"]) for row in found} == shown
    assert len(found) == 3 * 3
    for judge, statistic, kind in (("utility", "gold", "level"), ("winrate", "win_rate", "win")):
        rows = [row for row in found if row["judge"] == judge]
        assert [row["p_holm"] for row in rows] == comparisons.holm([row["p"] for row in rows])
        for row in rows:
            a, b = (grid(judge, int(row[key][1:]), seeds, statistic) for key in "ab")
            rng = Estimator().generator("pair", row["a"], row["b"], judge, statistic)
            known = comparisons.difference(a, b, kind, 0.95, rng)  # type: ignore[arg-type]
            assert (row["value"], row["low"], row["high"]) == (known.value, known.low, known.high)
            assert (row["seeds"], row["prompts"]) == (seeds, PROMPTS)
            components = power.components(a - b)
            assert components is not None
            assert row["smallest_detectable"] == power.smallest_detectable(components, seeds, PROMPTS)
            if seeds > 1:
                assert row["p"] == comparisons.two_way_p(a - b).value
                assert row["different"] is (row["p_holm"] < 0.05)
            elif kind == "win":
                assert row["p"] == comparisons.mcnemar_exact(a[0], b[0]).value


def test_one_seed_compares_runs_not_reward_models(tmp_path: Path) -> None:
    apart: dict[str, Values] = {"utility": lambda a, _, i: {"gold": a + i % 3 / 10}}
    row = compared([make_cell(tmp_path, arm, 0, apart) for arm in range(2)])["pairs"][1]
    assert row["statistic"] == "gold"
    assert row["p"] < 0.001
    assert row["different"] is None
    assert "not the reward models" in row["note"]
    assert "cannot be said" in report.pairs_table([row]).rows[0]


def test_sources_are_clusters(tmp_path: Path) -> None:
    """Whole sources are resampled and flipped, and McNemar's test, which knows none, is not used."""
    cells = [make_cell(tmp_path, arm, 0, sources=lambda i: f"s{i // 4}") for arm in range(2)]
    found = compared(cells)["pairs"]
    assert {row["p_method"] for row in found} == {"sign-flip permutation"}
    gold = pick(found, judge="utility")
    names = [f"s{int(i[1:]) // 4}" for i in sorted(f"t{i}" for i in range(PROMPTS))]
    a, b = (grid("utility", arm, 1, "gold") for arm in range(2))
    rng = Estimator().generator("pair", "a0", "a1", "utility", "gold")
    known = comparisons.difference(a, b, "level", 0.95, rng, names)
    assert (gold["value"], gold["low"], gold["high"]) == (known.value, known.low, known.high)
    assert gold["p"] == comparisons.permutation_p(a[0] - b[0], rng, clusters=names).value


def test_only_common_seeds_and_prompts_are_compared(tmp_path: Path) -> None:
    cells = [
        make_cell(tmp_path, 0, 0),
        make_cell(tmp_path, 0, 1),
        make_cell(tmp_path, 1, 1, prompts=range(20)),
    ]
    found = compared(cells)
    assert {(row["seeds"], row["prompts"]) for row in found["pairs"]} == {(1, 20)}
    assert {(row["seeds"], row["prompts"]) for row in found["ranking"]} == {(1, 20)}
    apart = compared([make_cell(tmp_path / "x", 0, 0), make_cell(tmp_path / "x", 1, 1)])
    assert {(row["value"], row["p"], row["note"]) for row in apart["pairs"]} == {(None, None, sheets.NO_SEED)}
    assert {row["note"] for row in apart["ranking"]} == {sheets.NO_SEED}


def test_other_prompts_of_the_same_ids_are_not_paired(tmp_path: Path) -> None:
    found = compared([make_cell(tmp_path, arm, 0, data=f"data{arm}") for arm in range(2)])
    assert {(row["value"], row["note"]) for row in found["pairs"]} == {(None, sheets.NO_PROMPT)}
    assert {row["note"] for row in found["ranking"]} == {sheets.NO_PROMPT}


def test_verdicts_of_a_judge_with_other_settings_are_not_compared(tmp_path: Path) -> None:
    found = compared([make_cell(tmp_path, arm, 0, settings=f"model {arm}") for arm in range(2)])
    for row in (*found["pairs"], *found["ranking"]):
        assert row["value"] is None
        assert "with different settings" in row["note"]


def test_tasks_are_never_mixed(tmp_path: Path) -> None:
    cells = [make_cell(tmp_path / task, arm, 0, task=task) for task in ("one", "two") for arm in range(2)]
    found = compared(cells)
    assert len(found["pairs"]) == 2 * 3
    assert {row["task"] for row in found["pairs"]} == {"one", "two"}


@pytest.mark.parametrize("seeds", [1, 3])
def test_rankings_follow_from_the_rows(tmp_path: Path, seeds: int) -> None:
    found = compared([make_cell(tmp_path, arm, seed) for arm in range(3) for seed in range(seeds)])["ranking"]
    rng = Estimator().generator("ranking", "a0", "a1", "a2", "utility", "gold")
    known = rank([grid("utility", arm, seeds, "gold") for arm in range(3)], 0.95, rng)
    rows = [row for row in found if row["judge"] == "utility"]
    assert [row["value"] for row in rows] == sorted((row["value"] for row in rows), reverse=True)
    for row in rows:
        one = known.strengths[int(row["arm"][1:])]
        assert (row["value"], row["low"], row["high"]) == (one.value, one.low, one.high)
    assert sum(row["first"] for row in rows) == pytest.approx(1)


@pytest.mark.parametrize("seeds", [1, 3])
def test_length_controlled_rates_stand_beside_the_raw(tmp_path: Path, seeds: int) -> None:
    found = compared([make_cell(tmp_path, arm, seed) for arm in range(2) for seed in range(seeds)])
    assert len(found["length_controlled"]) == 2
    for arm, row in enumerate(found["length_controlled"]):
        wins, lengths = grid("winrate", arm, seeds, "win_rate"), grid("length", arm, seeds, "length_change")
        rng = Estimator().generator("length", f"a{arm}", "winrate", "win_rate")
        known = length_controlled(wins, lengths, 0.95, rng)
        raw = intervals.interval("win", wins, 0.95, np.random.default_rng(0))
        assert (row["value"], row["low"], row["high"]) == (known.value, known.low, known.high)
        assert (row["raw"]["value"], row["raw"]["low"], row["raw"]["high"]) == (raw.value, raw.low, raw.high)


def test_undecided_cases_are_counted_and_named(tmp_path: Path) -> None:
    holes: dict[str, Values] = {"winrate": lambda a, _, i: {"win_rate": None if a and i < 3 else float(i % 2)}}
    found = compared([make_cell(tmp_path, arm, 0, holes) for arm in range(2)])
    row = pick(found["pairs"], judge="winrate")
    assert "3 cases undecided for one of the two: no reply (3)" in row["note"]
    assert row["prompts"] == PROMPTS - 3


@pytest.mark.parametrize("value", [None, 0.5, 1.0])
@pytest.mark.parametrize("seeds", [1, 2])
def test_constant_and_undecided_data_are_said_not_computed(tmp_path: Path, value: float | None, seeds: int) -> None:
    made: dict[str, Values] = {
        "utility": lambda *_: {"gold": value},
        "winrate": lambda *_: {"win_rate": value},
        "length": lambda *_: {"length_change": value, "length": value},
    }
    cells = [make_cell(tmp_path, arm, seed, made) for arm in range(3) for seed in range(seeds)]
    found = compared(cells)
    for row in found["pairs"]:
        assert row["different"] in (None, False)
        assert row["smallest_detectable"] is None
        assert row["note"]
    for row in found["ranking"]:
        assert (row["value"], row["low"]) == (None if value is None else 0, None)
        assert row["note"]
    for table in report.tables(found):
        written = [text(entry) for line in table.rows for entry in line]
        assert all("nan" not in entry and "inf" not in entry for entry in written)


def test_one_arm_alone_has_only_its_length_controlled_rate(tmp_path: Path) -> None:
    found = compared([make_cell(tmp_path, 0, 0)])
    assert (found["pairs"], found["ranking"], len(found["length_controlled"])) == ([], [], 1)
    assert [table.title for table in report.tables(found)] == ["Win rates at equal length"]


def test_a_judge_that_did_not_see_every_seed_is_left_out(tmp_path: Path) -> None:
    cells = [make_cell(tmp_path, arm, seed) for arm in range(2) for seed in range(2)]
    record = {**cells[0].record, "judges": {"utility": cells[0].record["judges"]["utility"]}}
    found = compared([CellFiles(record, cells[0].root), *cells[1:]])
    assert {row["judge"] for row in found["pairs"]} == {"utility"}


def test_tables_show_every_row(tmp_path: Path) -> None:
    found = compared([make_cell(tmp_path, arm, seed) for arm in range(3) for seed in range(2)])
    tables = report.tables(found)
    assert [len(table.rows) for table in tables] == [len(found[k]) for k in ("pairs", "ranking", "length_controlled")]
    for table in tables:
        assert {len(row) for row in table.rows} == {len(table.columns)}
    assert text(Cell(0.0004, format="p")) == "<0.001"
    assert text(Cell(0.04, format="p")) == "0.040"
    assert text(Cell(None, format="p")) == "–"
    assert not math.isnan(found["pairs"][0]["value"])


def test_the_same_rows_give_the_same_bits_in_any_order(tmp_path: Path) -> None:
    cells = [make_cell(tmp_path, arm, seed) for arm in range(3) for seed in range(2)]
    assert compared(cells) == compared(cells[::-1])
