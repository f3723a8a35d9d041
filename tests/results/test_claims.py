"""The ledger: verdicts follow from intervals, comparisons from stored rows, and every claim has its experiment."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from arms import make_arm
from hypothesis import given
from hypothesis import strategies as st

from rlhf_bench.harness import plugins, store
from rlhf_bench.harness.cli import experiment as cli_experiment
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Estimate
from rlhf_bench.harness.plan import experiments
from rlhf_bench.harness.plan.request import DEFAULT_JUDGES
from rlhf_bench.harness.results import claims, contrasts
from rlhf_bench.harness.results.contrasts import Where
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.harness.statistics.intervals import Interval
from rlhf_bench.reports.experiments import whole_ledger
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
    run = runs[claim.run]
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
        assert (run.kind == "agreement") == bool(run.of) == bool(run.n)
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
    rows = whole_ledger([], ("refusal", "ood"))
    assert [row["id"] for row in rows] == [c.id for c in claims.load() if c.experiment in ("refusal", "ood")]
    assert {row["verdict"] for row in rows} == {"not run"}
    assert len(whole_ledger([])) == len(claims.load()) > len(rows) > 0
    with pytest.raises(BenchError, match="Unknown experiment 'refusals'"):
        cli_experiment.claims([tmp_path], None, None, 0.95, ["refusals"])
