"""Shared by all tests: tiny random models on disk, one thread, no network.

The models are a GPT-2 (learned positions) and a Llama (rotary positions, grouped heads), both with the byte-level
tokenizer of the `tiny` policy.  Their weights are random but large, so that no two logits are nearly tied.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: sums in one order, and the machine is shared
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
from hypothesis import settings

settings.register_profile("laws", deadline=None)  # a busy machine is no failure
settings.load_profile("laws")

SENTENCES = (
    "Anna and Ben go hiking together on Sunday at nine.",
    "Ben will bring the map. Anna will bring a lamp!",
    "They meet at the station, not at the old bridge.",
    "Zoë asks: où est la gare? Die Straße ist naß.",
)
CONTEXT = 256


class Tiny(NamedTuple):
    """A model, its tokenizer and the folder both were saved in."""

    model: Any
    tokenizer: Any
    folder: Path


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return make_tokenizer()


@pytest.fixture(scope="session")
def tiny_gpt2(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return save(make_gpt2(tokenizer), tokenizer, tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="session")
def tiny_llama(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return save(make_llama(tokenizer), tokenizer, tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session", params=["gpt2", "llama"])
def tiny(request: pytest.FixtureRequest) -> Tiny:
    """Both architectures in turn."""
    made: Tiny = request.getfixturevalue(f"tiny_{request.param}")
    return made


def make_tokenizer(vocabulary: int = 300) -> Any:
    from rlhf_bench.harness.policies import train_tokenizer

    return train_tokenizer(SENTENCES * 4, vocabulary)


def make_gpt2(tokenizer: Any, width: int = 16) -> Any:
    from rlhf_bench.harness.policies import tiny_model

    return louder(tiny_model(tokenizer, CONTEXT, layers=2, width=width, heads=2, seed=0))


def make_llama(tokenizer: Any) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
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
    return louder(LlamaForCausalLM(config))


def louder(model: Any, factor: float = 5.0) -> Any:
    """Matrices scaled up: fresh weights give nearly equal logits, and what is tested hardly shows in them."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(factor)
    return model.eval()


def save(model: Any, tokenizer: Any, folder: Path) -> Tiny:
    from rlhf_bench.harness.policies import save_model

    save_model(model, tokenizer, folder)
    return Tiny(model, tokenizer, folder)
