"""The third-party package under examples/ installs, and its plugins are found by name in a process of their own."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "third_party"
PLUGINS = {"task": "echo-words", "reward-model": "vowels", "judge": "exact-echo"}
SCRIPT = """
import json, sys
from dataclasses import asdict
from rlhf_bench.harness import plugins
from rlhf_bench.harness.checks.conformance import check
from rlhf_bench.harness.seams import GoldTask, Judge, RewardModel

seams = {"task": GoldTask, "reward-model": RewardModel, "judge": Judge}
report = {}
for kind, name in json.loads(sys.argv[1]).items():
    report[kind] = {
        "listed": name in plugins.available(kind),
        "distribution": plugins.find(kind, name).distribution,
        "seam": isinstance(plugins.build(kind, name, {}), seams[kind]),
        "broken": [asdict(f) for f in check(kind, name, {}) if not f.ok],
    }
report["modules"] = [m for m in ("rlhf_bench.tasks.dialogsum", "rlhf_bench.judges.winrate") if m in sys.modules]
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example installed in it, made from a copy so that the build leaves nothing in the sources."""
    for needed in ("pip", "setuptools"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed")
    root = tmp_path_factory.mktemp("third_party")
    source, target = shutil.copytree(EXAMPLE, root / "source"), root / "site"
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    made = subprocess.run([*command, "--target", target, source], capture_output=True, text=True, timeout=120)
    assert made.returncode == 0, made.stderr
    return target


def ask(installed: Path, script: str, *arguments: str) -> Any:
    path = os.pathsep.join([str(installed), *filter(None, [os.environ.get("PYTHONPATH")])])
    run = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=installed.parent,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_the_plugins_are_found_made_and_keep_the_rules(installed: Path) -> None:
    report = ask(installed, SCRIPT, json.dumps(PLUGINS))
    for kind in PLUGINS:
        assert report[kind] == {"listed": True, "distribution": "bench-echo", "seam": True, "broken": []}
    assert report["modules"] == []  # only what was asked for is imported


def test_its_code_has_a_fingerprint(installed: Path) -> None:
    script = """
import json
from rlhf_bench.harness.plugins import find
print(json.dumps([find("task", "echo-words").fingerprint(), find("judge", "winrate").fingerprint()]))
"""
    own, built_in = ask(installed, script)
    assert own != built_in
    assert ask(installed, script) == [own, built_in]


def test_it_is_the_package_that_the_readme_describes() -> None:
    readme, module = (EXAMPLE / "README.md").read_text(), (EXAMPLE / "bench_echo.py").read_text()
    for name in (*PLUGINS.values(), "EchoWords", "Vowels", "ExactEcho"):
        assert name in readme
    assert "class EchoWords:" in module  # nothing to inherit
    assert "class Vowels:" in module
    assert "class ExactEcho:" in module
