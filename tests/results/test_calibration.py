"""Calibration of a judge: kappa by hand, the cases that each share counts, and undefined values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fault_server import Asked, FaultServer, Reply, completion, verdict
from hypothesis import given
from hypothesis import strategies as st

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Verdict
from rlhf_bench.harness.results.calibration import (
    LABELS,
    Labelled,
    agreement,
    agreement_table,
    calibrate,
    kappa,
    kappa_interval,
    read_labelled,
    table,
)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_kappa_by_hand() -> None:
    # Cohen's example with 20 + 15 agreements of 50: observed .7, by chance .5
    assert kappa([[20, 5], [10, 15]]) == pytest.approx(0.4)
    assert kappa([[5, 0], [0, 5]]) == 1.0
    assert kappa([[0, 5], [5, 0]]) == -1.0
    assert np.isnan(kappa([[5, 0], [0, 0]]))
    assert kappa(np.stack([[[20, 5], [10, 15]], [[5, 0], [0, 5]]])).tolist() == pytest.approx([0.4, 1.0])


@given(st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1))
def test_kappa_is_symmetric_and_equals_the_sum_over_pairs(pairs: list[Any]) -> None:
    counts = table(pairs)
    assert counts.sum() == len(pairs)
    n = len(pairs)
    observed = sum(one == other for one, other in pairs) / n
    chance = sum(sum(p[0] == c for p in pairs) * sum(p[1] == c for p in pairs) for c in LABELS) / n**2
    for found in (kappa(counts), kappa(counts.T)):
        if chance == 1:
            assert np.isnan(found)
        else:
            assert found == pytest.approx((observed - chance) / (1 - chance))


def test_kappa_interval_is_the_bootstrap_over_pairs() -> None:
    pairs: list[Any] = [("a", "a")] * 40 + [("b", "b")] * 30 + [("a", "b")] * 20 + [("tie", "b")] * 10
    found = kappa_interval(table(pairs), 0.95, rng())
    drawn = np.random.default_rng(1).integers(100, size=(4000, 100))
    draws = [float(kappa(table([pairs[i] for i in row]))) for row in drawn]
    assert found.low == pytest.approx(np.quantile(draws, 0.025), abs=0.02)
    assert found.high == pytest.approx(np.quantile(draws, 0.975), abs=0.02)
    assert found.value == pytest.approx(float(kappa(table(pairs))))


def test_undefined_statistics_have_no_value() -> None:
    for counts in (np.zeros((3, 3), dtype=np.int64), table([("a", "a")] * 9)):
        found = kappa_interval(counts, 0.95, rng())
        assert found.value is None
        assert found.note
    nothing = agreement([Labelled("p", "a", "b", "a")], [Verdict({"w": None}, "HTTP 500")], "w", [], rng())
    assert (nothing.n, nothing.n_invalid, nothing.reasons) == (1, 1, {"HTTP 500": 1})
    for name in ("kappa", "agreed", "consistent", "first", "longer", "null_tie", "null_first"):
        assert getattr(nothing, name).value is None


def judged(value: float | None, *orders: str) -> Verdict:
    return Verdict({"w": value}, "" if value is not None else "why", {"orders": {"w": list(orders)}})


def test_the_table_names_the_level_of_its_intervals() -> None:
    rows, verdicts = [Labelled("p", "a", "b", "a")] * 3, [judged(1.0, "win", "win")] * 3
    for level, said in ((0.9, "90% interval"), (0.95, "95% interval"), (0.995, "99.5% interval")):
        found = agreement(rows, verdicts, "w", [], rng(), level)
        shown = agreement_table("j", {"w": found}, level)
        assert shown.columns[3] == said
        (row,) = [row for row in shown.rows if row[1] == "agreed"]
        assert row[3] == f"{found.agreed.low:.2f} to 1.00"


def test_every_share_counts_its_cases() -> None:
    rows = [
        Labelled("p", "long text", "short", "a"),
        Labelled("p", "short", "long text", "a"),
        Labelled("p", "same", "size", "b"),
        Labelled("p", "x", "longer", "tie"),
        Labelled("p", "x", "longer", "b"),
    ]
    verdicts = [
        judged(1.0, "win", "win"),
        judged(0.5, "win", "loss"),
        judged(0.0, "loss", "loss"),
        judged(0.0, "loss", "loss"),
        judged(None, "no verdict", "loss"),
    ]
    found = agreement(rows, verdicts, "w", ["A", "A", "B", "tie", None], rng())
    assert (found.n, found.n_invalid, found.reasons) == (5, 1, {"why": 1})
    assert found.agreed.value == 2 / 4
    assert found.consistent.value == 3 / 4
    assert found.first.value == pytest.approx(6 / 9)  # first order: win, second order: loss
    assert found.longer.value == 2 / 2
    assert found.longer_human.value == 2 / 3
    assert found.null_tie.value == 1 / 4
    assert found.null_first.value == pytest.approx(2 / 3)


def test_a_judge_is_calibrated_on_a_server(server: FaultServer, make: Callable[..., Any]) -> None:
    rows = [Labelled(f"p{i}", "good" * (i % 3), "good" * (i % 2), LABELS[i % 3]) for i in range(12)]
    agrees = {row.prompt: row.label for row in rows}

    def answer(asked: Asked) -> Reply:
        shown = asked.material
        if not asked.judging:
            return completion("yes")
        if shown["answer-A"] == shown["answer-B"]:
            return verdict("A")
        wanted = next(row for row in rows if row.prompt == shown["prompt"])
        label = agrees[shown["prompt"]]
        return verdict("tie" if label == "tie" else "A" if shown["answer-A"] == getattr(wanted, label) else "B")

    server.answer = answer
    found = calibrate(make(), rows, None, rng())["win_rate"]
    decided = [row for row in rows if row.a != row.b]
    assert found.n == 12
    assert found.n_invalid == 0
    assert found.consistent.value == 1.0
    assert found.null_tie.value == 0.0
    assert found.null_first.value == 1.0
    same = sum(row.a == row.b and row.label == "tie" for row in rows)
    assert found.agreed.value == pytest.approx((len(decided) + same) / 12)
    before = server.judged
    assert calibrate(make(), rows, None, rng())["win_rate"] == found
    assert server.judged == before


def test_labelled_files(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text('prompt,a,b,label\nq,"one, two",,A\nq,x,y, tie \n')
    assert read_labelled(path) == [Labelled("q", "one, two", "", "a"), Labelled("q", "x", "y", "tie")]
    for content, said in (("prompt,a,label\nq,x,a\n", "'b'"), ("prompt,a,b,label\nq,x,y,both\n", "'both'")):
        path.write_text(content)
        with pytest.raises(BenchError, match=said) as caught:
            read_labelled(path)
        assert "line 2" in str(caught.value)
    with pytest.raises(BenchError, match="no labelled pair"):
        calibrate(None, [], None, rng())  # type: ignore[arg-type]
