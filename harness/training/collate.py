"""Rows of a training step as tensors: padded to the longest, or end to end for a model that reads them so.

Which rows make a batch is the trainer's choice and the same either way, so training is the same up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rlhf_bench.harness.forward.packing import row_mask, row_positions

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100
Row = Mapping[str, Sequence[int]]


class Collate:
    """Rows of `input_ids`, `labels` and, where they have them, `position_ids`; `by_rows`: end to end."""

    def __init__(self, pad: int, by_rows: bool = False) -> None:
        self.pad, self.by_rows = pad, by_rows

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        if self.by_rows:
            return _end_to_end(rows)
        fill = {"input_ids": self.pad, "labels": IGNORED, "position_ids": 0}
        batch = {name: table([row[name] for row in rows], fill[name]) for name in fill if name in rows[0]}
        batch["attention_mask"] = table([[1] * len(row["input_ids"]) for row in rows], 0)
        return batch


class CollatePairs:
    """Rows of `chosen_ids` and `rejected_ids` end to end: first all chosen, then all rejected, as TRL's trainer takes
    them."""

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        return _end_to_end([{"input_ids": row[name]} for name in ("chosen_ids", "rejected_ids") for row in rows])


def table(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    """[B, C], shorter rows filled up on the right."""
    import torch

    width = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])


def pad_sides(rows: Sequence[Row], pad: int) -> dict[str, Any]:
    """input_ids, attention_mask [B, S] and labels [B, T], each side padded on the right to its own longest row."""
    return {
        "input_ids": table([row["input_ids"] for row in rows], pad),
        "attention_mask": table([[1] * len(row["input_ids"]) for row in rows], 0),
        "labels": table([row["labels"] for row in rows], IGNORED),
    }


def _end_to_end(rows: Sequence[Row]) -> dict[str, Any]:
    """[1, N] of each column; nothing is trained to predict the beginning of a row from the end of the one before."""
    import torch

    def line(name: str) -> Tensor:
        return torch.tensor([[token for row in rows for token in row[name]]])

    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    given = "position_ids" in rows[0]
    batch = {"input_ids": line("input_ids"), "attention_mask": row_mask(lengths)}
    batch["position_ids"] = line("position_ids") if given else row_positions(lengths)
    if "labels" in rows[0]:
        batch["labels"] = line("labels").index_fill(1, lengths.cumsum(0) - lengths, IGNORED)
    return batch
