"""The files of a report: the page, Markdown, JSON and tables, all from one dictionary."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.results.estimates import CellFiles
from rlhf_bench.reports.csv_tables import csv_files, csv_names
from rlhf_bench.reports.html import page
from rlhf_bench.reports.inside import distributions, inside, read
from rlhf_bench.reports.markdown import markdown

TABLES = "tables"


def texts(report: Mapping[str, Any], cells: Sequence[CellFiles] = ()) -> Iterator[tuple[str, str]]:
    """(path below the report's folder, content).  Without `cells` the page has nothing to look into."""
    blocks = read(cells)
    full = {**report, "distributions": distributions(blocks)} if cells else dict(report)
    labels = {arm["arm"]: arm["label"] for arm in report["arms"]}
    yield "report.html", page(full, inside(blocks, labels) if cells else None)
    yield "report.md", markdown(full)
    for name, text in csv_files(full):
        yield f"{TABLES}/{name}", text
    yield "report.json", json.dumps(full, indent=1, ensure_ascii=False, allow_nan=False) + "\n"  # last: it has the key


def write_files(report: Mapping[str, Any], out: Path, cells: Sequence[CellFiles] = ()) -> list[Path]:
    """Every file aside and renamed; tables that the report before this one had, and this one has not, are removed."""
    stale = _tables_before(out)
    written = []
    for name, text in texts(report, cells):
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        aside.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
        aside.replace(path)
        written.append(path)
    for path in stale - set(written):
        path.unlink(missing_ok=True)
    return written


def _tables_before(out: Path) -> set[Path]:
    """The tables that the report in `out` was written with."""
    try:
        before = store.read_json(out / "report.json")
        return {out / TABLES / name for name in csv_names(before)}
    except (BenchError, LookupError, TypeError, AttributeError):
        return set()  # no report of ours, or one of another version
