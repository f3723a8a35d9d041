"""Finding tasks, reward models and judges by name: entry points, or `module:attribute` without packaging.

Only the plugin asked for is imported; a broken one harms nobody else; a name taken twice is an error that names both.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Literal

from rlhf_bench.harness.errors import BenchError, did_you_mean

Kind = Literal["task", "reward-model", "judge"]
GROUPS: dict[str, str] = {
    "task": "rlhf_bench.tasks",
    "reward-model": "rlhf_bench.reward_models",
    "judge": "rlhf_bench.judges",
}


@dataclass(frozen=True)
class Plugin:
    """A plugin that was found but not imported yet.  `reference` is module:attribute."""

    kind: Kind
    name: str
    reference: str
    distribution: str = ""

    @property
    def module(self) -> str:
        return self.reference.partition(":")[0]

    def factory(self) -> Callable[..., Any]:
        """Import it.  Raises BenchError in one line whatever the plugin's module raises."""
        module_name, _, attribute = self.reference.partition(":")
        try:
            target: Any = importlib.import_module(module_name)
            for part in attribute.split("."):
                target = getattr(target, part)
        except BenchError:
            raise
        except (Exception, SystemExit) as error:
            where = f" of {self.distribution}" if self.distribution else ""
            raise BenchError(
                f"The {self.kind} {self.name!r} ({self.reference}{where}) cannot be imported: {one_line(error)}.",
                "Mend the plugin or leave it out.",
            ) from error
        if not callable(target):
            raise BenchError(f"{self.reference} is not callable.", "A plugin is a factory: a class or a function.")
        return target  # type: ignore[no-any-return]

    def fingerprint(self) -> str:
        """Hash of the plugin's code without comments and docstrings: changed code is never mistaken for done."""
        return code_fingerprint(*_siblings(self.module))


def one_line(error: BaseException) -> str:
    """An exception's type and the first line of its message."""
    text = str(error).strip().split("\n")[0][:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def registered(kind: Kind) -> list[Plugin]:
    """All registered plugins of a kind, none imported, ordered by name; a name may be taken twice."""
    points = sorted(entry_points(group=GROUPS[kind]), key=lambda p: (p.name, p.value))
    return list({(p.name, p.value): _from_entry_point(kind, p) for p in points}.values())


def available(kind: Kind) -> dict[str, Plugin]:
    """The registered plugins by name (the first of a name that is taken twice: `find` refuses it)."""
    return {plugin.name: plugin for plugin in reversed(registered(kind))}


def _from_entry_point(kind: Kind, point: EntryPoint) -> Plugin:
    return Plugin(kind, point.name, point.value.replace(" ", ""), point.dist.name if point.dist else "")


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
    if ":" in name:
        if str(Path.cwd()) not in sys.path:
            sys.path.append(str(Path.cwd()))  # `module:attribute` beside the user, as `python -m` would find it
        return Plugin(kind, name, name)
    raise BenchError(f"Unknown {kind} {name!r}.", f"{did_you_mean(name, available(kind))} Or give module:attribute.")


def build(kind: Kind, name: str, settings: Mapping[str, Any]) -> Any:
    """The plugin's object.  Raises BenchError when the factory fails."""
    factory = find(kind, name).factory()
    try:
        return factory(**settings)
    except BenchError:
        raise
    except (Exception, SystemExit) as error:
        raise BenchError(f"The {kind} {name!r} cannot be made: {one_line(error)}.") from error


def code_fingerprint(*modules: str) -> str:
    """sha256 over the syntax trees of modules (not imported), insensitive to comments, docstrings and layout."""
    digest = hashlib.sha256()
    for name in modules:
        path = _source(name)
        digest.update(name.encode())
        if path is not None:
            digest.update(_essence(path).encode())
    return digest.hexdigest()


def _siblings(module: str) -> list[str]:
    """The module and those of its own package that it imports, directly or not."""
    package = module.rpartition(".")[0]
    found, todo = [], [module]
    while todo:
        name = todo.pop()
        path = _source(name)
        found.append(name)
        if path is None or not package:
            continue
        for node in ast.walk(_parse(path)):
            names: list[str] = []
            if isinstance(node, ast.ImportFrom):
                stem = f"{package}.{node.module or ''}".rstrip(".") if node.level else node.module or ""
                names = [stem, *(f"{stem}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            todo += [
                n for n in names if n.rpartition(".")[0] == package and n not in found and n not in todo and _source(n)
            ]
    return sorted(found)


def _parse(path: Path) -> ast.AST:
    try:
        return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return ast.Module(body=[], type_ignores=[])  # importing it will say what is wrong


def _source(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except (Exception, SystemExit):  # finding a module imports its package
        return None  # importing it will say what is wrong
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin)


def _essence(path: Path) -> str:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return path.read_text(errors="replace")
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
            and isinstance(body[0].value.value, str)
        ):
            del body[0]  # a docstring
    return ast.dump(tree)
