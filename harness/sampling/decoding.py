"""The decoding loop: choose a decoder, draw tokens, note which rows have ended, and take those out of the batch.

To change how tokens are chosen, change `choose_tokens` here; next_logits.py computes the logits, and
rollout.py calls `generate`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlhf_bench.harness.forward.packing import supports_packing
from rlhf_bench.harness.forward.passes import first_of_each, prompt_tokens
from rlhf_bench.harness.forward.threads import Check, run_concurrently
from rlhf_bench.harness.models.lora import merged_for_sampling
from rlhf_bench.harness.sampling.next_logits import CachedDecoder, Decoder, SplitCacheDecoder
from rlhf_bench.harness.sampling.packed_weights import packed_weights
from rlhf_bench.harness.sampling.split_attention import split_attention, supports_split_cache
from rlhf_bench.harness.text.chat import end_token_ids

if TYPE_CHECKING:
    from rlhf_bench.harness.forward.types import CausalLM
    from rlhf_bench.harness.text.types import Tokenizer

COMPACT = 0.8
"""Ended rows leave a batch when at most this share of it is still running: leaving copies the cache."""

FIRST = 512
"""Most likely tokens among which `nucleus` looks first."""

LEAST = 8
"""Rows that each of two threads should have at least."""


def generate(
    model: CausalLM,
    tokenizer: Tokenizer,
    ids: Tensor,
    mask: Tensor,
    uniforms: Tensor | None,
    max_new: int,
    temperature: float,
    top_p: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Tokens and their log-probabilities at the temperature, both [B, steps], after prompts' ids and mask [B, P].

    `uniforms` [B, max_new] decide the draws; None is greedy.  With `top_p` below 1 draws are from the `nucleus`, and
    so are the log-probabilities.  On a CPU two threads may decode half of the rows each.
    """
    # created outside of inference mode: tensors created inside may not be trained on
    tokens = torch.full((len(ids), max_new), tokenizer.pad_token_id, dtype=torch.long, device=ids.device)
    logprobs = torch.zeros(len(ids), max_new, device=ids.device)
    # both before `split_attention` changes the model's attention, on which they depend
    split, packs = supports_split_cache(model), supports_packing(model)
    with (
        merged_for_sampling(model),
        packed_weights(model) as packed,
        split_attention(model) if split else nullcontext(),
    ):
        # a prompt that repeats is read once, and its keys and values are copied
        first, same = distinct_rows(ids, mask)
        decoder: CachedDecoder | SplitCacheDecoder = (
            SplitCacheDecoder(model, mask[first], packs) if split else CachedDecoder(model, mask[first], max_new)
        )
        with torch.inference_mode(), _outer_autocast(model, ids.device.type):
            logits = decoder.prefill(ids[first])
            if len(first) < len(same):
                decoder.select_rows(same)
                logits = logits[same]

        # a worker thread starts with torch's default modes, so each half enters them itself
        def decode(rows: slice, decoder: Decoder, check: Check) -> int:
            numbers = None if uniforms is None else uniforms[rows]
            with torch.inference_mode(), _outer_autocast(model, ids.device.type):
                given = logits[rows], tokens[rows], logprobs[rows], numbers
                return decode_rows(decoder, tokenizer, *given, temperature, check, top_p)

        # autocast has one cache of casts for all threads; packed weights are cast already
        two = packed or not getattr(model, "computes_half", False)
        if two and isinstance(decoder, SplitCacheDecoder) and len(ids) >= 2 * LEAST and torch.get_num_threads() > 1:
            halves = slice(0, len(ids) // 2), slice(len(ids) // 2, None)
            steps = max(run_concurrently(*(partial(decode, half, decoder.slice_rows(half)) for half in halves)))
        else:
            steps = decode(slice(None), decoder, lambda: None)
    return tokens[:, :steps], logprobs[:, :steps]


def distinct_rows(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Indices [U] of the first row of each different prompt, in order, and for every row [B] which of the U it is."""
    first, same = first_of_each(prompt_tokens(ids, mask))
    return torch.tensor(first, device=ids.device), torch.tensor(same, device=ids.device)


def decode_rows(
    decoder: Decoder,
    tokenizer: Tokenizer,
    logits: Tensor,
    tokens: Tensor,
    logprobs: Tensor,
    uniforms: Tensor | None,
    temperature: float,
    check: Check,
    top_p: float = 1.0,
) -> int:
    """Fill `tokens` and `logprobs` [B, max_new] until every row has ended, from the logits [B, V] after the prompts.

    Returns how many steps it took.  A row depends on its own uniforms [B, max_new] only, not on the other rows.
    """
    active = torch.arange(len(tokens), device=tokens.device)  # rows that are in the decoder's batch
    running = torch.ones_like(active, dtype=torch.bool)  # of those: which have not ended
    for step in range(tokens.shape[1]):
        check()
        # in float32 whatever the model computes in: these log-probabilities are compared with those of later passes
        logits = logits.float() if temperature == 1.0 else logits.float() / temperature
        if top_p < 1 and uniforms is not None:
            logits = nucleus(logits, top_p)
        token, chosen = choose_tokens(logits, None if uniforms is None else uniforms[active, step])
        tokens[active[running], step] = token[running]  # the others keep their padding
        logprobs[active, step] = chosen
        running = running & ~is_end(token, tokenizer)
        left = int(running.sum())
        if not left or step + 1 == tokens.shape[1]:  # the logits of another step are not needed
            break
        if left <= COMPACT * len(active):  # a row's numbers are its own, so leaving changes nothing for the others
            keep = torch.nonzero(running).squeeze(1)
            decoder.select_rows(keep)
            token, active, running = token[keep], active[keep], running[keep]
        logits = decoder.step(token)
    return step + 1


def choose_tokens(logits: Tensor, uniform: Tensor | None) -> tuple[Tensor, Tensor]:
    """Next tokens [B] and their log-probabilities [B] under float32 logits [B, V].

    A token is the inverse of the cumulative distribution at `uniform` [B], or the argmax without it.  One pass of
    exponentials gives both: the last entry of their cumulative sum is the normaliser.
    """
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


def nucleus(logits: Tensor, top_p: float) -> Tensor:
    """The logits [B, V] with minus infinity on every token outside of the nucleus (Holtzman et al., arXiv 1904.09751).

    The nucleus are the fewest most likely tokens whose probabilities sum to `top_p` at least: the token that crosses it
    is kept.  What is drawn from the result has the renormalised probabilities.
    """
    total = logits.logsumexp(-1, keepdim=True)
    # sorting a whole vocabulary takes longer than the model's pass, and the first few hundred tokens mostly suffice
    count = min(FIRST, logits.shape[-1])
    while True:
        values, places = logits.topk(count, -1)
        shares = (values - total).exp()
        before = shares.cumsum(-1) - shares  # what more likely tokens hold together
        if count == logits.shape[-1] or bool((before[:, -1] >= top_p).all()):
            break
        count = min(8 * count, logits.shape[-1])
    kept = values.masked_fill(before >= top_p, float("-inf"))
    kept[:, 0] = values[:, 0]  # a `top_p` below the precision of a share keeps one token all the same
    return torch.full_like(logits, float("-inf")).scatter_(-1, places, kept)


def is_end(tokens: Tensor, tokenizer: Tokenizer) -> Tensor:
    """bool of the tokens' shape: whether a token ends a response (end-of-sequence, or a chat's end of turn)."""
    first, *others = end_token_ids(tokenizer)
    found = tokens == first
    for end in others:
        found |= tokens == end
    return found


def _outer_autocast(model: CausalLM, device: str) -> AbstractContextManager[object]:
    """For a model that computes in bfloat16 from float32 weights, one autocast around all steps.

    The outermost autocast keeps its casts until it ends, so the weights are cast once and not for every token.
    """
    half = getattr(model, "computes_half", False)
    return torch.autocast(device, torch.bfloat16) if half else nullcontext()
