"""What the records of finished cells say of their stages, for the parts of a report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_bench.harness import store
from rlhf_bench.harness.results.arms import CellFiles

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject


def optimizer_of(cell: CellFiles) -> str:
    """The optimiser of a cell; older records lack it: there was PPO alone."""
    return str(cell.record.get("optimizer", "ppo"))


def has_rewards(cell: CellFiles) -> bool:
    """Whether a cell has a reward model: a control has none."""
    return "scale" in cell.record["stages"]


def stage_record(cell: CellFiles, role: str) -> JsonObject:
    """stage.json of one of a cell's stages.

    Raises KeyError for a role that the cell lacks, and BenchError for a file that cannot be read.
    """
    record: JsonObject = store.read_json(cell.folder(role) / store.MARKER)
    return record
