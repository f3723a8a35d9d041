"""Write docs/sample-report from a report that was written before: make sample-report REPORT=FOLDER

The page, the Markdown, the tables and report.json are copied as they are; a report.json beyond its limit is written
without indentation, and refused where that is not enough, with the sizes of its parts.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from rlhf_bench.harness.api.reports import load_report
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.reports.inside import FOLDER

SAMPLE = Path(__file__).resolve().parents[1] / "docs" / "sample-report"
LIMIT = 3_000_000
"""Bytes of report.json; a report of 8 arms and 2000 estimates has about 1.5 million."""


def write_sample(source: Path, out: Path = SAMPLE, limit: int = LIMIT) -> list[Path]:
    """Replace the content of `out` with the report in `source`; returns the files, whose sizes it prints.

    Raises BenchError for a folder without a whole report, and for a report.json that cannot be made small enough.
    """
    found = load_report(source).data
    text = (source / "report.json").read_text(encoding="utf-8")
    if len(text.encode()) > limit:
        text = compact(found) + "\n"
    if len(text.encode()) > limit:
        sizes = sorted(((len(compact(part).encode()), name) for name, part in found.items()), reverse=True)
        parts = ", ".join(f"{name} {size}" for size, name in sizes[:5])
        raise BenchError(
            f"report.json has {len(text.encode())} bytes, more than {limit} ({parts}).", "Take fewer arms or seeds."
        )
    files = [source / name for name in ("report.html", "report.md")]
    files += [*sorted((source / "tables").glob("*.csv")), *sorted((source / FOLDER).glob("*.js"))]
    if absent := [str(path) for path in files if not path.is_file()]:
        raise BenchError(f"The report lacks {', '.join(absent)}.", "Write it again: bench report.")
    shutil.rmtree(out, ignore_errors=True)
    (out / "tables").mkdir(parents=True)
    for path in files:
        (out / path.relative_to(source)).parent.mkdir(exist_ok=True)
    written = [Path(shutil.copyfile(path, out / path.relative_to(source))) for path in files]
    (out / "report.json").write_text(text, encoding="utf-8", newline="\n")
    written.append(out / "report.json")
    for path in written:
        print(f"{path.stat().st_size:>9} {path.relative_to(out)}")
    return written


def compact(value: object) -> str:
    """JSON without spaces."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: make sample-report REPORT=FOLDER, a folder with report.json")
    try:
        write_sample(Path(sys.argv[1]))
    except BenchError as error:
        sys.exit(f"Error: {error}")
