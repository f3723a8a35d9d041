"""What an interrupted stage left: a trainer's checkpoint is continued from only where it holds a trainer's files.

The folder may have come from someone else.  A file of another kind of training (a scaler of mixed precision, a state
of DeepSpeed) sends the trainer into code for that training, which fails in its own ways.
"""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

from rlhf_bench.harness.errors import BenchError

STATE = "trainer_state.json"
"""The file of a checkpoint of transformers' trainer; PPO's own checkpoints do not have it."""
WRITTEN = (
    *("*.safetensors", "*.json", "*.txt", "*.jinja", "*.model", "README.md"),
    *("optimizer.pt", "scheduler.pt", "rng_state*.pth", "training_args.bin"),
)
"""The names of files that the trainers of this package write."""


def check_scratch(scratch: Path) -> None:
    """Raises BenchError where a trainer's checkpoint in a stage's scratch folder holds another kind of file."""
    for state in sorted(scratch.glob(f"checkpoint-*/{STATE}")):
        for path in sorted(state.parent.iterdir()):
            if not any(fnmatch(path.name, form) for form in WRITTEN):
                raise BenchError(f"{path} is no file of a checkpoint of this run.", f"Delete {state.parent}.")
