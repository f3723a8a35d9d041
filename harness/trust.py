"""What a file may name: registered plugins alone.

Results folders and reward models are shared.  Their records (cells/NAME.json, stage.json, reward_model.json) name
tasks and reward models with settings, and a name can be `module:attribute`, which imports and calls any code on this
machine.  So a name from a file is never taken as one from the command line: it must be registered, and its settings may
name no code, path or address, unless the user named the same text in this call.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from rlhf_bench.harness.anchors import with_anchored
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.plugins import Kind, available, find, parameters
from rlhf_bench.harness.store import exists

PLACE = re.compile(r"[/\\~]|\A[\w.]+:[\w.:]+\Z|\A\.+\Z")
"""What a text has that names a path, an address, a hub id or `module:attribute`."""
SOURCE = "source"
"""The setting that a name carries after its colon (plugins.py): a module for `function`, a folder for `path`."""


def trust_option(text: str) -> str:
    """The advice of the commands that take --trust."""
    return f"If you trust it: --trust {shlex.quote(text)}"


def check_recorded(
    kind: Kind,
    recorded: object,
    where: Path,
    named: Collection[str] = (),
    *,
    unopened: Collection[str] = (),
    fix: Callable[[str], str] = trust_option,
) -> None:
    """Raises BenchError unless the file `where` may name the plugin `recorded` ({"name", "settings"}).

    `named` are the texts that the user gave in this call.  `unopened` are settings that are stored but never opened.
    `fix` gives the error's advice, from the text that is not trusted.
    """
    named = with_anchored(named)
    recorded = recorded if isinstance(recorded, Mapping) else {}
    name, settings = recorded.get("name"), recorded.get("settings")
    if not isinstance(name, str) or not isinstance(settings, Mapping):
        raise BenchError(f"{where} is damaged: it names no {kind} with settings.", "Copy it again.")
    if name not in available(kind) and name not in named:
        seen = f"{where} names the {kind} {name!r}, which is not registered: a name in a file runs no code."
        raise BenchError(seen, fix(name))
    # registered, or named by the user: importing it is what the user wants
    defaults = {key: one.default for key, one in parameters(find(kind, name).factory()).items()}
    for key, text in _texts(settings):
        if not text or key in unopened or text in named or text == defaults.get(key):
            continue
        if key == SOURCE or PLACE.search(text) or exists(Path(text)):
            seen = f"{where} names {text!r} (the setting {key} of {name}): a file opens nothing outside its folder."
            raise BenchError(seen, fix(text))


def _texts(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(key of the setting, text) of all texts in settings, at any depth."""
    for key, value in settings.items():
        todo = [value]
        while todo:
            one = todo.pop()
            if isinstance(one, str):
                yield str(key), one
            elif isinstance(one, Mapping):
                todo += [*one.keys(), *one.values()]
            elif isinstance(one, list | tuple):
                todo += one
