"""Plugins that a command names: `plugins.find`, with an error for a misspelt module that says what was looked for.

`plugins.find` imports nothing, so `minee:Nope` passes it; the error of the import then speaks of a broken plugin, while
most often the name is wrong.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from rlhf_bench.harness import plugins
from rlhf_bench.harness.errors import BenchError


def find_named(kind: plugins.Kind, name: str) -> plugins.Plugin:
    """The plugin of that name; a `module:attribute` is imported, and a misspelt one named with what is near.

    Raises BenchError as `plugins.find` and `Plugin.target`.
    """
    plugin = plugins.find(kind, name)
    # a registered plugin is imported by whoever uses it; its module is no text of the user's
    if plugin.reference == name:
        try:
            plugin.target()
        except BenchError as error:
            if better := _misspelt(plugin, error):
                raise better from error
            raise
    return plugin


def _misspelt(plugin: plugins.Plugin, error: BenchError) -> BenchError | None:
    """The error for a module or an attribute that is not there; None where something else is wrong with the plugin."""
    module, _, attribute = plugin.reference.partition(":")
    cause = error.__cause__
    if isinstance(cause, ModuleNotFoundError) and cause.name and f"{module}.".startswith(f"{cause.name}."):
        # else the module is there, and imports one that is not
        near = _near(module, {path.stem for path in Path.cwd().glob("*.py")})
        # a plugin that takes a source is written alike: hf:FOLDER
        near = near or _near(module, plugins.available(plugin.kind))
        seen = f"There is no module {cause.name!r} for the {plugin.kind} {plugin.name!r}."
        known = f"Modules are looked for in {Path.cwd()} and among installed packages."
        return BenchError(seen, f"{near} {known}".strip())
    if isinstance(cause, AttributeError) and cause.obj is not None and attribute.split(".")[-1:] == [cause.name]:
        public = [key for key, value in vars(cause.obj).items() if callable(value) and not key.startswith("_")]
        near = _near(attribute.rpartition(".")[2], public) or "Check the spelling after the colon."
        return BenchError(f"The module {module!r} has no {attribute!r} for the {plugin.kind}.", near)
    return None


def _near(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.55)
    return f"Did you mean {close[0]!r}?" if close else ""
