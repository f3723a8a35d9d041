"""A report's key names every module that its numbers are computed by: a change of one of them makes reports anew."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from stored import Stored, make

import rlhf_bench.harness
from rlhf_bench.harness import plugins
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.harness.results.found import find_cells
from rlhf_bench.reports import build, experiments

HARNESS = "rlhf_bench.harness"
NO_NUMBERS = {"errors", "nouns", "store", "plugins"}
"""Records, files and messages."""
PLANS = f"{HARNESS}.plan.experiments"
"""Reads what an experiment asks for, and plans it: what plans import computes no number of a report."""


def imported(name: str) -> set[str]:
    """Modules of the harness that a module of the package imports, at its top or inside."""
    package, _, stem = name.rpartition(".")
    folder = Path(str(rlhf_bench.harness.__file__)).parent.parent / package.rpartition(".")[2]
    found: set[str] = set()
    for node in ast.walk(ast.parse((folder / f"{stem}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == HARNESS:
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{HARNESS}."):
            found.add(str(node.module).rpartition(".")[2])
    return found


@pytest.mark.parametrize("also", [(), experiments.MODULES])
def test_what_a_number_is_computed_by_is_in_the_key(
    also: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, Stored(prompts=2))
    named: set[str] = {f"{HARNESS}.{name}" for name in also}

    def fingerprint(*modules: str) -> str:
        named.update(modules)
        return ""

    monkeypatch.setattr(plugins, "code_fingerprint", fingerprint)
    build.numbers_key(*find_cells([tmp_path]), Estimator())
    reached = {one for name in named - {PLANS} for one in imported(name)} - NO_NUMBERS
    assert "intervals" in reached
    assert reached <= {name.rpartition(".")[2] for name in named}
