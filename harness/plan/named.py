"""Folders that a user names for a run or a judge: of someone else, they may hold links and pipes.

A link in a model's folder could put any file of the user into prompts and results, as a chat template does, and reading
a pipe never ends.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.models.adapter_folders import read_adapter
from rlhf_bench.harness.pipeline.foreign import named_folders
from rlhf_bench.harness.plan.layers import check_layers
from rlhf_bench.harness.plan.patterns import check_patterns

DEEP = 4
"""Levels of folders that are looked at: models and data have fewer."""
MANY = 20_000
"""Entries that are looked at: a home folder has more, and is neither a model nor data."""


def check_named(texts: Iterable[str]) -> None:
    """Raises BenchError where a folder that one of the texts names holds a pipe, a socket or a device, or a link to one
    or out of the folder; also for an adapter's base, for its expressions (patterns.py), and for layers (layers.py).

    A text is a path, or the name of a plugin that carries one (hf:FOLDER); other texts pass.  Links to weights
    (*.safetensors) and into the hub's cache (its `blobs`) may lead outside: people share weights and download so.
    """
    for folder in (folder for text in texts for folder in named_folders(text)):
        _check(folder)
        check_layers(folder)
        adapter = read_adapter(folder)
        if adapter is not None:
            if store.is_folder(base := Path(adapter.base)):
                _check(base)
                check_layers(base)
            check_patterns(folder, base)


def texts_of(settings: Mapping[str, object]) -> list[str]:
    """The settings that are texts."""
    return [value for value in settings.values() if isinstance(value, str)]


def _check(root: Path) -> None:
    seen = 0
    for top, folders, files in os.walk(root):
        here = Path(top)
        if len(here.relative_to(root).parts) >= DEEP:
            folders.clear()
        for path in (here / name for name in [*folders, *files]):
            seen += 1
            if seen > MANY:
                return
            if store.exists(path) and not (path.is_file() or path.is_dir()):
                raise BenchError(f"{path} is neither a file nor a folder.", "Remove it.")
            shared = path.suffix == ".safetensors" or Path(os.path.realpath(path)).parent.name == "blobs"
            if path.is_symlink() and not shared:
                store.check_inside(path, root)
