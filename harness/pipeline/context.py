"""What a stage's function gets and returns.

Apart from stage.py, so that the code of planning and of keys is not part of what a stage's function imports: a change
there would make every stored result unusable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rlhf_bench.harness.pipeline.trackers import Tracked
from rlhf_bench.harness.seams import Progress, no_progress
from rlhf_bench.harness.text.types import Row


@dataclass(frozen=True)
class Context:
    """What a stage's function gets.  It writes its result to `work`; `scratch` survives an interruption.

    `params` are the stage's parameters and its payload in one object; `inputs` the folders of earlier stages by role.
    Which of them a function reads is in its docstring.  `device` is a torch device; `tracked` names the loggers of a
    training.
    """

    params: Row
    inputs: Mapping[str, Path]
    work: Path
    scratch: Path
    device: str
    progress: Progress = no_progress
    tracked: Tracked = field(default_factory=Tracked)


StageFigures = Row
"""What a stage's function returns: figures for stage.json, such as losses and counts."""

StageFunction = Callable[[Context], StageFigures]
