"""benchmarks/readability.py on a tree small enough to count by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import readability

SCRIPT = readability.__file__

HELPERS = '''"""Two lines
of docstring, which are no code."""

from typing import Any  # noqa: F401

# ---- a separator -----
# Why the next line is as it is.
LIMIT: Any = {"a": 1,
              "b": 2}  # the trap


@property
def outer(a: Any, /, b, *rest, c=_once(1), **more):
    """One line."""
    def _nested():
        return 1  # type: ignore[x]
    return _nested() + _twice() + _twice()


def _once(x):
    """A docstring is no body line."""
    y = x

    return y


def _twice(): return 1


class Thing:
    """A thing.

    Three lines."""

    def __init__(self, a, b, c, d, e, f, g, h): self._start()
    def _start(self):
        """Private."""
        """Still
        code."""
    def method(self, a, b, c, d, e, f, g, h, *i): self.other._elsewhere()
    class _Inner:
        def shown(self):
            """Not public: its class is private."""
'''

MAIN = """
import sys
from importlib.metadata import entry_points

if __name__ == "__main__":
    assert sys.argv[1:3] == ["run", "--dry-run"]
    print("what the command prints")
    (point,) = entry_points(group="rlhf_bench.tasks")
    point.load()
    sys.exit(0)
"""

PROJECT = """[project.entry-points."rlhf_bench.tasks"]
only = "rlhf_bench.tasks.deep.world:World"
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout with one file of helpers and a `bench` that loads its one plugin."""
    files = {
        "harness/__init__.py": "",
        "harness/__main__.py": MAIN,
        "tasks/__init__.py": "",
        "tasks/deep/world.py": "class World: pass\n",
        "tasks/deep/helpers.py": HELPERS,
        "docs/not_counted.py": "def f(): pass\n",
        "pyproject.toml": PROJECT,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / ".src").mkdir()
    (tmp_path / ".src" / "rlhf_bench").symlink_to("..")
    return tmp_path


def named(tree: Path, kind: str) -> dict[str, int]:
    return {name: number for number, _, name in readability.measure(tree)[kind]}


def total(tree: Path, kind: str, file: str = "tasks/deep/helpers.py") -> int:
    return sum(number for number, place, _ in readability.measure(tree)[kind] if place == file)


def test_functions_of_every_depth_are_measured_from_their_def_line(tree: Path) -> None:
    lengths = {"outer": 5, "outer._nested": 2, "_once": 5, "_twice": 1, "Thing.__init__": 1, "Thing._start": 4}
    assert named(tree, "function") == lengths | {"Thing.method": 1, "Thing._Inner.shown": 2}


def test_code_lines_have_a_token_that_is_no_comment_and_no_docstring(tree: Path) -> None:
    code = [line for line in HELPERS.splitlines() if line.strip() and not line.strip().startswith("#")]
    docstrings = 2 + 1 + 1 + 2 + 1 + 1  # of the module, outer, _once, Thing without its blank line, _start, shown
    assert total(tree, "code") == len(code) - docstrings


def test_marks_for_tools_and_separators_are_no_comments(tree: Path) -> None:
    assert total(tree, "comment") == 2


def test_docstrings_count_their_lines_and_public_ones_are_told_apart(tree: Path) -> None:
    assert named(tree, "docstring") == {"outer": 1, "_once": 1, "Thing._start": 1, "Thing._Inner.shown": 1}
    assert named(tree, "public docstring") == {"outer": 1, "Thing": 3}


def test_private_helpers_used_once_are_those_of_modules_and_classes(tree: Path) -> None:
    assert named(tree, "once") == {"_once": 3, "Thing._start": 2}  # body lines, without docstrings


def test_any_is_counted_where_it_is_used(tree: Path) -> None:
    assert total(tree, "Any") == 2


def test_parameters_leave_self_out(tree: Path) -> None:
    assert named(tree, "wide") == {"Thing.method": 9}


def test_modules_are_those_of_the_folder_and_its_own_plugins(tree: Path) -> None:
    assert readability.imported(tree) == "3 (2 of them packages)"  # harness, tasks, tasks.deep.world


def test_modules_that_cannot_be_counted_give_the_reason(tree: Path) -> None:
    (tree / "harness" / "__main__.py").write_text("raise ValueError('broken')")
    assert readability.imported(tree) == "not measured: ValueError: broken"
    (tree / "pyproject.toml").unlink()
    assert readability.imported(tree).startswith("not measured: no entry points")


def test_the_script_prints_one_table_and_on_demand_the_places(tree: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, SCRIPT, str(tree), "--details"]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert "| files | 5 |" in printed
    assert "| function lines, median / 90% / longest | 2 / 5 / 5 (outer) |" in printed
    assert "| private helpers used once | 2 (1 of them methods) |" in printed
    assert "More than 8 parameters: Thing.method 9" in printed
    line = HELPERS.splitlines().index("def _once(x):") + 1
    assert f"    3  tasks/deep/helpers.py:{line}  _once" in printed.splitlines()


def test_a_folder_without_the_package_is_refused(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, SCRIPT, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 2
    assert "no functions in harness" in done.stderr
