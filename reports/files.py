"""The files of a report: the page, Markdown, JSON and tables, all from one dictionary."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.pipeline.integrity import file_hash
from rlhf_bench.harness.replacing import sweep, write_text
from rlhf_bench.harness.results.arms import CellFiles
from rlhf_bench.reports import steps
from rlhf_bench.reports.blocks import distributions, read
from rlhf_bench.reports.csv_tables import csv_files, csv_names, table_csv
from rlhf_bench.reports.html import page
from rlhf_bench.reports.inside import FOLDER, NAME, Inside, inside
from rlhf_bench.reports.markdown import markdown

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import Row

TABLES = "tables"
LIST = ".files.json"
"""The size and SHA-256 of every file of a report.  Hidden: it is for this program, which reuses whole reports alone."""


def texts(report: Row, cells: Sequence[CellFiles] = ()) -> Iterator[tuple[str, str]]:
    """(path below the report's folder, content) of every file.

    Without `cells` the page shows no responses, and there is no steps.csv: `report` holds neither.  report.md says so.
    Equal reports and cells give equal texts; the order of the cells does not matter.
    """
    blocks = read(cells)
    full = {**report, "distributions": distributions(blocks)} if cells else dict(report)
    labels = {arm["arm"]: arm["label"] for arm in report["arms"]}
    shown = inside(blocks, labels) if cells else Inside({"tasks": [], "left_out": []})
    yield from shown.files.items()  # before the page that names them
    yield "report.html", page(full, shown.data, beside=bool(shown.files))
    yield "report.md", markdown(full, "" if cells else steps.ABSENT)
    for name, text in csv_files(full):
        yield f"{TABLES}/{name}", text
    trained = steps.curves(cells, labels)
    if trained is not None:
        yield f"{TABLES}/{steps.NAME}", table_csv(*trained)
    # last: its key says that the other files are up to date
    yield "report.json", json.dumps(full, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_files(report: Row, out: Path, cells: Sequence[CellFiles] = ()) -> list[Path]:
    """Write every file of the report; returns their paths.

    Each is written under another name and renamed, so that a reader never sees half a file.  Tables and details of the
    report that was in `out` before are removed where this report has none of that name; other files stay.  Raises
    OSError where `out` cannot be written (`build.write` makes it a BenchError), and BenchError where a folder in it
    leads elsewhere.
    """
    for name in (TABLES, FOLDER):
        store.check_inside(out / name, out)  # files are written into it, and removed from it
    try:
        # read before it is replaced: it is the only list of the tables that are ours to remove
        before = store.read_json(out / "report.json")
        stale = {out / TABLES / name for name in (*csv_names(before), steps.NAME)}
    except (BenchError, LookupError, TypeError, AttributeError):  # no report, or one of another version
        stale = set()
    stale |= {path for path in (out / FOLDER).glob("*.js") if NAME.fullmatch(path.stem)}
    for folder in (out, out / TABLES, out / FOLDER):
        sweep(folder)  # what killed reports left
    written = []
    for name, text in texts(report, cells):
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
        written.append(path)
    for path in stale - set(written):
        path.unlink(missing_ok=True)
    # last: the list says that the files are whole
    found = {path.relative_to(out).as_posix(): file_hash(path) for path in written}
    store.write_json(out / LIST, found)
    return [*written, out / LIST]


def report_damage(out: Path) -> list[str]:
    """Sentences about the files of a written report that have changed since; none where there is no report.

    None for a report of a version that listed no files.
    """
    damaged = [f"{out / LIST} is damaged"]
    try:
        store.check_links(out / LIST, out)
        if not (out / LIST).is_file():
            return []
        found: object = store.read_json(out / LIST)
    except BenchError:
        return damaged
    # report.json is in every list: one without it is not what was written
    if not isinstance(found, dict) or "report.json" not in found or not all(map(str.isprintable, found)):
        return damaged
    wanted = {name: str(sha) for name, sha in found.items()}
    problems = []
    for name, sha in wanted.items():
        path = out / name
        try:
            store.check_inside(path, out)
            if file_hash(path) != sha:
                problems.append(f"{path} was changed after it was written")
        except (OSError, BenchError):
            problems.append(f"{path} cannot be read")
    return problems
