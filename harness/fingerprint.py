"""Hashes of code: what enters a result's key, so that changed code never reuses an old result.

`of(modules)` hashes the import closure of some modules: the modules themselves and all that they import, directly or
not, at their top or inside functions, as far as it belongs to this package or lies beside a third party's plugin.
Files are parsed, never imported.

Two rules decide what a change does to the hash:

- Only layers that compute count.  `NOT_COMPUTING` lists the others: a new word in a command's message must not make
  old results unusable.
- The hash covers syntax, without comments, docstrings, layout, import statements and names of modules.  A use of an
  imported name counts as the content of what it names.  Moving or renaming a module therefore changes no key, while
  importing the same name from a different module does.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sysconfig
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import NamedTuple

PACKAGE = "rlhf_bench"
FOLDERS = ("harness", "tasks", "reward_models", "judges", "reports")
ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds FOLDERS, in a checkout and in an installed package alike."""

NOT_COMPUTING = tuple(
    f"{PACKAGE}.{name}"
    for name in (
        *("harness.errors", "harness.plan", "harness.results", "harness.checks"),
        *("harness.api", "harness.cli", "harness.__main__", "reports"),
    )
)
"""Modules, with all below them, that plan, report or show, and compute no stage's result."""

BLANK = "\0"
"""Stands for an imported name in hashed syntax; no identifier contains it."""

Stamp = tuple[int, int]  # time in ns and size in bytes of a file
Targets = tuple["Target", ...]


class Target(NamedTuple):
    """What an import binds a name to: a module, or `symbol` of a module."""

    module: str
    symbol: str = ""


class Syntax(NamedTuple):
    """A parsed file.

    `shallow` hashes its syntax with imported names left blank; `uses` lists what each blank stands for, in order of
    occurrence (several targets where functions bind one name differently); `imports` lists everything it imports.
    """

    shallow: str
    uses: tuple[Targets, ...]
    imports: Targets


class Neighbours(NamedTuple):
    """Where code that belongs to a plugin lies: top-level modules of `folder`, or the one called `only`."""

    folder: Path | None
    only: str = ""


OURS = Neighbours(None)
INSTALLED = frozenset(Path(path).resolve() for path in sysconfig.get_paths().values())
"""Folders of installed packages and of Python itself: what lies beside a plugin there is not part of it."""

# (module, its file, what is left out) -> (hash, files by module, stamps by file).  The file is part of the question: a
# plugin's module can be found in another place later.
_known: dict[tuple[str, Path | None, tuple[str, ...]], tuple[str, dict[str, Path], dict[Path, Stamp]]] = {}


def of(*modules: str, without: Sequence[str] = NOT_COMPUTING) -> str:
    """sha256 of the code of the import closures of `modules`.

    A module that cannot be found counts by its name, one that cannot be parsed by its bytes: importing it later says
    what is wrong.  `without` leaves out modules and all below them.
    """
    return _sha(*(_walked(name, tuple(without))[0] for name in modules))


def closure(*modules: str, without: Sequence[str] = NOT_COMPUTING) -> dict[str, Path]:
    """Name -> file of every module in the import closures of `modules`, ordered by name."""
    found: dict[str, Path] = {}
    for name in modules:
        found |= _walked(name, tuple(without))[1]
    return dict(sorted(found.items()))


def _walked(module: str, without: tuple[str, ...]) -> tuple[str, dict[str, Path]]:
    """The hash and the files of one module's closure.

    A plan of 1,000 stages asks for the same few closures again and again: an answer holds as long as none of its files
    has changed.
    """
    near = _neighbours(module)
    asked = module, _file(module, near), without
    known = _known.get(asked)
    if known is not None and all(_stamp(path) == stamp for path, stamp in known[2].items()):
        return known[:2]
    # the module asked for counts in any case, even one that `without` names
    todo = [part for part in _candidates(Target(module)) if part == module or not _below(part, without)]
    seen, files = set(todo), dict[str, Path]()
    while todo:
        name = todo.pop()
        path = _file(name, near)
        if path is None:
            continue
        files[name] = path
        for target in _syntax(path, _stamp(path)).imports:
            for part in _candidates(target):
                if part not in seen and not _below(part, without):
                    seen.add(part)
                    todo.append(part)
    # by content, not by name: a moved module keeps the hash, and so does another empty package around it
    contents = sorted({_content(path, near, without) for path in files.values()})
    first = _content(files[module], near, without) if module in files else module
    known = _known[asked] = _sha(first, *contents), files, {path: _stamp(path) for path in files.values()}
    return known[:2]


def _content(path: Path, near: Neighbours, without: tuple[str, ...]) -> str:
    """Hash of a file's syntax together with the content of the names that it uses from elsewhere."""
    syntax = _syntax(path, _stamp(path))
    labels = []
    for target in chain.from_iterable(syntax.uses):
        # What a use of an imported name counts as: the content it names, else the name itself.
        label = f"{target.module}:{target.symbol}"
        # `from a import b` may bind the module a.b or the name b of the module a: a module comes first.
        for name, symbol in ((f"{target.module}.{target.symbol}", ""), target):
            found = _file(name, near) if name else None
            if found is not None:
                # of a module that computes nothing the symbol alone counts: its content must change no key
                label = symbol if _below(name, without) else f"{_syntax(found, _stamp(found)).shallow}:{symbol}"
                break
        labels.append(label)
    return _sha(syntax.shallow, *labels)


def _candidates(target: Target) -> Iterator[str]:
    """Modules that an import may run: the module, what may be a module in it, and the packages around it."""
    parts = target.module.split(".")
    yield from (".".join(parts[:length]) for length in range(1, len(parts) + 1))
    if target.symbol:
        yield f"{target.module}.{target.symbol}"


def _below(name: str, tops: Sequence[str]) -> bool:
    return any(name == top or name.startswith(f"{top}.") for top in tops)


# -- where modules lie -------------------------------------------------------------------------------------------------


def _file(name: str, near: Neighbours) -> Path | None:
    """The source file of a module of this package, or of a plugin's neighbours; None for all others."""
    top, *rest = name.split(".")
    if top == PACKAGE:
        return _source(ROOT, rest) if rest else None  # the top package has no code: its folders lie in ROOT
    if near.folder is None or (near.only and top != near.only):
        return None
    return _source(near.folder, [top, *rest])


def _source(folder: Path, parts: Sequence[str]) -> Path | None:
    path = folder.joinpath(*parts)
    for file in (path.with_name(f"{path.name}.py"), path / "__init__.py"):
        if file.is_file():
            return file
    return None


def _neighbours(module: str) -> Neighbours:
    """Where the code of a plugin at `module` lies.

    Beside a module that is installed nowhere lie the helpers that its author wrote with it; an installed package has
    its own modules alone.
    """
    top = module.partition(".")[0]
    if top == PACKAGE:
        return OURS
    try:
        spec = importlib.util.find_spec(top)  # of a top-level name: this imports nothing
    except (ImportError, ValueError, AttributeError):
        return OURS  # nothing to hash: importing the plugin says later what is wrong
    places = list(spec.submodule_search_locations or []) if spec else []
    place = Path(places[0]) if places else Path(spec.origin) if spec and spec.origin else None
    if place is None or not place.exists():
        return OURS
    folder = place.resolve().parent
    # by name too: sysconfig knows this environment's site-packages and no other that is on sys.path
    return Neighbours(folder, top if folder in INSTALLED or folder.name == "site-packages" else "")


def _stamp(path: Path) -> Stamp:
    """Time and size of a file, which tell that it has changed since it was parsed."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0  # of a file that is gone: no file has this stamp, so what was known of it no longer holds
    return found.st_mtime_ns, found.st_size


# -- syntax ------------------------------------------------------------------------------------------------------------


@cache
def _syntax(path: Path, _stamp: Stamp) -> Syntax:  # the stamp is there for the cache: a changed file is parsed again
    source = path.read_bytes()
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return Syntax(hashlib.sha256(source).hexdigest(), (), ())
    stripper = _Stripper(_package_of(path))
    tree = stripper.visit(tree)
    blanks = _Blanks({name: tuple(dict.fromkeys(targets)) for name, targets in stripper.bound.items()})
    shallow = _sha(ast.dump(blanks.visit(tree), annotate_fields=False))
    return Syntax(shallow, tuple(blanks.uses), tuple(dict.fromkeys(stripper.imports)))


@cache
def _package_of(path: Path) -> str:
    """The dotted name of the package that a file is in, for its relative imports."""
    if any(path.is_relative_to(ROOT / folder) for folder in FOLDERS):
        return ".".join((PACKAGE, *path.parent.relative_to(ROOT).parts))
    names, folder = [], path.parent
    while (folder / "__init__.py").is_file():
        names.append(folder.name)
        folder = folder.parent
    return ".".join(reversed(names))


class _Stripper(ast.NodeTransformer):
    """Removes docstrings and imports, and records what the imports bind."""

    def __init__(self, package: str) -> None:
        self.package = package
        self.imports: list[Target] = []
        self.bound: dict[str, list[Target]] = {}

    def generic_visit(self, node: ast.AST) -> ast.AST:
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                del body[0]
        return super().generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST | None:  # the name that ast asks for
        """Imports for type checking alone run nothing; their names stay in annotations as they are written."""
        test = node.test.attr if isinstance(node.test, ast.Attribute) else getattr(node.test, "id", "")
        return None if test == "TYPE_CHECKING" and not node.orelse else self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            target = Target(alias.name)
            self.imports.append(target)
            # `import a.b` binds `a`, whose attributes stay in the syntax
            self.bound.setdefault(alias.asname or alias.name.partition(".")[0], []).append(target)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = node.module or ""
        if node.level:  # one dot is this package, each further dot the package around it
            above = self.package.split(".")[: len(self.package.split(".")) - node.level + 1]
            module = ".".join([*above, *([module] if module else [])])
        for alias in node.names:
            target = Target(module, alias.name)
            self.imports.append(target)
            self.bound.setdefault(alias.asname or alias.name, []).append(target)


class _Blanks(ast.NodeTransformer):
    """Replaces the names that imports bind by a blank, and records what stood there."""

    def __init__(self, bound: dict[str, Targets]) -> None:
        self.bound = bound
        self.uses: list[Targets] = []

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id in self.bound:
            self.uses.append(self.bound[node.id])
            return ast.Name(BLANK, node.ctx)
        return node


def _sha(*parts: str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part.encode("utf-8", "surrogatepass")).digest())  # no two lists run together
    return digest.hexdigest()
