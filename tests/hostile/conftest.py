"""Fixtures of the tests of hostile folders."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
from hostile_place import EVIL, Place, Refused
from stored import Stored, make

from rlhf_bench.harness.cli import main


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A folder with a module whose import leaves a file, and a finished cell in `runs`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    (tmp_path / "evil.py").write_text(EVIL)
    found = Place(tmp_path)
    found.outside.mkdir()
    (found.outside / "secret").write_text("private")
    make(found.runs, Stored(rms=("scalar",), seeds=(1,)))
    return found


@pytest.fixture
def refused(place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Refused:
    """Run a command on the hostile folder.  It must end with 2 or 3, say `said` in one line, and change nothing."""

    def call(line: str, said: str) -> str:
        before = place.state()
        monkeypatch.setattr(sys, "argv", ["bench", *shlex.split(line)])
        with pytest.raises(SystemExit) as stopped:
            main.main()
        out, error = capsys.readouterr()
        if line.startswith("check "):  # its findings are a table, and a failed one is exit code 1
            assert stopped.value.code == 1
            error = " ".join("".join(out.split("│")).split())
        else:
            assert stopped.value.code in (2, 3), error
        assert "Traceback" not in error
        assert not (place.home / "sentinel").exists(), error
        assert place.state() == before
        (named, *_) = [text for text in error.splitlines() if said in text] or [""]
        assert named, error
        return named

    return call
