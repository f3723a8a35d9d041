"""Rows of different length through a model as one row without padding: only attention is told where they begin.

Linear layers, norms, activations and heads take tokens one by one, so rows laid end to end [1, N] cost them nothing
for the places that padding would fill.  Attention looks at each row by itself.  Where the rows begin is carried by the
attention mask, so recomputation (gradient checkpointing) and trainers hand it on like any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

NAME = "sdpa_by_row"
KNOWN = frozenset({"gemma", "gpt2", "llama", "mistral", "qwen2", "qwen3"})
"""Architectures (`model_type`) whose layers share one causal mask and take the position ids they are given."""


def enable_packing(model: Any) -> Any:
    """Let a model of transformers read rows laid end to end, where that is known to be right; returned for chaining.

    Everything else it is given it computes as under transformers' own "sdpa".  Models whose attention is not known,
    bounded by a window, capped or not causal stay as they are.
    """
    if _can_learn(model.config):
        _register()
        model.set_attn_implementation(NAME)
    return model


def supports_packing(model: Any) -> bool:
    """Whether rows laid end to end are right, and worth while, for a model.

    On a CPU alone: elsewhere an attention call for every row would cost more than the padding of rows sorted by length
    (torch.nn.attention.varlen may serve there; nothing was measured on a GPU).
    """
    return has_packed_attention(model) and model.device.type == "cpu"


def has_packed_attention(model: Any) -> bool:
    """Whether `teach` changed the model's attention, which then takes whatever masks "sdpa" does."""
    return getattr(getattr(model, "config", None), "_attn_implementation", "") == NAME


def packed_mask(lengths: Tensor) -> Tensor:
    """The attention mask of rows [B] tokens long that lie end to end: int64 [1, 1, 1, B], which transformers' models
    hand to their attention untouched, like every mask of four dimensions (masking_utils)."""
    return lengths.long()[None, None, None]


def packed_positions(lengths: Tensor) -> Tensor:
    """Position ids [1, N] that begin again with every row."""
    import torch

    starts = torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
    return (torch.arange(len(starts), device=lengths.device) - starts)[None]


def _can_learn(config: Any) -> bool:
    """No window, no cap, no attention to what follows, and computed by torch's own attention."""
    layers = getattr(config, "layer_types", None) or ["full_attention"]
    return (
        config.model_type in KNOWN
        and config._attn_implementation == "sdpa"
        and not getattr(config, "sliding_window", None)
        and all(kind == "full_attention" for kind in layers)
        and getattr(config, "is_causal", True)
        and not getattr(config, "use_bidirectional_attention", False)
        and not getattr(config, "attn_logit_softcapping", None)
    )


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **named: Any
) -> tuple[Tensor, None]:
    """transformers' "sdpa", except under a `row_mask`: then each of the rows that lie end to end in query [1, H, N, D],
    key and value [1, K, N, D] by itself.  Returns [B, N, H, D], as all of its attentions do."""
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if attention_mask is None or attention_mask.dtype != torch.int64:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **named)  # type: ignore[no-any-return]
    lengths = attention_mask.flatten().tolist()
    # split, whose backward joins the parts; slices' would add up as many zero-filled tensors as there are rows.  And
    # along dimension 1, where the joined tensor is what the layers around attention want without another copy.
    rows = zip(*(torch.split(x.transpose(1, 2), lengths, 1) for x in (query, key, value)), strict=True)
    parts = [sdpa_attention_forward(module, *(x.transpose(1, 2) for x in row), None, **named)[0] for row in rows]
    return torch.cat(parts, 1), None
