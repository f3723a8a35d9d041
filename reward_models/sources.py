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
from rlhf_bench.harness.models.identity import folder_hash

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import Row

LEVELS = {"sequence": "SequenceClassification", "token": "TokenClassification"}
"""What a classifier scores, and the part of its class's name that says so."""
ONE_LABEL = "A scalar reward model has num_labels=1."


def check_classifier(source: str, levels: Sequence[str] = ("sequence",)) -> None:
    """Raises BenchError unless a folder's files are those of a classifier of `levels` with one label.

    Of a hub id only the form is checked: its files may still have to be downloaded.
    """
    path = Path(source).expanduser()
    # the path of an empty text is the current folder, which exists
    if not (source.strip() and path.exists()):
        if is_hub_id(source):
            return
        raise BenchError(f"There is no reward model {source!r}.", "Give a folder or a hub id.")
    if not path.is_dir() or not (path / "config.json").is_file():
        raise BenchError(f"{source} is no model folder.", "Give a folder made by save_pretrained.")
    # pickled weights are never loaded, so a folder with nothing else is refused before training
    if not list(path.glob("*.safetensors")):
        pickled = list(path.glob("*.bin")) + list(path.glob("*.pt"))
        only = ", only pickle files, which can run code" if pickled else ""
        raise BenchError(f"{source} has no safetensors weights{only}.", "Save the model again with safetensors.")
    check_config(source, read_config(source), levels)


def check_config(source: str, config: Row, levels: Sequence[str] = ("sequence",)) -> None:
    """Raises BenchError unless the configuration is of a classifier of `levels` with one label.

    levels: keys of LEVELS.  A configuration without architectures passes: the loaded model is checked again.
    """
    try:
        architectures = [str(name) for name in config.get("architectures") or []]
        # transformers takes the number of labels from id2label, and assumes two where neither is given
        labels = len(config.get("id2label") or ()) or int(config.get("num_labels", 2))
    except (TypeError, ValueError) as error:
        raise BenchError(f"{source}: config.json cannot be read: {one_line(error)}.") from None
    if architectures and not any(LEVELS[level] in name for level in levels for name in architectures):
        fix = "Give a sequence classifier with one label."
        raise BenchError(f"{source} is a {architectures[0]}, no reward model.", fix)
    if labels != 1:
        raise BenchError(f"{source} has {labels} labels.", ONE_LABEL)


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
    """The path of a model's config.json; a hub id's is downloaded into the cache, in a folder named by the commit.

    Raises BenchError where it cannot be downloaded.
    """
    path = Path(source).expanduser()
    return path / "config.json" if path.is_dir() else _download_config(source)


@lru_cache  # one answer per process: all cells of a run get one commit
def _download_config(source: str) -> Path:
    from huggingface_hub import hf_hub_download

    name, revision = split_revision(source)
    try:
        return Path(hf_hub_download(name, "config.json", revision=revision))
    except Exception as error:
        raise load_error(error, source, "reward model") from error


def model_content(source: str) -> Mapping[str, str]:
    """{"sha256": hash of a folder's files}, or {"commit": the commit that a hub id stands for now}.

    It enters the keys of results.  Raises BenchError for a hub id whose configuration cannot be downloaded.
    """
    path = Path(source).expanduser()
    # the hub's cache names the folder of a file by its commit
    return {"sha256": folder_hash(path)} if path.is_dir() else {"commit": config_file(source).parent.name}


def folder_digest(source: str) -> str:
    """Hash of a folder's files; "" for a hub id, whose newest revision is used (the judge's account names it)."""
    path = Path(source).expanduser()
    return folder_hash(path) if path.is_dir() else ""


def pinned(source: str, content: Mapping[str, str]) -> str:
    """The source at the commit in its `model_content`, as loaders take it; a folder stays as it is.

    A hub id stands for its newest revision, which may change between the plan and the stage that loads the weights.
    """
    return f"{split_revision(source)[0]}@{content['commit']}" if "commit" in content else source
