"""Inside a trainer's step: of a model's last layer and head only what the loss reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rlhf_bench.harness.forward.last_layer import only_at
from rlhf_bench.harness.forward.replaced import forward_as
from rlhf_bench.harness.training.collate import IGNORED

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def labelled_only(model: Any) -> Iterator[None]:
    """Inside, `model` called with labels [B, C] computes its last feed-forward part for the positions that predict one:
    of a demonstration the prompt's, most of it, are read by nobody there.  Same loss and gradients."""

    def shortened(inner: Callable[..., Any], *given: Any, **named: Any) -> Any:
        labels = named.get("labels")
        if labels is None:
            return inner(*given, **named)
        with only_at(model, _predicting(labels)):
            return inner(*given, **named)

    with forward_as(model, shortened):
        yield


def _predicting(labels: Tensor) -> Tensor:
    """bool [B, C]: True where the next position has a label."""
    import torch

    return torch.cat([labels[:, 1:] != IGNORED, torch.zeros_like(labels[:, :1], dtype=torch.bool)], 1)


@contextmanager
def scores_of_rows(model: Any) -> Iterator[None]:
    """Inside, a one-label sequence classifier called with rows end to end (packing.py) scores the last token of each:
    `logits` [B, 1] as of padded rows."""
    classifier = model.get_base_model() if hasattr(model, "get_base_model") else model  # what peft wraps

    def shortened(_: Callable[..., Any], *, input_ids: Tensor, attention_mask: Tensor, **named: Any) -> Any:
        import torch
        from transformers.modeling_outputs import SequenceClassifierOutput

        last = torch.zeros_like(input_ids, dtype=torch.bool)
        last[0, attention_mask.flatten().cumsum(0) - 1] = True
        trunk = classifier.base_model
        with only_at(trunk, last):
            hidden = trunk(input_ids=input_ids, attention_mask=attention_mask, **named).last_hidden_state
        return SequenceClassifierOutput(logits=classifier.score(hidden[last]))

    with forward_as(classifier, shortened):
        yield
