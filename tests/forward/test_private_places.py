"""Private names of torch, transformers and TRL stand in one file for each library, with their gain and public path."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRIVATE_FILES = {
    "harness/forward/torch_private.py",
    "harness/forward/transformers_private.py",
    "harness/training/trl_private.py",
}
STANDARD_LIBRARY = {"_replace", "_asdict", "_fields", "_exit", "_processes"}
"""Of namedtuple, os and the process pool of concurrent.futures."""
PRIVATE_MODULES = re.compile(
    r"torch\._|torch\.ops|transformers\.(cache_utils|masking_utils|integrations|modeling_layers|pytorch_utils|"
    r"modeling_utils|models)\b|trl\.(trainer\.utils|kernels)"
)


def own_names() -> set[str]:
    """Private names that the package defines itself."""
    found = set()
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.attr if isinstance(node, ast.Attribute) else node.id)
    return found


def sources() -> Iterator[Path]:
    for folder in ("harness", "tasks", "reward_models", "judges", "reports"):
        yield from sorted((ROOT / folder).rglob("*.py"))


def private_uses(tree: ast.AST, own: set[str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            name = node.attr
            if name.startswith("_") and not name.startswith("__") and name not in own | STANDARD_LIBRARY:
                yield name
            if PRIVATE_MODULES.match(ast.unparse(node)):
                yield ast.unparse(node)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr"):
            yield from (str(x.value) for x in node.args if isinstance(x, ast.Constant) and str(x.value)[:1] == "_")
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if PRIVATE_MODULES.match(f"{node.module}.{alias.name}"):
                    yield f"{node.module}.{alias.name}"


def test_private_names_stand_in_one_file_for_each_library() -> None:
    own = own_names()
    found = {}
    for path in sources():
        uses = sorted(set(private_uses(ast.parse(path.read_text(encoding="utf-8")), own)))
        if uses and str(path.relative_to(ROOT)) not in PRIVATE_FILES:
            found[str(path.relative_to(ROOT))] = uses
    assert found == {}


@pytest.mark.parametrize(
    "line",
    [
        "torch.ops.mkldnn._linear_pointwise(x)",
        "from transformers.cache_utils import DynamicLayer",
        "from transformers import masking_utils",
        "from trl.trainer import utils",
        "getattr(config, '_commit_hash', None)",
        "storage._cdata",
        "trainer._load_from_checkpoint(x)",
    ],
)
def test_the_search_finds_private_names_of_every_form(line: str) -> None:
    assert list(private_uses(ast.parse(line), set()))


@pytest.mark.parametrize("path", sorted(PRIVATE_FILES))
def test_each_file_lists_its_names_with_gain_and_public_path(path: str) -> None:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    text = ast.get_docstring(tree) or ""
    for name in set(private_uses(tree, own_names())):
        assert name.rpartition(".")[2] in text, name
    assert "Gain:" in text
    assert "Public path:" in text
