"""Reports as objects: made from results folders, or read back."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_bench.harness import forms, store
from rlhf_bench.harness.api.arguments import Paths, as_path, as_paths, call_text
from rlhf_bench.harness.errors import BenchError, DamagedError
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.harness.results.found import find_cells
from rlhf_bench.harness.results.one_thread import one_thread
from rlhf_bench.harness.results.uncollected import uncollected
from rlhf_bench.reports import build
from rlhf_bench.reports.blocks import distributions, read
from rlhf_bench.reports.files import LIST, report_damage
from rlhf_bench.reports.schema import report_form

if TYPE_CHECKING:
    import pandas

    from rlhf_bench.harness.text.types import JsonObject


@dataclass(frozen=True)
class Report:
    """A report of finished cells.

    `path`: the folder of report.html, report.md, report.json and tables/*.csv; None when the report was not written.
    `data`: the content of report.json, documented in reports/schema.json.
    `missing`: sentences about what could not be reported, as found when the report was made.
    """

    path: Path | None
    data: JsonObject = field(repr=False)
    missing: tuple[str, ...] = ()

    @property
    def warnings(self) -> list[str]:
        """What to know before believing the numbers: missing cells, single seeds, undecided cases, odd training."""
        return list(self.data["warnings"])

    def to_pandas(self) -> pandas.DataFrame:
        """All estimates as a data frame, one row each, with the columns of tables/estimates.csv and two more.

        Columns: task, reward_model, label (of the arm: the reward model and what tells it from other arms), policy,
        optimizer, judge, statistic, slice, decoding, iteration, value, low, high (nan where nothing can be said; the
        note says why), level, n (decided cases, per seed on average), n_invalid (undecided ones), seeds (a tuple),
        method, note, arm (a hash that identifies the arm).  Raises BenchError where pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise BenchError("Report.to_pandas needs the package pandas.", "pip install pandas") from None
        # estimates name their arm by its key; what else is known of it stands once, in `arms`
        arms = {arm["arm"]: arm for arm in self.data["arms"]}
        rows = []
        for estimate in self.data["estimates"]:
            arm = arms.get(estimate["arm"], {})
            described = {name: arm.get(name, "") for name in ("label", "policy")}
            described["optimizer"] = arm.get("optimizer", "ppo")  # older reports lack it: there was PPO alone
            rows.append({**estimate, **described, "seeds": tuple(estimate["seeds"])})
        # typed, so that None becomes nan or NA, and an empty report has the same columns
        return pandas.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


COLUMNS = {
    **dict.fromkeys(("task", "reward_model", "label", "policy", "optimizer"), "string"),
    **dict.fromkeys(("judge", "statistic", "slice", "decoding"), "string"),
    "iteration": "int64",
    "value": "float64",
    "low": "float64",
    "high": "float64",
    "level": "float64",
    "n": "int64",
    "n_invalid": "int64",
    "seeds": "object",
    "method": "string",
    "note": "string",
    "arm": "string",
}
"""Columns of `Report.to_pandas` and their types."""


def load_report(path: str | os.PathLike[str]) -> Report:
    """A report that was written: its folder, or its report.json.

    Raises BenchError for anything else, and for a report of another version of this program; DamagedError for one that
    was changed after it was written.
    """
    place = as_path(path)
    file = place / "report.json" if store.is_folder(place) else place
    if file != place:
        store.check_links(file, place)
        if not store.exists(file):
            raise BenchError(f"{path} holds no report.", "Give the folder that bench report --out named.")
    for sentence in report_damage(file.parent):
        # the list of files, too: without it a changed report would pass for one of an older version
        if sentence.startswith((f"{file} ", f"{file.parent / LIST} ")):
            raise DamagedError(f"{sentence}.", "Write it again: bench report.")
    found: object = store.read_json(file)  # any JSON: a user may name another file
    if not isinstance(found, dict) or found.get("schema") != build.SCHEMA:
        raise BenchError(f"{path} is no report of bench report.", "Give the folder that --out named.")
    if found.get("schema_version") != build.SCHEMA_VERSION:
        raise BenchError(f"{path} was written by another version of this program.", "Write it again: bench report.")
    if problem := forms.problem(found, report_form()):
        raise BenchError(f"{file} is damaged ({problem}).", "Write it again: bench report.")
    return Report(file.parent, found)


def report(runs: Paths, out: str | os.PathLike[str] | None = None, *, level: float = 0.95) -> Report:
    """Compare all finished cells in `runs`, one or several results folders.

    `out`: the folder to write the report to; without one nothing is written.  `level`: of the intervals, from 0.5 to
    0.999.  Raises BenchError when no cell is finished, for a folder that is not there, for another level, and when
    `out` cannot be written.
    """
    command = call_text(report, locals())  # first: locals() holds the arguments alone
    if not 0.5 <= level <= 0.999:
        raise BenchError(f"level is {level}.", "It must lie between 0.5 and 0.999.")
    target = None if out is None else as_path(out)
    made, missing = make_report(as_paths(runs), target, Estimator(level), command)
    return existing(made, missing)


@one_thread
@uncollected
def make_report(
    places: Sequence[Path],
    out: Path | None,
    estimator: Estimator,
    command: str,
    *,
    reuse: bool = False,
    histograms: bool = False,
) -> tuple[Report | None, list[str]]:
    """The report of the cells in `places` (results folders or records), None where none is finished; what is missing.

    It is written to `out`, with `command` in its manifest; with `reuse` not if the same report is complete there.
    `histograms`: whether the object holds the distributions, as the written report.json does.
    """
    found, missing = find_cells(places)
    if not found:
        return None, missing
    # an equal key does not tell whether the other files are still there, and what was written
    if reuse and out is not None and (out / LIST).is_file() and not report_damage(out):
        try:
            stored = load_report(out).data
        except BenchError:
            stored = {}  # of another version, or damaged
        if stored.get("key") == build.report_key(found, missing, estimator):
            return Report(out, stored, tuple(missing)), missing
    made = build.build(found, missing, estimator, command)
    if histograms:
        made["distributions"] = distributions(read(found))
    if out is not None:
        build.write(made, out, found)
    return Report(out, made, tuple(missing)), missing


def existing(made: Report | None, missing: Sequence[str]) -> Report:
    """The report as `load_report` reads it.

    Raises BenchError where there is none, with `missing` (sentences about the unfinished cells) as the reason.
    """
    if made is None:
        raise BenchError("No cell is finished.", "; ".join(missing))
    return as_written(made)


def as_written(made: Report) -> Report:
    """The report as `load_report` reads it: a file has lists where a report that was just built has tuples.

    Callers then see one form, no matter whether the report was built, reused or loaded.
    """
    data = load_report(made.path).data if made.path else json.loads(json.dumps(made.data))
    return replace(made, data=data)
