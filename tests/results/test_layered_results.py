"""Stored runs in layers: prompts of each data seed, pairs of equal runs, tables, and verdicts that are not alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arms import make_arm

from rlhf_bench.harness import store
from rlhf_bench.harness.cli.power import layer_tables, pilots
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.results import contrasts
from rlhf_bench.harness.results.arms import Arm, CellFiles, arms_of
from rlhf_bench.harness.results.columns import align, read
from rlhf_bench.harness.results.contrasts import Where
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.harness.results.found import find_cells
from rlhf_bench.harness.results.sheets import Sheets, common
from rlhf_bench.harness.results.table import text
from rlhf_bench.harness.seeds import RunSeed, grid
from rlhf_bench.harness.statistics import layer_plan
from rlhf_bench.harness.statistics import layers as layered
from rlhf_bench.reports.layers import layers_table, stored

GOLD = Where("gold", "gold")
RUNS = grid((0, 1), (0, 1, 2), (0, 1))
PROMPTS = 6

Values = Callable[[RunSeed, int], float | None]


def layered_arm(root: Path, name: str, values: Values, runs: Any = RUNS, own: bool = True, source: str = "") -> Arm:
    """An arm with verdicts of one judge on prompts of each data seed (`own`), or on the same ones everywhere."""
    cells = []
    for run in runs:
        data = run.data if own else 0
        prompts = root / "prompts" / f"{name}-{data}"
        if not prompts.exists():
            prompts.mkdir(parents=True)
            rows = [{"id": f"t{at}", "prompt": f"data {data}, say {at}"} for at in range(PROMPTS)]
            store.write_rows(prompts / "examples.test.jsonl", rows)
        label = f"{name}-{run.data}-{run.reward}-{run.seed}"
        folder = root / "verdicts" / f"{label}-0"
        folder.mkdir(parents=True)
        store.write_json(folder / store.MARKER, {"params": {"judge": {"name": "gold", "settings": {}}}})
        store.write_json(folder / "measures.json", [{"name": "gold", "kind": "level", "description": "", "before": ""}])
        rows = []
        for at in range(PROMPTS):
            # the slice of an id differs between data seeds, as it does between generated worlds
            place = {
                "example_id": f"t{at}",
                "iteration": 1,
                "decoding": "sample",
                "source": source and f"{source}{at % 3}",
            }
            rows.append({**place, "slices": ["odd"] if (at + data) % 2 else [], "values": {"gold": values(run, at)}})
        store.write_rows(folder / "verdicts.jsonl", rows)
        layers = {"data": run.data, "reward": run.reward}
        record = {"task": "t", "reward_model": name, "arm": name, "seed": run.seed, "layers": layers}
        record |= {"origin": {"sha256": f"data {data}"}, "differing": {}}
        judges = {"gold": ["verdicts", label, "0"]}
        stages = {"prompts": ["prompts", name, str(data)]}
        cells.append(CellFiles({**record, "stages": stages, "judges": judges}, root))
    (arm,) = arms_of(cells)
    return arm


def noise(seed: int) -> Values:
    """Values with a spread between data seeds, reward seeds, seeds and prompts."""
    rng = np.random.default_rng(seed)
    d, r, s = rng.normal(size=3), rng.normal(size=(3, 2)), rng.normal(size=(3, 2, 2))
    p, e = rng.normal(size=(3, PROMPTS)), rng.normal(size=(3, 2, 2, PROMPTS))

    def value(run: RunSeed, at: int) -> float:
        assert run.data is not None
        assert run.reward is not None
        place = (run.data, run.reward, run.seed)
        return float(d[run.data] + r[place[:2]] + s[place] + p[run.data, at] + e[(*place, at)])

    return value


def test_prompts_of_a_data_seed_are_columns_of_their_own(tmp_path: Path) -> None:
    arm = layered_arm(tmp_path, "a", noise(0), source="s")
    assert arm.seeds == RUNS
    assert arm.shown[0] == "data 0 · reward 0 · seed 0"
    groups = [read(cell.judged()["gold"] / "verdicts.jsonl").groups["sample", 1] for cell in arm.cells]
    part = align(groups, blocks=arm.drawn)
    cells = part.matrix("gold")
    assert cells.shape == (12, 3 * PROMPTS)
    assert int(np.isnan(cells).sum()) == part.absent == 12 * 2 * PROMPTS
    assert part.left_out == 0
    for s, run in enumerate(RUNS):
        assert run.data is not None
        own = cells[s, run.data * PROMPTS : (run.data + 1) * PROMPTS]
        assert own.tolist() == [noise(0)(run, at) for at in range(PROMPTS)]
    assert len(set(part.sources())) == 9  # three sources in each of three worlds
    # a slice has the prompts that are in it under their own data seed
    odd = align(groups, "odd", blocks=arm.drawn)
    assert (len(odd.ids), odd.left_out) == (3 * PROMPTS // 2, 0)
    table = Sheets().of(arm, "gold")
    shared = common([table], ["gold"])
    assert np.array_equal(shared.cells[0], cells, equal_nan=True)
    assert (shared.absent, len(set(shared.clusters))) == (part.absent, 9)


def test_shared_prompts_are_crossed_with_data_seeds(tmp_path: Path) -> None:
    arm = layered_arm(tmp_path, "a", noise(0), own=False, source="s")
    shared = common([Sheets().of(arm, "gold")], ["gold"])
    assert shared.cells[0].shape == (12, PROMPTS)
    assert (shared.absent, set(shared.clusters)) == (0, {"s0", "s1", "s2"})
    assert len(set(arm.drawn)) == 1


def test_estimates_are_over_the_layers_and_count_no_prompt_of_other_data(tmp_path: Path) -> None:
    arm = layered_arm(tmp_path, "a", lambda run, at: None if (run.seed, at) == (0, 0) else noise(1)(run, at))
    tables = [read(cell.judged()["gold"] / "verdicts.jsonl") for cell in arm.cells]
    from rlhf_bench.harness.nouns import Measure

    found = list(Estimator()._judge(arm, "gold", [Measure("gold", "level")], tables, [{}] * 12))
    (whole,) = [one for one in found if one.slice == "all"]
    shared = common([Sheets().of(arm, "gold")], ["gold"])
    expected = layered.interval("level", shared.cells[0], 0.95, np.random.default_rng(0), None, shared.layers)
    assert (whole.value, whole.low, whole.high) == (expected.value, expected.low, expected.high)
    assert (whole.n, whole.n_invalid) == (round(PROMPTS - 0.5), 6)
    assert "6 undecided" in whole.note
    assert whole.seeds == arm.shown
    assert whole.method == "nested t"


def test_runs_pair_where_all_of_their_seeds_are_equal(tmp_path: Path) -> None:
    a = layered_arm(tmp_path, "a", noise(0))
    b = layered_arm(tmp_path, "b", lambda run, at: noise(0)(run, at) - 1, runs=RUNS[2:])
    found = contrasts.difference(a, b, GOLD, Estimator())
    assert found.value == pytest.approx(1)
    assert contrasts.by_seed(a, b, GOLD) == pytest.approx([1.0] * 10)
    both = contrasts.paired(a, b, GOLD)
    assert both.layers is not None
    assert both.layers["data seed"] == [run.data for run in RUNS[2:]]
    plain = make_arm(tmp_path / "plain", "c", lambda *_: 0.0, (0, 1))
    with pytest.raises(BenchError, match="no training seed in common"):
        contrasts.paired(a, plain, GOLD)


def test_arms_that_a_judge_measured_with_different_settings_are_not_compared(tmp_path: Path) -> None:
    a = make_arm(tmp_path, "a", lambda *_: 1.0, (1, 2))
    b = make_arm(tmp_path, "b", lambda *_: 0.0, (1, 2), settings={"threshold": 2})
    for compare in (contrasts.difference, contrasts.head_to_head):
        with pytest.raises(BenchError, match="a and b on t: the judge 'gold' measured them with different settings"):
            compare(a, b, GOLD, Estimator())
    with pytest.raises(BenchError, match="different settings"):
        contrasts.by_seed(a, b, GOLD)


def test_a_table_says_where_the_spread_comes_from_and_power_plans_from_it(tmp_path: Path) -> None:
    arm = layered_arm(tmp_path, "a", noise(3))
    (pilot,) = pilots([arm], GOLD, "", "")
    assert pilot.layers is not None
    found = layer_plan.spread(pilot.cells, pilot.layers, pilot.clusters)
    assert found is not None
    assert found.own_prompts
    assert found.levels == {"data seed": 3, "reward seed": 6, "seed": 12, "prompt": 18}
    row = {"task": "t", "label": "a", "title": "gold", **stored(found)}
    table = layers_table({"layers": [row]})
    assert table.columns[3:8] == ("data", "reward model", "PPO", "prompts", "prompt by run")
    shares = [float(text(entry).partition("%")[0]) for entry in table.rows[0][3:8]]
    assert sum(shares) == pytest.approx(100, abs=3)
    assert "add" in text(table.rows[0][-1])
    assert layers_table({}).rows == []
    sources, designs = layer_tables(found, "gold", 4.0, 0.95)
    assert len(sources.rows) == 5
    assert len(designs.rows) == 4
    assert "4 wide" in designs.title


@pytest.mark.parametrize("layers", [3, {"data": -1}, {"data": "x"}, {"other": 1}])
def test_a_record_with_other_layers_is_left_out(tmp_path: Path, layers: Any) -> None:
    from stored import Stored, make

    path = make(tmp_path, Stored())[0]
    store.write_json(path, {**store.read_json(path), "layers": layers})
    cells, missing = find_cells([path])
    assert not cells
    assert "'layers" in missing[0]


def test_arms_with_plain_seeds_and_with_layers_are_told_apart_and_data_are_named_once(tmp_path: Path) -> None:
    from rlhf_bench.harness.results.frontiers import place_of
    from rlhf_bench.reports.build import origins
    from rlhf_bench.reports.labels import labels_of

    arm = layered_arm(tmp_path, "a", noise(0))
    for cell in arm.cells:
        cell.record["origin"]["description"] = "A world."  # type: ignore[index]
        cell.record.update(policy="tiny", home="t")  # type: ignore[attr-defined]
    plain = make_arm(tmp_path / "plain", "a", lambda *_: 0.0, (0, 1))
    for cell in plain.cells:
        cell.record.update(differing={}, policy="tiny", home="t", arm="plain")  # type: ignore[attr-defined]
    both = [arm, Arm("t", "a", "plain", plain.cells)]
    assert labels_of(both) == {"a": "a (data x reward seeds)", "plain": "a"}
    assert labels_of(both[:1]) == {"a": "a"}
    assert place_of(both[0]) != place_of(both[1])
    (origin,) = origins(arm.cells)
    assert origin["description"] == "A world. Drawn anew by 3 data seeds; the hash is of the first."
    assert origin["sha256"] == "data 0"
