"""How the package reads, in figures: lengths of files and functions, comments, docstrings, one-use helpers, `Any`.

    python benchmarks/readability.py                    # the checkout that holds this file
    python benchmarks/readability.py FOLDER --details   # another checkout, with names and lines

Lengths leave decorators out; the 90th percentile is a length that occurs.  A code line has a token other than a comment
or a docstring.  A private helper is a function or method `_name`, not nested; it is used once if its own file refers to
that name once, its definition aside.  Parameters include `*args` and `**kwargs`, not `self` and `cls`.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import tokenize
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median

FOLDERS = ("harness", "tasks", "reward_models", "judges", "reports")
NO_COMMENT = re.compile(r"#\s*(type:|noqa|fmt:|pragma|-{3,})")
LAYOUT = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER, tokenize.COMMENT}
Function = ast.FunctionDef | ast.AsyncFunctionDef
Row = tuple[int, str, str]  # a number, file:line, name
RUN = """
import contextlib, io, json, runpy, sys
sys.argv = ["bench", "run", "--dry-run", "--task", "dialogsum", "--rm", "seq2seq-token"]
try:
    with contextlib.redirect_stdout(io.StringIO()):
        runpy.run_module("rlhf_bench.harness", run_name="__main__", alter_sys=True)
except SystemExit as end:
    if end.code:
        raise
own = [module for name, module in sys.modules.items() if name.startswith("rlhf_bench.") and module.__file__]
print(json.dumps([[module.__file__, hasattr(module, "__path__")] for module in own]))
"""


def lines(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def docstring(node: ast.AST) -> ast.stmt | None:
    if isinstance(node, ast.Module | ast.ClassDef | Function) and ast.get_docstring(node, clean=False) is not None:
        return node.body[0]
    return None


def definitions(node: ast.AST, outer: str, public: bool, nested: bool) -> Iterator[tuple[str, bool, bool, ast.stmt]]:
    """Dotted name, whether no part of it is private, whether it lies in a function, and the definition."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef):
            name, shown = f"{outer}{child.name}", public and not nested and not child.name.startswith("_")
            yield name, shown, nested, child
            yield from definitions(child, f"{name}.", shown, nested or isinstance(child, Function))
        else:
            yield from definitions(child, outer, public, nested)


def parameters(node: Function) -> int:
    every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
    return sum(one is not None and (i > 0 or one.arg not in ("self", "cls")) for i, one in enumerate(every))


def code_and_comments(text: str, tree: ast.Module) -> tuple[int, int]:
    """Number of code lines, number of comments."""
    found = [one for node in ast.walk(tree) if (one := docstring(node))]
    prose = {line for one in found for line in range(one.lineno, one.lineno + lines(one))}
    code: set[int] = set()
    comments = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        comments += token.type == tokenize.COMMENT and not NO_COMMENT.match(token.string)
        if token.type not in LAYOUT and not (token.type == tokenize.STRING and token.start[0] in prose):
            code.update(range(token.start[0], token.end[0] + 1))
    return len(code), comments


def measured(text: str, file: str) -> Iterator[tuple[str, Row]]:
    """What one file adds: the kind of figure, and a row of it."""
    tree = ast.parse(text)
    names = Counter(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))
    used = names + Counter(node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    code, comments = code_and_comments(text, tree)
    for kind, count in {"file": len(text.splitlines()), "code": code, "comment": comments, "Any": names["Any"]}.items():
        yield kind, (count, file, "")
    for name, public, nested, node in definitions(tree, "", True, False):
        prose, place = docstring(node), f"{file}:{node.lineno}"
        if prose and public:
            yield "public docstring", (lines(prose), place, name)
        if isinstance(node, Function):
            if prose:
                yield "docstring", (lines(prose), place, name)
            yield "function", (lines(node), place, name)
            if parameters(node) > 8:
                yield "wide", (parameters(node), place, name)
            if re.match(r"_[^_]", node.name) and not nested and used[node.name] == 1:
                start = node.body[min(bool(prose), len(node.body) - 1)].lineno
                yield "once", (node.lineno + lines(node) - start, place, name)


def measure(folder: Path) -> dict[str, list[Row]]:
    figures: dict[str, list[Row]] = defaultdict(list)
    for path in sorted(path for top in FOLDERS for path in (folder / top).rglob("*.py")):
        for kind, row in measured(path.read_text(encoding="utf-8"), path.relative_to(folder).as_posix()):
            figures[kind].append(row)
    return figures


def imported(folder: Path) -> str:
    """Number of the package's modules that `bench run --dry-run` imports, or why it is not measured."""
    try:
        groups = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    except (OSError, KeyError) as error:
        return f"not measured: no entry points in pyproject.toml ({error!r})"
    with tempfile.TemporaryDirectory() as scratch:
        # Installed entry points may name another layout's modules: the folder's own come first on the path.
        info = Path(scratch, "rlhf_bench-0.dist-info")
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rlhf-bench\nVersion: 0\n", encoding="utf-8")
        points = [line for group in groups for line in (f"[{group}]", *map(" = ".join, groups[group].items()))]
        (info / "entry_points.txt").write_text("\n".join(points), encoding="utf-8")
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([scratch, str(folder / ".src")])}
        command = [sys.executable, "-c", RUN]
        done = subprocess.run(command, cwd=scratch, env=environment, capture_output=True, text=True)
    if done.returncode:
        return f"not measured: {(done.stderr.splitlines() or ['no message'])[-1]}"
    found = json.loads(done.stdout.splitlines()[-1])
    if outside := [file for file, _ in found if not Path(file).resolve().is_relative_to(folder)]:
        return f"not measured: {outside[0]} is outside {folder}"
    return f"{len(found)} ({sum(package for _, package in found)} of them packages)"


def table(figures: dict[str, list[Row]]) -> Iterator[tuple[str, str | int]]:
    numbers = {kind: [number for number, _, _ in rows] for kind, rows in figures.items()}
    lengths = sorted(numbers["function"])
    spread = f"{median(lengths):g} / {lengths[math.ceil(0.9 * len(lengths)) - 1]}"
    most, _, longest = max(figures["function"], key=lambda row: row[0])
    yield "files", len(figures["file"])
    yield "lines per file, median", f"{median(numbers['file']):g}"
    yield "function lines, median / 90% / longest", f"{spread} / {most} ({longest})"
    yield "comments per 100 code lines", f"{100 * sum(numbers['comment']) / sum(numbers['code']):.1f}"
    for kind, of in {"docstring": "functions", "public docstring": "public functions and classes"}.items():
        yield f"docstring lines, median of {of} with one", f"{median(numbers.get(kind, [0])):g}"
    for limit, title in {math.inf: "private helpers used once", 5: "of these with at most 5 body lines"}.items():
        names = [name for length, _, name in figures["once"] if length <= limit]
        yield title, f"{len(names)} ({sum('.' in name for name in names)} of them methods)"
    yield "`Any`", sum(numbers["Any"])
    yield "functions with more than 8 parameters", len(figures["wide"])


def details(figures: dict[str, list[Row]]) -> Iterator[str]:
    holders = Counter(place.rpartition(":")[0] for _, place, _ in figures["once"])
    sections = {
        "Longest functions": sorted(figures["function"], reverse=True)[:5],
        "Files with most one-use private helpers": [(count, file, "") for file, count in holders.most_common(10)],
        "One-use private helpers, by body lines": sorted(figures["once"]),
        "Functions with more than 8 parameters": sorted(figures["wide"], reverse=True),
        "Files with most `Any`": sorted(figures["Any"], reverse=True)[:10],
    }
    for title, rows in sections.items():
        yield from ("", title, *(f"{number:5}  {place}  {name}".rstrip() for number, place, name in rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parents[1])
    parser.add_argument("--details", action="store_true", help="also list the functions and files behind the figures")
    chosen = parser.parse_args()
    folder = chosen.folder.resolve()
    figures = measure(folder)
    if not figures["function"]:
        parser.error(f"no functions in {', '.join(FOLDERS)} of {folder}")
    rows = [*table(figures), ("own modules that `bench run --dry-run` imports", imported(folder))]
    print("| figure | value |\n|---|--:|", *(f"| {name} | {value} |" for name, value in rows), sep="\n")
    wide = ", ".join(f"{name} {count}" for count, _, name in sorted(figures["wide"], reverse=True))
    print("", f"More than 8 parameters: {wide or 'none'}", *(details(figures) if chosen.details else ()), sep="\n")


if __name__ == "__main__":
    main()
