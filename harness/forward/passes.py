"""A model's pass over prompts and responses that computes little more than what is read.

Rows of equal total length form a table, however long their prompts are.  Other rows are packed (packing.py) where the
model supports it, and padded at the end elsewhere.  Causal attention never looks there, so no attention mask is needed
in either case.  Logits are computed at the response tokens only, as one row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rlhf_bench.harness.forward.packing import packed_mask, packed_positions, supports_packing
from rlhf_bench.harness.forward.patch import last_layer_only_at
from rlhf_bench.harness.nouns import Rollout

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from torch import Tensor

    from rlhf_bench.harness.forward.types import CausalLM, Module


class Packed(NamedTuple):
    """Rows of a prompt and its response without gaps: ids [B, C] padded at the end, or packed [1, N].

    `before`: bool of the ids' shape, True at the positions that predict a response token (each is one before it).
    `lengths`: [B] of the rows.  `inputs`: the model's further arguments by name.  `shared`: number of packed rows in
    front of the B rows, which are the beginnings of prompts with several responses; `lengths` then is [shared + B].
    """

    ids: Tensor
    before: Tensor
    lengths: Tensor
    inputs: dict[str, Tensor]
    shared: int = 0


def pack(rollout: Rollout, model: CausalLM) -> Packed:
    """The rows of a rollout in the form that `model` computes fastest.

    The N response tokens have their N positions in `before`, in the order of `rollout.mask`.
    """
    import torch

    if supports_packing(model) and (shared := shared_prompts(rollout)):
        return pack_shared(rollout, shared)
    whole = torch.cat([rollout.prompt_ids, rollout.response_ids], 1)
    kept = torch.cat([rollout.prompt_mask.bool(), rollout.mask], 1)
    prompts, lengths = rollout.prompt_mask.sum(1), kept.sum(1)
    columns = torch.arange(int(lengths.max()), device=whole.device)
    # the first response token is predicted at the prompt's last token, the last token of a row predicts nothing
    before = (columns >= prompts[:, None] - 1) & (columns < lengths[:, None] - 1)
    real = columns < lengths[:, None]
    ids = torch.full((len(whole), len(columns)), rollout.tokenizer.pad_token_id, device=whole.device)
    ids[real] = whole[kept]  # both masks list the tokens of a row from left to right
    if supports_packing(model) and not bool(real.all()):  # without padding a table is as fast
        return pack_rows(ids, real, before)
    return Packed(ids, before, lengths, {})


def prompt_tokens(ids: Tensor, mask: Tensor) -> list[tuple[int, ...]]:
    """The tokens of prompts [B, P], which are padded on the left, without their padding."""
    lengths = mask.sum(1).tolist()
    return [tuple(row[len(row) - length :]) for row, length in zip(ids.tolist(), lengths, strict=True)]


def first_of_each(keys: Sequence[Hashable]) -> tuple[list[int], list[int]]:
    """The first place of each different key, in order, and for every one of the B keys which of those it repeats."""
    first: dict[Hashable, int] = {}
    for place, key in enumerate(keys):
        first.setdefault(key, place)
    numbers = {key: number for number, key in enumerate(first)}
    return list(first.values()), [numbers[key] for key in keys]


def shared_prompts(rollout: Rollout) -> list[list[int]]:
    """The rows of each prompt that occurs more than once and has more than one token."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, ids in enumerate(prompt_tokens(rollout.prompt_ids, rollout.prompt_mask)):
        groups.setdefault(ids, []).append(row)
    return [rows for ids, rows in groups.items() if len(rows) > 1 and len(ids) > 1]


def pack_shared(rollout: Rollout, groups: Sequence[Sequence[int]]) -> Packed:
    """Packed rows of a rollout in which the rows of each group have one prompt, whose tokens are there once.

    The shared row leaves out the prompt's last token, which begins every row of the group: each row then has the
    position that predicts its first response token.
    """
    import torch

    mask = rollout.mask
    width, device = rollout.prompt_ids.shape[1], mask.device
    whole = torch.cat([rollout.prompt_ids, rollout.response_ids], 1)
    kept = torch.cat([rollout.prompt_mask.bool(), mask], 1)
    positions = kept.cumsum(1) - 1
    # left-padded: every prompt ends in column `width` - 1, and the token in column c is predicted in column c - 1
    before = torch.cat([mask.new_zeros(len(mask), width - 1), mask, mask.new_zeros(len(mask), 1)], 1)
    prefix = torch.full((len(mask),), -1, device=device)
    for number, rows in enumerate(groups):
        prefix[list(rows)] = number
    own, first = kept.clone(), torch.tensor([rows[0] for rows in groups], device=device)
    own[prefix >= 0, : width - 1] = False
    begin = kept[first]
    begin[:, width - 1 :] = False
    ids = torch.cat([whole[first][begin], whole[own]])[None]
    lengths = torch.cat([begin.sum(1), own.sum(1)])
    inputs = {
        "position_ids": torch.cat([positions[first][begin], positions[own]])[None],
        "attention_mask": packed_mask(lengths, torch.cat([torch.full_like(first, -1), prefix])),
    }
    predicting = torch.cat([torch.zeros_like(begin[begin]), before[own]])[None]
    return Packed(ids, predicting, lengths, inputs, len(groups))


def pack_rows(ids: Tensor, real: Tensor, before: Tensor, positions: Tensor | None = None) -> Packed:
    """The tokens at `real` (bool) of rows [B, C], packed, for a model that `supports_packing`.

    `positions` are position ids [B, C]; without them every row counts from 0.
    """
    lengths = real.sum(1)
    position_ids = packed_positions(lengths) if positions is None else positions[real][None]
    inputs = {"position_ids": position_ids, "attention_mask": packed_mask(lengths)}
    return Packed(ids[real][None], before[real][None], lengths, inputs)


def last_positions(packed: Packed) -> Tensor:
    """bool of the ids' shape: True at the last token of every row, B in all, in the order of the rows.

    Reward models with one score per response read the hidden state there.
    """
    import torch

    if len(packed.ids) < len(packed.lengths):  # several rows in one: packed
        ends = (packed.lengths.cumsum(0) - 1)[packed.shared :]
        return torch.zeros_like(packed.before).index_fill(1, ends, True)
    return torch.arange(packed.ids.shape[1], device=packed.ids.device) == packed.lengths[:, None] - 1


def scatter_to_mask(values: Tensor, mask: Tensor) -> Tensor:
    """Values [N] at the N True entries of mask [B, T], in order, as float32 [B, T]; 0 elsewhere.

    Differentiable with respect to `values`: the inverse of `table[mask]`.
    """
    import torch

    return torch.zeros(mask.shape, dtype=torch.float32, device=mask.device).index_put((mask,), values.float())


def hidden_states(trunk: Module, packed: Packed, positions: Tensor) -> Tensor:
    """Last hidden states [N, D] at the N `positions` (bool of the ids' shape), of a model without a head.

    They come after the final norm, in the order of `tensor[positions]`: row by row.
    """
    # no cache in any pass here: keys and values of all layers would be kept and never be read
    with last_layer_only_at(trunk, positions):
        hidden: Tensor = trunk(input_ids=packed.ids, use_cache=False, **packed.inputs).last_hidden_state
    return hidden[positions]


def logits_and_hidden(model: CausalLM, packed: Packed) -> tuple[Tensor, Tensor]:
    """Logits [N, V] that predict the N response tokens, and the hidden states [N, D] they come from.

    The head gets these positions only, inside the model's own pass, so that all the model does to its logits (caps,
    scales) is done.
    """
    selected: list[Tensor] = []

    def select(_: object, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        selected.append(given[0][packed.before])
        return (selected[0][None], *given[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        with last_layer_only_at(model, packed.before):
            logits: Tensor = model(input_ids=packed.ids, use_cache=False, **packed.inputs).logits
    finally:
        handle.remove()
    return logits[0], selected[0]


CHUNK = 1024
"""Response tokens whose logits are in float32 at once: with a large vocabulary they are most of a pass's memory."""


def token_logprobs(logits: Tensor, rollout: Rollout, temperature: float) -> Tensor:
    """log pi [B, T] in float32 of the response tokens from their logits [N, V]; 0 outside the mask.

    Computed in chunks of tokens whose float32 copies are computed again for the gradient instead of kept.
    """
    import torch
    from torch.utils.checkpoint import checkpoint

    chosen = rollout.response_ids[rollout.mask]
    if len(logits) <= CHUNK:  # one chunk: its float32 copies are small enough to keep
        return scatter_to_mask(_logprobs_of(logits, chosen, temperature), rollout.mask)
    # nothing random is computed again, so the generators' states need not be kept
    parts = [
        checkpoint(_logprobs_of, part, ids, temperature, use_reentrant=False, preserve_rng_state=False)
        for part, ids in zip(torch.split(logits, CHUNK), torch.split(chosen, CHUNK), strict=True)
    ]
    return scatter_to_mask(torch.cat(parts), rollout.mask)


def _logprobs_of(logits: Tensor, chosen: Tensor, temperature: float) -> Tensor:
    """log pi [N] of the tokens `chosen` [N] under logits [N, V]."""
    # a division by 1 would be one more float32 copy of the logits
    logits = logits.float() / temperature if temperature != 1.0 else logits.float()
    return logits.gather(-1, chosen[:, None]).squeeze(-1) - logits.logsumexp(-1)
