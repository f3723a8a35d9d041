"""Random-weight models of the common families, with tokenizers trained here, as folders that `from_pretrained` opens.

The four differ in what real ones differ in: tokenizer (byte-level BPE, unigram, WordPiece), beginning-of-sequence, pad
that is end-of-sequence or missing, chat template with and without a system role, several end tokens, tied embeddings.
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

from tiny import SENTENCES

from rlhf_bench.harness.models.policies import load_causal, load_tokenizer, save_model

CONTEXT = 512

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""A system turn is one like any other."""
GEMMA = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
"""Beginning-of-sequence of its own; no system role; an end of turn that is not end-of-sequence."""
LLAMA = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% elif m['role'] == 'assistant' %} {{ m['content'] }} {{ eos_token }}{% endif %}{% endfor %}"
)
"""No generation prompt; a system turn is left out without a word."""
WORDS = [
    *SENTENCES,
    "QUESTION: where do they meet? ANSWER: at nine. CORRECTION: user model assistant system",
    string.printable,
]


def bpe(extra: tuple[str, ...] = ()) -> Any:
    """Byte-level BPE without beginning-of-sequence, its pad token being end-of-sequence, as GPT-2's often is."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>", *extra]
    core.train_from_iterator(
        WORDS * 4,
        trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    return _fast(core, eos_token="<|endoftext|>", pad_token="<|endoftext|>")


def unigram(extra: tuple[str, ...] = ()) -> Any:
    """Unigram over ▁-marked words (as sentencepiece), putting <s> in front itself; no pad token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    core = Tokenizer(models.Unigram())
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    special = ["<unk>", "<s>", "</s>", *extra]
    core.train_from_iterator(
        WORDS * 4,
        trainers.UnigramTrainer(vocab_size=200, special_tokens=special, unk_token="<unk>", show_progress=False),
    )
    bos = core.token_to_id("<s>")
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    return _fast(core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def wordpiece(extra: tuple[str, ...] = ()) -> Any:
    """WordPiece, lower-casing, hence lossy; no pad token."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # type: ignore[call-arg]
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    special = ["[UNK]", "[SEP]", *extra]
    core.train_from_iterator(
        WORDS * 4, trainers.WordPieceTrainer(vocab_size=220, special_tokens=special, show_progress=False)
    )
    return _fast(core, eos_token="[SEP]", unk_token="[UNK]")


def _fast(core: Any, **tokens: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=core, clean_up_tokenization_spaces=False, **tokens)


SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
}


def gpt2(folder: Path) -> Path:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=320, n_embd=16, n_layer=2, n_head=2, n_positions=CONTEXT, bos_token_id=0, eos_token_id=0
    )  # with dropout, as the published one
    return _save(GPT2LMHeadModel, config, bpe(), folder)


def gpt2_wordpiece(folder: Path) -> Path:
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = wordpiece()
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=2, n_head=2, n_positions=CONTEXT, bos_token_id=1, eos_token_id=1
    )
    return _save(GPT2LMHeadModel, config, tokenizer, folder)


def qwen2(folder: Path) -> Path:
    """ChatML; more embeddings than tokens, as the published one."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = bpe(("<|im_start|>", "<|im_end|>"))
    tokenizer.chat_template = CHATML
    end, eos = tokenizer.convert_tokens_to_ids("<|im_end|>"), tokenizer.eos_token_id
    config = Qwen2Config(**SIZES, vocab_size=len(tokenizer) + 8, eos_token_id=eos, bos_token_id=None)
    return _save(Qwen2ForCausalLM, config, tokenizer, folder, ends=[end, eos])


def gemma(folder: Path) -> Path:
    from transformers import GemmaConfig, GemmaForCausalLM

    tokenizer = unigram(("<start_of_turn>", "<end_of_turn>"))
    tokenizer.chat_template = GEMMA
    config = GemmaConfig(
        **SIZES, head_dim=8, vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2, pad_token_id=None
    )
    return _save(GemmaForCausalLM, config, tokenizer, folder, ends=[2, 4])


def llama(folder: Path) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = unigram()
    tokenizer.chat_template = LLAMA
    config = LlamaConfig(**SIZES, vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2)
    return _save(LlamaForCausalLM, config, tokenizer, folder)


FAMILIES = {"gpt2": gpt2, "gpt2-wordpiece": gpt2_wordpiece, "qwen2": qwen2, "gemma": gemma, "llama": llama}


def _save(model_class: Any, config: Any, tokenizer: Any, folder: Path, ends: list[int] | None = None) -> Path:
    import torch

    torch.manual_seed(0)
    model = model_class(config)
    if ends:
        model.generation_config.eos_token_id = ends
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def saved_policy(name: str, folder: Path) -> Path:
    """A policy of a family in `folder`/sft, as the stage that trains it saves it."""
    source = FAMILIES[name](folder / "source")
    tokenizer = load_tokenizer(source, "auto")
    save_model(load_causal(source, tokenizer, "cpu"), tokenizer, folder / "sft")
    return folder / "sft"
