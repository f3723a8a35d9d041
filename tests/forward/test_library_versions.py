"""The versions of torch, transformers and TRL that the package allows: up to the minor version of the self-tests."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

from rlhf_bench.harness.checks.fast_paths import fast_path_states

ROOT = Path(__file__).parents[2]


def requirements() -> dict[str, str]:
    """By name, what pyproject.toml allows of the three libraries."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = ("torch", "transformers", "trl")
    return {name: next(r for r in project["dependencies"] if re.match(rf"{name}\b", r)) for name in names}


def test_no_later_minor_version_is_allowed_than_the_tested_ones() -> None:
    tested = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    for name, requirement in requirements().items():
        major, minor = map(int, tested[name].split(".")[:2])
        assert requirement.endswith(f",<{major}.{minor + 1}"), requirement


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env={**os.environ, **environment}, timeout=600
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["transformers", "trl"])  # not torch: with it come gigabytes of CUDA libraries
def test_the_newest_allowed_release_passes_the_self_tests(name: str, tmp_path: Path) -> None:
    options = ("--no-deps", "--quiet", "--disable-pip-version-check")
    plan = ("--dry-run", "--ignore-installed", "--report", "-", requirements()[name])
    found = python("-m", "pip", "install", *options, *plan)
    if found.returncode:
        pytest.skip(f"pip finds no release: {(found.stderr.strip().splitlines() or ['no reason'])[-1]}")
    newest = json.loads(found.stdout)["install"][0]["metadata"]["version"]
    if newest == version(name):
        pytest.skip(f"{name} {newest} is installed and the newest that is allowed")
    installed = python("-m", "pip", "install", *options, "--target", str(tmp_path), f"{name}=={newest}")
    assert installed.returncode == 0, installed.stderr
    if (imported := python("-c", f"import {name}", PYTHONPATH=str(tmp_path))).returncode:
        pytest.skip(f"{name} {newest} needs other packages: {imported.stderr.strip().splitlines()[-1]}")
    code = f"import {name}, {__name__.rpartition('.')[2]} as tests; tests.print_states({name}.__version__)"
    folders = (str(tmp_path), str(Path(__file__).parent), str(ROOT / "tests"))
    states = python("-W", "ignore", "-c", code, PYTHONPATH=os.pathsep.join(folders))
    assert states.returncode == 0, states.stderr
    assert json.loads(states.stdout) == {"version": newest, **dict.fromkeys(fast_path_states(), "on")}


def print_states(installed: str) -> None:
    """For the process of the test above."""
    print(json.dumps({"version": installed, **fast_path_states()}))
