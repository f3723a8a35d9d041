"""Tasks, reward models and judges by name: installed entry points, or `module:attribute` without packaging.

A name may carry a `source` for its factory: `hf:FOLDER_OR_HUB_ID` is the plugin `hf` with that source.  Only the plugin
that is asked for is imported, so a broken plugin affects no other.  Two plugins of one name are an error that names
both owners.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal

from rlhf_bench.harness import fingerprint
from rlhf_bench.harness.errors import BenchError, did_you_mean, one_line
from rlhf_bench.harness.text.types import Row

Kind = Literal["task", "reward-model", "judge"]
GROUPS: dict[str, str] = {
    "task": "rlhf_bench.tasks",
    "reward-model": "rlhf_bench.reward_models",
    "judge": "rlhf_bench.judges",
}


@dataclass(frozen=True)
class Plugin:
    """A plugin, not imported yet.

    `reference` is module:attribute.  `distribution` is the package that registers it, "" without packaging.  `source`
    is the part of the name after `:`, "" for most.
    """

    kind: Kind
    name: str
    reference: str
    distribution: str = ""
    source: str = ""

    @property
    def module(self) -> str:
        return self.reference.partition(":")[0]

    @property
    def label(self) -> str:
        """The name for reports and file names: a path in it is shortened to its last part and a hash."""
        if not self.source or (self.source.count("/") == 1 and not Path(self.source).expanduser().exists()):
            return self.name  # a hub id is short and names its owner
        path = Path(self.source).expanduser()
        # by place, not by content: two folders of one name need two labels
        where = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:4]
        return f"{self.name.partition(':')[0]}:{path.name[:40]}~{where}" if path.exists() else self.name

    def factory(self) -> Callable[..., Any]:
        """The imported factory: its parameters are the plugin's settings.  Raises BenchError as `target`."""
        target = self.target()
        # a function of prompts and responses has no settings to be made with: the plugin `function` calls it
        if self.kind == "reward-model" and scores_texts(target):
            adapter = find("reward-model", "function").target()  # by name: this layer imports no reward model
            return partial(adapter, source=self.reference)
        return partial(target, source=self.source) if self.source else target

    def target(self) -> Callable[..., Any]:
        """The imported object at the reference.  Any exception of its module becomes a BenchError of one line."""
        module_name, _, attribute = self.reference.partition(":")
        try:
            target: object = importlib.import_module(module_name)
            for part in attribute.split("."):
                target = getattr(target, part)
        except BenchError:
            raise
        except (Exception, SystemExit) as error:  # a script without a guard may exit when it is imported
            where = f" of {self.distribution}" if self.distribution else ""
            raise BenchError(
                f"The {self.kind} {self.name!r} ({self.reference}{where}) cannot be imported: {one_line(error)}.",
                "Mend the plugin or leave it out.",
            ) from error
        if not callable(target):
            raise BenchError(f"{self.reference} is not callable.", "A plugin is a factory: a class or a function.")
        return target

    def fingerprint(self) -> str:
        """Hash of the code of the plugin's module and of what it imports (fingerprint.py).  Imports nothing."""
        return fingerprint.of(self.module)


def registered(kind: Kind) -> list[Plugin]:
    """All registered plugins of a kind, none imported, ordered by name; a name may be taken twice."""
    return list(_registered(kind, tuple(sys.path)))


@cache
def _registered(kind: Kind, _path: tuple[str, ...]) -> tuple[Plugin, ...]:
    """Cached by sys.path, where distributions are searched: one plan asks hundreds of times."""
    points = sorted(entry_points(group=GROUPS[kind]), key=lambda p: (p.name, p.value))
    # By name and reference: a plugin registered twice, by an editable install beside a wheel, is one.
    found = {
        (p.name, p.value): Plugin(kind, p.name, p.value.replace(" ", ""), p.dist.name if p.dist else "") for p in points
    }
    return tuple(found.values())


def available(kind: Kind) -> dict[str, Plugin]:
    """The registered plugins by name; of a name that is taken twice the first (`find` refuses it)."""
    return {plugin.name: plugin for plugin in reversed(registered(kind))}  # the last to set a name is the first


def find(kind: Kind, name: str) -> Plugin:
    """The plugin called `name`, or the one at `module:attribute`.

    Raises BenchError for an unknown name, with the nearest known one, and for a name taken twice, with both owners.
    """
    named = [plugin for plugin in registered(kind) if plugin.name == name]
    if len(named) > 1:
        owners = " and ".join(f"{plugin.reference} of {plugin.distribution}" for plugin in named)
        raise BenchError(f"{len(named)} plugins are called {name!r}: {owners}.", "Uninstall or rename one.")
    if named:
        return named[0]
    # NAME:SOURCE of a registered plugin that takes a source comes before module:attribute
    first, colon, source = name.partition(":")
    owner = next((plugin for plugin in registered(kind) if plugin.name == first), None) if colon else None
    if owner is not None and "source" in parameters(owner.factory()):
        if not source.strip():
            raise BenchError(f"{name!r} carries nothing after the colon.", f"Write {first}:SOURCE.")
        return replace(owner, name=name, source=source)
    if ":" in name:
        if str(Path.cwd()) not in sys.path:
            sys.path.append(str(Path.cwd()))  # a module in the current folder, as `python -m` would find it
        return Plugin(kind, name, name)
    raise BenchError(f"Unknown {kind} {name!r}.", f"{did_you_mean(name, available(kind))} Or give module:attribute.")


def build(kind: Kind, name: str, settings: Row) -> Any:
    """The object that the plugin's factory makes from `settings`, whose Protocol the caller checks.

    `settings` are all of them, as `presets.factory_settings` completes them.  Raises BenchError for an unknown name, a
    module that cannot be imported and a factory that fails.
    """
    factory = find(kind, name).factory()
    try:
        return factory(**settings)
    except BenchError:
        raise
    except (Exception, SystemExit) as error:
        raise BenchError(f"The {kind} {name!r} cannot be made: {one_line(error)}.") from error


def scores_texts(target: Callable[..., object]) -> bool:
    """Whether it is a function `(prompts, responses) -> rewards`, with or without `spans`, instead of a factory.

    The names of its parameters decide, those with a default aside.
    """
    names = [n for n, p in parameters(target).items() if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    return not inspect.isclass(target) and names in (["prompts", "responses"], ["prompts", "responses", "spans"])


def parameters(target: Callable[..., object]) -> Mapping[str, inspect.Parameter]:
    """The parameters of a factory by name, which are the plugin's settings; {} where Python knows none."""
    try:
        return inspect.signature(target).parameters
    except (TypeError, ValueError):
        return {}  # a builtin without signature
