"""Packed sequences: rows of different length go through a model end to end, as one row without padding.

Linear layers, norms, activations and heads treat tokens one by one, so packed rows [1, N] cost them nothing for the
positions that padding would fill.  Only attention needs the rows' boundaries; it treats each row separately.  The
row lengths travel as the attention mask, so gradient checkpointing and trainers pass them on like any other mask.

Several responses to one prompt share its tokens: the prompt is a row of its own, to which their rows attend.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from rlhf_bench.harness.forward import transformers_private

if TYPE_CHECKING:
    from torch import Tensor

    from rlhf_bench.harness.forward.types import AttentionLayer, CausalLM, Module

M = TypeVar("M", bound="CausalLM")

ATTENTION = "sdpa_by_row"
"""The name under which transformers knows `packed_attention`."""

ARCHITECTURES = frozenset({"gemma", "gpt2", "llama", "mistral", "qwen2", "qwen3"})
"""Architectures (`model_type`) whose layers share one causal mask and use the position ids they are given."""


def enable_packing(model: M) -> M:
    """Let a model of transformers read packed rows, where that is known to be right.  Changes and returns `model`.

    With any other mask it computes what transformers' own "sdpa" computes.  Models of other architectures, and models
    whose attention has a window, a cap or sees later tokens, stay as they are.
    """
    config = model.config
    # configurations name these properties in different ways, and name only those that the architecture can have
    layers = getattr(config, "layer_types", None) or ["full_attention"]
    plain_causal = (
        config.model_type in ARCHITECTURES
        and transformers_private.attention_name(model) == "sdpa"
        and not getattr(config, "sliding_window", None)
        and all(kind == "full_attention" for kind in layers)
        and getattr(config, "is_causal", True)
        and not getattr(config, "use_bidirectional_attention", False)
        and not getattr(config, "attn_logit_softcapping", None)
    )
    # last, because it computes with a tiny model: the self-test runs only for architectures that pass the rest
    if plain_causal and transformers_private.PACKED_ATTENTION.usable(config.model_type):
        transformers_private.register_attention(ATTENTION, packed_attention)
        model.set_attn_implementation(ATTENTION)
    return model


def supports_packing(model: CausalLM) -> bool:
    """Whether packed rows are right, and faster, for a model.

    On a CPU only: on a GPU one attention call for every row would cost more than padding rows sorted by length
    (torch.nn.attention.varlen may serve there; nothing was measured on a GPU).
    """
    return has_packed_attention(model) and model.device.type == "cpu"


def has_packed_attention(model: Module) -> bool:
    """Whether `enable_packing` changed the model's attention.

    It takes every mask that "sdpa" takes, so callers that never pack need not ask.
    """
    return transformers_private.attention_name(model) == ATTENTION


def packed_mask(lengths: Tensor, prefixes: Tensor | None = None) -> Tensor:
    """The attention mask of packed rows of `lengths` [B]: the lengths themselves, int64 [1, 1, 1, B].

    With `prefixes` [B] int64 [1, 1, 2, B]: row i also attends to all tokens of row `prefixes[i]`, which comes before
    it; -1 is none.  Rows that begin alike then compute their beginning once.

    transformers passes masks of four dimensions to its attention unchanged, and no mask of its own is int64.
    """
    import torch

    table = lengths.long()[None] if prefixes is None else torch.stack([lengths.long(), prefixes.long()])
    return table[None, None]


def packed_positions(lengths: Tensor) -> Tensor:
    """Position ids [1, N] of packed rows of `lengths` [B], N their sum: they begin with 0 in every row.

    Without them a model would count on from one row to the next.
    """
    import torch

    # the offset of each row's first token, repeated for all its tokens
    starts = torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
    return (torch.arange(len(starts), device=lengths.device) - starts)[None]


def packed_attention(
    module: AttentionLayer, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **named: object
) -> tuple[Tensor, None]:
    """Attention by row under a `packed_mask`, transformers' "sdpa" under any other mask.

    query [1, H, N, D], key and value [1, K, N, D] with K heads of H; returns [1, N, H, D], transformers' order.
    """
    import torch

    sdpa = transformers_private.sdpa_attention
    if attention_mask is None or attention_mask.dtype != torch.int64:  # boolean or float masks are ordinary ones
        return sdpa(module, query, key, value, attention_mask, **named)
    lengths, *shared = attention_mask[0, 0].tolist()
    prefixes = shared[0] if shared else [-1] * len(lengths)
    # torch.split, because its backward pass joins the parts; that of slices adds up one zero-filled tensor for every
    # row.  Along dimension 1, because the layers around attention use the joined tensor there without another copy.
    queries, keys, values = (
        [part.transpose(1, 2) for part in torch.split(x.transpose(1, 2), lengths, 1)] for x in (query, key, value)
    )
    parts = []
    for row, before in enumerate(prefixes):
        if before < 0:
            # None as the mask: "sdpa" is then causal by itself
            part, _ = sdpa(module, queries[row], keys[row], values[row], None, **named)
        else:
            k, v = (torch.cat([x[before], x[row]], 2) for x in (keys, values))
            # the whole prefix, and of the row itself the tokens up to each one: causal with the row at the lower right
            seen = torch.ones(lengths[row], k.shape[2], dtype=torch.bool, device=k.device).tril(lengths[before])
            part, _ = sdpa(module, queries[row], k, v, seen[None, None], **named)
        parts.append(part)
    return torch.cat(parts, 1), None
