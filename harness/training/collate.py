"""Rows of a training step as tensors: padded to the longest, or end to end for a model that reads packed sequences.

Which rows make a batch is the trainer's choice and the same either way, so training is the same up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rlhf_bench.harness.forward.packing import packed_mask, packed_positions

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100
"""The label of a position that is not trained on, as transformers' losses have it."""

Row = Mapping[str, Sequence[int]]
"""Token ids by column."""

Batch = dict[str, "Tensor"]


def demonstration_row(prompt: list[int], completion: list[int], end: int) -> dict[str, list[int]]:
    """One row of SFT: the loss is on the completion and its end-of-sequence token `end` alone.

    `input_ids` and `labels` have equal length; transformers' losses shift the labels themselves.
    """
    ids = [*prompt, *completion, end]
    return {"input_ids": ids, "labels": [IGNORED] * len(prompt) + ids[len(prompt) :]}


class Collate:
    """A batch of rows of `input_ids`, `labels` and, where they have them, `position_ids`.

    [B, C] padded on the right with `pad`; or, with `by_rows`, [1, N] end to end.
    """

    def __init__(self, pad: int, by_rows: bool = False) -> None:
        self.pad, self.by_rows = pad, by_rows

    def __call__(self, rows: Sequence[Row]) -> Batch:
        if self.by_rows:
            return end_to_end(rows)
        fill = {"input_ids": self.pad, "labels": IGNORED, "position_ids": 0}
        batch = {name: table([row[name] for row in rows], fill[name]) for name in fill if name in rows[0]}
        # by length, not by `pad`: the pad token may occur in a text
        batch["attention_mask"] = table([[1] * len(row["input_ids"]) for row in rows], 0)
        return batch


class CollatePairs:
    """A batch [1, N] of B rows of `chosen_ids` and `rejected_ids`: 2B sequences end to end, no labels."""

    def __call__(self, rows: Sequence[Row]) -> Batch:
        # First all chosen, then all rejected: TRL's trainer splits the scores in the middle.
        return end_to_end([{"input_ids": row[name]} for name in ("chosen_ids", "rejected_ids") for row in rows])


def table(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    """Rows of integers as int64 [B, C], C the longest, shorter ones filled up on the right with `fill`."""
    import torch

    width = max(map(len, rows))  # the batch's own, not the training set's: little is computed on padding
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])


def pad_sides(rows: Sequence[Row], pad: int) -> Batch:
    """An encoder-decoder's batch: `input_ids` and `attention_mask` [B, S], `labels` [B, T].

    Each side is padded on the right to its own longest row.
    """
    return {
        "input_ids": table([row["input_ids"] for row in rows], pad),
        "attention_mask": table([[1] * len(row["input_ids"]) for row in rows], 0),
        "labels": table([row["labels"] for row in rows], IGNORED),
    }


def end_to_end(rows: Sequence[Row]) -> Batch:
    """The columns of a packed sequence, [1, N] each, with the mask that keeps its rows apart (forward/packing.py).

    `position_ids` are those of the rows, or count from 0 in each of them; `labels` are there where the rows have them.
    """
    import torch

    def line(name: str) -> Tensor:
        return torch.tensor([[token for row in rows for token in row[name]]])

    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    batch = {"input_ids": line("input_ids"), "attention_mask": packed_mask(lengths)}
    # always stated: without them the model would count on from one row to the next
    batch["position_ids"] = line("position_ids") if "position_ids" in rows[0] else packed_positions(lengths)
    if "labels" in rows[0]:
        # A row's first label would be predicted from the last token of the row before.
        batch["labels"] = line("labels").index_fill(1, lengths.cumsum(0) - lengths, IGNORED)
    return batch
