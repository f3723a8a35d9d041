"""A report's key covers every module that computes its numbers: a change of one of them makes the report anew."""

from __future__ import annotations

from pathlib import Path

import pytest
from stored import Stored, make

from rlhf_bench.harness import fingerprint
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.harness.results.found import find_cells
from rlhf_bench.reports import build

STATISTICS = {path.stem for path in Path(str(fingerprint.ROOT), "harness", "statistics").glob("[a-z]*.py")}
STATISTICS -= {
    "shapley",
    "agreement",
    "independent",
}  # of stages, in their keys; of two written reports
OF_EXPERIMENTS = {"cost", "credit", "tuning"}
"""Statistics of analyses that an experiment has and a single report has not."""


def closure(module: str, without: tuple[str, ...]) -> set[str]:
    """Modules in the key, by their names below the package."""
    return {name.removeprefix("rlhf_bench.") for name in fingerprint.closure(module, without=without)}


def test_what_a_number_is_computed_by_is_in_the_key() -> None:
    report = closure("rlhf_bench.reports.build", build.NOT_REPORTING)
    assert {f"harness.statistics.{name}" for name in STATISTICS - OF_EXPERIMENTS} <= report
    results = ("estimates", "columns", "sheets", "alarms", "proxy_curves", "proxy_estimates")
    assert {f"harness.results.{name}" for name in results} <= report
    assert {"reports.build", "reports.comparison", "harness.slices"} <= report
    experiment = closure("rlhf_bench.reports.experiments", build.NOT_REPORTING)
    assert {f"harness.statistics.{name}" for name in STATISTICS} <= experiment
    assert {f"harness.results.{name}" for name in ("contrasts", "claims", "agreement")} <= experiment


def test_how_numbers_are_shown_is_in_the_key_of_the_page_alone() -> None:
    shown = {"reports.html", "reports.view", "reports.markdown", "reports.csv_tables"}
    assert not shown & closure("rlhf_bench.reports.build", build.NOT_REPORTING)
    assert shown <= closure("rlhf_bench.reports.files", (build.MESSAGES,))


def test_the_key_changes_with_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, Stored(prompts=2))
    cells = find_cells([tmp_path])
    before = build.numbers_key(*cells, Estimator())
    assert build.numbers_key(*cells, Estimator()) == before
    monkeypatch.setattr(fingerprint, "of", lambda *_, **__: "other code")
    assert build.numbers_key(*cells, Estimator()) != before
