"""The policy `tiny`: a small GPT-2 with random weights, and a byte-level tokenizer trained on demonstrations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.forward.packing import enable_packing
from rlhf_bench.harness.models.policies import PAD
from rlhf_bench.harness.text.templates import CORRECTION, policy_prompt

if TYPE_CHECKING:
    from rlhf_bench.harness.forward.types import CausalLM
    from rlhf_bench.harness.text.types import Tokenizer

TINY = "tiny"
END = "<|end|>"


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> Tokenizer:
    """A byte-level BPE tokenizer with at most `vocabulary` tokens, pad and end included; pad and end differ.

    Any text round-trips, because all 256 bytes are tokens.
    """
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = tokenizers.Tokenizer(models.BPE())
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
    made: Tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=PAD, eos_token=END, padding_side="left", clean_up_tokenization_spaces=False
    )
    return made


def tiny_tokenizer(prompts: Sequence[str], completions: Sequence[str], vocabulary: int) -> Tokenizer:
    """The tiny policy's tokenizer, trained on the task's own demonstrations in the template.

    One completion to each prompt.  The template is in it, so its words become few tokens.
    """
    return train_tokenizer([policy_prompt(p) + c for p, c in zip(prompts, completions, strict=True)], vocabulary)


def check_sizes(width: int, heads: int) -> None:
    """Raises BenchError where `width` is not a multiple of `heads`."""
    if width % heads:
        raise BenchError(f"policy.width={width} is not a multiple of policy.heads={heads}.", "Choose a multiple.")


def tiny_model(tokenizer: Tokenizer, context: int, layers: int, width: int, heads: int, seed: int) -> CausalLM:
    """A GPT-2 with random weights from `seed`, without dropout: PPO's ratios need a deterministic policy.

    Raises BenchError where `width` is not a multiple of `heads`.
    """
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    check_sizes(width, heads)
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
    # Embeddings start large and nearly orthogonal, under a small final norm.  With the usual small ones all words of a
    # kind ("friday", "sunday") grow alike before the model can tell them apart, and it does not learn to copy from the
    # prompt within thousands of steps (tried).
    with torch.no_grad():
        model.transformer.wte.weight.normal_(std=1.0)  # tied to the output head, which the final norm keeps small
        model.transformer.ln_f.weight.fill_(0.1)
    made: CausalLM = enable_packing(model)
    return made
