"""Where a reward model of others comes from: a model folder, or a hub id that may be pinned as ID@REVISION.

Everything here reads configuration files and hashes alone: a wrong source must be refused before hours of training, not
when its weights are loaded after them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_bench.harness.errors import BenchError, one_line
from rlhf_bench.harness.hub import is_hub_id, load_error, split_revision
from rlhf_bench.harness.models.adapter_folders import read_adapter
from rlhf_bench.harness.models.gguf_files import refuse_gguf
from rlhf_bench.harness.models.identity import model_hash
from rlhf_bench.harness.models.policies import check_configs
from rlhf_bench.harness.store import is_folder
from rlhf_bench.reward_models.heads import find_head

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import Row

LEVELS = {"sequence": "SequenceClassification", "token": "TokenClassification"}
"""What a classifier scores, and the part of its class's name that says so."""
TRAINED_HEAD = "Give a sequence classifier with one label, or a model whose weights hold a head with one output."
ONE_LABEL = "A scalar reward model has num_labels=1."


def check_classifier(source: str, levels: Sequence[str] = ("sequence",), head: str = "") -> None:
    """Raises BenchError unless a folder's files are those of a classifier of `levels` with one label.

    Also for a head of another tool's format (heads.py; `head` names it) and for an adapter without its base or without
    a head.  Of a hub id only the form is checked: its files may still have to be downloaded.
    """
    path = Path(source).expanduser()
    refuse_gguf(source)
    # the path of an empty text is the current folder, which exists
    if not (source.strip() and path.exists()):
        if is_hub_id(source) and head:
            raise BenchError(f"head={head!r} is for folders.", "Download the model: give its folder.")
        if is_hub_id(source):
            return
        raise BenchError(f"There is no reward model {source!r}.", "Give a folder or a hub id.")
    adapter = read_adapter(path)
    if adapter is None:
        _check_model_folder(path, source)
    elif is_folder(base := Path(adapter.base)):
        _check_model_folder(base, adapter.base)
    elif find_head(source, head) is None:
        # the files of a base on the hub may still have to be downloaded
        raise BenchError(f"The adapter {source} holds no head of a reward model.", TRAINED_HEAD)
    else:
        return
    check_config(source, read_config(source), levels, head)


def _check_model_folder(path: Path, source: str) -> None:
    if not path.is_dir() or not (path / "config.json").is_file():
        raise BenchError(f"{source} is no model folder.", "Give a folder made by save_pretrained.")
    # pickled weights are never loaded, so a folder with nothing else is refused before training
    if not list(path.glob("*.safetensors")):
        pickled = list(path.glob("*.bin")) + list(path.glob("*.pt"))
        only = ", only pickle files, which can run code" if pickled else ""
        raise BenchError(f"{source} has no safetensors weights{only}.", "Save the model again with safetensors.")
    check_configs(path)


def check_config(source: str, config: Row, levels: Sequence[str] = ("sequence",), head: str = "") -> None:
    """Raises BenchError unless the configuration is of a classifier of `levels` with one label.

    levels: keys of LEVELS.  A configuration without architectures passes: the loaded model is checked again.  In a
    folder, a head with one output makes a reward model of any decoder, whatever class saved it, and says how many
    labels there are where the configuration does not.
    """
    try:
        architectures = [str(name) for name in config.get("architectures") or []]
        # transformers takes the number of labels from id2label
        stated = len(config.get("id2label") or ()) or config.get("num_labels")
        labels = None if stated is None else int(stated)
    except (TypeError, ValueError) as error:
        raise BenchError(f"{source}: config.json cannot be read: {one_line(error)}.") from None
    known = is_classifier(config, levels)
    if not known and not is_folder(Path(source).expanduser()):
        # a head is found in the weights, which a plan does not download
        fix = "Give a sequence classifier with one label. Of another tool's reward model, download it: give its folder."
        raise BenchError(f"{source} is a {architectures[0]}, no reward model.", fix)
    found = find_head(source, head) if not known or head else None
    if not known and found is None:
        raise BenchError(f"{source} is a {architectures[0]}, no reward model.", TRAINED_HEAD)
    # other classes leave the number of labels of a language model, which means nothing
    if known and labels not in (None, 1):
        said = "Where its head has one row, remove id2label, label2id and num_labels from config.json."
        raise BenchError(f"{source} has {labels} labels.", f"{ONE_LABEL} {said}")


def is_classifier(config: Row, levels: Sequence[str]) -> bool:
    """Whether config.json names a class of transformers that scores `levels`, or none at all."""
    architectures = [str(name) for name in config.get("architectures") or []]
    return not architectures or any(LEVELS[level] in name for level in levels for name in architectures)


def read_config(source: str) -> Row:
    """A model's config.json.  Raises BenchError where it is no JSON object or cannot be downloaded."""
    try:
        config = json.loads(config_file(source).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BenchError(f"{source}: config.json cannot be read: {one_line(error)}.") from None
    if not isinstance(config, dict):
        raise BenchError(f"{source}: config.json cannot be read: it is no object.")
    return config


def config_file(source: str) -> Path:
    """The path of a model's config.json, of an adapter that of its base.

    A hub id's is downloaded into the cache, in a folder named by the commit.

    Raises BenchError where it cannot be downloaded.
    """
    adapter = read_adapter(source)
    source = adapter.base if adapter else source
    path = Path(source).expanduser()
    return path / "config.json" if path.is_dir() else _download_config(source)


@lru_cache  # one answer per process: all cells of a run get one commit
def _download_config(source: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    name, revision = split_revision(source)
    try:
        return Path(hf_hub_download(name, "config.json", revision=revision))
    except EntryNotFoundError as error:
        if isinstance(error, LocalEntryNotFoundError):  # offline: it may be there
            raise load_error(error, source, "reward model") from error
        fix = "Of an adapter, download it (hf download ID --local-dir FOLDER): give its folder."
        raise BenchError(f"{source} has no config.json on the hub: it is no whole model.", fix) from error
    except Exception as error:
        raise load_error(error, source, "reward model") from error


def model_content(source: str) -> Mapping[str, str]:
    """{"sha256": hash of a folder's files}, or {"commit": the commit that a hub id stands for now}.

    It enters the keys of results.  Raises BenchError for a hub id whose configuration cannot be downloaded.
    """
    path = Path(source).expanduser()
    # the hub's cache names the folder of a file by its commit
    return {"sha256": model_hash(path)} if path.is_dir() else {"commit": config_file(source).parent.name}


def folder_digest(source: str) -> str:
    """Hash of a folder's files; "" for a hub id, whose newest revision is used (the judge's account names it)."""
    path = Path(source).expanduser()
    return model_hash(path) if path.is_dir() else ""


def pinned(source: str, content: Mapping[str, str]) -> str:
    """The source at the commit in its `model_content`, as loaders take it; a folder stays as it is.

    A hub id stands for its newest revision, which may change between the plan and the stage that loads the weights.
    """
    return f"{split_revision(source)[0]}@{content['commit']}" if "commit" in content else source
