"""Sampling from a policy with its key-value cache, and the log-probabilities of what was sampled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from rlhf_bench.harness.both import Check, both
from rlhf_bench.harness.chat import ends_of
from rlhf_bench.harness.decoding import Decoder, Decodes, PartsDecoder
from rlhf_bench.harness.fit import Fit
from rlhf_bench.harness.kv_parts import attention_by_parts, works_in_parts
from rlhf_bench.harness.nouns import Rollout
from rlhf_bench.harness.packed_weights import packed_weights
from rlhf_bench.harness.packing import reads_rows
from rlhf_bench.harness.passes import logits_and_hidden, pack, token_logprobs
from rlhf_bench.harness.text import decode, encode_prompts

if TYPE_CHECKING:
    from torch import Tensor


COMPACT = 0.8
"""Ended rows are taken out of a batch when at most this share of it still writes: taking out copies the cache."""

LEAST = 8
"""Rows that a thread should have at least: on a CPU of two threads each writes half of a batch."""


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

    ends = _ends_at(response, tokenizer)
    kept = (ends.long().cumsum(1) - ends.long()) == 0
    width = max(1, int(kept.sum(1).max()))
    response, kept, finished = response[:, :width], kept[:, :width], ends.any(1)
    response = torch.where(kept, response, torch.full_like(response, tokenizer.pad_token_id))
    texts = tuple(decode(tokenizer, row[:n]) for row, n in zip(response.tolist(), kept.sum(1).tolist(), strict=True))
    if drawn is not None:
        drawn = torch.where(kept, drawn[:, :width], 0.0)
    return Rollout(tuple(prompts), texts, ids, mask, response, kept, finished, tokenizer, drawn)


def _ends_at(tokens: Tensor, tokenizer: Any) -> Tensor:
    """Where a token ends a response: end-of-sequence, and others that a chat model may write instead."""
    first, *others = ends_of(tokenizer)
    found = tokens == first
    for end in others:
        found |= tokens == end
    return found


def _generate(
    model: Any, tokenizer: Any, ids: Tensor, mask: Tensor, max_new: int, generator: Any, temperature: float
) -> tuple[Tensor, Tensor]:
    """Tokens and their log-probabilities at the temperature, [B, steps]."""
    import torch

    uniforms = None if generator is None else torch.rand(len(ids), max_new, generator=generator).to(ids.device)
    parts, rows = works_in_parts(model), reads_rows(model)
    with packed_weights(model) as packed, attention_by_parts(model) if parts else nullcontext():
        decoder = PartsDecoder(model, mask, rows) if parts else Decoder(model, mask, max_new)
        # autocast has one cache of casts for all threads; weights laid out are cast already
        two = packed or not getattr(model, "computes_half", False)
        return _write(decoder, model, tokenizer, ids, max_new, uniforms, temperature, two=two)


def _write(
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
        steps = max(both(*(partial(fill, half, decoder.part(half)) for half in halves)))
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
        token, chosen = _pick(_tempered(logits, temperature), None if uniforms is None else uniforms[active, step])
        tokens[active[running], step] = token[running]
        drawn[active, step] = chosen
        running = running & ~_ends_at(token, tokenizer)
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


def _pick(logits: Tensor, uniform: Tensor | None) -> tuple[Tensor, Tensor]:
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
    function: Callable[[Rollout], Tensor], rollout: Rollout, size: int, tokens: int = 0, fit: Fit | None = None
) -> Tensor:
    """`function` [b, t] over parts of at most `size` rows and `tokens` tokens, put together as [B, T] in the rollout's
    order; `fit` knows, or learns, whether so many rows fit the memory."""
    return (fit or Fit()).attempt(lambda rows: _map_parts(function, rollout, rows, tokens), size)


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

    from rlhf_bench.harness.text import encode

    ids, mask = pad_prompts(encode_prompts(tokenizer, prompts), tokenizer.pad_token_id, device)
    rows = [[*row, tokenizer.eos_token_id] for row in encode(tokenizer, responses)]
    width = max(map(len, rows))
    response = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows], device=device)
    kept = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows], device=device)
    finished = torch.ones(len(rows), dtype=torch.bool, device=device)
    return Rollout(tuple(prompts), tuple(responses), ids, mask, response, kept, finished, tokenizer)
