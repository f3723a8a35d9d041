"""bench report A B --diff: what changed between two written reports, and what cannot be compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small import bench
from stored import Means, Stored, make, report_of

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.statistics.independent import Ends, difference
from rlhf_bench.reports import build, diff


def report(root: Path, *parts: Stored, level: float = 0.95) -> Path:
    for stored in parts:
        make(root, stored)
    made, cells = report_of(root, Means(level))
    build.write(made, root / "report", cells)
    return root / "report"


def shown(*arguments: Path | str) -> tuple[int, str]:
    found = bench("report", *map(str, arguments), "--diff")
    return found.returncode, found.stdout + found.stderr


def test_a_report_beside_itself_is_the_same(tmp_path: Path) -> None:
    one = report(tmp_path, Stored())
    code, said = shown(one, one)
    assert code == 0
    assert "numbers that both reports have" in said
    assert "changed" not in said
    assert "What changed" not in said


def test_what_changed_and_what_one_report_alone_has(tmp_path: Path) -> None:
    first = report(tmp_path / "a", Stored(("scalar", "copier"), (1, 2)))
    longer = Stored(("scalar", "seq2seq-token"), (2, 3), words=lambda *_: ("They", " meet", ".") * 9)
    second = report(tmp_path / "b", longer)
    code, said = shown(first, second, "--out", tmp_path / "out")
    assert code == 0
    row = next(line for line in said.splitlines() if line.startswith("dialogsum\tscalar\twin rate"))
    assert "\tchanged\t" in row
    assert row.endswith("1 in common")
    assert "arm\tfirst\tcopier on dialogsum" in said
    assert "arm\tsecond\tseq2seq-token on dialogsum" in said
    written = (tmp_path / "out" / "diff.md").read_text()
    assert "## What changed" in written
    assert "win rate" in written


@pytest.mark.parametrize("folders", [0, 1, 3])
def test_other_than_two_folders_are_refused(tmp_path: Path, folders: int) -> None:
    one = report(tmp_path, Stored())
    code, said = shown(*[one] * folders)
    assert code == 2
    assert folders == 0 or f"--diff with {folders} folder" in said


def test_a_results_folder_is_no_report(tmp_path: Path) -> None:
    one = report(tmp_path, Stored())
    code, said = shown(one, tmp_path)
    assert code == 2
    assert "Traceback" not in said
    assert str(tmp_path) in said


def test_intervals_of_two_levels_are_refused(tmp_path: Path) -> None:
    both = [report(tmp_path / name, Stored(), level=level) for name, level in (("a", 0.95), ("b", 0.9))]
    code, said = shown(*both)
    assert code == 2
    assert "0.95" in said
    assert "0.9" in said
    with pytest.raises(BenchError, match="different levels"):
        diff.check_levels({"estimates": [{"level": 0.9}]}, {"estimates": [{"level": 0.5}]})


def test_the_interval_of_a_difference_covers_it() -> None:
    rng, inside, times = np.random.default_rng(0), 0, 4000
    for _ in range(times):
        ends = []
        for mean, size in ((0.0, 40), (0.3, 80)):
            values = rng.normal(mean, 1.0, size)
            half = 1.96 * values.std(ddof=1) / np.sqrt(size)
            ends.append(Ends(values.mean(), values.mean() - half, values.mean() + half))
        found = difference(*ends)
        inside += found.low <= 0.3 <= found.high
    assert inside / times == pytest.approx(0.95, abs=0.015)


def test_of_symmetric_intervals_half_widths_add_in_quadrature() -> None:
    found = difference(Ends(1.0, 0.7, 1.3), Ends(2.0, 1.6, 2.4))
    assert found == pytest.approx((1.0, 0.5, 1.5))
    skewed = difference(Ends(0.0, 0.0, 0.3), Ends(1.0, 0.6, 1.0))  # the facing ends count
    assert skewed == pytest.approx((1.0, 0.5, 1.0))
