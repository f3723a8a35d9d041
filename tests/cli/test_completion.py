"""`bench completion`: click's scripts, asked as a shell asks them, and where --install writes."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_bench.harness import plugins
from rlhf_bench.harness.cli.completion import completion, place_of, script
from rlhf_bench.harness.cli.main import bench
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.settings import GROUPS

SHELLS = ("bash", "zsh", "fish")


@pytest.fixture
def program(tmp_path: Path) -> dict[str, str]:
    """The environment of a shell in which `bench` is on the path."""
    start = "import sys; sys.argv[0] = 'bench'; from rlhf_bench.harness.cli.main import main; main()"
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "bench").write_text(f'#!/bin/sh\nexec {sys.executable} -c "{start}" "$@"\n')
    (folder / "bench").chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}


def completed(program: dict[str, str], *words: str) -> list[str]:
    """What bash offers for the last of the words of a command."""
    asked = f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; _bench_completion bench; "
    ask = f'eval "$(bench completion bash)"; {asked}'
    ended = subprocess.run(
        ["bash", "-c", ask + 'printf "%s\\n" "${COMPREPLY[@]}"'],
        capture_output=True, text=True, env=program, timeout=120, check=False,
    )  # fmt: skip
    assert ended.stderr == ""
    return ended.stdout.split()


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash")
def test_bash_completes_commands_options_and_names(program: dict[str, str]) -> None:
    assert completed(program, "bench", "comp") == ["completion"]
    assert completed(program, "bench", "run", "--data", "''", "--reward-s") == ["--reward-seeds"]  # empty so far
    assert completed(program, "bench", "run", "--task", "dialog") == ["dialogsum"]
    assert completed(program, "bench", "run", "--judge", "refusal") == ["refusal", "refusal-phrases"]
    assert completed(program, "bench", "run", "--judge", "+refusal-") == ["+refusal-phrases"]


def offered(*words: str) -> set[str]:
    """The same, without a shell."""
    from click.shell_completion import ShellComplete

    found = ShellComplete(bench, {}, "bench", "_BENCH_COMPLETE").get_completions(list(words[:-1]), words[-1])
    return {item.value for item in found}


def test_names_that_commands_take() -> None:
    assert offered("list", "settings", "") == {
        *GROUPS,
        *(name for kind in plugins.GROUPS for name in plugins.available(kind)),  # type: ignore[arg-type]
    }
    assert offered("list", "judges", "") == set()
    assert offered("check", "judge", "") == set(plugins.available("judge"))
    assert offered("check", "store", "") == set()
    assert {"headline", "refusal"} <= offered("experiment", "")
    assert {"tiny", "small"} <= offered("run", "--preset", "")
    assert offered("run", "--rm", "scalar") == {"scalar", "scalar-uniform"}


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_printed_as_click_makes_it(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert completion(bench, shell, False) == 0
    printed = capsys.readouterr().out
    assert printed == f"{script(bench, shell)}\n"
    assert f"_BENCH_COMPLETE={shell}_complete" in printed


@pytest.mark.parametrize("shell", SHELLS)
def test_install_writes_the_script_and_says_what_is_left(
    shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "BASH_COMPLETION_USER_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    place = place_of(shell)
    assert tmp_path in place.parents
    for _ in range(2):  # the second call writes it anew
        assert completion(bench, shell, True) == 0
    assert place.read_text() == f"{script(bench, shell)}\n"
    said = capsys.readouterr().out
    assert str(place) in said
    assert {"bash": "source '", "zsh": "fpath=(", "fish": "New shells load it."}[shell] in said
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [place]  # no .bashrc and its like
    place.write_text("# of another program called bench\n")
    with pytest.raises(BenchError, match="is of another program"):
        completion(bench, shell, True)
