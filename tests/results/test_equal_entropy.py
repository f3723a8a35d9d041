"""Arms against the SFT policy at equal entropy, from stored rows: the control of an arm, seeds, refusals, tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from checkpointed import Runs, arm

from rlhf_bench.harness import store
from rlhf_bench.harness.results import found as found_cells
from rlhf_bench.harness.results.entropy_matched import (
    control_of,
    entropy_matched_estimates,
    is_control,
    temperatures_of,
)
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.harness.results.frontiers import Reader, What, frontiers_of, matched, rungs, shared
from rlhf_bench.harness.statistics.entropy_matched import CONTROL
from rlhf_bench.reports import measures, tables

SHARES = (1.0, 0.5, 0.25)
TOKENS = 10
"""Of the fixture's responses that have a log-probability."""


def control(root: Path, name: str = "", **more: Any) -> Any:
    """Entropy 2, 1 and .5 per token (a little more under seed 2), gold .2, .5 and .6 above the SFT policy's."""
    made = Runs(
        rm=CONTROL, optimizer=CONTROL, temperatures=SHARES, iterations={1: (1, 2, 3), 2: (1, 2, 3)},
        kl=lambda _s, i, _k: (0.0, 0.5, 3.0)[i - 1],
        gold=lambda s, i, k: k / 50 + (0.2, 0.5, 0.6)[i - 1] + wobble(s, i, k),
        logprob=lambda s, i, k: -TOKENS * ((2.0, 1.0, 0.5)[i - 1] + 0.1 * (s == 2)) + wobble(k, s, i),
    )  # fmt: skip
    return arm(root, replace(made, **more), name)


def wobble(a: int, b: int, c: int) -> float:
    """Noise that sums to 0 over the twelve prompts."""
    return 0.02 * ((5 * a + 7 * b + 3 * c) % 2 - 0.5)


def trained(root: Path, name: str = "", of: float = 1.5, **more: Any) -> Any:
    runs = Runs(
        gold=lambda s, i, k: k / 50 + i / 60 + wobble(s, i, k),
        logprob=lambda s, _i, k: -TOKENS * (of + 0.1 * (s == 2)) + wobble(k, s, 0),
    )
    return arm(root, replace(runs, **more), name)


def estimates(*arms: Any) -> dict[str, Any]:
    return {e.statistic: e for e in entropy_matched_estimates(arms, Estimator())}


def test_the_control_begins_with_the_same_baseline(tmp_path: Path) -> None:
    one, two = trained(tmp_path), trained(tmp_path, "-n", rm="copier", optimizer="dpo")
    same, other = control(tmp_path), control(tmp_path, "-other", baseline="k2")
    arms = [other, one, two, same]
    assert control_of(one, arms) is control_of(two, arms) is same
    assert control_of(replace(one, task="u"), arms) is None
    assert control_of(one, [one, other]) is None
    assert [is_control(each) for each in arms] == [True, False, False, True]
    assert temperatures_of(same.cells[0]) == list(SHARES)


def test_differences_are_to_the_value_at_the_arms_own_entropy(tmp_path: Path) -> None:
    found = estimates(trained(tmp_path), control(tmp_path))
    assert set(found) == {"sft gold", "gold_difference", "temperature"}
    # entropy 1.5 is half way from 2 to 1; the prompts' own part is 5.5 / 50
    assert found["sft gold"].value == pytest.approx(0.11 + 0.35)
    assert found["gold_difference"].value == pytest.approx(30 / 60 - 0.35)
    assert found["temperature"].value == pytest.approx(0.75)
    for e in found.values():
        assert (e.judge, e.arm, e.slice, e.decoding, e.iteration, e.seeds) == (
            CONTROL,
            "scalar",
            "all",
            "sample",
            30,
            (1, 2),
        )
        assert e.low < e.value < e.high
    assert "two-way t" in found["gold_difference"].method


def test_an_entropy_outside_is_refused_with_the_figures(tmp_path: Path) -> None:
    for of, figure in (
        (2.3, "seed 2: 2.400, SFT's from 0.600 to 2.100"),
        (0.2, "seed 1: 0.200, SFT's from 0.500 to 2.000"),
    ):
        found = estimates(trained(tmp_path, of=of), control(tmp_path))
        for e in found.values():
            assert e.value is None
            assert figure in e.note


def test_unequal_seeds_and_judges(tmp_path: Path) -> None:
    one = trained(tmp_path, iterations={2: (10, 20), 1: (20,), 5: (10, 20)})
    found = estimates(one, control(tmp_path))
    assert (found["gold_difference"].seeds, found["gold_difference"].iteration) == ((2, 1), 20)
    strange = control(tmp_path, "-strange", judge_setting="other")
    unlike = estimates(one, strange)["gold_difference"]
    assert unlike.value is None
    assert "different settings" in unlike.note


def test_arms_without_log_probabilities_have_no_row(tmp_path: Path) -> None:
    assert estimates(trained(tmp_path, logprob=None, optimizer="best-of-n"), control(tmp_path)) == {}
    assert estimates(trained(tmp_path)) == estimates(control(tmp_path)) == {}
    some = trained(tmp_path, "-some")
    path = some.cells[0].folder("generations") / "generations.jsonl"
    rows = store.read_rows(path)
    del rows[-1]["logprob"]
    store.write_rows(path, rows)
    assert estimates(some, control(tmp_path))["gold_difference"].note == "some responses have no log-probability"


def test_the_control_has_a_frontier_like_every_arm(tmp_path: Path) -> None:
    what = What("utility", "gold", "level", "gold_baseline")
    reader, frontiers = Reader(), frontiers_of([trained(tmp_path), control(tmp_path)])
    both = shared([reader.points(one, what) for one in frontiers])
    assert both.reach == 3.0
    for kl, one in zip(rungs(both.reach), matched(both, rungs(both.reach), Estimator()), strict=True):
        if kl == 0.5:  # the second temperature; KL .5 is half the first checkpoint's in distance^2
            at = 10 / 60 * 0.5**0.5
            assert one.value == pytest.approx(at - 0.5, abs=0.02)


def test_reports_describe_it_only_where_the_control_is(tmp_path: Path) -> None:
    key, one, other = (CONTROL, "gold_difference"), trained(tmp_path), control(tmp_path)
    assert key in {column.key for column in measures.described([one, other])}
    assert key not in {column.key for column in measures.described([one])}


def test_the_table_says_why_there_is_no_number(tmp_path: Path) -> None:
    from dataclasses import asdict

    arms = [trained(tmp_path), trained(tmp_path, "-far", of=0.1), control(tmp_path)]
    described = [{"task": "t", "label": one.key, "arm": one.key, "seeds": list(one.seeds)} for one in arms]
    rows = [asdict(e) for e in entropy_matched_estimates(arms, Estimator())]
    (table,) = tables.all_tables({"arms": described, "estimates": rows}, ["entropy-matched"])
    assert [row[1] for row in table.rows] == ["scalar", "scalar-far"]
    assert "seed 1: 0.100" in str(table.rows[1][-1])
    assert table.columns[4:7] == ("temperature of SFT", "gold of SFT", "gold difference")
    assert [cell.value is None for cell in table.rows[0][4:7]] == [False] * 3  # type: ignore[union-attr]
    assert tables.all_tables({"arms": described[:1], "estimates": []}, ["entropy-matched"]) == []


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({}, "no temperatures"),
        ({"temperatures": "1,0.5,0.2", "temperature": 1.0}, "no temperatures"),
        ({"temperatures": [1.0, 0.5, "x"], "temperature": 1.0}, "no temperatures"),
        ({"temperatures": [1.0, 0.5, 0.0], "temperature": 1.0}, "no temperatures"),
        ({"temperatures": [1.0, 0.5], "temperature": 1.0}, "not those of its temperatures"),
        ([], "no temperatures"),
    ],
)
def test_damaged_temperatures_leave_the_cell_out(tmp_path: Path, params: Any, said: str) -> None:
    cell = control(tmp_path).cells[0]
    assert list(found_cells._temperature_problems(cell)) == []
    store.write_json(cell.folder("generations") / store.MARKER, {"params": params})
    (problem,) = found_cells._temperature_problems(cell)
    assert said in problem
