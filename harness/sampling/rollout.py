"""Rollouts: responses sampled from a policy, their log-probabilities, and rollouts in parts and batches.

The decoding loop is decoding.py, its logits next_logits.py, other samplers engines.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import repeat
from typing import TYPE_CHECKING

from rlhf_bench.harness.forward.passes import CHUNK, logits_and_hidden, pack, scatter_to_mask, token_logprobs
from rlhf_bench.harness.models.micro_batch import MicroBatchLimit, Row, limit_of
from rlhf_bench.harness.nouns import Rollout
from rlhf_bench.harness.text.chat import prompt_format, thinking_tokens
from rlhf_bench.harness.text.templates import decode, encode, encode_prompts

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from rlhf_bench.harness.forward.types import CausalLM
    from rlhf_bench.harness.text.types import Tokenizer


def make_generator(*parts: object) -> Generator:
    """A CPU generator seeded by a hash of `parts`.

    Every draw names what it is for (seed, stage, iteration), so no random state has to be stored and restored.
    """
    import torch

    from rlhf_bench.harness.store import content_key

    return torch.Generator().manual_seed(int(content_key([str(p) for p in parts])[:15], 16))  # 60 bits: it takes 64


def pad_prompts(rows: Sequence[Sequence[int]], pad: int, device: str) -> tuple[Tensor, Tensor]:
    """Left-padded ids [B, P] and their mask [B, P] (int64, 1 on tokens), P the length of the longest row.

    On the left, so that every row's response begins in the same column.
    """
    import torch

    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def sample(
    model: CausalLM,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    max_new: int,
    *,
    generator: Generator | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> Rollout:
    """One response to each prompt, of at most `max_new` tokens; greedy without a generator.

    With `top_p` below 1 tokens are drawn from the nucleus (`decoding.nucleus`), and `logprobs` are of what is drawn
    from: renormalised.
    The random numbers of every (row, step) are drawn beforehand, so a row's response depends on its own numbers only:
    not on its neighbours, nor on how many rows the device's memory allows at once.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    from rlhf_bench.harness.sampling import decoding

    ids, mask = pad_prompts(encode_prompts(tokenizer, prompts), tokenizer.pad_token_id, str(model.device))
    # drawn on the CPU: the same numbers on every device
    uniforms = None if generator is None else torch.rand(len(ids), max_new, generator=generator).to(ids.device)

    def in_batches(rows: int) -> list[tuple[Tensor, Tensor]]:
        numbers = repeat(None) if uniforms is None else torch.split(uniforms, rows)
        # strict=False: `repeat` does not end
        batches = zip(torch.split(ids, rows), torch.split(mask, rows), numbers, strict=False)
        return [decoding.generate(model, tokenizer, *batch, max_new, temperature, top_p) for batch in batches]

    row = Row("sampling", ids.shape[1] + max_new)
    batches = limit_of(model, row.doing).run(in_batches, len(ids), row)
    if len(batches) == 1:
        ((response, drawn),) = batches
    else:
        response = pad_sequence([row for tokens, _ in batches for row in tokens], True, tokenizer.pad_token_id)
        drawn = pad_sequence([row for _, logprobs in batches for row in logprobs], True)
    return make_rollout(tokenizer, prompts, ids, mask, response, drawn)


def make_rollout(
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    ids: Tensor,
    mask: Tensor,
    response: Tensor,
    drawn: Tensor | None = None,
) -> Rollout:
    """The Rollout of prompts' ids and mask [B, P], sampled tokens `response` [B, T] and their log-probabilities.

    A response ends with its first end-of-sequence (or end-of-turn) token, or with T.
    """
    import torch

    from rlhf_bench.harness.sampling.decoding import is_end

    ends = is_end(response, tokenizer)
    kept = (ends.long().cumsum(1) - ends.long()) == 0  # no end before the token: the first end itself is kept
    width = max(1, int(kept.sum(1).max()))
    response, kept, finished = response[:, :width], kept[:, :width], ends.any(1)
    response = torch.where(kept, response, torch.full_like(response, tokenizer.pad_token_id))
    rows = [row[:count] for row, count in zip(response.tolist(), kept.sum(1).tolist(), strict=True)]
    thoughts = thoughts_of(tokenizer, rows)
    texts = tuple(decode(tokenizer, row[n:]) for row, n in zip(rows, thoughts or (0,) * len(rows), strict=True))
    if drawn is not None:  # the loop also draws for rows that have ended and wait for their neighbours
        drawn = torch.where(kept, drawn[:, :width], 0.0)
    return Rollout(tuple(prompts), texts, ids, mask, response, kept, finished, tokenizer, drawn, thoughts)


def thoughts_of(tokenizer: Tokenizer, rows: Sequence[Sequence[int]]) -> tuple[int, ...] | None:
    """How many tokens of each response are thinking, None where the policy's format keeps none apart."""
    if not prompt_format(tokenizer).apart:
        return None
    return tuple(thinking_tokens(tokenizer, row) for row in rows)


def answers_alone(rollout: Rollout) -> Rollout:
    """The rollout without thinking, as reward models read it: the answers' tokens moved to the left.

    An answer that the policy did not come to is end-of-sequence alone, so that it has a token to be scored.
    """
    import torch

    if not any(rollout.thoughts or ()):
        return rollout
    pad, lengths = rollout.tokenizer.pad_token_id, rollout.mask.sum(1).tolist()
    rows = [
        row[count:length] or [rollout.tokenizer.eos_token_id]
        for row, count, length in zip(rollout.response_ids.tolist(), rollout.thoughts or (), lengths, strict=True)
    ]
    width, device = max(map(len, rows)), rollout.mask.device
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=device)
    mask = torch.arange(width, device=device)[None] < torch.tensor([len(row) for row in rows], device=device)[:, None]
    return replace(rollout, response_ids=ids, mask=mask, logprobs=None, thoughts=None)


def to_whole(rewards: Tensor, rollout: Rollout) -> Tensor:
    """Rewards of `answers_alone(rollout)` on the tokens of the rollout itself [B, T]: 0 on thinking.

    The reward of a missing answer is on the last token.
    """
    import torch

    whole = torch.zeros(rollout.mask.shape, dtype=rewards.dtype, device=rewards.device)
    for at, (count, length) in enumerate(zip(rollout.thoughts or (), rollout.mask.sum(1).tolist(), strict=True)):
        start = min(count, length - 1)
        whole[at, start:length] = rewards[at, : length - start]
    return whole


def text_rollout(tokenizer: Tokenizer, prompts: Sequence[str], responses: Sequence[str], device: str) -> Rollout:
    """The Rollout of given texts: each response is tokenised and ended by end-of-sequence.

    One response to each prompt; `finished` is True for all, and there are no sampled log-probabilities.
    """
    import torch

    ids, mask = pad_prompts(encode_prompts(tokenizer, prompts), tokenizer.pad_token_id, device)
    rows = [[*row, tokenizer.eos_token_id] for row in encode(tokenizer, responses)]
    width = max(map(len, rows))
    response = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows], device=device)
    kept = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows], device=device)
    finished = torch.ones(len(rows), dtype=torch.bool, device=device)
    return Rollout(tuple(prompts), tuple(responses), ids, mask, response, kept, finished, tokenizer)


def full_inputs(rollout: Rollout) -> tuple[Tensor, Tensor, Tensor]:
    """ids, mask (int64) and position ids [B, P + T] of prompts followed by responses, padded on both sides.

    For models that are called as a whole; `forward.passes.pack` gives the same rows without padding on the left.
    """
    import torch

    ids = torch.cat([rollout.prompt_ids, rollout.response_ids], 1)
    mask = torch.cat([rollout.prompt_mask, rollout.mask.long()], 1)
    return ids, mask, (mask.cumsum(1) - 1).clamp(min=0)


def logprobs(model: CausalLM, rollout: Rollout, temperature: float = 1.0) -> Tensor:
    """log pi(y_t | x, y_<t) [B, T] in nats, float32, at the sampling temperature; 0 outside the mask.

    Differentiable with respect to the model's parameters.
    """
    logits, _ = logits_and_hidden(model, pack(rollout, model))
    return token_logprobs(logits, rollout, temperature)


def kl_at_positions(
    policy: CausalLM, reference: CausalLM, rollout: Rollout, temperatures: tuple[float, float]
) -> Tensor:
    """KL(policy || reference) [B, T] in nats of the whole distributions before each response token; 0 outside the mask.

    Each of the two is at its own temperature.  Without gradients.
    """
    import torch

    parts = []
    with torch.no_grad():
        pair = [logits_and_hidden(model, pack(rollout, model))[0] for model in (policy, reference)]
        # in chunks of tokens: the float32 copies of all logits would be several times the models' own
        for tables in zip(*(torch.split(logits, CHUNK) for logits in pair), strict=True):
            one, other = ((table.float() / at).log_softmax(-1) for table, at in zip(tables, temperatures, strict=True))
            # exp(one) is 0 where `one` is minus infinity, as of a padded vocabulary
            parts.append(torch.where(one.isneginf(), 0.0, one.exp() * (one - other)).sum(-1))
        return scatter_to_mask(torch.cat(parts), rollout.mask)


def rows_of(rollout: Rollout, index: Tensor) -> Rollout:
    """The rows `index` [b] of a rollout, columns trimmed to what they need (left of prompts, right of responses).

    Rows may occur more than once and in any order.
    """
    prompt_mask, mask = rollout.prompt_mask[index], rollout.mask[index]
    # the padding that the selected rows have in common: with shorter rows the passes are shorter
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
        None if rollout.thoughts is None else tuple(rollout.thoughts[i] for i in rows),
    )


def batches_by_length(rollout: Rollout, index: Tensor, size: int, tokens: int = 0) -> list[Tensor]:
    """`index` in batches of at most `size` rows of similar length, so that little is computed on padding.

    Responses to one prompt stay together, which lets them share it (passes.pack).  `tokens` bounds rows times the
    longest row of a batch, except for a batch of one row; 0 is no bound.
    """
    import torch

    lengths = rollout.prompt_mask[index].sum(1) + rollout.mask[index].sum(1)
    # each row is placed by the longest response to its prompt; sorting is stable, the same on every machine
    longest: dict[str, int] = {}
    rows = list(zip(index.tolist(), lengths.tolist(), strict=True))
    for row, length in rows:
        longest[rollout.prompts[row]] = max(length, longest.get(rollout.prompts[row], 0))
    first = {prompt: number for number, prompt in enumerate(longest)}

    def place(at: int) -> tuple[int, int, int]:
        prompt, length = rollout.prompts[rows[at][0]], rows[at][1]
        return (longest[prompt], first[prompt], length)

    order = sorted(range(len(rows)), key=place) if len(longest) < len(rows) else torch.argsort(lengths, stable=True)
    order = torch.as_tensor(order, device=index.device)
    counts: list[int] = []
    most = 0  # the longest row of the last batch
    for length in lengths[order].tolist():
        joins = counts and counts[-1] < size and (not tokens or (counts[-1] + 1) * max(most, length) <= tokens)
        most = max(most, length) if joins else length
        # the last batch grows by one, or stays and a new one begins
        counts[-1:] = [counts[-1] + 1] if joins else [*counts[-1:], 1]
    return list(torch.split(index[order], counts))


def map_batches(
    function: Callable[[Rollout], Tensor],
    rollout: Rollout,
    size: int,
    tokens: int = 0,
    limit: MicroBatchLimit | None = None,
    doing: str = "",
) -> Tensor:
    """`function` [b, t] of batches of at most `size` rows and `tokens` tokens, as one float32 [B, T] in the rollout's
    order; `limit` makes the batches smaller where the device's memory requires it.

    Raises BenchError, which names what is being done, where a single row does not fit.
    """
    import torch

    def run(rows: int) -> Tensor:
        everything = torch.arange(len(rollout.prompts), device=rollout.mask.device)
        whole = torch.zeros(rollout.mask.shape, dtype=torch.float32, device=rollout.mask.device)
        for index in batches_by_length(rollout, everything, rows, tokens):
            part = function(rows_of(rollout, index))
            whole[index, : part.shape[1]] = part  # `rows_of` has trimmed the columns: the rest stays 0
        return whole

    return (limit or MicroBatchLimit()).run(run, min(size, len(rollout.prompts)), Row(doing, longest_row(rollout)))


def longest_row(rollout: Rollout) -> int:
    """Tokens of the longest prompt with its response."""
    return int((rollout.prompt_mask.sum(1) + rollout.mask.sum(1)).max()) if len(rollout.prompts) else 0
