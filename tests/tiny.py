"""Tiny random models and rollouts made by hand, for tests.

A GPT-2 (learned positions) and a Llama (rotary positions, grouped heads), both with the byte-level tokenizer of the
`tiny` policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_bench.harness.nouns import Rollout

SENTENCES = (
    "Anna and Ben go hiking together on Sunday at nine.",
    "Ben will bring the map. Anna will bring a lamp!",
    "They meet at the station, not at the old bridge.",
    "Zoë asks: où est la gare? Die Straße ist naß.",
)
CONTEXT = 256


class Tiny(NamedTuple):
    """A model, its tokenizer and the folder both are saved in."""

    model: Any
    tokenizer: Any
    folder: Path


def make_tokenizer(vocabulary: int = 300) -> Any:
    from rlhf_bench.harness.models.tiny_policy import train_tokenizer

    return train_tokenizer(SENTENCES * 4, vocabulary)


def make_gpt2(tokenizer: Any, loudness: float = 16.0) -> Any:
    from rlhf_bench.harness.models.tiny_policy import tiny_model

    return louder(tiny_model(tokenizer, CONTEXT, layers=2, width=16, heads=2, seed=0), loudness)


def make_llama(tokenizer: Any, loudness: float = 12.0) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return louder(LlamaForCausalLM(config), loudness)


def louder(model: Any, factor: float) -> Any:
    """Matrices scaled up: fresh weights give nearly equal logits, in which neither attention nor positions show."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(factor)
    return model.eval()


def save(model: Any, tokenizer: Any, folder: Path) -> Tiny:
    from rlhf_bench.harness.models.policies import save_model

    save_model(model, tokenizer, folder)
    return Tiny(model, tokenizer, folder)


def by_hand(
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    extra_left: int = 0,
    extra_right: int = 0,
) -> Rollout:
    """A Rollout of given token ids, with `extra` columns of padding at either side."""
    import torch

    from rlhf_bench.harness.text.templates import decode

    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    left, right = max(map(len, prompts)) + extra_left, max(map(len, responses)) + extra_right
    return Rollout(
        prompts=tuple(tokenizer.decode(row) for row in prompts),
        responses=tuple(decode(tokenizer, row) for row in responses),
        prompt_ids=torch.tensor([[pad] * (left - len(row)) + list(row) for row in prompts]),
        prompt_mask=torch.tensor([[0] * (left - len(row)) + [1] * len(row) for row in prompts]),
        response_ids=torch.tensor([list(row) + [pad] * (right - len(row)) for row in responses]),
        mask=torch.tensor([[True] * len(row) + [False] * (right - len(row)) for row in responses]),
        finished=torch.tensor([bool(row) and row[-1] == end for row in responses]),
        tokenizer=tokenizer,
    )


def other_padding(rollout: Rollout) -> Rollout:
    """The same rollout with other tokens where the masks are False."""
    import torch

    return replace(
        rollout,
        prompt_ids=torch.where(rollout.prompt_mask.bool(), rollout.prompt_ids, 7),
        response_ids=torch.where(rollout.mask, rollout.response_ids, 9),
    )
