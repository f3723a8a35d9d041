"""What the fault campaigns share: commands in this process, a small run, a table of counts, and the form of results.

`--json FILE` of every campaign writes {"campaign", "tried", "clean", "failed", "kinds": {kind: the same three numbers},
"seconds", "processor_seconds", ...}; of a campaign of fuzzing {"campaign", "minutes", "processor_seconds", "tried":
{property: inputs}, "faults": {property: text}}.  page.py makes docs/reliability.md of these files.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
import small
from small import SIZES, command

__all__ = ["SIZES", "Ended", "bench", "command", "outcome", "save", "small", "table"]
BEGUN = time.monotonic()


class Ended(NamedTuple):
    """How a command ended: its exit code, -1 for an exception that nothing caught, and all that it printed."""

    code: int
    text: str


def bench(*arguments: str) -> Ended:
    """`bench` in this process, as its entry point runs it."""
    from rlhf_bench.harness.cli.main import main

    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["bench", *arguments]
    code = 0
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # a traceback is what a campaign looks for
        return Ended(-1, out.getvalue() + err.getvalue() + traceback.format_exc())
    finally:
        sys.argv = before
    return Ended(code, out.getvalue() + err.getvalue())


def table(title: str, counts: Mapping[str, Counter[str]], columns: Sequence[str]) -> str:
    """Counts as a Markdown table, a row for each name and one for the sum."""
    rows = [(name, [row[column] for column in columns]) for name, row in counts.items()]
    rows.append(("all", [sum(row[column] for row in counts.values()) for column in columns]))
    lines = [f"| {title} | {' | '.join(columns)} |", "|---|" + "--:|" * len(columns)]
    return "\n".join([*lines, *(f"| {name} | {' | '.join(map(str, found))} |" for name, found in rows)])


def outcome(campaign: str, kinds: Mapping[str, Mapping[str, int]], **details: object) -> dict[str, object]:
    """What a campaign found, from "tried" and "failed" by kind."""
    counts = {
        kind: {"tried": own["tried"], "clean": own["tried"] - own["failed"], "failed": own["failed"]}
        for kind, own in kinds.items()
    }
    sums = {column: sum(own[column] for own in counts.values()) for column in ("tried", "clean", "failed")}
    return {"campaign": campaign, **sums, "kinds": counts, **details}


def save(path: Path | None, found: Mapping[str, object]) -> None:
    """Write what a campaign found as JSON, where a path is given, with the time that it took (of children, too)."""
    if path is not None:
        took = {"seconds": round(time.monotonic() - BEGUN), "processor_seconds": round(sum(os.times()[:4]))}
        path.write_text(json.dumps({**took, **found}, indent=1) + "\n", encoding="utf-8")
