"""Proxy against gold, from stored rows: arrays by hand, estimates equal to those of their functions, tables."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_bench.harness import store
from rlhf_bench.harness.results.arms import Arm, CellFiles
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.harness.results.proxy_curves import curves_of
from rlhf_bench.harness.results.proxy_estimates import proxy_estimates
from rlhf_bench.harness.results.table import Cell, text
from rlhf_bench.harness.statistics import best_of_n, gao
from rlhf_bench.reports import proxy
from rlhf_bench.reports.figures import Look

IDS = tuple(f"p{i}" for i in range(12))
ITERATIONS = (2, 3, 4)
SLICES = {name: ["open" if at % 2 else "closed"] for at, name in enumerate(IDS)}


def gold_at(seed: int, iteration: int, at: int) -> float:
    """Rises, then falls and rises again; differs by prompt and seed."""
    return {0: 0.1, 2: 0.5, 3: 0.2, 4: 0.3}[iteration] + 0.01 * at + 0.05 * seed


def proxy_at(seed: int, iteration: int, at: int) -> float:
    return iteration + 0.1 * at + 0.2 * seed


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    store.write_rows(path, rows)


def cell(
    root: Path, seed: int, rm: str = "fake", worth: str = "gold", judged: bool = True, shift: float = 0.0
) -> CellFiles:
    """A cell of PPO with three checkpoints, on disk."""
    label = f"{rm}-s{seed}"
    place = {role: [role, label, "k"] for role in ("prompts", "generations", "proxy", "scale")}
    prompts = [{"id": i, "prompt": f"Say {i}.", "slices": SLICES[i]} for i in IDS]
    write(root / "prompts" / f"{label}-k" / "examples.test.jsonl", prompts)
    points = list(itertools.product(ITERATIONS, enumerate(IDS)))
    rows = [
        {"example_id": i, "iteration": it, "decoding": "sample", "reward": proxy_at(seed, it, at), "kl": it / 10}
        for it, (at, i) in points
    ]
    write(
        root / "generations" / f"{label}-k" / "generations.jsonl",
        [*rows, {**rows[0], "decoding": "greedy", "reward": -9}],
    )
    asked = [
        {"example_id": i, "iteration": it, "figures": {"li": it / 4 + at / 100}}
        | ({"reward": proxy_at(seed, 0, at)} if it == 0 else {})
        for it in (0, 4)
        for at, i in enumerate(IDS)
    ]
    write(root / "proxy" / f"{label}-k" / "proxy.jsonl", asked)
    verdicts = [
        {
            "example_id": i, "iteration": it, "decoding": "sample", "slices": SLICES[i],
            "values": {
                worth: gold_at(seed, it, at) + shift, f"{worth}_baseline": gold_at(seed, 0, at),
                f"{worth}_change": gold_at(seed, it, at) + shift - gold_at(seed, 0, at),
            },
        }
        for it, (at, i) in points
    ]  # fmt: skip
    write(root / "verdicts" / f"utility-{label}-k" / "verdicts.jsonl", verdicts)
    (root / "scale" / f"{label}-k").mkdir(parents=True, exist_ok=True)
    store.write_json(root / "scale" / f"{label}-k" / "scale.json", {"pair_accuracy": 0.5 + shift})
    judges = {"utility": ["verdicts", f"utility-{label}", "k"]} if judged else {}
    record = {"seed": seed, "task": "t", "reward_model": rm, "stages": place, "judges": judges}
    return CellFiles(record, root)


def arm_of(root: Path, seeds: tuple[int, ...] = (1, 2), rm: str = "fake", **more: Any) -> Arm:
    return Arm("t", rm, f"{root.name}-{rm}", tuple(cell(root, seed, rm, **more) for seed in seeds))


def test_a_curve_begins_with_the_baseline(tmp_path: Path) -> None:
    curves = curves_of(arm_of(tmp_path))
    assert curves is not None
    assert curves.points == (0, *ITERATIONS)
    assert curves.ids == tuple(sorted(IDS))
    for (s, seed), (c, point), (p, name) in itertools.product(
        enumerate((1, 2)), enumerate(curves.points), enumerate(curves.ids)
    ):
        at = IDS.index(name)
        assert curves.proxy[s, c, p] == pytest.approx(proxy_at(seed, point, at))
        assert curves.kl[s, c, p] == point / 10
        assert curves.gold is not None
        assert curves.gold[s, c, p] == pytest.approx(gold_at(seed, point, at))
    assert curves.slices[0] == ("closed",)
    assert curves.features.before["li"].mean() < curves.features.after["li"].mean()


def test_estimates_are_those_of_their_functions(tmp_path: Path) -> None:
    arm, estimator = arm_of(tmp_path), Estimator()
    found = {(e.statistic, e.slice, e.iteration): e for e in proxy_estimates(arm, estimator)}
    curves = curves_of(arm)
    assert curves is not None
    assert curves.gold is not None
    for at, point in enumerate(curves.points):
        assert found["gold", "all", point].value == pytest.approx(curves.gold[:, at].mean())
        assert found["reward", "all", point].value == pytest.approx(curves.proxy[:, at].mean())
    last = curves.points[-1]
    assert found["fall from the middle", "all", last].value == pytest.approx(0.2)
    assert "from 2, fixed beforehand" in found["fall from the middle", "all", last].note
    # gold .5 .2 .3 against a rising proxy; with the SFT policy's .1 it would be .4
    assert found["spearman", "all", last].value == pytest.approx(-0.5)
    assert found["spearman within prompts", "all", last].value == pytest.approx(-0.5)
    rng = np.random.default_rng(0)
    fitted = gao.fit("rl", curves.kl, curves.gold - curves.gold[:, :1], 0.95, rng)
    assert found["gao a", "all", last].value == pytest.approx(fitted.a.value)
    for slice_name in ("all", "open", "closed"):
        assert found["li change", slice_name, last].value == pytest.approx(1.0)
    assert {e.judge for e in found.values()} == {"proxy"}


def test_a_score_is_not_called_gold(tmp_path: Path) -> None:
    names = {e.statistic for e in proxy_estimates(arm_of(tmp_path, worth="score"), Estimator())}
    assert "score" in names
    assert "score peak" in names
    assert not {"gold", "gold peak"} & names


def test_without_gold_and_score_curves_hold_the_proxy_alone(tmp_path: Path) -> None:
    names = {e.statistic for e in proxy_estimates(arm_of(tmp_path, judged=False), Estimator())}
    assert names == {"reward", "kl", "li before", "li after", "li change"}


def test_arms_of_an_earlier_version_have_no_curve(tmp_path: Path) -> None:
    arm = arm_of(tmp_path)
    for one in arm.cells:
        del one.record["stages"]["proxy"]  # type: ignore[attr-defined]
    assert curves_of(arm) is None
    assert list(proxy_estimates(arm, Estimator())) == []


# ---- best-of-n ------------------------------------------------------------------------------------------------------


def pool_arm(root: Path, gold: bool = True) -> tuple[Arm, list[np.ndarray[Any, Any]]]:
    """Two seeds of a pool of 8; the arrays are reward and gold by seed."""
    cells, arrays = [], []
    for seed in (1, 2):
        rng = np.random.default_rng(seed)
        values = rng.normal(size=(3, len(IDS), 8)).round(2)
        folder = root / "generations" / f"pool-s{seed}-k"
        rows = [
            {
                "example_id": i,
                "rewards": values[0, at].tolist(),
                "figures": {"sum": [0.0] * 8, "li": values[2, at].tolist()},
            }
            | ({"gold": values[1, at].tolist()} if gold else {})
            for at, i in enumerate(IDS)
        ]
        write(folder / "pool.jsonl", rows)
        store.write_json(folder / store.MARKER, {"params": {"best_of_n": {"n": [1, 2, 8], "pool": 8}}})
        write(root / "prompts" / f"pool-s{seed}-k" / "examples.test.jsonl", [{"id": i, "prompt": i} for i in IDS])
        place = {role: [role, f"pool-s{seed}", "k"] for role in ("prompts", "generations", "pool")}
        cells.append(CellFiles({"seed": seed, "task": "t", "reward_model": "f", "stages": place, "judges": {}}, root))
        arrays.append(values)
    return Arm("t", "f", "pool", tuple(cells)), arrays


def test_points_of_best_of_n_are_unbiased_over_the_pool(tmp_path: Path) -> None:
    arm, arrays = pool_arm(tmp_path)
    curves = curves_of(arm)
    assert curves is not None
    assert curves.points == (1, 2, 8)
    order = [IDS.index(i) for i in curves.ids]
    for s, (reward, gold, li) in enumerate(arrays):
        for c, n in enumerate(curves.points):
            assert curves.gold is not None
            assert curves.gold[s, c] == pytest.approx(best_of_n.expected(reward, gold, n)[order])
            assert curves.proxy[s, c] == pytest.approx(best_of_n.expected(reward, reward, n)[order])
            assert (curves.kl[s, c] == best_of_n.kl_bound(n)).all()
        assert curves.features.after["li"][s] == pytest.approx(best_of_n.expected(reward, li, 8)[order])
    assert list(curves.features.before) == ["li"]  # figures that every reward model has are left out
    assert curves.samples is not None
    assert curves.samples[1].shape == (2, len(IDS), 8)


def test_a_pool_without_gold_has_no_gold(tmp_path: Path) -> None:
    names = {e.statistic for e in proxy_estimates(pool_arm(tmp_path, gold=False)[0], Estimator())}
    assert names == {"reward", "kl", "li before", "li after", "li change"}


# ---- tables ---------------------------------------------------------------------------------------------------------


def test_tables_show_the_estimates(tmp_path: Path) -> None:
    from dataclasses import asdict

    arm = arm_of(tmp_path)
    before = [{"sft_samples": {"variance": 4.0}}, {"sft_samples": {"variance": 4.0}}]
    shown = {"task": "t", "arm": arm.key, "label": "fake", "seeds": [1, 2], "optimizer": "ppo", "before": before}
    report = {"arms": [shown], "estimates": [asdict(e) for e in proxy_estimates(arm, Estimator())]}
    (row,) = proxy.monotonicity(report).rows
    assert row[:3] == ("t", "fake", Cell(2, format="count"))
    assert text(row[3]).startswith("-0.50")
    assert [r[2] for r in proxy.points(report).rows] == [f"iteration {at}" for at in (0, *ITERATIONS)]
    assert [(r[2], r[3]) for r in proxy.features(report).rows] == [
        (place, "li (length)") for place in ("all", "closed", "open")
    ]
    charts = [c for c in proxy.proxy_charts(report, "t", {"fake": Look(0)}) if c]
    assert len(charts) == 2
    assert "square root of KL" in charts[0]["title"]
    nothing = {**report, "estimates": []}
    assert not proxy.monotonicity(nothing).rows
    assert [c for c in proxy.proxy_charts(nothing, "t", {"fake": Look(0)}) if c] == []
