"""Whether a results folder holds what was written: `bench check store`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.pipeline import integrity
from rlhf_bench.harness.results.found import find_cells, is_complete
from rlhf_bench.reports.files import report_damage


@dataclass
class StoreCheck:
    """Numbers of stages, of files and of cells that were checked; `unlisted`: of stages without a list of files.

    `problems` are sentences, without a full stop, about what is damaged, missing or unfinished.
    """

    stages: int = 0
    unlisted: int = 0
    files: int = 0
    cells: int = 0
    problems: list[str] = field(default_factory=list)


def check_results(root: Path, full: bool) -> StoreCheck:
    """Compare every file of a results folder with what was written: its size, with `full` its hash too.

    Records (stage.json, cells/*.json) are hashed in any case, and so is what `bench report` reads.  `full` also names
    files that no stage wrote.  Raises BenchError for a path that is no results folder, and for links out of it.
    """
    if not (store.is_folder(root) and store.is_folder(root / "cells")):
        raise BenchError(f"{root} is no results folder.", "Give the --out folder of a bench run.")
    found = StoreCheck()
    for kind in sorted(path for path in root.iterdir() if path.is_dir()):
        if kind.name in store.OWN_FOLDERS or kind.name.startswith("."):
            continue
        for folder in sorted(path for path in kind.iterdir() if path.is_dir()):
            store.check_links(folder, root)
            _check_stage(folder, full, found)
    cells, missing = find_cells([root])
    found.cells = len(cells)
    # a damaged stage is named once, not once more for every cell that needs it
    found.problems += [line for line in missing if not any(known in line for known in found.problems)]
    found.problems += report_damage(root / "report")
    return found


def _check_stage(folder: Path, full: bool, found: StoreCheck) -> None:
    if not is_complete(folder):
        found.problems.append(f"{folder} has no {store.MARKER}")
        return
    problems = list(integrity.damage(folder, integrity.every_file if full else integrity.no_file))
    problems += integrity.added(folder) if full else []
    found.problems += problems
    found.stages += 1
    try:
        record = store.read_json(folder / store.MARKER)
    except BenchError:
        return  # it is among the problems
    if isinstance(record, dict) and integrity.is_listed(record):
        listed = record.get(integrity.FILES)
        found.files += len(listed) if isinstance(listed, dict) else 0  # of another type: among the problems
    else:
        found.unlisted += 1
