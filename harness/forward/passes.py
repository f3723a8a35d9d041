"""A model's pass over prompts and responses, with as little computed as the question needs.

Rows of equal total length fit together whatever their prompts are.  Others lie end to end where the model can read them
so (packing.py), else they are padded at the end, where causal attention never looks: no attention mask in either case.
Logits exist at the response tokens alone, as one row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from rlhf_bench.harness.forward.last_layer import last_layer_only_at
from rlhf_bench.harness.forward.packing import packed_mask, packed_positions, supports_packing
from rlhf_bench.harness.nouns import Rollout

if TYPE_CHECKING:
    from torch import Tensor


class Packed(NamedTuple):
    """Rows of a prompt and its response without gaps: ids [B, C] with padding at the end, or [1, N] end to end.

    `before` bool, of the ids' shape: True at the positions that predict a response token (one before each).
    `lengths` [B] of the rows.  `named`: what a model has to be told besides the ids.
    """

    ids: Tensor
    before: Tensor
    lengths: Tensor
    named: dict[str, Tensor]


def pack(rollout: Rollout, model: Any) -> Packed:
    """The rows of a rollout as `model` reads them best.  N response tokens have their N places in `before`, in the
    order of `rollout.mask`."""
    import torch

    whole = torch.cat([rollout.prompt_ids, rollout.response_ids], 1)
    kept = torch.cat([rollout.prompt_mask.bool(), rollout.mask], 1)
    prompts, lengths = rollout.prompt_mask.sum(1), kept.sum(1)
    columns = torch.arange(int(lengths.max()), device=whole.device)
    before = (columns >= prompts[:, None] - 1) & (columns < lengths[:, None] - 1)
    real = columns < lengths[:, None]
    ids = torch.full((len(whole), len(columns)), rollout.tokenizer.pad_token_id, device=whole.device)
    ids[real] = whole[kept]
    if supports_packing(model) and not bool(real.all()):
        return pack_rows(ids, real, before)
    return Packed(ids, before, lengths, {})


def pack_rows(ids: Tensor, real: Tensor, before: Tensor, positions: Tensor | None = None) -> Packed:
    """What is `real` (bool) of rows [B, C], for a model that `reads_rows`.  `positions`: ids [B, C] of the places;
    None: every row counts from 0."""
    lengths = real.sum(1)
    places = packed_positions(lengths) if positions is None else positions[real][None]
    named = {"position_ids": places, "attention_mask": packed_mask(lengths)}
    return Packed(ids[real][None], before[real][None], lengths, named)


def scatter_to_mask(values: Tensor, mask: Tensor) -> Tensor:
    """Values [N] of the True entries of mask [B, T], in order, as float32 [B, T], 0 elsewhere.  Differentiable."""
    import torch

    return torch.zeros(mask.shape, dtype=torch.float32, device=mask.device).index_put((mask,), values.float())


def last_positions(packed: Packed) -> Tensor:
    """bool, of the ids' shape: True at the last token of every row."""
    import torch

    if len(packed.ids) < len(packed.lengths):  # end to end
        return torch.zeros_like(packed.before).index_fill(1, packed.lengths.cumsum(0) - 1, True)
    return torch.arange(packed.ids.shape[1], device=packed.ids.device) == packed.lengths[:, None] - 1


def hidden_states(trunk: Any, packed: Packed, places: Tensor) -> Tensor:
    """Last hidden states [N, D] at the N `places` (bool, of the ids' shape), of a model without a head."""
    with last_layer_only_at(trunk, places):
        hidden: Tensor = trunk(input_ids=packed.ids, use_cache=False, **packed.named).last_hidden_state
    return hidden[places]


def logits_and_hidden(model: Any, packed: Packed) -> tuple[Tensor, Tensor]:
    """Logits [N, V] of a causal language model where the response tokens follow, and the hidden states [N, D] of them.

    The head is handed those positions alone, inside the model's own pass: whatever the model does with its logits
    afterwards (caps, scales) is done.
    """
    seen: list[Tensor] = []

    def select(_: Any, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        seen.append(given[0][packed.before])
        return (seen[0][None], *given[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        with last_layer_only_at(model, packed.before):
            logits: Tensor = model(input_ids=packed.ids, use_cache=False, **packed.named).logits
    finally:
        handle.remove()
    return logits[0], seen[0]


CHUNK = 1024
"""Response tokens whose logits are in float32 at once: with a large vocabulary they are most of a pass's memory."""


def token_logprobs(logits: Tensor, rollout: Rollout, temperature: float) -> Tensor:
    """log pi [B, T] in float32 of the response tokens from their logits [N, V], 0 outside the mask.

    In chunks of tokens, whose float32 copies are computed again for the gradient instead of kept.
    """
    import torch
    from torch.utils.checkpoint import checkpoint

    chosen = rollout.response_ids[rollout.mask]
    if len(logits) <= CHUNK:
        return scatter_to_mask(_of_chosen(logits, chosen, temperature), rollout.mask)
    parts = [
        checkpoint(_of_chosen, part, ids, temperature, use_reentrant=False, preserve_rng_state=False)
        for part, ids in zip(torch.split(logits, CHUNK), torch.split(chosen, CHUNK), strict=True)
    ]
    return scatter_to_mask(torch.cat(parts), rollout.mask)


def _of_chosen(logits: Tensor, chosen: Tensor, temperature: float) -> Tensor:
    """log pi [N] of the tokens chosen [N] under logits [N, V]."""
    logits = logits.float() / temperature if temperature != 1.0 else logits.float()
    return logits.gather(-1, chosen[:, None]).squeeze(-1) - logits.logsumexp(-1)
