"""What a sentence encoder does with its last layer, as `sentence-transformers` stores it beside the weights.

`modules.json` lists the modules in order: a Transformer, a Pooling, and perhaps Dense layers and a Normalize.  Each has
a folder with its own config.json.  `sentence_bert_config.json` beside the Transformer holds the longest text in tokens,
and `config_sentence_transformers.json` may hold a prompt that is put before every text.

The definitions of the modules are those of sentence-transformers (Reimers and Gurevych 2019, arXiv 1908.10084).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError, one_line
from rlhf_bench.harness.hub import OFFLINE, load_error

if TYPE_CHECKING:
    from torch import Tensor

MODULES = "modules.json"
POOLING = ("cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
"""Modes of Pooling by the names that follow `pooling_mode_`, in the order in which their vectors are joined."""
SHORT = {"cls": "cls_token", "lasttoken": "lasttoken"} | {
    name.removesuffix("_tokens"): name for name in POOLING if name.endswith("_tokens")
}
"""The same modes by the values of the one key `pooling_mode`, which newer versions write."""
ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid")
"""Activations of a Dense module, classes of torch.nn; any other name would be imported."""
FILES = (MODULES, "sentence_bert_config.json", "config_sentence_transformers.json")

Open = Callable[[str], Path | None]
"""From a path inside the encoder's repository to a local file; None where the repository has no such file."""


@dataclass(frozen=True)
class Dense:
    """A linear layer on the pooled vector with an activation of torch.nn, its weights in safetensors."""

    file: Path
    activation: str


@dataclass(frozen=True)
class SentenceModules:
    """The modules after the last layer.  `longest` is in tokens, None where nothing is said.

    `folder` is the Transformer's folder inside the repository; `after` are Dense modules and "normalize" in order.
    """

    pooling: Sequence[str] = ("mean_tokens",)
    after: Sequence[Dense | str] = ()
    longest: int | None = None
    lower: bool = False
    prompt: str = ""
    folder: str = ""
    _loaded: dict[Path, Callable[[Tensor], Tensor]] = field(default_factory=dict, compare=False, repr=False)

    def vectors(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """[B, width] the sentence vectors of the last layer's output [B, T, model] over the tokens of mask [B, T].

        Tokens are padded on the right.
        """
        import torch

        found = torch.cat([pooled(name, hidden, mask) for name in self.pooling], 1)
        for one in self.after:
            if isinstance(one, Dense):
                if one.file not in self._loaded:
                    self._loaded[one.file] = _dense(one, found.shape[1])
                found = self._loaded[one.file](found)
            else:
                found = torch.nn.functional.normalize(found, dim=1)
        return found


def pooled(mode: str, hidden: Tensor, mask: Tensor) -> Tensor:
    """[B, width] of hidden [B, T, width], padded on the right, over the tokens of mask [B, T], by one of POOLING.

    A row without tokens gives zeros.
    """
    import torch

    kept = mask.bool()[..., None]
    # hidden states of padding are arbitrary: they are set to 0, not multiplied by 0, which would keep a NaN
    clean, count = hidden.masked_fill(~kept, 0.0), kept.sum(1).clamp(min=1)
    if mode == "cls_token":
        return clean[:, 0]
    if mode == "lasttoken":
        return clean[torch.arange(len(clean), device=clean.device), count[:, 0] - 1]
    if mode == "max_tokens":
        return hidden.masked_fill(~kept, float("-inf")).amax(1).masked_fill(~kept.any(1), 0.0)
    if mode == "weightedmean_tokens":
        # SGPT, arXiv 2202.08904: the weight of a token is its position from 1
        position = torch.arange(1, hidden.shape[1] + 1, device=hidden.device)[None, :, None]
        weight = (position * kept).to(clean.dtype)
        return (clean * weight).sum(1) / weight.sum(1).clamp(min=1e-9)
    return clean.sum(1) / (count if mode == "mean_tokens" else count.sqrt())


def _dense(one: Dense, width: int) -> Callable[[Tensor], Tensor]:
    """The module's function.  Raises BenchError for weights that cannot be read or read another width."""
    import torch
    from safetensors.torch import load_file

    try:
        held = load_file(one.file)
        weight, bias = held["linear.weight"].float(), held.get("linear.bias")
    except Exception as error:  # safetensors has its own kinds
        seen = f"The Dense module {one.file} cannot be read: {one_line(error)}."
        raise BenchError(seen, "Copy the encoder's folder again.") from error
    if weight.ndim != 2 or weight.shape[1] != width:
        seen = f"The Dense module {one.file} is {list(weight.shape)}; it gets vectors of width {width}."
        raise BenchError(seen, "Copy the encoder's folder again.")
    activation = getattr(torch.nn, one.activation)()

    def apply(vectors: Tensor) -> Tensor:
        on = vectors.device
        linear = torch.nn.functional.linear(vectors, weight.to(on), None if bias is None else bias.float().to(on))
        found: Tensor = activation(linear)
        return found

    return apply


# --- reading the files


def read_modules(source: str, revision: str | None = None) -> SentenceModules | None:
    """The modules of a folder or hub id; None where it has no modules.json.

    Raises BenchError for a module that is not known here, and for files that cannot be read.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return _read(source, lambda name: file if (file := path / name).is_file() else None)
    return _read(source, lambda name: _download(source, revision, name))


def module_files(folder: Path) -> list[Path]:
    """The files of a local encoder in the folders of its modules: no part of the model folder's own hash."""
    listed = _listed(str(folder), folder / MODULES) if (folder / MODULES).is_file() else []
    inside = {str(module.get("path") or "") for module in listed} - {""}
    return sorted(file for name in inside for file in (folder / name).glob("*") if file.is_file())


def _read(source: str, find: Open) -> SentenceModules | None:
    file = find(MODULES)
    if file is None:
        return None
    listed = _listed(source, file)
    kinds = [_kind(source, module) for module in listed]
    if kinds[:2] != ["Transformer", "Pooling"] or set(kinds[2:]) - {"Dense", "Normalize"}:
        raise BenchError(
            f"{source}: its modules are {', '.join(kinds)}.",
            "Read here are a Transformer, a Pooling, and after them Dense and Normalize. Give another encoder.",
        )
    places = [str(module.get("path") or "") for module in listed]
    own = _json(source, find(_inside(places[0], FILES[1])))
    general = _json(source, find(FILES[2]))
    pooling = _json(source, find(_inside(places[1], "config.json")))
    prompt = _prompt(source, general)
    if prompt and pooling.get("include_prompt") is False:
        raise BenchError(f"{source}: its Pooling leaves out the prompt {prompt!r}.", "Give an encoder without one.")
    longest = own.get("max_seq_length")
    if longest is not None and (not isinstance(longest, int) or longest < 1):
        raise BenchError(f"{source}: max_seq_length is {longest!r} in {FILES[1]}.", "It is a number of tokens.")
    after: list[Dense | str] = []
    for kind, place in zip(kinds[2:], places[2:], strict=True):
        after.append("normalize" if kind == "Normalize" else _read_dense(source, place, find))
    return SentenceModules(_modes(source, pooling), after, longest, own.get("do_lower_case") is True, prompt, places[0])


def _kind(source: str, module: Mapping[str, Any]) -> str:
    """The name of a module's class.  Raises BenchError for a class of another package, which would be imported."""
    package, _, rest = str(module.get("type")).partition(".")
    if package != "sentence_transformers" or not rest:
        seen = f"{source}: {MODULES} names {module.get('type')!r}, which is code of another package."
        raise BenchError(seen, "Give an encoder of sentence-transformers' own modules.")
    return rest.rpartition(".")[2]


def _modes(source: str, config: Mapping[str, Any]) -> list[str]:
    """The modes of a Pooling's config.json; the mean where it names none, as in sentence-transformers."""
    named = config.get("pooling_mode")
    if named is not None:
        modes = [SHORT.get(str(name), str(name)) for name in ([named] if isinstance(named, str) else named)]
    else:
        stated = {key.removeprefix("pooling_mode_"): value for key, value in config.items() if "pooling_mode_" in key}
        modes = [name for name, value in stated.items() if value]
        # a mode left out of the file has its default, which is true for the mean alone
        modes += ["mean_tokens"] if "mean_tokens" not in stated else []
    unknown = sorted(set(modes) - set(POOLING))
    if unknown or not modes:
        said = unknown[0] if unknown else "none"
        raise BenchError(f"{source}: the pooling mode {said} is unknown.", f"Known: {', '.join(POOLING)}.")
    return [name for name in POOLING if name in modes]


def _read_dense(source: str, place: str, find: Open) -> Dense:
    config, file = _json(source, find(_inside(place, "config.json"))), find(_inside(place, "model.safetensors"))
    name = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    package, _, activation = name.rpartition(".")
    if package.partition(".")[0] != "torch" or activation not in ACTIVATIONS:
        seen = f"{source}: the Dense module {place} has the activation {name!r}."
        raise BenchError(seen, f"Known: {', '.join(ACTIVATIONS)}.")
    if file is None:
        seen = f"{source}: the Dense module {place} has no model.safetensors."
        raise BenchError(seen, "Save the encoder again with safetensors.")
    return Dense(file, activation)


def _prompt(source: str, config: Mapping[str, Any]) -> str:
    """The text that is put before every text: the default one of the encoder's prompts, "" where there is none."""
    name = config.get("default_prompt_name")
    if name is None:
        return ""
    prompts = config.get("prompts")
    found = prompts.get(name) if isinstance(prompts, Mapping) else None
    if not isinstance(found, str):
        raise BenchError(f"{source}: its default prompt {name!r} is not among its prompts.", f"Correct {FILES[2]}.")
    return found


def _listed(source: str, file: Path) -> list[Mapping[str, Any]]:
    """The modules of modules.json.  Raises BenchError unless it is a list of objects with paths inside the folder."""
    try:
        listed = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BenchError(f"{file} cannot be read: {one_line(error)}.", "Copy the encoder's folder again.") from None
    if not isinstance(listed, list) or not listed or not all(isinstance(one, dict) for one in listed):
        raise BenchError(f"{file} is no list of modules.", "Copy the encoder's folder again.")
    for one in listed:
        place = one.get("path")
        if place and not (isinstance(place, str) and store.is_plain_name(place)):
            raise BenchError(f"{source}: {MODULES} names a path outside of the folder: {place!r}.", "Copy it again.")
    return listed


def _json(source: str, file: Path | None) -> Mapping[str, Any]:
    """A JSON object; {} where there is no file.  Raises BenchError for anything else."""
    if file is None:
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BenchError(f"{file} cannot be read: {one_line(error)}.", "Copy the encoder's folder again.") from None
    if not isinstance(found, dict):
        raise BenchError(f"{source}: {file.name} is no object.", "Copy the encoder's folder again.")
    return found


def _inside(place: str, name: str) -> str:
    return f"{place}/{name}" if place else name


def _download(source: str, revision: str | None, name: str) -> Path | None:
    """A file of a hub id, in the hub's cache.  Raises BenchError where it is not known whether there is one."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(source, name, revision=revision))
    except EntryNotFoundError as error:
        if not isinstance(error, LocalEntryNotFoundError):
            return None
        # without the network: the cache notes which files a repository is known not to have
        found = try_to_load_from_cache(source, name, revision=revision)
        if found is not None and not isinstance(found, str):
            return None
        seen = f"The embedding model of {source} cannot be loaded: it is not known without the hub if it has {name}."
        raise BenchError(seen, OFFLINE) from error
    except Exception as error:
        raise load_error(error, source, "embedding model") from error
