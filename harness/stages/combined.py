"""The stage that puts the members of a combination of reward models into one folder, with their scales.

Every other stage of an arm gets its reward model from one folder, a combination's from this one.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from rlhf_bench.harness import store
from rlhf_bench.harness.pipeline.context import Context, StageFigures
from rlhf_bench.reward_models import combined as combinations


def combined(context: Context) -> StageFigures:
    """Collect the members' weights and scales.

    Reads: per member I: scaleI (scale.json, measured with ppo.normalise=sd and ppo.centre=sequence), and partI where it
        is trained (all its files).
    Writes: combined.json (reward_models/combined.py: record), and a folder I with the files of partI.
    Parameters: rm (its settings `members`).

    The files are hard links where the file system has them, so that weights take their space once.
    """
    settings, inputs = context.params["rm"]["settings"], context.inputs
    members = settings["members"]
    for at in range(len(members)):
        if f"part{at}" in inputs:
            link_files(inputs[f"part{at}"], context.work / str(at))
        context.progress(at + 1, len(members))
    standards = [store.read_json(inputs[f"scale{at}"] / "scale.json") for at in range(len(members))]
    labels = combinations.Combined(**settings).labels
    store.write_json(context.work / combinations.RECORD, combinations.record(labels, standards))
    return {"members": len(members), "scales": [one["scale"] for one in standards]}


def link_files(source: Path, target: Path) -> None:
    """Give `target` the files of `source` but its stage's record and hidden ones: by hard links, or else by copies."""
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source)
        if not path.is_file() or name.as_posix() == store.MARKER or any(part.startswith(".") for part in name.parts):
            continue
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, place)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, place)
