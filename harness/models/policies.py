"""Loading and saving of policies, reward models and their tokenizers, from a folder or from the hub.

Everything is loaded from and saved as safetensors in the standard layout, so `AutoModelForCausalLM.from_pretrained`
opens what is saved.  models/tiny_policy.py makes a policy from nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError, one_line
from rlhf_bench.harness.forward.packing import enable_packing
from rlhf_bench.harness.hub import is_hub_id, load_error, split_revision
from rlhf_bench.harness.models.adapter_folders import MERGE, check_merged, holds_adapter, merge_folder, read_adapter
from rlhf_bench.harness.models.gguf_files import refuse_gguf
from rlhf_bench.harness.models.placement import Placement, apply_placement, read_placement
from rlhf_bench.harness.models.tensors import check_report
from rlhf_bench.harness.text.chat import choose_prompt_format, end_token_ids
from rlhf_bench.harness.text.tokens import check_has_vocabulary
from rlhf_bench.harness.text.vet import check_bounded

if TYPE_CHECKING:
    from rlhf_bench.harness.forward.types import CausalLM, Classifier, EncoderDecoder, Module
    from rlhf_bench.harness.text.types import Tokenizer

M = TypeVar("M", bound="Module")
L = TypeVar("L", bound="CausalLM")

PAD = "<|pad|>"
"""The pad token of tokenizers that have no token to spare for it."""

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tokenizer_config.json"),
)
"""One of them is in every folder with a tokenizer."""


# --- tokenizers


def load_tokenizer(source: str | Path, template: str = "", system: str = "", thinking: str = "auto") -> Tokenizer:
    """A model's tokenizer, padding on the left, with a pad token that differs from every token that ends a response.

    `template` (auto, plain, chat), `system` and `thinking` choose the prompt format (text/chat.py); "" as `template`
    keeps the stored one.
    Raises BenchError where there is no tokenizer, or one without tokens of text or without an end-of-sequence token.
    """
    from transformers import AutoTokenizer

    adapter = read_adapter(source)
    model, source = (adapter.base if adapter else source), tokenizer_source(source)
    check_folder(source, tokenizer=True)
    name, revision = split_revision(source)
    try:
        # remote code is refused everywhere: a name on the hub must not run a program here
        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    except Exception as error:
        if Path(name).is_dir():
            raise BenchError(
                f"No tokenizer can be loaded from {source}: {one_line(error)}.",
                "Put the tokenizer's files beside the model.",
            ) from error
        raise load_error(error, source, "tokenizer") from error
    check_has_vocabulary(tokenizer, source)
    check_bounded(tokenizer, source)
    if tokenizer.eos_token_id is None:
        raise BenchError(f"The tokenizer of {source} has no end-of-sequence token.", "Set eos_token in its config.")
    if template:
        choose_prompt_format(tokenizer, template, system, _generation_end_ids(model), thinking)
    # A pad token that ends nothing: if it were end-of-sequence, padding could not be told from the end of a text.
    ends, spare = end_token_ids(tokenizer), tokenizer.unk_token_id
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id in ends:
        if spare is None or spare in ends:
            tokenizer.add_special_tokens({"pad_token": PAD})
        else:
            tokenizer.pad_token_id = spare
    tokenizer.padding_side = "left"  # the last prompt token of every row is in the last column, where decoding starts
    return tokenizer


def tokenizer_source(source: str | Path) -> str | Path:
    """Where the tokenizer of a model lies: of an adapter without one, in the folder or hub id of its base."""
    adapter = read_adapter(source)
    if adapter is None or any((adapter.folder / name).is_file() for name in TOKENIZER_FILES):
        return source
    return adapter.base


def _generation_end_ids(source: str | Path) -> list[int]:
    """The end tokens that a model's generation_config.json lists; none where it has no such file."""
    from transformers import GenerationConfig

    name, revision = split_revision(source)
    try:
        listed = GenerationConfig.from_pretrained(name, revision=revision).eos_token_id
    except OSError:  # as transformers itself does: models without that file are common
        return []
    return [listed] if isinstance(listed, int) else list(listed or [])


# --- models


def load_causal(source: str | Path, tokenizer: Tokenizer, device: str, dtype: str = "float32") -> CausalLM:
    """A causal language model in evaluation mode, weights in `dtype`, with an embedding for an added pad token.

    Raises BenchError where no such model can be loaded, or where it has fewer embeddings than the tokenizer has tokens.
    """
    from transformers import AutoModelForCausalLM

    model: CausalLM = _load(AutoModelForCausalLM.from_pretrained, source, dtype)
    _match_embeddings(model, tokenizer, source)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id  # stored with the model, for other programs
    model.generation_config.eos_token_id = end_token_ids(tokenizer)
    return model.to(device).eval()


def load_frozen(source: str | Path, tokenizer: Tokenizer, device: str, placement: Placement) -> CausalLM:
    """A causal language model whose weights are not trained; its layers are in bfloat16 if the placement is.

    In evaluation mode on `device`, the head in float32.  Raises BenchError as `load_causal` does.
    """
    # cast on the CPU, so that the device never holds both precisions
    model = load_causal(source, tokenizer, "cpu", placement.dtype).requires_grad_(False)
    return cast_layers(model, placement, keep=model.get_output_embeddings()).to(device)


def cast_layers(model: M, placement: Placement, keep: Module) -> M:
    """Under bfloat16, cast the matrices of a model's layers, in place.

    Norms and biases are small, and embeddings and the head `keep` need the precision: they stay in float32.
    """
    import torch
    from torch import nn

    if not placement.half:
        return model
    model.to(torch.bfloat16)
    for module in model.modules():
        if isinstance(module, nn.Embedding) or module is keep:
            module.to(torch.float32)
    for parameter in model.parameters():
        if parameter.ndim < 2:
            parameter.data = parameter.data.float()
    return model


def load_sampler(folder: Path, device: str, sft: Path | None = None) -> tuple[CausalLM, Tokenizer]:
    """(model, tokenizer) of a stored policy, with the placement of its SFT folder (default: `folder`).

    Policies that PPO stores have no placement of their own.  Raises BenchError where `folder` cannot be loaded.
    """
    placement, tokenizer = read_placement(sft or folder), load_tokenizer(folder)
    if placement.lora:
        return apply_placement(load_frozen(folder, tokenizer, device, placement), placement), tokenizer
    return apply_placement(load_causal(folder, tokenizer, device), placement), tokenizer


def load_policy(folder: Path, device: str) -> tuple[CausalLM, Tokenizer]:
    """(model, tokenizer) of an SFT or trained policy, computed in float32 for every placement.

    Raises BenchError where `folder` cannot be loaded.
    """
    tokenizer = load_tokenizer(folder)
    return load_causal(folder, tokenizer, device), tokenizer


def load_classifier(
    source: str | Path, tokenizer: Tokenizer, device: str, seed: int = 0, head_std: float = 0.0
) -> Classifier:
    """A sequence classifier with one label, in float32 evaluation mode.

    `head_std` above 0 draws a new head of that standard deviation from `seed`; 0 keeps the head that is stored.
    Raises BenchError where no such model can be loaded, and where any of its weights but those of a new head are
    missing.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    with quiet_transformers():
        load = AutoModelForSequenceClassification.from_pretrained
        model: Classifier = _load(load, source, new_head=head_std > 0, num_labels=1)
    model.config.pad_token_id = tokenizer.pad_token_id
    if head_std:
        generator = torch.Generator().manual_seed(seed)  # of its own, on the CPU: the same head on every device
        with torch.no_grad():
            model.score.weight.copy_(torch.randn(model.score.weight.shape, generator=generator) * head_std)
    return model.to(device).eval()


def load_encoder_decoder(source: str | Path, tokenizer: Tokenizer, device: str) -> EncoderDecoder:
    """An encoder-decoder (T5 and its like) in float32 evaluation mode.

    Raises BenchError as `load_causal` does.
    """
    from transformers import AutoModelForSeq2SeqLM

    model: EncoderDecoder = _load(AutoModelForSeq2SeqLM.from_pretrained, source)
    _match_embeddings(model, tokenizer, source)
    return model.to(device).eval()


def _load(
    load: Callable[..., tuple[L, Mapping[str, Any]]],
    source: str | Path,
    dtype: str = "float32",
    new_head: bool = False,
    **more: object,
) -> L:
    """The model by `load`, `from_pretrained` of one of transformers' auto classes.

    `source` may be an adapter's folder (models/adapter_folders.py): its base is loaded and the adapter is merged.
    `new_head`: the model gets another head than the stored one, made new.

    Raises BenchError for quantised weights, which cannot be trained here, for weights that are not finite, and for
    tensors that are missing, of another shape or unknown to the model.
    """
    import torch

    adapter = read_adapter(source)
    # an adapter is added in float32: the sum is rounded once
    source, wanted, dtype = (adapter.base, dtype, "float32") if adapter else (source, dtype, dtype)
    check_folder(source)
    name, revision = split_revision(source)
    try:
        with quiet_transformers():  # its report on tensors: `check_report` names them
            model, report = load(
                name,
                revision=revision,
                trust_remote_code=False,  # code from the hub, or a pickled file, could run anything
                use_safetensors=True,
                dtype=getattr(torch, dtype),
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # without it transformers refuses them, and does not name them
                **more,
            )
    except Exception as error:
        if Path(name).is_dir():
            fix = "Give a model folder with safetensors weights."
            raise BenchError(f"No model can be loaded from {source}: {one_line(error)}.", fix) from error
        raise load_error(error, source, "model with safetensors weights") from error
    check_merged(model, source)
    if getattr(model.config, "quantization_config", None) is not None:
        raise BenchError(f"The weights of {source} are quantised.", "Give the model they were made from.")
    trunk = f"{model.base_model_prefix}."
    outside = (lambda tensor: not tensor.startswith(trunk)) if new_head else (lambda _: False)
    check_report(source, report, new=outside, left=outside)
    if adapter:
        model = merge_folder(model, adapter).to(getattr(torch, wanted))
    # one NaN would show only as a diverged run, hours later
    for parameter, weight in model.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            raise BenchError(f"The weights of {source} are NaN or infinite: {parameter}.", "The file is damaged.")
    return enable_packing(model)


def _match_embeddings(model: CausalLM, tokenizer: Tokenizer, source: str | Path) -> None:
    """Add an embedding for a pad token that was added; refuse a tokenizer with any other token too many."""
    size = model.get_input_embeddings().num_embeddings
    needed = max(tokenizer.get_vocab().values()) + 1  # not len(): ids may have gaps
    pad_added = needed == size + 1 and tokenizer.pad_token == PAD and tokenizer.pad_token_id == size
    # fewer tokens than embeddings are common: models round the number of their embeddings up
    if needed > size and not pad_added:
        raise BenchError(
            f"The tokenizer of {source} has ids up to {needed - 1}; the model has {size} embeddings.",
            "They do not belong together: give the model its own tokenizer.",
        )
    if pad_added:
        model.resize_token_embeddings(needed, mean_resizing=False)  # the pad's embedding is never read


def save_model(model: CausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Write config, safetensors and tokenizer; a model in several precisions is stored in the lowest of them.

    `model` itself is cast, too.
    """
    import torch

    if any(p.dtype == torch.bfloat16 for p in model.parameters()):
        model.to(torch.bfloat16)  # embeddings and head were widened when they were loaded: nothing is lost
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


# --- what a source is, and what it can do


def check_folder(source: str | Path, tokenizer: bool = False) -> None:
    """Raises BenchError for a folder without a model, and for a path that is neither a folder nor a hub id.

    An adapter alone is no model; with `tokenizer` it passes, because its folder may hold its tokenizer.
    """
    path = Path(source)
    refuse_gguf(path)
    if path.is_dir():
        names = {p.name for p in path.iterdir()}
        if holds_adapter(path):
            if tokenizer:
                return
            raise BenchError(f"{source} is an adapter without its base.", MERGE)
        if "config.json" not in names:
            raise BenchError(
                f"{source} has no config.json: it is no model folder.", "Give a folder made by save_pretrained."
            )
        # training_args.bin is written beside safetensors weights by transformers' trainer, and never read here
        pickled = sorted(n for n in names if n.endswith((".bin", ".pt", ".pth", ".pkl")) and n != "training_args.bin")
        if pickled and not any(n.endswith(".safetensors") for n in names):
            raise BenchError(
                f"{source} has pickled weights only ({pickled[0]}), which can run any code when they are read.",
                "Convert them where you trust them: load the model there and save_pretrained() it.",
            )
        check_configs(path)
    elif path.exists() or not is_hub_id(source):
        raise BenchError(f"There is no folder {source}.", "Give 'tiny', a folder, or a hub id such as google/gemma-2b.")


def check_configs(folder: Path) -> None:
    """Raises BenchError where a model folder's files name code of the hub, or weights that are not in the folder."""
    for file in sorted(folder.glob("*.json")):
        if file.name != "config.json" and not file.name.endswith(".index.json"):
            continue
        try:
            todo: list[Any] = [json.loads(file.read_text(encoding="utf-8"))]
        except (OSError, ValueError, RecursionError):
            continue  # transformers says what is wrong with it
        while todo:
            one = todo.pop()
            if not isinstance(one, dict):
                continue
            todo += one.values()  # settings of a model's parts are nested
            for key in IMPLEMENTATIONS:
                # ORG/NAME is a compiled kernel, which transformers downloads and runs
                if "/" in str(one.get(key, "")):
                    raise BenchError(f"{file} asks for code of the hub: {key} is {one[key]!r}.", f"Remove {key}.")
            weights = one.get("weight_map")
            for name in weights.values() if isinstance(weights, dict) else ():
                if not store.is_plain_name(name):
                    raise BenchError(f"{file} names weights outside of its folder: {name!r}.", "Copy the model again.")
                # of weights in safetensors: an index of pickled ones may lie beside them
                if name.endswith(".safetensors") and not (folder / name).is_file():
                    raise BenchError(f"{folder} lacks {name}, which {file.name} names.", "Copy the model again.")


IMPLEMENTATIONS = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")
"""Keys of config.json that choose what computes a layer."""


def context_length(model: CausalLM | SimpleNamespace) -> int | None:
    """The most tokens that a model can read, prompt and response together.

    None where its configuration does not say.
    """
    for name in ("max_position_embeddings", "n_positions", "n_ctx"):
        value = getattr(model.config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def context_of(folder: Path) -> int | None:
    """`context_length` of a stored model in tokens, without loading its weights."""
    from transformers import AutoConfig

    return context_length(SimpleNamespace(config=AutoConfig.from_pretrained(folder, trust_remote_code=False)))


def pick_device(wanted: str = "") -> str:
    """The device `wanted`; by default the accelerator where there is one, otherwise the CPU.

    Raises BenchError for a device that torch cannot use here.
    """
    import torch

    if wanted:
        try:  # the only way to know: each backend fails with an exception of its own kind
            torch.zeros(1, device=wanted).tolist()  # read back: the device `meta` computes nothing
            device = torch.device(wanted)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise BenchError(f"The device {wanted!r} cannot be used: {one_line(error)}.", "See: bench doctor") from None
        if device.type == "cpu" and device.index:  # torch takes any number for the one CPU
            raise BenchError(f"The device {wanted!r} cannot be used: there is one CPU.", "Write cpu.")
        return device.type if device.type == "cpu" else wanted
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Inside, no load report of transformers about a head that is new on purpose.

    For the whole process: other threads are quiet meanwhile, too.
    """
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
