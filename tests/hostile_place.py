"""A place with a hostile folder: `runs`, a module whose import leaves a file, and what must not change.

Helpers of tests/hostile and of the campaign benchmarks/faults/hostile.py.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_bench.harness.training.record import write_record

EVIL = """
from pathlib import Path
SENTINEL = Path(__file__).with_name("sentinel")
SENTINEL.touch()
def run(*arguments, **named):
    SENTINEL.touch()
run.load = run.train = run.rewards = run
"""
NAMES = (
    "evil:run",
    "os:system",
    "evil:run.load",
    "function:evil:run",
    "builtins:exec",
    "evil",
    "hf:evil/model",
    "path:.",
)
"""What a file may try to name."""
CELL = "dialogsum-scalar-s1"
LABEL = "dialogsum-s1-000000000000"
ARM = "dialogsum-scalar-s1-000000000000"


class Place(NamedTuple):
    """The current folder of a test: `runs` is the hostile folder, `outside` what must not change."""

    home: Path

    @property
    def runs(self) -> Path:
        return self.home / "runs"

    @property
    def outside(self) -> Path:
        return self.home / "outside"

    def change(self, path: Path | str, change: Callable[[Any], Any]) -> None:
        """Change a JSON file of the runs folder."""
        file = self.runs / path
        file.write_text(json.dumps(change(json.loads(file.read_text()))))

    def move_out(self, path: str) -> None:
        """Put a link to the folder or file outside of the runs folder in its place."""
        target = self.outside / Path(path).name
        (self.runs / path).parent.mkdir(parents=True, exist_ok=True)
        if (self.runs / path).exists():
            shutil.move(self.runs / path, target)
        else:
            target.mkdir()
        (self.runs / path).symlink_to(target)

    def state(self) -> dict[str, bytes]:
        return {str(p): p.read_bytes() if p.is_file() else b"" for p in sorted(self.outside.rglob("*"))}


Refused = Callable[..., str]


def shared_reward_model(place: Place, name: str, **settings: Any) -> Path:
    folder = place.home / "shared"
    folder.mkdir()
    write_record(folder, name, settings)
    (folder / "model.safetensors").touch()
    return folder


ON_PATH = ("run --task dialogsum --rm path:shared --out new", "check reward-model path:shared")
"""Commands that open a reward model by its folder."""
