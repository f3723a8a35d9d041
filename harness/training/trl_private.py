"""All private names of TRL that the package uses.

`trl.trainer.utils._use_triton`
    The function by which TRL's SFT loss decides whether to skip unlabelled positions.  It is true where Triton runs, so
    never on a CPU, although skipping needs no Triton.  Most positions of a demonstration belong to the prompt.
    Gain: without it SFT takes 3.1 times as long (processor time of one thread; width 64, a vocabulary of 1500, prompts
    of 100 to 200 tokens, completions of 15); none where the head is small beside the layers.
    Public path: TRL's loss over all positions.
`trl.trainer.utils.add_fused_lm_head`
    That loss without a trainer, for the self-test.

Tested with TRL 1.16 (constraints.txt); pyproject.toml allows no later minor version.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from rlhf_bench.harness.forward.fast_paths import FastPath, require_close
from rlhf_bench.harness.forward.transformers_private import self_test_model

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def labelled_positions_only() -> Iterator[None]:
    """Inside, TRL's SFT loss is computed at labelled positions only.  Same loss and gradients.

    Never raises: where the self-test fails, the loss is computed at all positions.
    """
    with _compact() if LABELLED_ONLY.usable() else nullcontext():
        yield


@contextmanager
def _compact() -> Iterator[list[object]]:
    """Yields the list of the devices that TRL asked about."""
    from trl.trainer import utils

    # The function is looked up in TRL's module at each call, so assigning there is enough; `asked` shows that it was.
    asked: list[object] = []
    before = utils._use_triton

    def note(device: object) -> bool:
        asked.append(device)
        return True

    utils._use_triton = note
    try:
        yield asked
    finally:
        utils._use_triton = before


def _test_labelled_only(_: str) -> None:
    import torch
    from trl.trainer.utils import add_fused_lm_head

    model = self_test_model("gpt2")
    add_fused_lm_head(model)
    ids = torch.tensor([[2, 3, 4, 5], [6, 7, 8, 9]])
    # rows with different numbers of labels, and one label that is followed by none
    labels = torch.tensor([[-100, -100, 4, 5], [-100, 7, -100, -100]])

    def loss_and_gradient() -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            loss = model(input_ids=ids, labels=labels, fused_lm_head=True).loss
            (gradient,) = torch.autograd.grad(loss, model.get_input_embeddings().weight)
        return loss.detach(), gradient

    expected = loss_and_gradient()
    with _compact() as asked:
        found = loss_and_gradient()
    if not asked:  # equal numbers alone would not show that positions were skipped
        raise ValueError("TRL's loss no longer asks")
    for one, other in zip(found, expected, strict=True):
        require_close(one, other, 1e-5)


LABELLED_ONLY = FastPath("SFT loss at labelled positions", _test_labelled_only)
