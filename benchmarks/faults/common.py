"""What the fault campaigns share: commands in this process, a small run, and a table of counts."""

from __future__ import annotations

import io
import json
import sys
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
import small
from small import SIZES, command

__all__ = ["SIZES", "Ended", "bench", "command", "save", "small", "table"]


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


def save(path: Path | None, found: object) -> None:
    """Write what a campaign found as JSON, where a path is given."""
    if path is not None:
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
