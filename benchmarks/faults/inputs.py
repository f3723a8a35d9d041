"""Give `bench` bad input of many kinds and count how it is refused.

    python benchmarks/faults/inputs.py [--json FILE] [--only KIND]

Every command line runs in this process, in a folder of its own.  It is clean where it ends with exit code 2 and one
line on stderr that can be printed, without a traceback, and writes nothing.  The lines are those of
tests/test_odd_input.py and tests/test_bad_input.py, and odd values of every setting and option.  Exit code 0 where all
are clean.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
import click
from common import outcome, save
from test_bad_input import GOOD, MANY, as_lines
from test_odd_input import BYTE_LINES, DEEP, LONG_LINES, NAMED, RUN

from rlhf_bench.harness.cli import main as cli
from rlhf_bench.harness.settings import describe_settings

Case = tuple[str, list[str], Callable[[], object]]
"""(kind, command line, what makes the files that it names in the current folder)."""

NUMBERS = ("abc", "nan", "inf", "-inf", "1e999", "", "1,5", "[1]", "0x10z", "-1e400", "\udcff", "\x1b[31m1", "1\n2")
NAMES = ("abacus", "\udcff", "x" * 300, "a\0b", "\x1b[31mred", "a\nb", "../..")
ONES = ("--limit", "--jobs", "--threads")
FILES: dict[str, bytes] = {
    "empty": b"",
    "deep": DEEP.encode(),
    "no UTF-8": as_lines([GOOD]).replace(b"greet", b"gr\xff\xfeet"),
    "half a line": as_lines(MANY)[:-20],
    "an array": as_lines([[1, 2]]),
    "numbers": b"1\n2\n3\n",
    "null": b"null\n",
    "zeros": b"\0" * 4096,
    "a huge number": b'{"fname": ' + b"9" * 5000 + b"}\n",
    "other columns": as_lines([{"fname": "a", "dialog": "x", "summary": "y"}]),
    "empty summaries": as_lines([{**row, "summary": ""} for row in MANY]),
    "no texts": as_lines([{**row, "dialogue": 3} for row in MANY]),
    "not JSON": b"{nonsense\n",
    "a pickle": b"\x80\x04\x95\x10\x00\x00\x00.",
}


def nothing() -> None: ...


def cases() -> Iterator[Case]:
    for line in LONG_LINES:
        yield "a path of 300 characters", line, nothing
    for line in BYTE_LINES:
        yield "bytes that are no text", line, nothing
    for command, option in NAMED:
        given = [option.opts[0], ""] if isinstance(option, click.Option) else [""]
        yield "an empty name", [str(command.name), *given], nothing
    for setting in describe_settings():
        name = f"{setting.group}.{setting.key}"
        # a setting that takes any text has no bad value
        if isinstance(setting.default, bool):
            values: tuple[str, ...] = ("maybe", "", "2", "nan")
        elif isinstance(setting.default, int | float):
            values = NUMBERS
        else:
            values = NAMES[:1] if "one of" in setting.allowed else ()
        for value in values:
            yield "a value of a setting", [*RUN, "--dry-run", "--set", f"{name}={value}"], nothing
        yield "a misspelt setting", [*RUN, "--set", f"{name}x=1"], nothing
    for option in (
        "--task",
        "--rm",
        "--judge",
        "--optimizer",
        "--preset",
        "--policy",
        "--data",
        "--device",
        "--prompts",
    ):
        for value in NAMES:
            line = [text for text in RUN if text != {"--task": "dialogsum", "--rm": "length-only"}.get(option)]
            line = [text for text in line if text != option or option not in ("--task", "--rm")]
            # a plan may be for another machine, so a dry run looks at no device
            yield "a wrong name", [*line, option, value, *(["--dry-run"] if option != "--device" else [])], nothing
    for option in ONES:
        for value in ("0", "-1", "x", "1.5", "nan", "99999999999999999999", "\udcff"):
            yield "a wrong number", [*RUN, option, value] if value != "9" * 20 else [*RUN, option, "x"], nothing
    for text in ("0", "-1", "3,3", "5-4", "a", "1-", "9" * 5000, "\udcff", "1e3", "1.0"):
        yield "seeds", [*RUN, "--seeds", text, "--yes"], nothing
    for what, content in FILES.items():
        for suffix in ("jsonl", "json", "csv", "parquet", "jsonl.gz"):
            for task in ("dialogsum", "preferences"):
                if suffix == "csv" and what in ("other columns",):
                    continue

                def build(content: bytes = content, suffix: str = suffix) -> None:
                    Path(f"data.{suffix}").write_bytes(content)

                line = ["run", "--task", task, "--rm", "length-only", "--data", f"data.{suffix}", "--dry-run"]
                yield f"a data file: {what}", line, build
    for what, content in FILES.items():
        for name in ("config.json", "tokenizer.json", "adapter_config.json"):

            def folder(name: str = name, content: bytes = content) -> None:
                Path("model").mkdir()
                (Path("model") / name).write_bytes(content)

            yield f"a model folder: {what}", [*RUN, "--policy", "model", "--dry-run"], folder
            yield f"a model folder: {what}", ["run", "--task", "dialogsum", "--rm", "hf:model", "--dry-run"], folder
    if os.geteuid():  # root may read everything
        yield "no right to read", [*RUN, "--data", "data.jsonl"], lambda: Path("data.jsonl").touch(0o000)
        yield "no right to write", [*RUN, "--out", "locked/runs"], lambda: Path("locked").mkdir(0o500)


def fault_of(line: list[str], build: Callable[[], object]) -> str:
    """What is wrong with how `bench` refuses a command line, in the current folder; "" where it is clean."""
    build()
    before = sorted(str(path) for path in Path().rglob("*"))
    error, ended = io.StringIO(), "0"
    sys.argv = ["bench", *line]
    with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
        try:
            cli.main()
        except SystemExit as stopped:
            ended = str(stopped.code)
        except BaseException as fault:  # what a person would see as a traceback
            return f"{type(fault).__name__}: {fault}"[:200]
    said = [text for text in error.getvalue().splitlines() if text and not text.startswith(("Usage:", "Try "))]
    if ended != "2":
        return f"exit code {ended}: {' '.join(said)[:200]}"
    if len(said) != 1 or not said[0].isprintable():
        return f"{len(said)} lines: {ascii(' / '.join(said))[:200]}"
    written = sorted({str(path) for path in Path().rglob("*")} - set(before))
    return f"wrote {written[0]}" if written else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", default="", help="Kinds that hold this text.")
    given = parser.parse_args()
    counts: dict[str, list[int]] = {}
    failed: list[dict[str, object]] = []
    home = Path.cwd()
    for kind, line, build in cases():
        if given.only not in kind:
            continue
        with tempfile.TemporaryDirectory() as name:
            os.chdir(name)
            try:
                fault = fault_of(line, build)
            finally:
                os.chdir(home)
        count = counts.setdefault(kind.partition(":")[0], [0, 0])
        count[0] += 1
        count[1] += not fault
        if fault:
            failed.append({"kind": kind, "line": [ascii(text)[:80] for text in line], "fault": ascii(fault)})
    print("| bad input | tried | clean | failed |\n|---|---|---|---|")
    rows = [*counts.items(), ("all", [sum(column) for column in zip(*counts.values(), strict=True)])]
    for kind, (tried, clean) in rows:
        print(f"| {kind} | {tried} | {clean} | {tried - clean} |")
    for one in failed:
        print(one, file=sys.stderr)
    found = {kind: {"tried": tried, "failed": tried - clean} for kind, (tried, clean) in counts.items()}
    save(given.json, outcome("inputs", found, failures=failed))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
