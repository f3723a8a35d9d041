"""Faults that a model folder of someone else causes in the libraries that read it.

Configurations are data of any form: a special token that is an object, a length that is a text.  transformers and
tokenizers raise whatever their code comes to, at the first use and not when the folder is loaded.
"""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError, one_line

READERS = ("transformers", "tokenizers", "peft", "huggingface_hub", "accelerate")
PACKAGES = Path(sysconfig.get_path("purelib"))
FROZEN = "does not require grad"
"""What torch says of a loss in which no weight is trained: an adapter's configuration left all of them frozen."""


def foreign_fault(error: BaseException, what: str, params: object) -> BenchError | None:
    """The error to raise for an exception inside a library that reads model folders; None for any other.

    `what` failed with `params`, in which a folder must be named: without one the fault is in our code.
    """
    frames = traceback.extract_tb(error.__traceback__)
    inner = Path(frames[-1].filename) if frames else Path()
    library = inner.relative_to(PACKAGES).parts[0] if inner.is_relative_to(PACKAGES) else ""
    folder = next((folder for text in _texts(params) for folder in named_folders(text)), None)
    if folder and library == "torch" and FROZEN in str(error):
        seen = f"{what}: no weight of {folder} can be trained."
        return BenchError(seen, "Correct its adapter_config.json, or merge the adapter into its base.")
    if library not in READERS or not folder:
        return None
    seen = f"{what}: {library} cannot use the folder {folder} ({one_line(error)})."
    return BenchError(seen, "Correct its config.json, generation_config.json or tokenizer_config.json.")


def named_folders(text: str) -> Iterator[Path]:
    """The folders that a text names: as a path, or behind the name of a plugin that carries one (hf:FOLDER)."""
    for path in (text, text.partition(":")[2]):
        if path and "\0" not in path and store.is_folder(folder := Path(path).expanduser()):
            yield folder


def _texts(value: object) -> Iterator[str]:
    """Every text in lists and objects."""
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        yield from _texts(inner)
