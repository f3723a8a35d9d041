"""The wheel outside the checkout: everything is in it, and third-party plugins run through the installed `bench`."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.training
ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("harness", "tasks", "reward_models", "judges", "reports")


def pip(*arguments: object) -> None:
    made = subprocess.run(
        [sys.executable, "-m", "pip", *map(str, arguments)], capture_output=True, text=True, timeout=200, check=False
    )
    assert made.returncode == 0, made.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that the build leaves nothing in the checkout."""
    import shutil

    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in (*FOLDERS, "pyproject.toml", "README.md", "LICENSE"):
        path = ROOT / name
        copy = shutil.copytree if path.is_dir() else shutil.copy2
        copy(path, source / name)
    pip("wheel", "--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", out, source)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def bench(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`bench` of a virtual environment that has the wheel, the example package and, by path, this one's libraries.

    A path in a .pth file brings the libraries without this environment's editable install.
    """
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, with_pip=False)
    site = next(home.glob("lib/python*/site-packages"))
    (site / "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    python = home / "bin" / "python"
    quiet = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--force-reinstall")
    pip("--python", python, "install", *quiet, wheel)
    import shutil

    example = shutil.copytree(ROOT / "examples" / "third_party", tmp_path_factory.mktemp("example") / "source")
    pip("--python", python, "install", *quiet, example)
    return home / "bin" / "bench"


def call(bench: Path, where: Path, *arguments: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [str(bench), *arguments], capture_output=True, text=True, timeout=280, cwd=where, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def test_every_file_is_in_the_wheel(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".toml", ".typed", ".html", ".css", ".js", ".json") or path.name == "py.typed":
                assert f"rlhf_bench/{path.relative_to(ROOT)}" in packed
    assert not [name for name in packed if not name.startswith(("rlhf_bench/", "rlhf_bench-"))]


def test_every_folder_with_code_is_a_package_of_the_list() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    held = {path.parent.relative_to(ROOT) for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}
    assert sorted(listed) == sorted(".".join(("rlhf_bench", *folder.parts)) for folder in held)
    assert all((ROOT / folder / "__init__.py").is_file() for folder in held)


def test_all_modules_import_from_it(bench: Path, tmp_path: Path) -> None:
    paths = [path.relative_to(ROOT).with_suffix("") for f in FOLDERS for path in (ROOT / f).rglob("*.py")]
    names = [".".join(("rlhf_bench", *path.parts)) for path in paths if path.stem not in ("__main__", "__init__")]
    script = f"import importlib, sys\nfor n in {names!r}: m = importlib.import_module(n)\nprint(m.__file__)"
    done = subprocess.run(
        [str(bench.parent / "python"), "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert str(bench.parent.parent) in done.stdout


def test_it_lists_checks_and_runs_third_party_plugins(bench: Path, tmp_path: Path) -> None:
    assert "echo-words" in call(bench, tmp_path, "list", "tasks")
    assert "vowels" in call(bench, tmp_path, "list", "reward-models")
    for kind, name in (("task", "echo-words"), ("reward-model", "vowels"), ("judge", "exact-echo")):
        assert "FAILS" not in call(bench, tmp_path, "check", kind, name)
    sizes = ("sft.steps=8", "ppo.iterations=2", "ppo.rollouts=8", "echo-words.demonstrations=64", "ppo.checkpoints=1")
    sets = [text for size in sizes for text in ("--set", size)]
    judges = ("--judge", "exact-echo", "--judge", "utility")
    out = call(bench, tmp_path, "run", "--task", "echo-words", "--rm", "vowels", *judges, *sets)
    assert "vowels" in out
    report = (tmp_path / "runs" / "report" / "report.json").read_text()
    assert '"exact_echo"' in report
    assert '"gold"' in report
