"""Reports written to disk, as bytes to compare."""

from __future__ import annotations

from pathlib import Path

from rlhf_bench.harness.api.reports import make_report
from rlhf_bench.harness.results.estimates import Estimator


def written(runs: Path, out: Path, estimator: Estimator | None = None) -> dict[str, bytes]:
    """The bytes of every file of the report of `runs`, by path below `out`."""
    make_report([runs], out, estimator or Estimator(), "bench report")
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
