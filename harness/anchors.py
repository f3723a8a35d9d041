"""Paths that mean the same from every folder: what a user names relative to the current folder is made absolute.

Records keep settings and names of plugins, and are read again from other folders, days later.  So paths become
absolute where a run is planned, before anything is stored.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from rlhf_bench.harness.store import exists

ANY_NAME = ("data",)
"""Settings whose text is a path if there is one, however short; others need a "/" or a "." to be one."""


def anchored(text: str, key: str = "") -> str:
    """The text with an existing relative path made absolute; any other text as it is.

    `text` is a path, or the name of a plugin that carries one (hf:../model).  `key` is the setting that holds it.
    """
    if text == "hub":  # of a task's data, even where a folder has this name
        return text
    name, colon, path = text.partition(":")
    if colon and "/" not in name:
        found = anchored(path, "data") if path else path
        return f"{name}:{found}"
    looks_like_one = key in ANY_NAME or "/" in text or "." in text
    relative = Path(text).expanduser()
    if not text or not looks_like_one or Path(text).is_absolute() or not exists(relative):
        return text
    return os.path.abspath(relative)  # noqa: PTH100 - Path.resolve would follow links, which may move


def is_local(text: str) -> bool:
    """Whether a setting's text names a file or folder that is there."""
    return bool(text) and text != "hub" and exists(Path(text).expanduser())


def with_anchored(named: Collection[str]) -> set[str]:
    """Texts that a user gave, as given and as records hold them."""
    return {*named, *(anchored(text, "data") for text in named)}
