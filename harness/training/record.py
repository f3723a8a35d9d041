"""The record beside a trained reward model's weights: which arm trained them, so that the folder can be shared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError, one_line

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject, Row

RECORD = "reward_model.json"
"""{"name", "settings"} of the arm that trained the weights beside it."""


def write_record(folder: Path, name: str, settings: Row) -> None:
    """Write the record of the arm `name` with `settings` beside the weights in `folder`.

    `settings` are JSON values: reward_models/saved.py builds the reward model from them again.
    """
    store.write_json(folder / RECORD, {"name": name, "settings": dict(settings)})


def read_record(folder: Path) -> tuple[str, JsonObject]:
    """(name, settings) of the arm that trained a reward model.

    Raises BenchError for a folder without a record or weights, or with a damaged record.
    """
    if not store.is_folder(folder):
        raise BenchError(f"There is no folder {folder}.", "Give runs/reward/NAME of a run, or a copy of it.")
    try:
        row = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        name, settings = str(row["name"]), dict(row["settings"])
    except FileNotFoundError:  # the common mistake: a policy, or a reward model from elsewhere
        raise BenchError(
            f"{folder} has no {RECORD}: no run trained it as a reward model.",
            "Give runs/reward/NAME of a run; for any other classifier: --rm hf:FOLDER.",
        ) from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BenchError(f"{folder / RECORD} cannot be read: {one_line(error)}.", "Copy the folder again.") from None
    # Checked here, so that a half-copied folder is an error of one line, not one of transformers.
    if not list(folder.glob("*.safetensors")):
        raise BenchError(f"{folder} has no safetensors weights.", "Copy the whole folder.")
    return name, settings
