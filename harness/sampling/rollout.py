"""Sampling from a policy with its key-value cache, and the log-probabilities of what was sampled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import repeat
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from rlhf_bench.harness.forward.packing import supports_packing
from rlhf_bench.harness.forward.passes import logits_and_hidden, pack, token_logprobs
from rlhf_bench.harness.models.micro_batch import MicroBatchLimit
from rlhf_bench.harness.nouns import Rollout
from rlhf_bench.harness.sampling.decoders import Decoder, PartsDecoder
from rlhf_bench.harness.sampling.kv_parts import attention_by_parts, works_in_parts
from rlhf_bench.harness.sampling.loop import ends_at, write
from rlhf_bench.harness.sampling.packed_weights import packed_weights
from rlhf_bench.harness.text.templates import decode, encode_prompts

if TYPE_CHECKING:
    from torch import Tensor


def make_generator(*parts: object) -> Any:
    """A CPU generator seeded by a hash of `parts`: each draw names what it is for, so nothing has to be restored."""
    import torch

    from rlhf_bench.harness.store import content_key

    return torch.Generator().manual_seed(int(content_key([str(p) for p in parts])[:15], 16))


def pad_prompts(rows: Sequence[Sequence[int]], pad: int, device: str) -> tuple[Tensor, Tensor]:
    """Left-padded ids [B, P] and their mask [B, P] (int64, 1 on tokens)."""
    import torch

    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def sample(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    max_new: int,
    *,
    generator: Any = None,
    temperature: float = 1.0,
) -> Rollout:
    """One response to each prompt, of at most `max_new` tokens; greedy without a generator.

    Randomness is drawn per (row, step) beforehand, so a row's response depends on nothing but its own numbers.
    """
    ids, mask = pad_prompts(encode_prompts(tokenizer, prompts), tokenizer.pad_token_id, str(model.device))
    response, drawn = _generate(model, tokenizer, ids, mask, max_new, generator, temperature)
    return make_rollout(tokenizer, prompts, ids, mask, response, drawn)


def make_rollout(
    tokenizer: Any, prompts: Sequence[str], ids: Tensor, mask: Tensor, response: Tensor, drawn: Tensor | None = None
) -> Rollout:
    """The Rollout of sampled tokens [B, T] and their log-probabilities `drawn`.

    A response ends with its first end-of-sequence (or end-of-turn) token, or with T.
    """
    import torch

    ends = ends_at(response, tokenizer)
    kept = (ends.long().cumsum(1) - ends.long()) == 0
    width = max(1, int(kept.sum(1).max()))
    response, kept, finished = response[:, :width], kept[:, :width], ends.any(1)
    response = torch.where(kept, response, torch.full_like(response, tokenizer.pad_token_id))
    texts = tuple(decode(tokenizer, row[:n]) for row, n in zip(response.tolist(), kept.sum(1).tolist(), strict=True))
    if drawn is not None:
        drawn = torch.where(kept, drawn[:, :width], 0.0)
    return Rollout(tuple(prompts), texts, ids, mask, response, kept, finished, tokenizer, drawn)


def _generate(
    model: Any, tokenizer: Any, ids: Tensor, mask: Tensor, max_new: int, generator: Any, temperature: float
) -> tuple[Tensor, Tensor]:
    """Tokens and their log-probabilities at the temperature, [B, steps]; of fewer rows at once where the memory of the
    device is too small for all."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    uniforms = None if generator is None else torch.rand(len(ids), max_new, generator=generator).to(ids.device)

    def in_parts(rows: int) -> list[tuple[Tensor, Tensor]]:
        numbers = repeat(None) if uniforms is None else torch.split(uniforms, rows)
        parts = zip(torch.split(ids, rows), torch.split(mask, rows), numbers, strict=False)
        return [_generate_part(model, tokenizer, *part, max_new, temperature) for part in parts]

    written = _fits.setdefault(model, MicroBatchLimit()).run(in_parts, len(ids))
    if len(written) == 1:
        return written[0]
    tokens = [row for part, _ in written for row in part]
    drawn = [row for _, part in written for row in part]
    return pad_sequence(tokens, True, tokenizer.pad_token_id), pad_sequence(drawn, True)


_fits: WeakKeyDictionary[Any, MicroBatchLimit] = WeakKeyDictionary()
"""How many rows a model writes at once."""


def _generate_part(
    model: Any,
    tokenizer: Any,
    ids: Tensor,
    mask: Tensor,
    uniforms: Tensor | None,
    max_new: int,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    parts, rows = works_in_parts(model), supports_packing(model)
    with packed_weights(model) as packed, attention_by_parts(model) if parts else nullcontext():
        decoder = PartsDecoder(model, mask, rows) if parts else Decoder(model, mask, max_new)
        # autocast has one cache of casts for all threads; weights laid out are cast already
        two = packed or not getattr(model, "computes_half", False)
        return write(decoder, model, tokenizer, ids, max_new, uniforms, temperature, two=two)


def full_inputs(rollout: Rollout) -> tuple[Tensor, Tensor, Tensor]:
    """ids, mask, position ids [B, P + T] of prompts followed by responses."""
    import torch

    ids = torch.cat([rollout.prompt_ids, rollout.response_ids], 1)
    mask = torch.cat([rollout.prompt_mask, rollout.mask.long()], 1)
    return ids, mask, (mask.cumsum(1) - 1).clamp(min=0)


def logprobs(model: Any, rollout: Rollout, temperature: float = 1.0) -> Tensor:
    """log pi(y_t | x, y_<t) [B, T] in float32 at the sampling temperature, 0 outside the mask.  Differentiable."""
    logits, _ = logits_and_hidden(model, pack(rollout, model))
    return token_logprobs(logits, rollout, temperature)


def rows_of(rollout: Rollout, index: Tensor) -> Rollout:
    """The rows `index` of a rollout, columns trimmed to what they need (left of prompts, right of responses)."""
    prompt_mask, mask = rollout.prompt_mask[index], rollout.mask[index]
    left = rollout.prompt_mask.shape[1] - int(prompt_mask.sum(1).max())
    width = max(1, int(mask.sum(1).max()))
    rows = index.tolist()
    return Rollout(
        tuple(rollout.prompts[i] for i in rows),
        tuple(rollout.responses[i] for i in rows),
        rollout.prompt_ids[index][:, left:],
        prompt_mask[:, left:],
        rollout.response_ids[index][:, :width],
        mask[:, :width],
        rollout.finished[index],
        rollout.tokenizer,
        None if rollout.logprobs is None else rollout.logprobs[index][:, :width],
    )


def batches_by_length(rollout: Rollout, index: Tensor, size: int, tokens: int = 0) -> list[Tensor]:
    """`index` in parts of at most `size` rows of similar length, so that little is computed on padding.

    `tokens` bounds rows times the longest of a part, except for a part of one row; 0: no bound.
    """
    import torch

    lengths = rollout.prompt_mask[index].sum(1) + rollout.mask[index].sum(1)
    order = torch.argsort(lengths, stable=True)
    counts: list[int] = []
    for length in lengths[order].tolist():  # ascending: a row that joins a part is its longest
        joins = counts and counts[-1] < size and (not tokens or (counts[-1] + 1) * length <= tokens)
        counts[-1:] = [counts[-1] + 1] if joins else [*counts[-1:], 1]
    return list(torch.split(index[order], counts))


def map_batches(
    function: Callable[[Rollout], Tensor],
    rollout: Rollout,
    size: int,
    tokens: int = 0,
    limit: MicroBatchLimit | None = None,
) -> Tensor:
    """`function` [b, t] over parts of at most `size` rows and `tokens` tokens, put together as [B, T] in the rollout's
    order; `fit` knows, or learns, whether so many rows fit the memory."""
    return (limit or MicroBatchLimit()).run(lambda rows: _map_parts(function, rollout, rows, tokens), size)


def _map_parts(function: Callable[[Rollout], Tensor], rollout: Rollout, size: int, tokens: int) -> Tensor:
    import torch

    everything = torch.arange(len(rollout.prompts), device=rollout.mask.device)
    whole = torch.zeros(rollout.mask.shape, dtype=torch.float32, device=rollout.mask.device)
    for index in batches_by_length(rollout, everything, size, tokens):
        part = function(rows_of(rollout, index))
        whole[index, : part.shape[1]] = part
    return whole


def text_rollout(tokenizer: Any, prompts: Sequence[str], responses: Sequence[str], device: str) -> Rollout:
    """Given texts as a Rollout: tokenised, each ended by end-of-sequence."""
    import torch

    from rlhf_bench.harness.text.templates import encode

    ids, mask = pad_prompts(encode_prompts(tokenizer, prompts), tokenizer.pad_token_id, device)
    rows = [[*row, tokenizer.eos_token_id] for row in encode(tokenizer, responses)]
    width = max(map(len, rows))
    response = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows], device=device)
    kept = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows], device=device)
    finished = torch.ones(len(rows), dtype=torch.bool, device=device)
    return Rollout(tuple(prompts), tuple(responses), ids, mask, response, kept, finished, tokenizer)
