"""A model's forward pass inside a trainer's step: of the last layer and the head, only what the loss reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rlhf_bench.harness.forward.patch import last_layer_only_at, patched_forward
from rlhf_bench.harness.training.collate import IGNORED

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.modeling_outputs import SequenceClassifierOutput

    from rlhf_bench.harness.forward.types import CausalLM, Classifier


@contextmanager
def labelled_only(model: CausalLM) -> Iterator[None]:
    """Inside, the last feed-forward part of `model` is computed only for positions that predict a label.

    It applies to calls with `labels` [B, C].  Same loss and gradients.
    """

    def shortened(inner: Callable[..., object], *given: object, **named: object) -> object:
        import torch

        labels = named.get("labels")
        if not isinstance(labels, torch.Tensor):  # without labels the caller reads logits, of all positions
            return inner(*given, **named)
        # bool [B, C]: where the next position has a label.  Most positions of a demonstration are its prompt's.
        predicting = torch.cat([labels[:, 1:] != IGNORED, torch.zeros_like(labels[:, :1], dtype=torch.bool)], 1)
        with last_layer_only_at(model, predicting):
            return inner(*given, **named)

    with patched_forward(model, shortened):
        yield


@contextmanager
def scores_of_rows(model: Classifier) -> Iterator[None]:
    """Inside, a one-label sequence classifier called with a packed sequence scores the last token of each row.

    Its `logits` are [B, 1], as of padded rows.
    """
    # Under adapters the trainer calls peft's wrapper, which calls the classifier: that is what has `score`.
    classifier: Classifier = model.get_base_model() if hasattr(model, "get_base_model") else model

    def shortened(
        _: Callable[..., object], *, input_ids: Tensor, attention_mask: Tensor, **named: object
    ) -> SequenceClassifierOutput:
        import torch
        from transformers.modeling_outputs import SequenceClassifierOutput

        last = torch.zeros_like(input_ids, dtype=torch.bool)
        last[0, attention_mask.flatten().cumsum(0) - 1] = True  # a packed sequence's mask holds the rows' lengths
        trunk = classifier.base_model
        # The head's scores of all other positions would be thrown away.
        with last_layer_only_at(trunk, last):
            hidden = trunk(input_ids=input_ids, attention_mask=attention_mask, **named).last_hidden_state
        return SequenceClassifierOutput(logits=classifier.score(hidden[last]))

    with patched_forward(classifier, shortened):
        yield
