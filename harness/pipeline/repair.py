"""`--repair`: removes what is damaged, and what depends on it, so that the run makes it again."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from rlhf_bench.harness import store
from rlhf_bench.harness.pipeline import integrity
from rlhf_bench.harness.pipeline.stage import Stage

LEAVING = ".damaged"
"""Ends the name of a folder below .partial that is being deleted."""


def remove_damaged(stages: Sequence[Stage], root: store.Store) -> list[str]:
    """Delete the results of damaged stages, with a sentence about each, and of the stages that depend on them.

    `stages` are ordered, inputs first.  Every file is hashed.  A folder without stage.json is damaged, too.  Raises
    BenchError for a folder that leads outside of the store.
    """
    said, leaving = list[str](), dict[str, Stage]()
    for stage in stages:
        folder, problems = stage.folder(root), list[str]()
        if store.exists(folder):
            store.check_links(folder, root.root)
            problems = integrity.used(folder)
            said += problems
        # also one that is not there: what was made from it depends on the damaged stage, too
        if problems or any(needed.key in leaving for needed in stage.inputs.values()):
            leaving[stage.key] = stage
    for rest in (root.root / ".partial").glob(f"*{LEAVING}"):  # of a repair that was killed
        store.check_inside(rest, root.root)
        shutil.rmtree(rest, ignore_errors=True)
    # what depends on a damaged stage leaves before it: after a kill the same command finds the damage again
    for stage in reversed(leaving.values()):
        _remove(stage, root)
    return said


def _remove(stage: Stage, root: store.Store) -> None:
    from filelock import FileLock

    unfinished = root.root / ".partial" / f"{stage.kind}-{stage.key[: store.KEY_LENGTH]}"
    root.check_unfinished(unfinished)
    aside = unfinished.with_name(unfinished.name + LEAVING)
    with FileLock(unfinished.with_suffix(".lock")):  # that of `Store.writing`
        if store.exists(stage.folder(root)):
            # renamed first: a folder with its final name is whole, also while it is deleted
            stage.folder(root).replace(aside)
            shutil.rmtree(aside, ignore_errors=True)
