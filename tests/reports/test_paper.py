"""Figures for papers: every figure of the page, of the size asked for, with equal bytes for equal reports."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from payloads import PAYLOADS
from small import bench
from stored import NAMES, Stored, make, report_of

from rlhf_bench.harness.api.reports import make_report
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.reports import blocks, canvas, paper, view
from rlhf_bench.reports.canvas import Forest, Style
from rlhf_bench.reports.figures import Bins, Drawing, Look, Point, Series

MISSING = "the extra rlhf-bench[figures] is not installed"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root: Path = tmp_path_factory.mktemp("store")
    make(root, Stored(NAMES[:3], (1, 2, 3), 8))
    made, cells = report_of(root, Estimator())
    return {**made, "distributions": blocks.distributions(blocks.read(cells))}


def test_every_figure_of_the_page_is_there(report: dict[str, Any]) -> None:
    found = list(paper.drawings(report))
    (page,) = view.view(report)["tasks"]
    kinds = [sum(isinstance(one.drawing, kind) for one in found) for kind in (Forest, Drawing, Bins)]
    assert kinds == [len(page["forests"]), len(page["charts"]), len(page["histograms"])]
    assert all(kinds)
    assert len({one.name for one in found}) == len(found)
    assert all(re.fullmatch(r"[a-z0-9-]+", one.name) for one in found)


def test_a_forest_has_the_reports_numbers_and_says_its_level(report: dict[str, Any]) -> None:
    first = next(paper.drawings(report)).drawing
    assert isinstance(first, Forest)
    assert first.x == "win rate (95% interval)"
    labels = {arm["label"]: arm["arm"] for arm in report["arms"]}
    for name, point in zip(first.names, first.points, strict=True):
        (row,) = [
            e for e in report["estimates"]
            if (e["arm"], e["statistic"], e["iteration"], e["slice"]) == (labels[name], "win_rate", 20, "all")
        ]  # fmt: skip
        assert (point.x, point.low, point.high) == (row["value"], row["low"], row["high"])
    assert [p.x for p in first.points] == sorted((p.x for p in first.points), reverse=True)
    curve = next(one.drawing for one in paper.drawings(report) if isinstance(one.drawing, Drawing))
    assert curve.y.endswith("(95% interval)")
    assert curve.x == "KL to the SFT policy, nats"


def test_files_have_the_size_that_was_asked_for_and_equal_bytes(report: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason=MISSING)
    few = {**report, "kl_matched": {}, "distributions": report["distributions"][:1]}
    few["measures"] = [m for m in report["measures"] if m["statistic"] == "win_rate"]
    first = {path.name: path.read_bytes() for path in paper.write(few, tmp_path / "a", Style(3.25, 8))}
    second = {path.name: path.read_bytes() for path in paper.write(few, tmp_path / "b", Style(3.25, 8))}
    assert first == second
    assert {path.name for path in (tmp_path / "a").iterdir()} == set(first)  # nothing left aside
    names = {name.rpartition(".")[0] for name in first} - {"figures"}
    assert names
    assert set(first) == {"figures.md", *(f"{name}.{end}" for name in names for end in ("svg", "pdf"))}
    for name in names:
        svg, pdf = first[f"{name}.svg"].decode(), first[f"{name}.pdf"]
        assert f'width="{3.25 * 72:g}pt"' in svg
        assert "<text" not in svg  # outlines: a reader needs no font
        box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) [\d.]+ \]", pdf)
        assert box is not None
        assert float(box[1]) == 3.25 * 72
        assert b"/FontFile2" in pdf  # TrueType, embedded
        assert b"/CreationDate" not in pdf
        assert "dc:date" not in svg
        assert f"`{name}`" in first["figures.md"].decode()
    (wide,) = {path for path in paper.write(few, tmp_path / "c", Style(6.5, 10)) if "forest" in path.name} & set(
        (tmp_path / "c").glob("*.svg")
    )
    assert 'width="468pt"' in wide.read_text()


def test_all_text_has_the_size_that_is_stated() -> None:
    matplotlib = pytest.importorskip("matplotlib", reason=MISSING)
    from matplotlib.text import Text

    series = [Series(name, Look(k), [Point(0, k, k - 1, k + 1), Point(1, k)]) for k, name in enumerate(("a", "b"))]
    drawings = (
        Drawing(series, "x", "y", 0.5, 3.0),
        Drawing(series, "x", "y", lines=False),
        Drawing([one._replace(name=f"{one.name} {'long' * 9}") for one in series], "x", "y"),
        Bins(0.0, 0.5, [1, 2], [2, 0], "gold"),
        Forest(["a", "b" * 50], [Point(0.4, 0, 0.3, 0.5), Point(0.2, 0)], "gold", 0.1),
    )
    with matplotlib.rc_context():
        matplotlib.rcParams.update(canvas.settings(Style(3.25, 7.5)))
        for drawing in drawings:
            figure = canvas.draw(drawing, Style(3.25, 7.5))
            figure.savefig("/dev/null", format="svg")
            texts = [text for text in figure.findobj(Text) if text.get_text().strip()]
            assert texts
            assert {text.get_fontsize() for text in texts} == {7.5}


@pytest.mark.parametrize("text", ["$", "$x^2", r"$\frac{1}{0}$", "名前", "\x1b[31m", "", " ", "a" * 500, *PAYLOADS[:6]])
def test_names_of_models_and_judges_are_plain_text(text: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason=MISSING)
    series = [Series(text, Look(0), [Point(0, 0.0, -1.0, 1.0), Point(1, 1.0, 0.5, 2.0)])]
    for number, drawing in enumerate(
        (
            Drawing(series, text, text),
            Bins(0.0, 1.0, [1], [2], text),
            Forest([text], [Point(0.5, 0, 0.4, 0.6)], text, 0.5),
        )
    ):
        written = list(paper._write(paper.Named(f"n{number}", text, drawing), tmp_path, Style()))
        assert [path.stat().st_size > 0 for path in written] == [True, True]
        assert b"<script" not in written[0].read_bytes()


@given(st.lists(st.tuples(st.floats(0, 1), st.sampled_from([0.05, 0.1, 0.2])), min_size=1, max_size=6))
def test_names_at_ends_do_not_overlap(found: list[tuple[float, float]]) -> None:
    found = sorted(found)
    heights = [height for _, height in found]
    places = canvas.spread([place for place, _ in found], heights)
    for (a, first), (b, second) in pairwise(zip(places, heights, strict=True)):
        assert b - a >= (first + second) / 2 - 1e-9
    if sum(heights) <= 1:
        assert places[-1] <= 1 + 1e-9
    if len(found) == 1:
        assert places == [found[0][0]]


def test_a_band_never_crosses_itself() -> None:
    matplotlib = pytest.importorskip("matplotlib", reason=MISSING)
    ahead = [Point(x, 0.0, -1.0, 1.0) for x in (0, 1, 2)]
    for points, bands in ((ahead, 1), ([ahead[0], ahead[2], ahead[1]], 0)):
        with matplotlib.rc_context():
            figure = canvas.draw(Drawing([Series("a", Look(0), points)], "x", "y"), Style())
            (axes,) = figure.axes
            assert len(axes.collections) == bands
            intervals = [line for line in axes.lines if len(set(line.get_xdata())) == 1 and len(line.get_xdata()) == 2]
            assert len(intervals) == (0 if bands else 3)


def test_without_matplotlib_one_line_says_what_is_missing(
    report: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paper, "find_spec", lambda _: None)
    with pytest.raises(BenchError, match=re.escape("pip install 'rlhf-bench[figures]'")):
        paper.write(report, tmp_path / "out", Style())
    assert not (tmp_path / "out").exists()


def test_the_report_that_is_drawn_has_the_histograms(tmp_path: Path) -> None:
    make(tmp_path, Stored(NAMES[:1], (1,), 4))
    made, _ = make_report([tmp_path], None, Estimator(), "bench", histograms=True)
    assert made is not None
    assert any(isinstance(one.drawing, Bins) for one in paper.drawings(made.data))


def test_the_command_writes_them_without_a_report_too(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason=MISSING)
    make(tmp_path / "runs", Stored(NAMES[:1], (1,), 4))
    ended = bench("report", str(tmp_path / "runs"), "--figures", str(tmp_path / "figures"), "--figure-width", "3")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == str(tmp_path / "figures" / "figures.md")
    assert "3 in wide, text of 8 pt" in (tmp_path / "figures" / "figures.md").read_text()
    (tmp_path / "file").touch()
    ended = bench("report", str(tmp_path / "runs"), "--figures", str(tmp_path / "file" / "x"))
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1), ended.stderr
