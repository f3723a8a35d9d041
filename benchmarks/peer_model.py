"""What both engines of the PPO comparison are given: one GPT-2 and its word-level tokenizer, in folders.

Needs transformers alone, so that it also runs in the environment of TRL 1.12.  An engine is a process that says
`ready`, then makes one PPO step for each line it reads and answers with a line of JSON: two engines can take turns.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PAD, END, OTHER = 0, 1, 2
PROMPTS = "prompts.json"
"""Beside real models: {"texts": [...], "ids": [...]}, the same prompts as text and as the policy reads them."""
TEMPLATE = 2
"""Tokens that the policy's template puts around a prompt's words."""


@dataclass(frozen=True)
class Sizes:
    """One PPO step.  `mean` is the mean length of a response that ends by chance; 0: all have `response` tokens."""

    layers: int = 4
    width: int = 256
    heads: int = 4
    vocabulary: int = 2000
    prompt: int = 64
    response: int = 32
    batch: int = 32
    minibatches: int = 4
    mean: int = 0

    def flags(self) -> list[str]:
        return [f"--{name}={value}" for name, value in asdict(self).items()]


def make_tokenizer(vocabulary: int) -> Any:
    """Words w3, w4, ... are the ids 3, 4, ...; anything else (the template's words) is one unknown word."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": PAD, "<end>": END, "<unk>": OTHER} | {f"w{i}": i for i in range(3, vocabulary)}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.decoder = decoders.WordPiece(prefix="##")
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<end>", unk_token="<unk>", padding_side="left"
    )


def config(sizes: Sizes, activation: str) -> Any:
    from transformers import GPT2Config

    return GPT2Config(
        vocab_size=sizes.vocabulary,
        n_positions=sizes.prompt + sizes.response + 8,
        n_embd=sizes.width,
        n_layer=sizes.layers,
        n_head=sizes.heads,
        activation_function=activation,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        num_labels=1,
        pad_token_id=PAD,
        eos_token_id=END,
        bos_token_id=END,
    )


def make_policy(sizes: Sizes, activation: str) -> Any:
    """Random weights whose chance of ending is 1 / `mean` at every token, whatever came before (never for mean 0)."""
    import math

    import torch
    from transformers import GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(config(sizes, activation))
    with torch.no_grad():
        final = model.transformer.ln_f
        final.weight[0], final.bias[0] = (
            0.0,
            1.0,
        )  # one direction of the last layer is constant: it sets the end's logit
        model.transformer.wte.weight[:, 0] = 0.0
        model.transformer.wte.weight[END, 0] = math.log(sizes.vocabulary / sizes.mean) if sizes.mean else -30.0
    return model.eval()


def make_classifier(sizes: Sizes, activation: str) -> Any:
    import torch
    from transformers import GPT2ForSequenceClassification

    torch.manual_seed(1)
    return GPT2ForSequenceClassification(config(sizes, activation)).eval()


def prompts(sizes: Sizes, count: int) -> list[list[int]]:
    """Random word ids; with the template's tokens each prompt has `sizes.prompt` (varying: 1/4 to all of them)."""
    import torch

    generator = torch.Generator().manual_seed(2)
    rows = []
    for _ in range(count):
        least = sizes.prompt // 4 if sizes.mean else sizes.prompt
        length = int(torch.randint(least, sizes.prompt + 1, (1,), generator=generator)) - TEMPLATE
        rows.append(torch.randint(3, sizes.vocabulary, (length,), generator=generator).tolist())
    return rows


def take_turns(step: Callable[[], dict[str, Any]]) -> None:
    """One step for each line of standard input, its figures as a line of JSON."""
    say({"ready": True})
    for _ in sys.stdin:
        say(step())


def say(row: dict[str, Any]) -> None:
    sys.__stdout__.write(json.dumps(row) + "\n")  # not what a library may have put in its place
    sys.__stdout__.flush()


def save(sizes: Sizes, folder: Path, activation: str = "gelu_pytorch_tanh") -> None:
    """policy/ and reward/ in the standard layout, the tokenizer beside both."""
    tokenizer = make_tokenizer(sizes.vocabulary)
    for name, model in (("policy", make_policy(sizes, activation)), ("reward", make_classifier(sizes, activation))):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def link_models(prepared: Path, folder: Path) -> None:
    """The files of policy/ and reward/ in another folder, so that an engine can write beside them."""
    for name in ("policy", "reward"):
        (folder / name).mkdir()
        for file in (prepared / name).iterdir():
            try:
                os.link(file, folder / name / file.name)
            except OSError:  # another file system
                shutil.copyfile(file, folder / name / file.name)
