"""The policy `tiny`: a small GPT-2 of random weights and a byte-level tokenizer, made from a task's demonstrations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.forward.packing import enable_packing
from rlhf_bench.harness.models.policies import PAD
from rlhf_bench.harness.text.templates import CORRECTION, policy_prompt

TINY = "tiny"
END = "<|end|>"


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> Any:
    """A byte-level BPE tokenizer (any text round-trips) with at most `vocabulary` tokens, pad distinct from end."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([*texts, CORRECTION * 100], trainer)  # the marker must not cost a tiny model many tokens
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=PAD, eos_token=END, padding_side="left", clean_up_tokenization_spaces=False
    )


def tiny_tokenizer(prompts: Sequence[str], completions: Sequence[str], vocabulary: int) -> Any:
    """The tiny policy's tokenizer, trained on the task's own demonstrations in the template."""
    return train_tokenizer([policy_prompt(p) + c for p, c in zip(prompts, completions, strict=True)], vocabulary)


def tiny_model(tokenizer: Any, context: int, layers: int, width: int, heads: int, seed: int) -> Any:
    """A GPT-2 of random weights, without dropout (PPO's ratios need a deterministic policy).

    Embeddings start large and nearly orthogonal under a small final norm: with the usual small ones every word of a
    kind ("friday", "sunday") grows alike before the model can tell them apart, and copying from the prompt is not
    learned within thousands of steps (tried).
    """
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    if width % heads:
        raise BenchError(f"policy.width={width} is not a multiple of policy.heads={heads}.", "Choose a multiple.")
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=context,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        activation_function="gelu_pytorch_tanh",  # one fused operation, the same formula as gelu_new
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        initializer_range=0.12,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        model.transformer.wte.weight.normal_(std=1.0)  # tied to the output head, which the final norm keeps small
        model.transformer.ln_f.weight.fill_(0.1)
    return enable_packing(model)
