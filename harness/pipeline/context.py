"""What a stage's function gets and returns.

Apart from stage.py, so that the code of planning and of keys is not part of what a stage's function imports: a change
there would make every stored result unusable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf_bench.harness.pipeline.trackers import Tracked
from rlhf_bench.harness.seams import Progress, no_progress


@dataclass(frozen=True)
class Context:
    """What a stage's function gets.  It writes its result to `work`; `scratch` survives an interruption."""

    params: Mapping[str, Any]
    inputs: Mapping[str, Path]
    work: Path
    scratch: Path
    device: str
    progress: Progress = no_progress
    tracked: Tracked = field(default_factory=Tracked)


StageFigures = Mapping[str, Any]
"""What a stage's function returns: figures for stage.json, such as losses and counts."""

StageFunction = Callable[[Context], StageFigures]
