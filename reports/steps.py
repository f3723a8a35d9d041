"""steps.csv: the training curves of every cell of a report, one row a cell and iteration.

The rows are those that an optimiser's stage keeps (steps.jsonl: PPO's; others keep none).  report.json does not hold
them, so the file is written where the results folder is at hand, which is where a report is built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rlhf_bench.harness import forms
from rlhf_bench.harness.errors import DamagedError
from rlhf_bench.harness.results.arms import Arm, CellFiles, arms_of
from rlhf_bench.harness.results.stored import stored_rows
from rlhf_bench.harness.seeds import shown
from rlhf_bench.reports.tidy import Sheet

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import Row

NAME = "steps.csv"
STAGE, FILE = "ppo", "steps.jsonl"
"""Where an optimiser keeps its rows: the role of the stage, and the file."""
PLACE = ("task", "reward_model", "label", "optimizer", "seed", "arm", "iteration")
"""Columns that say which row it is."""
ROWS = 200_000
"""Rows of the file, about 60 MB: where there are more, every k-th iteration of every cell is written, and its last."""
FIGURES = 100
"""Names of figures in the rows of a cell; PPO writes fewer than 20."""
ABSENT = f"tables/{NAME} is not written: report.json does not hold the rows of training, the results folder does."


def curves(cells: Sequence[CellFiles], labels: Mapping[str, str], limit: int = ROWS) -> Sheet | None:
    """The rows of every cell, arms and seeds in order; None where no cell has any.  `labels` are by arm.

    Columns: PLACE, then the figures in the order of the stages' rows (`ppo.log.describe` says what they are); a figure
    that a row lacks is None.  Raises DamagedError for rows that are no objects of finite numbers, and for more than
    FIGURES names.
    """
    arms = arms_of(cells)
    found = [(arm, cell, read(cell)) for arm in arms for cell in arm.cells if STAGE in cell.record["stages"]]
    if not any(rows for _, _, rows in found):
        return None
    names = dict.fromkeys(name for _, _, rows in found for row in rows for name in row if name not in PLACE)
    step = -(-sum(len(rows) for _, _, rows in found) // limit)
    made = (
        [*_place(arm, cell, labels), row.get("iteration"), *(row.get(name) for name in names)]
        for arm, cell, rows in found
        for number, row in enumerate(rows)
        if number % step == 0 or number == len(rows) - 1
    )
    return Sheet((*PLACE, *names), made)


def _place(arm: Arm, cell: CellFiles, labels: Mapping[str, str]) -> Sequence[object]:
    optimizer = cell.record.get("optimizer", "ppo")  # older records lack it: there was PPO alone
    return [arm.task, arm.reward_model, labels.get(arm.key, ""), optimizer, shown(cell.seed), arm.key]


def read(cell: CellFiles) -> list[Row]:
    """The rows of a cell's training.  Raises BenchError for a file that cannot be read, as `curves` for its rows."""
    path = cell.folder(STAGE) / FILE
    rows: list[Row] = [*stored_rows(path)]
    line, problem = forms.row_problem(rows, FILE) or (0, "")
    if not problem and len({name for row in rows for name in row}) > FIGURES:
        line, problem = 1, f"more than {FIGURES} figures in its rows"
    if problem:
        raise DamagedError(f"{forms.misfit(path, f'line {line}: {problem}')}.", "Run it again with --repair.")
    return rows
