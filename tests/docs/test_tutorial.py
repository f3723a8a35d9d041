"""The tutorial's Python runs as it stands on the page."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT, blocks

pytestmark = [pytest.mark.training, pytest.mark.timeout(600)]


def test_the_blocks_run_in_order(tmp_path: Path) -> None:
    """As one script in an empty folder, in a process of its own."""
    found = blocks((ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8"), "python")
    assert len(found) >= 3
    script = tmp_path / "tutorial.py"
    script.write_text("\n".join(found), encoding="utf-8")
    made = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True, text=True, timeout=580, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stdout + made.stderr
    assert (tmp_path / "report" / "report.html").is_file()
    assert "['scalar', 'seq2seq-token']" in made.stdout
