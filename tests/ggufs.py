"""GGUF files of tiny models, written as llama.cpp's converter writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def permuted(weight: NDArray[Any], heads: int) -> NDArray[Any]:
    """Rows of a query's or key's projection as llama.cpp orders them for its rotary positions."""
    half = weight.shape[0] // heads // 2
    return weight.reshape(heads, 2, half, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(model: Any, tokenizer: Any, file: Path, quantised: bool = False, **more: Any) -> Path:
    """A Llama with its byte-level tokenizer; `quantised`: matrices of whole blocks in Q8_0.  `more` are metadata."""
    import gguf

    config, name = model.config, more.pop("architecture", "llama")
    writer = gguf.GGUFWriter(file, name)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    if more.pop("words", True):
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("default")
        words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
        writer.add_token_list(words)
        special = set(tokenizer.all_special_tokens)
        writer.add_token_types([gguf.TokenType.CONTROL if w in special else gguf.TokenType.NORMAL for w in words])
        merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
        writer.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in merges])
        writer.add_eos_token_id(tokenizer.eos_token_id)
        writer.add_pad_token_id(tokenizer.pad_token_id)
        writer.add_chat_template("{% for m in messages %}<{{ m.content }}>{% endfor %}")
    for key, value in more.items():
        getattr(writer, f"add_{key}")(value)
    for name, tensor in model.state_dict().items():
        stem, _, kind = name.rpartition(".")
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(stem[-6:], 0)
        weight = permuted(tensor.numpy(), heads) if heads else tensor.numpy()
        if stem in OUTER:
            if stem != "lm_head" or not config.tie_word_embeddings:
                writer.add_tensor(f"{OUTER[stem]}.{kind}", weight)
            continue
        _, _, layer, inner = stem.split(".", 3)
        target = f"blk.{layer}.{NAMES[inner]}.{kind}"
        if quantised and weight.ndim == 2 and weight.shape[1] % 32 == 0:
            packed = gguf.quantize(weight, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(target, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(target, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
