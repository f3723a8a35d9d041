"""What reading results costs: `bench report` over many cells, the first time and again with its cache (JSON).

    python benchmarks/reading.py [--prompts 500] [--seeds 5] [--arms 10,40] [--before FOLDER] [--rounds 2]

Seconds of the processor and the peak memory (MiB) of the whole command, start-up included; the least of `--rounds`.
"first" begins with an empty cache, "again" with what it left, "plain" is with --no-cache.  "run here" begins with what
`bench run` keeps when it reports the cells of one reward model, as for results computed on this machine; those
reports are not counted.  `--before` is a checkout of another version, which takes turns with this one ("before first"
and so on): only ratios of one run mean anything on a machine that others use.
Exits with 1 where the reports of this version are not the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from many_cells import multiply
from report import one_cell

MIB = 1024**2


def measured(
    *runs: Path, out: Path, cache: Path, more: Sequence[str] = (), checkout: Path | None = None
) -> dict[str, float]:
    """{"seconds", "mib"} of `bench report` in a process of its own; of this version, or of that in `checkout`."""
    command = [
        sys.executable,
        "-m",
        "rlhf_bench.harness",
        "report",
        *map(str, runs),
        "--out",
        str(out),
        "--quiet",
        *more,
    ]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "OMP_NUM_THREADS": "1"}
    if checkout is not None:
        environment["PYTHONPATH"] = str(checkout)
    process = subprocess.Popen(command, env=environment)
    _, status, used = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise RuntimeError(f"{command} ended with {os.waitstatus_to_exitcode(status)}")
    unit = 1 if sys.platform == "darwin" else 1024
    return {"seconds": used.ru_utime + used.ru_stime, "mib": used.ru_maxrss * unit / MIB}


def content(out: Path) -> dict[str, str]:
    """SHA-256 of every file of a report but its list of hashes.

    Without the command, which names the folder, and without the commit, which may change while this measures.
    """
    files = (path for path in out.rglob("*") if path.is_file() and path.name != ".files.json")
    commit = json.loads((out / "report.json").read_text(encoding="utf-8"))["manifest"]["git_commit"]
    own = {str(out): "OUT", " --no-cache": "", **({commit: "COMMIT"} if commit else {})}
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(_without(path.read_bytes(), own)).hexdigest() for path in files
    }


def _without(data: bytes, own: dict[str, str]) -> bytes:
    for text, name in own.items():
        data = data.replace(text.encode(), name.encode())
    return data


def turns(runs: Path, before: Path | None, rounds: int) -> Iterator[tuple[str, dict[str, float]]]:
    """(kind, figures) of every command, of both versions in turn; raises RuntimeError where two reports differ."""
    for number in range(rounds):
        place = runs.with_name(f"{runs.name}-round-{number}")
        own = _kinds(runs, place, None)
        others = iter(()) if before is None else _kinds(runs, place / "of before", before)
        for kind, one in own:
            for name, other in itertools.islice(others, 1):
                yield f"before {name}", other
            yield kind, one
        found = [content(place / f"report {kind}") for kind in ("plain", "first", "again", "run here")]
        if any(other != found[0] for other in found):
            raise RuntimeError("the reports with and without the cache differ")


def _kinds(runs: Path, place: Path, checkout: Path | None) -> Iterator[tuple[str, dict[str, float]]]:
    """(kind, figures) of the commands of one version."""

    def report(kind: str, cache: str, *more: str) -> tuple[str, dict[str, float]]:
        made = measured(runs, out=place / f"report {kind}", cache=place / cache, more=more, checkout=checkout)
        return kind, made

    yield report("plain", "cache", "--no-cache")
    yield report("first", "cache")
    yield report("again", "cache")
    arms = {path.name.rpartition("-s")[0] for path in (runs / "cells").glob("*.json")}
    for arm in sorted(arms):
        records = (runs / "cells").glob(f"{arm}-s*.json")
        measured(*records, out=place / f"report of {arm}", cache=place / "cache of runs", checkout=checkout)
    yield report("run here", "cache of runs")


def measure(arms: list[int], seeds: int, prompts: int, before: Path | None, rounds: int) -> dict[str, Any]:
    """{"prompts", "seeds", "cells": {number: {kind: {"seconds", "mib"}, "page_mib"}}}."""
    cells: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        one_cell(Path(name) / "real", prompts)
        for count in arms:
            runs = Path(name) / f"runs-{count}"
            made: dict[str, Any] = {}
            number = multiply(Path(name) / "real", runs, count, seeds)
            for kind, one in turns(runs, before, rounds):
                known = made.setdefault(kind, one)
                made[kind] = {what: round(min(one[what], known[what]), 2) for what in one}
            page = runs.with_name(f"{runs.name}-round-0") / "report first" / "report.html"
            cells[str(number)] = {**made, "page_mib": round(page.stat().st_size / MIB, 2)}
    return {"prompts": prompts, "seeds": seeds, "cells": cells}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", default="10,40", help="numbers of reward models")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--before", type=Path, help="a folder that holds another version as rlhf_bench")
    given = parser.parse_args()
    arms = [int(text) for text in given.arms.split(",")]
    try:
        print(json.dumps(measure(arms, given.seeds, given.prompts, given.before, given.rounds)))
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
