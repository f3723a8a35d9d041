"""What a policy writes after its prompts: draws, ends, and rows that leave the batch."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from rlhf_bench.harness.forward.threads import Check, run_concurrently
from rlhf_bench.harness.sampling.decoders import Decodes, PartsDecoder
from rlhf_bench.harness.text.chat import end_token_ids

if TYPE_CHECKING:
    from torch import Tensor

COMPACT = 0.8
"""Ended rows are taken out of a batch when at most this share of it still writes: taking out copies the cache."""

LEAST = 8
"""Rows that a thread should have at least: on a CPU of two threads each writes half of a batch."""


def write(
    decoder: Decodes,
    model: Any,
    tokenizer: Any,
    ids: Tensor,
    max_new: int,
    uniforms: Tensor | None,
    temperature: float,
    *,
    two: bool = False,
) -> tuple[Tensor, Tensor]:
    """What a decoder's model writes after the prompts' ids [B, P]: tokens and log-probabilities [B, steps].

    `two`: two threads may write half of the rows each.
    """
    import torch

    # made outside of inference mode: what is written into them inside may be trained on
    tokens = torch.full((len(ids), max_new), tokenizer.pad_token_id, dtype=torch.long, device=ids.device)
    drawn = torch.zeros(len(ids), max_new, device=ids.device)
    with torch.inference_mode(), _casts_kept(model, ids.device.type):
        logits = decoder.read(ids)

    def fill(rows: slice, mine: Decodes, check: Check) -> int:
        numbers = None if uniforms is None else uniforms[rows]
        with torch.inference_mode(), _casts_kept(model, ids.device.type):
            return _fill(mine, logits[rows], tokenizer, tokens[rows], drawn[rows], numbers, temperature, check)

    enough = len(ids) >= 2 * LEAST and torch.get_num_threads() > 1
    if two and enough and isinstance(decoder, PartsDecoder):
        halves = slice(0, len(ids) // 2), slice(len(ids) // 2, None)
        steps = max(run_concurrently(*(partial(fill, half, decoder.part(half)) for half in halves)))
    else:
        steps = fill(slice(None), decoder, lambda: None)
    return tokens[:, :steps], drawn[:, :steps]


def _fill(
    decoder: Decodes,
    logits: Tensor,
    tokenizer: Any,
    tokens: Tensor,
    drawn: Tensor,
    uniforms: Tensor | None,
    temperature: float,
    check: Check,
) -> int:
    """Fills `tokens` and `drawn` [B, steps] until every row has ended, from the logits [B, V] after the prompts;
    returns how many steps it took."""
    import torch

    active = torch.arange(len(tokens), device=tokens.device)  # rows of the batch that still write, of all rows
    running = torch.ones_like(active, dtype=torch.bool)
    for step in range(tokens.shape[1]):
        check()
        token, chosen = pick(_tempered(logits, temperature), None if uniforms is None else uniforms[active, step])
        tokens[active[running], step] = token[running]
        drawn[active, step] = chosen
        running = running & ~ends_at(token, tokenizer)
        left = int(running.sum())
        if not left or step + 1 == tokens.shape[1]:
            break
        if left <= COMPACT * len(active):  # rows that ended leave the batch; a row's numbers are its own
            keep = torch.nonzero(running).squeeze(1)
            decoder.keep(keep)
            token, active, running = token[keep], active[keep], running[keep]
        logits = decoder.write(token)
    return step + 1


def _casts_kept(model: Any, device: str) -> AbstractContextManager[Any]:
    """Where a model computes in bfloat16 from float32 weights, they are cast once for all steps: the outermost autocast
    keeps its casts until it ends."""
    import torch

    half = getattr(model, "computes_half", False)
    return torch.autocast(device, torch.bfloat16) if half else nullcontext()


def _tempered(logits: Tensor, temperature: float) -> Tensor:
    return logits.float() if temperature == 1.0 else logits.float() / temperature


def pick(logits: Tensor, uniform: Tensor | None) -> tuple[Tensor, Tensor]:
    """Next tokens [B] and their log-probabilities [B]: the inverse of the cumulative distribution at `uniform`, or the
    argmax.

    One pass of exponentials gives both: the last entry of their cumulative sum is the normaliser.
    """
    import torch

    highest = logits.amax(-1, keepdim=True)
    cumulative = (logits - highest).exp_().cumsum(-1)
    total = cumulative[:, -1:]
    if uniform is None:
        token = logits.argmax(-1)
    else:
        # scaling by the total keeps rounding from choosing past the last token; `right` never takes one of chance 0
        token = torch.searchsorted(cumulative, uniform[:, None] * total, right=True).squeeze(1)
        token = token.clamp(max=logits.shape[-1] - 1)
    chosen = logits.gather(-1, token[:, None]) - highest - total.log()
    return token, chosen.squeeze(-1)


def ends_at(tokens: Tensor, tokenizer: Any) -> Tensor:
    """Where a token ends a response: end-of-sequence, and others that a chat model may write instead."""
    first, *others = end_token_ids(tokenizer)
    found = tokens == first
    for end in others:
        found |= tokens == end
    return found
