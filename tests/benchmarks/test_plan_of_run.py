"""The plan against a finished experiment: the table by hand, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import plan_of_run

from rlhf_bench.harness.results.table import Cell


def test_memory_is_the_largest_of_a_kind_and_time_the_mean() -> None:
    own = plan_of_run.Kind(planned=[200.0, 300.0], measured=[400.0, 250.0], seconds=[10.0, 20.0], took=[30.0, 30.0])
    brief = plan_of_run.Kind(planned=[10.0], measured=[10.0], seconds=[0.0], took=[0.2])
    rows = list(plan_of_run.rows({"saferlhf sft": own, "saferlhf pairs": brief}))
    assert [cell.value if isinstance(cell, Cell) else cell for cell in rows[0]] == [
        "saferlhf sft", 2, 300, 400, 0.75, 15, 30, 0.5,
    ]  # fmt: skip
    # a ratio of times below a second says nothing
    assert rows[1][-1] == "–"
    assert all(len(row) == len(plan_of_run.COLUMNS) for row in rows)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["no-such-experiment"], "no-such-experiment"),
        (["overhead", "--set", "nothing"], "GROUP.KEY=VALUE"),
        (["overhead", "--seeds", "7"], "no finished stage"),
    ],
)
def test_what_is_refused(arguments: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        plan_of_run.main([arguments[0], str(tmp_path), *arguments[1:]])
    assert ended.value.code == 2
    seen = capsys.readouterr()
    assert named in seen.err
    assert not seen.out
