"""Reward models of other people's, of random weights, with the tokenizers of tokenizers_here.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny import CONTEXT, louder
from tokenizers_here import make

FAMILIES = {"llama": "unigram", "gemma": "unigram", "qwen": "byte-bpe", "gpt2": "byte-bpe", "bert": "wordpiece"}
"""Architectures, and the kind of tokenizer that such models come with."""
TEMPLATE = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] | trim }}\n{% endfor %}"


def config_of(family: str, tokenizer: Any, **more: Any) -> Any:
    """A configuration of the family, of a few thousand weights, with one label."""
    import transformers as t

    size = {"vocab_size": len(tokenizer), "num_labels": 1, "pad_token_id": tokenizer.pad_token_id, **more}
    wide = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "max_position_embeddings": CONTEXT}  # fmt: skip
    made: dict[str, Any] = {
        "llama": lambda: t.LlamaConfig(**size, **wide, num_key_value_heads=1),
        "gemma": lambda: t.GemmaConfig(**size, **wide, num_key_value_heads=1, head_dim=8),
        "qwen": lambda: t.Qwen2Config(**size, **wide, num_key_value_heads=1),
        "gpt2": lambda: t.GPT2Config(**size, n_embd=16, n_layer=2, n_head=2, n_positions=CONTEXT),
        "bert": lambda: t.BertConfig(**size, **wide),
    }
    return made[family]()


def classifier(family: str, folder: Path, level: str = "Sequence", chat: bool = False, **more: Any) -> Path:
    """A saved classifier of sequences or tokens, and its tokenizer, with a chat template where asked."""
    import torch
    import transformers

    tokenizer = make(FAMILIES[family])
    torch.manual_seed(0)
    auto = getattr(transformers, f"AutoModelFor{level}Classification")
    model = louder(auto.from_config(config_of(family, tokenizer, **more)), 6.0)
    model.save_pretrained(folder)
    tokenizer.chat_template = TEMPLATE if chat else None
    tokenizer.save_pretrained(folder)
    tokenizer.chat_template = None  # it is shared
    return folder
