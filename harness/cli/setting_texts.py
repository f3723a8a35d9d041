"""A sentence for each setting of a plugin, for `bench list settings`: from the docstrings of its factory.

The harness's own settings carry their sentences (settings.py).  A plugin's settings are parameters of its factory, and
its docstring names them in backticks: "`spread` "last" puts the score on the last token ...".
"""

from __future__ import annotations

import fnmatch
import inspect
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from importlib.resources import files

from rlhf_bench.harness import plugins

OURS = "rlhf-bench"
"""The distribution of the built-in plugins, whose remaining settings are described in setting_texts.toml."""
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`\"])|\n\s*\n")
PATTERN = re.compile(r"`([a-z_*]+)`")
NAMED = re.compile(r"`([A-Za-z_]\w*)`")


def sentences(plugin: plugins.Plugin, keys: Iterable[str]) -> dict[str, str]:
    """A sentence for each of the settings `keys`, "" where there is none.

    A sentence that names the setting in backticks, by its name or by a pattern (`sft_*`), in the docstrings of the
    factory, of the classes that it derives from, and of those that it names; for ours also one of setting_texts.toml.
    Raises BenchError where the plugin cannot be imported.
    """
    parts = [" ".join(part.split()) for text in _texts(plugin.target()) for part in SENTENCE_END.split(text)]
    # a list or a formula follows a colon, which a line of its own cannot show; "one of" breaks off before its list
    ended = [f"{part[:-1]}." if part.endswith(":") else part for part in parts]
    said = [part for part in ended if part.endswith((".", "!", ".)")) and not part.startswith(("Raises ", "Returns "))]
    described = _described()[plugin.kind] if plugin.distribution == OURS else {}
    return {key: _about(key, said, described) for key in keys}


def _about(key: str, said: Sequence[str], described: Mapping[str, str]) -> str:
    """The sentence that begins with the setting, else the described one, else the first that names it; "" for none."""
    begins = (sentence for sentence in said if sentence.startswith(f"`{key}`"))
    names = (part for part in said if any(fnmatch.fnmatchcase(key, name) for name in PATTERN.findall(part)))
    return next(begins, "") or described.get(key, "") or next(names, "")


def _texts(target: object) -> Iterator[str]:
    """Docstrings that may explain the settings of a factory, the nearest first."""
    if isinstance(target, partial):
        yield from _texts(target.func)
        return
    yield inspect.cleandoc(target.__doc__ or "")
    if inspect.isclass(target):
        # each class's own text: inspect.getdoc would repeat that of a base class
        yield from (inspect.cleandoc(base.__doc__ or "") for base in target.__mro__[1:-1])
        return
    # a function of settings that it passes on names the class that explains them
    module = inspect.getmodule(inspect.unwrap(target)) if callable(target) else None
    around = vars(module) if module else {}
    for name in NAMED.findall(target.__doc__ or ""):
        if inspect.isclass(around.get(name)):
            yield from _texts(around[name])


@cache
def _described() -> dict[str, dict[str, str]]:
    """The sentences of setting_texts.toml: by kind of plugin, then by setting."""
    text = files("rlhf_bench.harness.cli").joinpath("setting_texts.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)
