"""A training step in micro-batches: its rows go through the model a few at a time, and their gradients add up.

Every trainer's loss is a mean: over labelled tokens (SFT, encoder-decoders) or over pairs (Bradley-Terry, DPO).  The
loss of a micro-batch is weighted by its share of the step's tokens or pairs, so the sum of the gradients is that of the
whole batch up to rounding, whatever the lengths of the rows.  (The trainers' own accumulation divides by the number of
micro-batches, which is another mean where these are unequal.)

Not covered: a mixture of experts whose configuration adds a balancing loss, which is no mean over rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from rlhf_bench.harness.models.micro_batch import MicroBatchLimit, Row
from rlhf_bench.harness.training.collate import IGNORED

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import Trainer

TokenRow = Mapping[str, Sequence[int]]
Batch = dict[str, Any]
Counted = Literal["next tokens", "labels", "pairs"]
"""What a trainer's loss is a mean over: labels that the position before predicts, all labels, or pairs of rows."""

NUMBER = "batch_number"
"""The key of a batch under which its number stands."""


class Numbered:
    """A collator whose batches carry a number, by which the rows they were made of are found again.

    Rows and not tensors are split: every micro-batch is then padded, or packed, as a batch of its own.
    """

    def __init__(self, collate: Callable[[Sequence[TokenRow]], Batch]) -> None:
        self.collate, self._made, self._rows = collate, 0, dict[int, Sequence[TokenRow]]()

    def __call__(self, rows: Sequence[TokenRow]) -> Batch:
        self._made += 1
        self._rows[self._made] = rows
        # no tensor, so that a loader which moves the batch to a device leaves the number as it is
        return {**self.collate(rows), NUMBER: self._made}

    def taken(self, batch: Batch) -> Sequence[TokenRow]:
        """The rows of a batch, whose number is removed from it.  Once for each batch."""
        return self._rows.pop(batch.pop(NUMBER))


class MicroBatches:
    """Splits the steps of `trainer`, whose methods `training_step` and `compute_loss` it replaces.

    `size`: most rows in one pass, 0 for the whole batch, which is then computed by the trainer's own methods alone.
    Where the memory ends all the same, the rows of a pass are halved for good and the step is repeated from its
    beginning.  `counted`: what the loss is a mean over.
    """

    def __init__(self, trainer: Trainer, size: int, counted: Counted) -> None:
        self.size, self.counted, self.limit = size, counted, MicroBatchLimit()
        self._share: float | None = None  # of the step, that of the micro-batch in `training_step`
        self._step, self._loss = trainer.training_step, trainer.compute_loss
        self.collate = trainer.data_collator = Numbered(trainer.data_collator)
        trainer.training_step, trainer.compute_loss = self.training_step, self.compute_loss

    def training_step(self, model: nn.Module, inputs: Batch, num_items_in_batch: Tensor | None = None) -> Tensor:
        """As the trainer's own: the step's loss, its gradients added to those of `model`.

        Raises BenchError where a single row does not fit the memory.
        """
        rows = self.collate.taken(inputs)
        state = RandomState()
        attempts = 0

        def attempt(size: int) -> Tensor:
            nonlocal attempts
            attempts += 1
            if attempts > 1:  # the one before ran out of memory, with some of its gradients added
                model.zero_grad()
                state.restore()
            if size < len(rows):
                return self._in_parts(model, rows, size, self.items(inputs))
            # a copy: the trainers add keys to the batch they are given
            loss: Tensor = self._step(model, dict(inputs), num_items_in_batch)
            return loss

        return self.limit.run(attempt, min(self.size or len(rows), len(rows)), Row("training", max(map(tokens, rows))))

    def _in_parts(self, model: nn.Module, rows: Sequence[TokenRow], size: int, whole: int) -> Tensor:
        import torch

        losses = []
        for part in parts(rows, size):
            batch = self.collate.collate(part)
            # at least 1 below: a step without labels has the loss 0, as in the whole batch
            self._share = self.items(batch) / max(whole, 1)
            try:
                # without the number of items: the loss is then a mean over those of the micro-batch
                losses.append(self._step(model, batch, None))
            finally:
                self._share = None
        return torch.stack(losses).sum()

    def compute_loss(self, model: nn.Module, inputs: Batch, *given: Any, **named: Any) -> Any:
        """As the trainer's own; inside a micro-batch times its share of the step."""
        loss = self._loss(model, inputs, *given, **named)
        return loss if self._share is None else loss * self._share

    def items(self, batch: Batch) -> int:
        """How many tokens or pairs the loss of a batch is a mean over."""
        if self.counted == "pairs":
            return pairs(batch)
        labels = batch["labels"][..., 1:] if self.counted == "next tokens" else batch["labels"]
        return int((labels != IGNORED).sum())


def pairs(batch: Batch) -> int:
    """Pairs of a batch, the chosen and the rejected row of each: padded, or end to end with their lengths as mask."""
    mask = batch["attention_mask"]
    return int(mask.shape[-1] if mask.dim() == 4 else mask.shape[0]) // 2


def parts(rows: Sequence[TokenRow], size: int) -> Iterator[Sequence[TokenRow]]:
    """`rows` in their order, `size` at a time."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def tokens(row: TokenRow) -> int:
    """Tokens of a row of any trainer; both sides of a pair, with the prompt in front of each."""
    columns = ("input_ids", "chosen_ids", "rejected_ids", "prompt_ids", "prompt_ids")
    return sum(len(row[name]) for name in columns if name in row)


class RandomState:
    """torch's random state when this was made: a step that is repeated draws the same dropout."""

    def __init__(self) -> None:
        import torch

        self.cpu = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []

    def restore(self) -> None:
        """Go back to it."""
        import torch

        torch.set_rng_state(self.cpu)
        if self.cuda:
            torch.cuda.set_rng_state_all(self.cuda)
