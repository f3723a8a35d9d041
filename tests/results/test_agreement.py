"""Rank agreement of pair accuracy, best-of-n and PPO, from stored rows, and the verdicts of claims about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rlhf_bench.harness import store
from rlhf_bench.harness.plan import experiments
from rlhf_bench.harness.results import agreement, claims
from rlhf_bench.harness.results.agreement import ACCURACY, PPO, Standings, best_of
from rlhf_bench.harness.results.arms import Arm, CellFiles, arms_of
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.harness.statistics.intervals import Interval
from rlhf_bench.reports import experiments as results
from rlhf_bench.reports.ledger import analysis_tables

NAMES = ("a", "b", "c", "d", "e")
SEEDS = (1, 2, 3)


def found(noise: float = 0.1, sign: float = 1.0, seeds: Sequence[int] = SEEDS) -> Standings:
    """Five reward models whose true value is their index, under every measure."""
    rng = np.random.default_rng(0)
    worth = np.arange(len(NAMES)) * np.ones((len(seeds), 1))
    measures = {best_of(4): worth + noise * rng.normal(size=worth.shape), PPO: sign * worth}
    return Standings(NAMES, tuple(seeds), measures)


def row(standings: Standings, statistic: str = "best-of-4 with PPO") -> Interval:
    rows = {r["statistic"]: r for r in agreement.agreement(standings, Estimator())["rows"]}
    return Interval(*(rows[statistic][key] for key in ("value", "low", "high", "method", "note")))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_equal_ranks_agree_and_reversed_ones_do_not(sign: float) -> None:
    same = row(found(noise=0.0, sign=sign))
    assert same.value == pytest.approx(sign)
    assert same.low is None  # all seeds agree: their spread is unknown
    assert row(found(noise=0.0, sign=sign), "best-of-4 with PPO, other reward models").value == pytest.approx(sign)


def test_the_interval_is_over_training_seeds() -> None:
    noisy = found(noise=1.5)
    by_seed = [
        float(np.corrcoef(*(np.argsort(np.argsort(noisy.measures[m][s])) for m in (best_of(4), PPO)))[0, 1])
        for s in range(len(SEEDS))
    ]
    assert row(noisy).value == pytest.approx(np.mean(by_seed))
    assert row(noisy).method == "t over seeds"
    assert row(noisy).note == "3 seeds; 5 reward models"


def test_a_reward_model_that_was_not_measured_is_not_ranked() -> None:
    whole = found(noise=0.0)
    holes = whole.measures[best_of(4)].copy()
    holes[:, 0] = np.nan
    lacking = replace(whole, measures={**whole.measures, best_of(4): holes})
    assert row(lacking).value == pytest.approx(1.0)
    assert "4 reward models" in row(lacking).note
    measured = agreement.agreement(lacking, Estimator())["measured"]
    assert [one[best_of(4)] is None for one in measured] == [True, False, False, False, False]


# ---- from stored rows -----------------------------------------------------------------------------------------------


def arms(root: Path, gains: Mapping[str, float], optimizer: str, seeds: Sequence[int] = SEEDS) -> list[Arm]:
    """One arm per gain: PPO changes gold by it; the pool of two ranks its second sample, with gold `gain`, first."""
    cells = []
    for name, gain in gains.items():
        for seed in seeds:
            label = f"{name}-{optimizer}-{seed}"
            places = {role: [role, label, "0"] for role in ("scale", "generations", "verdicts", "prompts")}
            for role in places:
                (root / role / f"{label}-0").mkdir(parents=True)
            accuracy = None if name == "blind" else gain
            store.write_json(root / "scale" / f"{label}-0" / "scale.json", {"pair_accuracy": accuracy})
            store.write_rows(root / "prompts" / f"{label}-0" / "examples.test.jsonl", [{"id": "t", "prompt": "say"}])
            verdict = {"example_id": "t", "iteration": 3, "decoding": "sample", "values": {"gold_change": gain}}
            store.write_rows(root / "verdicts" / f"{label}-0" / "verdicts.jsonl", [verdict])
            pool = {"example_id": "t", "rewards": [0.0, 1.0], "gold": [0.0, gain], "figures": {}}
            store.write_rows(root / "generations" / f"{label}-0" / "pool.jsonl", [pool])
            record = {"task": "t", "reward_model": name, "arm": f"{name} {optimizer}", "seed": seed}
            cells.append(CellFiles({**record, "stages": places, "judges": {"utility": places["verdicts"]}}, root))
    return arms_of(cells)


GAINS = {"low": -0.2, "blind": 0.1, "high": 0.4}


def test_ranked_values_come_from_stored_rows(tmp_path: Path) -> None:
    ranked = agreement.standings(arms(tmp_path, GAINS, "ppo"), arms(tmp_path, GAINS, "best-of-n"), (2, 8))
    assert ranked is not None
    assert ranked.reward_models == ("blind", "high", "low")
    np.testing.assert_allclose(ranked.measures[PPO], [[0.1, 0.4, -0.2]] * 3)
    np.testing.assert_allclose(ranked.measures[best_of(2)], [[0.05, 0.2, -0.1]] * 3)  # the better - the mean
    assert np.isnan(ranked.measures[best_of(8)]).all()  # the pool has fewer responses
    np.testing.assert_array_equal(np.isnan(ranked.measures[ACCURACY]), [[True, False, False]] * 3)


def test_only_common_reward_models_and_seeds_are_ranked(tmp_path: Path) -> None:
    trained = arms(tmp_path, {**GAINS, "other": 1.0}, "ppo")
    some = agreement.standings(trained, arms(tmp_path, GAINS, "best-of-n", SEEDS[1:]), (2,))
    assert some is not None
    assert (some.reward_models, some.seeds) == (("blind", "high", "low"), SEEDS[1:])
    assert agreement.standings(trained, [], (2,)) is None
    two = arms(tmp_path / "two", {"low": 0.0, "high": 1.0}, "best-of-n")
    assert agreement.standings(trained, two, (2,)) is None


# ---- verdicts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sign", "seeds", "verdict"),
    [(1.0, SEEDS, "supported"), (-1.0, SEEDS, "contradicted"), (1.0, SEEDS[:1], "inconclusive")],
)
def test_the_verdict_on_agreement_follows_from_its_interval(sign: float, seeds: Sequence[int], verdict: str) -> None:
    noisy = found(noise=1.0, sign=sign, seeds=seeds)
    claim = replace(claims.find("best-of-n-predicts-ppo"), statistic="best-of-4 with PPO")
    assert results.of_analysis(claim, agreement.agreement(noisy, Estimator()), Estimator()).ruling == verdict


def test_claims_name_existing_statistics() -> None:
    for experiment in experiments.load().values():
        for run in experiment.runs:
            if run.kind == "agreement":
                names = (ACCURACY, *map(best_of, run.n), PPO)
                known = {f"{a} with {b}" for a in names for b in names}
                asked = {claim.statistic for claim in claims.of_experiment(experiment.name) if claim.run == run.name}
                assert asked <= known
                first, second = ({r.name: r for r in experiment.runs}[name] for name in run.of)
                assert (first.optimizers, second.optimizers) == (("ppo",), ("best-of-n",))
                assert (first.rms, first.set) == (second.rms, second.set)


def test_the_two_experiments_share_their_cells() -> None:
    known = experiments.load()
    (whitebox,) = known["whitebox"].runs
    preview = next(run for run in known["preview"].runs if run.name == "ppo")
    assert known["whitebox"].seeds == known["preview"].seeds
    assert set(whitebox.rms) <= set(preview.rms)
    assert (whitebox.task, whitebox.set) == (preview.task, preview.set)


def test_the_page_shows_the_ranked_values() -> None:
    tables = list(analysis_tables({"analyses": {"agreement": agreement.agreement(found(), Estimator())}}))
    assert [table.title for table in tables] == ["agreement: agreement", "What was ranked"]
    assert [line[0] for line in tables[1].rows] == list(reversed(NAMES))
