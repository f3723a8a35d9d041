"""The import rule of the architecture: a layer imports only the layers before it, inside functions too."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("harness", "tasks", "reward_models", "judges", "reports")
ORDER = """errors printable text . statistics forward models sampling training ppo pipeline
tasks reward_models judges stages plan results reports checks api cli"""
LAYERS = ORDER.split()
"""Lowest first; "." is the root of `harness/`."""


def layer(module: str) -> int:
    """The layer of a module named from the top folder on (`harness.ppo.loop`); the longest prefix decides."""
    folder, _, rest = module.partition(".")
    if folder != "harness":
        return LAYERS.index(folder)
    if rest == "__main__":
        return LAYERS.index("cli")  # `python -m rlhf_bench.harness` is the command line
    name = rest.partition(".")[0]
    return LAYERS.index(name if name in LAYERS else ".")


def modules() -> dict[str, Path]:
    """Every module by its name from the top folder on."""
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


MODULES = modules()


def imported(tree: ast.AST) -> set[str]:
    """Our own modules that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("rlhf_bench.") for alias in node.names if alias.name.startswith("rlhf_")}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rlhf_bench"):
            base = str(node.module).removeprefix("rlhf_bench").lstrip(".")
            names = [f"{base}.{alias.name}".lstrip(".") for alias in node.names]
            found |= {name if name in MODULES else base for name in names}
    return found


def upward(module: str, tree: ast.AST) -> list[str]:
    """What a module imports from a layer above its own."""
    return sorted(other for other in imported(tree) if layer(other) > layer(module))


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_layer_imports_only_those_before_it(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    assert not any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree)), "no relative imports"
    assert upward(module, tree) == []


def test_every_package_has_a_layer() -> None:
    packages = {path.parent.name for path in (ROOT / "harness").glob("*/*.py")}
    assert packages <= set(LAYERS)
    assert {"errors", "printable"} <= {path.stem for path in (ROOT / "harness").glob("*.py")}


@pytest.mark.parametrize(
    ("module", "line", "allowed"),
    [
        ("harness.statistics.intervals", "from rlhf_bench.harness import store", True),
        ("harness.store", "from rlhf_bench.harness.statistics import intervals", False),
        ("harness.ppo.loop", "def f():\n    from rlhf_bench.harness.stages import policy", False),
        ("harness.text.tokens", "from rlhf_bench.harness.nouns import Span", False),
        ("judges.winrate", "import rlhf_bench.reports.html", False),
        ("reports.html", "from rlhf_bench.judges.winrate import WinRate", True),
    ],
)
def test_the_rule_sees_imports_of_every_form(module: str, line: str, allowed: bool) -> None:
    assert (upward(module, ast.parse(line)) == []) == allowed


def test_test_files_have_names_of_their_own() -> None:
    """pytest imports test files by their base names: the second file of one name would not run."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
