"""The ledger: verdicts follow from intervals, comparisons from stored rows, and every claim has its experiment."""

from __future__ import annotations

import math
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arms import make_arm
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from rlhf_bench.harness import plugins, store
from rlhf_bench.harness.cli.claims import claims as bench_claims
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Estimate
from rlhf_bench.harness.plan import experiments
from rlhf_bench.harness.plan.judges import DEFAULT_JUDGES
from rlhf_bench.harness.results import claims, contrasts
from rlhf_bench.harness.results.contrasts import Where
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.harness.results.result_files import whole_ledger
from rlhf_bench.harness.results.table import Cell
from rlhf_bench.harness.stages.spread import METHODS
from rlhf_bench.harness.statistics import comparisons, intervals
from rlhf_bench.harness.statistics.intervals import Interval
from rlhf_bench.reports import verdicts
from rlhf_bench.reports.ledger import without_folder
from rlhf_bench.reports.tables import TABLES

CLAIM = claims.Claim("c", "text", "source", "", "headline", "a", "gold", "gold", "above", threshold=0.5)
NUMBERS = st.floats(-10, 10, allow_nan=False)


@given(NUMBERS, NUMBERS, st.sampled_from(["above", "below"]))
def test_the_verdict_is_the_side_that_the_whole_interval_lies_on(x: float, y: float, side: str) -> None:
    low, high = sorted((x, y))
    ruling = claims.rule(replace(CLAIM, side=side), Interval((low + high) / 2, low, high, "m"))
    where = "above" if low > 0.5 else "below" if high < 0.5 else "across"
    assert ruling == {"across": "inconclusive", side: "supported"}.get(where, "contradicted")


def test_an_interval_without_bounds_is_inconclusive() -> None:
    assert claims.rule(CLAIM, Interval(3.0, None, None, "m")) == "inconclusive"
    result = claims.ruled(CLAIM, Interval(None, None, None, "m", "no decided case"), (1, 2), 0.95)
    assert (result.ruling, result.note) == ("inconclusive", "no decided case")


def test_one_seed_never_decides() -> None:
    clear = Interval(0.9, 0.8, 1.0, "m")
    assert claims.ruled(CLAIM, clear, (1,), 0.95).ruling == "inconclusive"
    assert claims.ruled(CLAIM, clear, (1, 2), 0.95).ruling == "supported"


def test_the_detectable_effect_grows_with_the_interval() -> None:
    found = [claims.ruled(CLAIM, Interval(0.5, 0.5 - w, 0.5 + w, "m"), (1, 2, 3), 0.95).detectable for w in (0.1, 0.2)]
    assert found[0] is not None
    assert found[1] == pytest.approx(2 * found[0])
    # the half width is 4.303 standard errors (t, 2 degrees of freedom, 95%); power .8 needs 1.061 more
    assert found[0] == pytest.approx(0.1 * (4.303 + 1.061) / 4.303, rel=1e-3)


# ---- p, Holm's adjustment, size --------------------------------------------------------------------------------------


@given(NUMBERS, NUMBERS, NUMBERS, st.integers(2, 9), st.sampled_from([0.8, 0.95, 0.99]))
def test_p_is_below_the_error_where_the_interval_excludes_the_threshold(
    x: float, y: float, z: float, seeds: int, level: float
) -> None:
    low, value, high = sorted((x, y, z))
    p = claims.scaled_p(CLAIM, Interval(value, low, high, "m"), seeds, level)
    assume(p is not None and not math.isclose(p, 1 - level))
    assert p is not None
    assert (p < 1 - level) == (not low <= 0.5 <= high)


def test_p_of_a_mean_over_seeds_is_that_of_students_t() -> None:
    values = np.array([0.61, 0.72, 0.58, 0.55])
    low, high = stats.t.interval(0.9, 3, values.mean(), stats.sem(values))
    found = Interval(float(values.mean()), float(low), float(high), "t over seeds")
    expected = stats.ttest_1samp(values, 0.5).pvalue
    assert claims.scaled_p(CLAIM, found, 4, 0.9) == pytest.approx(expected)
    ratio = replace(CLAIM, statistic="gold variance ratio")
    logs = Interval(*np.exp([found.value, low, high]).tolist(), "t over seeds")
    assert claims.scaled_p(replace(ratio, threshold=math.exp(0.5)), logs, 4, 0.9) == pytest.approx(expected)
    ranks = Interval(*np.tanh([found.value, low, high]).tolist(), "t over seeds")
    rho = replace(CLAIM, statistic="spearman", threshold=math.tanh(0.5))
    assert claims.scaled_p(rho, ranks, 4, 0.9) == pytest.approx(expected)


def test_an_interval_without_width_has_no_p() -> None:
    assert claims.scaled_p(CLAIM, Interval(0.7, 0.7, 0.7, "m"), 3, 0.95) is None
    assert claims.scaled_p(CLAIM, Interval(0.5, 0.5, 0.5, "m"), 3, 0.95) == 1
    assert claims.scaled_p(CLAIM, Interval(0.7, None, None, "m"), 3, 0.95) is None
    assert claims.scaled_p(CLAIM, Interval(0.7, 0.6, 0.8, "m"), 1, 0.95) is None


def test_p_of_a_comparison_inverts_its_interval(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(2, 4, 10))
    a = make_arm(tmp_path, "a", lambda i, seed: 1.0 + noise[0, seed, i], (1, 2, 3))
    b = make_arm(tmp_path, "b", lambda i, seed: noise[1, seed, i], (1, 2, 3))
    versus = replace(CLAIM, versus="b", comparison="difference", threshold=0.0)
    cells = (1.0 + noise[0] - noise[1])[1:]
    result = claims.judge_claim(versus, [a, b], [], Estimator())
    assert result.p == pytest.approx(comparisons.two_way_p(cells).value, rel=1e-6)
    wins = replace(versus, comparison="head-to-head", threshold=0.5)
    found = claims.judge_claim(wins, [a, b], [], Estimator())
    assert found.p is not None
    for level, excluded in ((1 - found.p * 0.99, False), (1 - found.p * 1.01, True)):
        at = intervals.interval("win", (cells > 0).astype(float), level, rng)
        assert at.low is not None
        assert (at.low > 0.5) == excluded


def test_p_of_an_arm_inverts_the_interval_of_its_rows(tmp_path: Path) -> None:
    values = np.random.default_rng(2).normal(0.5, 1, size=(4, 10))
    a = make_arm(tmp_path, "a", lambda i, seed: values[seed, i], (1, 2, 3))
    found = intervals.interval("level", values[1:], 0.95, np.random.default_rng(0))
    ends = (found.value, found.low, found.high)
    row = Estimate("t", "a", "a", "gold", "gold", "all", "sample", 2, *ends, 0.95, 10, 0, (1, 2, 3), "two-way t")
    claim = replace(CLAIM, threshold=-1.0)
    result = claims.judge_claim(claim, [a], [row], Estimator())
    assert result.p == pytest.approx(comparisons.two_way_p(values[1:] + 1).value, rel=1e-6)
    # an interval that was made otherwise keeps its own p
    other = claims.judge_claim(claim, [a], [replace(row, low=-2.0)], Estimator())
    assert other.p == claims.scaled_p(claim, Interval(found.value, -2.0, found.high, "m"), 3, 0.95)


def ledger_row(verdict: str, p: float | None) -> dict[str, Any]:
    return {"verdict": verdict, "p": p, "level": 0.95}


def test_holm_is_over_the_claims_that_have_a_p() -> None:
    rows = [ledger_row("supported", 0.02), ledger_row("contradicted", 0.001), ledger_row("supported", None)]
    rows += [ledger_row("inconclusive", 0.4), ledger_row("not run", None), ledger_row("supported", 0.03)]
    found = claims.adjusted(rows)
    assert [row["p_holm"] for row in found] == pytest.approx([0.06, 0.004, None, 0.4, None, 0.06])
    assert [row["verdict_holm"] for row in found] == [
        "inconclusive", "contradicted", "inconclusive", "inconclusive", "not run", "inconclusive",
    ]  # fmt: skip
    assert claims.adjusted(found) == found  # p itself stays, so that another family can be adjusted over
    assert [row["verdict_holm"] for row in claims.adjusted(rows[:1])] == ["supported"]


@pytest.mark.parametrize(
    ("figure", "size"),
    [((), "no figure"), ((0.3,), "inside"), ((0.5,), "outside"), ((0.35, 0.9), "inside"), ((0.41, 0.9), "outside")],
)
def test_the_size_is_the_figure_against_the_interval(figure: tuple[float, ...], size: str) -> None:
    claim, found = replace(CLAIM, figure=figure), Interval(0.3, 0.2, 0.4, "m")
    assert claims.ruled(claim, found, (1, 2), 0.95).size == size
    unknown = size if not figure else "not known"
    assert claims.ruled(claim, found, (1,), 0.95).size == unknown
    assert claims.Result(claim, "not run").size == unknown


def test_figures_are_of_claims_that_report_one() -> None:
    figures = [claim for claim in claims.load() if claim.figure]
    assert figures
    assert all(claim.reported for claim in figures)
    people = claims.find("credit-finds-peoples-errors")
    synthetic = claims.find("credit-finds-errors")
    assert (people.run, people.judge, people.statistic) == ("people's error spans", "credit", synthetic.statistic)


def test_rows_of_older_versions_are_shown() -> None:
    row = {"id": "c", "text": "t", "verdict": "supported", "value": 1.0, "low": 0.5, "high": 2.0, "seeds": [1, 2]}
    row |= {"detectable": None, "measured": "m", "rule": "r"}
    table = verdicts.claims_table([row])
    assert table.rows[0][:3] == ("c", "supported", Cell(1.0, 0.5, 2.0))
    assert verdicts.summary([row]) == ["Of 1 claims: 1 supported, 0 contradicted, 0 inconclusive, 0 not run."]
    assert verdicts.verdicts_table([row]).rows
    assert verdicts.texts_table([row]).rows


def test_contrasts_follow_from_the_rows(tmp_path: Path) -> None:
    a = make_arm(tmp_path, "a", lambda i, seed: i + seed, (1, 2, 3))
    b = make_arm(tmp_path, "b", lambda i, _: 2.0 * i if i != 3 else None, (2, 3, 4))
    found = contrasts.difference(a, b, Where("gold", "gold"), Estimator())
    by_hand = np.array([[i + s - 2 * i for i in range(10) if i != 3] for s in (2, 3)])
    assert found.value == pytest.approx(by_hand.mean())
    even = contrasts.difference(a, b, Where("gold", "gold", "even"), Estimator())
    assert even.value == pytest.approx(np.mean([[i + s - 2 * i for i in range(0, 10, 2)] for s in (2, 3)]))
    assert contrasts.by_seed(a, b, Where("gold", "gold")) == pytest.approx(by_hand.mean(1))
    wins = contrasts.head_to_head(a, b, Where("gold", "gold"), Estimator()).value
    lost = contrasts.head_to_head(b, a, Where("gold", "gold"), Estimator()).value
    assert wins is not None
    assert lost is not None
    assert wins + lost == pytest.approx(1)
    assert wins == pytest.approx(((np.sign(by_hand) + 1) / 2).mean())


@pytest.mark.parametrize(
    ("where", "said"),
    [
        (Where("nobody", "gold"), "nobody"),
        (Where("gold", "silver"), "silver"),
        (Where("gold", "gold", "odd"), "odd"),
        (Where("gold", "gold", decoding="greedy"), "prompt"),
    ],
)
def test_a_missing_measurement_is_named(tmp_path: Path, where: Where, said: str) -> None:
    a, b = (make_arm(tmp_path, name, lambda i, _: float(i), (1, 2)) for name in "ab")
    with pytest.raises(BenchError, match=said):
        contrasts.difference(a, b, where, Estimator())


def test_a_difference_of_limited_changes_is_cut_at_twice_the_limit(tmp_path: Path) -> None:
    """Two seeds that disagree have a t interval that exceeds the largest possible difference."""
    a = make_arm(tmp_path, "a", lambda i, seed: (-1.0) ** seed + i / 100, (1, 2))
    b = make_arm(tmp_path, "b", lambda _, seed: -((-1.0) ** seed), (1, 2))
    where = Where("gold", "gold")
    free = contrasts.difference(a, b, where, Estimator())
    assert free.low is not None
    assert free.low < -2
    for arm in (a, b):
        for cell in arm.cells:
            measure = {"name": "gold", "kind": "change", "description": "", "before": "", "limit": 1.0}
            store.write_json(cell.judged()["gold"] / "measures.json", [measure])
    cut = contrasts.difference(a, b, where, Estimator())
    assert (cut.value, cut.low, cut.high) == (free.value, -2.0, 2.0)
    assert "cut off at 2" in cut.note


def test_equal_ids_of_different_prompts_are_not_paired(tmp_path: Path) -> None:
    a = make_arm(tmp_path, "a", lambda i, _: float(i), (1, 2))
    b = make_arm(tmp_path, "b", lambda i, _: float(i), (1, 2), prompt="ask")
    with pytest.raises(BenchError, match="no prompt"):
        contrasts.difference(a, b, Where("gold", "gold"), Estimator())


def test_arms_without_a_common_seed_are_not_compared(tmp_path: Path) -> None:
    a = make_arm(tmp_path, "a", lambda i, _: float(i), (1,))
    b = make_arm(tmp_path, "b", lambda i, _: float(i), (2,))
    with pytest.raises(BenchError, match="no training seed in common"):
        contrasts.difference(a, b, Where("gold", "gold"), Estimator())


def test_a_claim_is_judged_by_its_own_arms(tmp_path: Path) -> None:
    a = make_arm(tmp_path, "a", lambda i, _: i + 5.0, (1, 2, 3))
    b = make_arm(tmp_path, "b", lambda i, _: float(i), (1, 2, 3))
    versus = replace(CLAIM, versus="b", comparison="head-to-head")
    won = claims.judge_claim(versus, [a, b], [], Estimator())
    assert (won.ruling, won.seeds) == ("supported", (1, 2, 3))
    lost = claims.judge_claim(replace(versus, arm="b", versus="a"), [a, b], [], Estimator())
    assert lost.ruling == "contradicted"
    absent = claims.judge_claim(replace(versus, versus="c"), [a, b], [], Estimator())
    assert (absent.ruling, absent.note) == ("not run", "no finished cell of c")
    unmeasured = claims.judge_claim(CLAIM, [a, b], [], Estimator())
    assert unmeasured.ruling == "not run"
    assert "not measured" in unmeasured.note


def test_a_claim_on_one_arm_takes_the_report_s_last_estimate(tmp_path: Path) -> None:
    a = make_arm(tmp_path, "a", lambda i, _: float(i), (1, 2))
    row = Estimate("t", "a", "a", "gold", "gold", "all", "sample", 1, 0.1, 0.0, 0.2, 0.95, 10, 0, (1, 2), "m")
    last = replace(row, iteration=2, value=0.8, low=0.7, high=0.9)
    assert claims.judge_claim(CLAIM, [a], [row, last], Estimator()).ruling == "supported"
    assert claims.judge_claim(CLAIM, [a], [row], Estimator()).ruling == "contradicted"


@pytest.mark.parametrize("claim", claims.load(), ids=lambda claim: claim.id)
def test_every_claim_is_decided_by_its_experiment(claim: claims.Claim) -> None:
    runs = {run.name: run for run in experiments.find(claim.experiment).runs}
    for name in claim.runs or [claim.run]:
        is_decided_by(claim, runs[name])


def is_decided_by(claim: claims.Claim, run: experiments.ExperimentRun) -> None:
    assert {claim.arm, claim.versus} - {""} <= set(run.rms)
    assert (claim.comparison != "") == (claim.versus != "")
    if run.kind == "train":
        assert claim.judge in (*(run.judges or DEFAULT_JUDGES), "proxy")  # "proxy" is no judge: every run has curves
    tasks = [f"{run.task} on {name}" if name != run.task else name for name in run.prompts] or [run.task]
    assert claim.task in tasks if len(tasks) > 1 else claim.task in ("", *tasks)


@pytest.mark.parametrize("experiment", experiments.load().values(), ids=lambda experiment: experiment.name)
def test_every_experiment_uses_known_names(experiment: experiments.Experiment) -> None:
    assert len({run.name for run in experiment.runs}) == len(experiment.runs)
    arms = set()
    for run in experiment.runs:
        for task in (run.task, *run.prompts):
            plugins.find("task", task)
        for name in run.rms:
            plugins.find("reward-model", name)
        for name in run.judges:
            plugins.find("judge", name)
        arms |= set(run.rms)
        assert set(run.of) <= {other.name for other in experiment.runs if other.kind == "train"}
        assert set(run.methods) <= set(run.rms)
        assert {method for own in run.methods.values() for method in own} <= set(METHODS)
        assert (run.kind in ("agreement", "tuning")) == bool(run.of)
        assert (run.kind == "agreement") == bool(run.n)
    assert set(experiment.shows) <= set(TABLES)
    assert {c for contrast in experiment.contrasts for c in (contrast.a, contrast.b)} <= arms


@pytest.mark.parametrize("name", ["suport", "", "headlin"])
def test_unknown_names_suggest_known_ones(name: str) -> None:
    with pytest.raises(BenchError, match=r"headline|Known"):
        experiments.find(name)
    with pytest.raises(BenchError, match="Unknown claim"):
        claims.find(name)


@given(
    st.lists(st.text(st.characters(exclude_characters="\0"))), st.text(min_size=1), st.lists(st.text()), st.booleans()
)
def test_a_results_page_shows_a_command_without_its_folder(
    before: list[str], folder: str, after: list[str], joined: bool
) -> None:
    first, last = ([word for word in words if not word.startswith("--out")] for words in (before, after))
    named = [f"--out={folder}"] if joined else ["--out", folder]
    command = shlex.join(["bench", *first, *named, *last])
    assert without_folder(command) == shlex.join(["bench", *first, *last])


def test_another_command_line_is_shown_unchanged() -> None:
    assert without_folder("it's --out x") == "it's --out x"
    assert without_folder("bench run --out") == "bench run"


def test_a_ledger_of_some_experiments_has_their_claims_alone(tmp_path: Path) -> None:
    rows = whole_ledger({}, ("refusal", "ood"))
    assert [row["id"] for row in rows] == [c.id for c in claims.load() if c.experiment in ("refusal", "ood")]
    assert {row["verdict"] for row in rows} == {"not run"}
    assert len(whole_ledger({})) == len(claims.load()) > len(rows) > 0
    with pytest.raises(BenchError, match="Unknown experiment 'refusals'"):
        bench_claims([tmp_path], only=("refusals",))
