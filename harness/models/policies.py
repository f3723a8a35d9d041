"""Policies: any causal language model in a folder or on the hub (models/tiny_policy.py makes one from nothing).

Everything written is safetensors in the standard layout, so `AutoModelForCausalLM.from_pretrained` opens it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rlhf_bench.harness.errors import BenchError, one_line
from rlhf_bench.harness.forward.packing import enable_packing
from rlhf_bench.harness.hub import OFFLINE as OFFLINE
from rlhf_bench.harness.hub import is_hub_id, load_error, split_revision
from rlhf_bench.harness.models.placement import Placement, apply_placement, read_placement
from rlhf_bench.harness.text.chat import choose_prompt_format, end_token_ids
from rlhf_bench.harness.text.tokens import check_has_vocabulary

PAD = "<|pad|>"
"""The pad token of tokenizers that have none of their own to spare."""


def load_tokenizer(source: str | Path, template: str = "", system: str = "") -> Any:
    """A model's tokenizer, left-padding, with a pad token that differs from every token that ends a response.

    `template` (auto, plain, chat) chooses the form of prompts (text/chat.py); "" leaves the one the tokenizer keeps.
    Raises BenchError when the folder or repository has none, or one that reads nothing or defines no
    end-of-sequence token.
    """
    from transformers import AutoTokenizer

    check_folder(source)
    name, revision = split_revision(source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    except Exception as error:
        if Path(name).is_dir():
            raise BenchError(
                f"No tokenizer can be loaded from {source}: {one_line(error)}.",
                "Put the tokenizer's files beside the model.",
            ) from error
        raise load_error(error, source, "tokenizer") from error
    check_has_vocabulary(tokenizer, source)
    if tokenizer.eos_token_id is None:
        raise BenchError(f"The tokenizer of {source} has no end-of-sequence token.", "Set eos_token in its config.")
    if template:
        choose_prompt_format(tokenizer, template, system, generation_ends(source))
    _make_pad(tokenizer)
    tokenizer.padding_side = "left"
    return tokenizer


def _make_pad(tokenizer: Any) -> None:
    """A pad token that ends nothing: with pad = end-of-sequence a padded text could not be told from an ended one."""
    ends = end_token_ids(tokenizer)
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id not in ends:
        return
    spare = tokenizer.unk_token_id
    if spare is None or spare in ends:
        tokenizer.add_special_tokens({"pad_token": PAD})
    else:
        tokenizer.pad_token_id = spare


def generation_ends(source: str | Path) -> list[int]:
    """The end tokens that a model's generation_config.json lists; none where it has no such file."""
    from transformers import GenerationConfig

    name, revision = split_revision(source)
    try:
        listed = GenerationConfig.from_pretrained(name, revision=revision).eos_token_id
    except OSError:  # as transformers itself does: models without that file are common
        return []
    return [listed] if isinstance(listed, int) else list(listed or [])


def load_causal(source: str | Path, tokenizer: Any, device: str, dtype: str = "float32") -> Any:
    """A causal language model in evaluation mode, weights in `dtype`; embeddings grow where the tokenizer got a pad.

    Raises BenchError where the tokenizer has more tokens than the model has embeddings.
    """
    from transformers import AutoModelForCausalLM

    model = _load(AutoModelForCausalLM, source, dtype)
    _fit_embeddings(model, tokenizer, source)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = end_token_ids(tokenizer)
    return model.to(device).eval()


def load_frozen(source: str | Path, tokenizer: Any, device: str, placement: Placement) -> Any:
    """A model whose own weights are not trained; under bfloat16 `narrowed`."""
    model = load_causal(source, tokenizer, "cpu", placement.dtype).requires_grad_(False)
    return cast_layers(model, placement, keep=model.get_output_embeddings()).to(device)


def cast_layers(model: Any, placement: Placement, keep: Any) -> Any:
    """Under bfloat16 the matrices of a model's layers in it, and nothing else: norms and biases are small, embeddings
    and the head `keep` stay float32."""
    import torch
    from torch import nn

    if not placement.half:
        return model
    model.to(torch.bfloat16)
    for module in model.modules():
        if isinstance(module, nn.Embedding) or module is keep:
            module.float()
    for parameter in model.parameters():
        if parameter.ndim < 2:
            parameter.data = parameter.data.float()
    return model


def load_sampler(folder: Path, device: str, sft: Path | None = None) -> tuple[Any, Any]:
    """(model, tokenizer) of a stored policy, held and computing as its SFT folder (default: `folder`) says."""
    placement, tokenizer = read_placement(sft or folder), load_tokenizer(folder)
    if placement.lora:
        return apply_placement(load_frozen(folder, tokenizer, device, placement), placement), tokenizer
    return apply_placement(load_causal(folder, tokenizer, device), placement), tokenizer


def _fit_embeddings(model: Any, tokenizer: Any, source: str | Path) -> None:
    size = model.get_input_embeddings().num_embeddings
    needed = max(tokenizer.get_vocab().values()) + 1
    grown = needed == size + 1 and tokenizer.pad_token == PAD and tokenizer.pad_token_id == size
    if needed > size and not grown:
        raise BenchError(
            f"The tokenizer of {source} has ids up to {needed - 1}; the model has {size} embeddings.",
            "They do not belong together: give the model its own tokenizer.",
        )
    if grown:
        model.resize_token_embeddings(needed, mean_resizing=False)


def _load(auto: Any, source: str | Path, dtype: str = "float32", **more: Any) -> Any:
    import torch

    check_folder(source)
    name, revision = split_revision(source)
    try:
        model = auto.from_pretrained(
            name, revision=revision, trust_remote_code=False, use_safetensors=True, dtype=getattr(torch, dtype), **more
        )
    except Exception as error:
        if Path(name).is_dir():
            fix = "Give a model folder with safetensors weights."
            raise BenchError(f"No model can be loaded from {source}: {one_line(error)}.", fix) from error
        raise load_error(error, source, "model with safetensors weights") from error
    _check_weights(model, source)
    return enable_packing(model)


def _check_weights(model: Any, source: str | Path) -> None:
    """Raises BenchError for quantised weights, which cannot be trained here, and for weights that are not finite."""
    import torch

    if getattr(model.config, "quantization_config", None) is not None:
        raise BenchError(f"The weights of {source} are quantised.", "Give the model they were made from.")
    for name, weight in model.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            raise BenchError(f"The weights of {source} are NaN or infinite: {name}.", "The file is damaged.")


def check_folder(source: str | Path) -> None:
    """Raises BenchError for a folder that is no model, and for a path that is neither a folder nor a hub id."""
    path = Path(source)
    if path.is_dir():
        names = {p.name for p in path.iterdir()}
        if "config.json" not in names:
            raise BenchError(
                f"{source} has no config.json: it is no model folder.", "Give a folder made by save_pretrained."
            )
        pickled = sorted(n for n in names if n.endswith((".bin", ".pt", ".pth", ".pkl")) and n != "training_args.bin")
        if pickled and not any(n.endswith(".safetensors") for n in names):
            raise BenchError(
                f"{source} has pickled weights only ({pickled[0]}), which can run any code when they are read.",
                "Convert them where you trust them: load the model there and save_pretrained() it.",
            )
    elif path.exists() or not is_hub_id(source):
        raise BenchError(f"There is no folder {source}.", "Give 'tiny', a folder, or a hub id such as google/gemma-2b.")


def context_length(model: Any) -> int | None:
    """The most tokens a model can read, None where its configuration does not say."""
    for name in ("max_position_embeddings", "n_positions", "n_ctx"):
        value = getattr(model.config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def context_of(folder: Path) -> int | None:
    """`context_length` of a stored model, without loading its weights."""
    from transformers import AutoConfig

    return context_length(SimpleNamespace(config=AutoConfig.from_pretrained(folder)))


def save_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Standard layout: config, safetensors, tokenizer; a model kept in several precisions is stored in its lowest."""
    import torch

    if any(p.dtype == torch.bfloat16 for p in model.parameters()):
        model.to(torch.bfloat16)  # embeddings and head were widened when they were loaded: nothing is lost
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def load_policy(folder: Path, device: str) -> tuple[Any, Any]:
    """(model, tokenizer) of an SFT or trained policy of ours."""
    tokenizer = load_tokenizer(folder)
    return load_causal(folder, tokenizer, device), tokenizer


def pick_device(wanted: str = "") -> str:
    """The device asked for, else the accelerator where there is one, else the CPU.  Raises BenchError for one that
    torch cannot use here."""
    import torch

    if wanted:
        try:
            torch.zeros(1, device=wanted)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise BenchError(f"The device {wanted!r} cannot be used: {one_line(error)}.", "See: bench doctor") from None
        return wanted
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def load_classifier(source: str | Path, tokenizer: Any, device: str, seed: int = 0, head_std: float = 0.0) -> Any:
    """A one-label sequence classifier; `head_std` above 0 draws a fresh head with that deviation from `seed`."""
    import torch
    from transformers import AutoModelForSequenceClassification

    with quiet_transformers():
        model = _load(AutoModelForSequenceClassification, source, num_labels=1)
    model.config.pad_token_id = tokenizer.pad_token_id
    if head_std:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            model.score.weight.copy_(torch.randn(model.score.weight.shape, generator=generator) * head_std)
    return model.to(device).eval()


def load_encoder_decoder(source: str | Path, tokenizer: Any, device: str) -> Any:
    """An encoder-decoder (T5 and its like) in float32 evaluation mode, of its tokenizer's vocabulary."""
    from transformers import AutoModelForSeq2SeqLM

    model = _load(AutoModelForSeq2SeqLM, source)
    _fit_embeddings(model, tokenizer, source)
    return model.to(device).eval()


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence the load report about a head that is meant to be new."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
