"""MkDocs hook: pages of the repository's root and of results, and where mkdocstrings finds the package."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "CITATION.cff": "CITATION.cff",
}
LINK = re.compile(r"\]\((docs/|README\.md|CONTRIBUTING\.md|CHANGELOG\.md)")
SOURCES = tempfile.TemporaryDirectory(prefix="rlhf-bench-docs-")


@event_priority(100)  # before mkdocstrings reads its options
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Show mkdocstrings a folder with `rlhf_bench/harness` and nothing else.

    `.src/rlhf_bench` is a link to the root of the repository, which holds `.src` again and `.venv`: mkdocstrings
    follows links and would read all of it many times over.
    """
    package = Path(SOURCES.name) / "rlhf_bench"
    package.mkdir(exist_ok=True)
    if not (package / "harness").exists():
        (package / "harness").symlink_to(_root(config) / "harness")
    config.plugins["mkdocstrings"].config["handlers"]["python"]["paths"] = [SOURCES.name]
    add_results(config.nav, Path(config.docs_dir))
    return config


def add_results(nav: list[Any] | None, docs: Path) -> None:
    """Name the pages of experiments below the page of all claims: `bench claims` writes more of them."""
    for entry in nav or []:
        for pages in entry.values() if isinstance(entry, dict) else ():
            if isinstance(pages, list) and {"All claims": "results.md"} in pages:
                names = sorted(path.stem for path in (docs / "results").glob("*.md"))
                pages += [{name: f"results/{name}.md"} for name in names]
            elif isinstance(pages, list):
                add_results(pages, docs)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files of PAGES, their links rewritten for the place that they have on the site."""
    for source, page in PAGES.items():
        text = (_root(config) / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=LINK.sub(lambda m: f"]({PAGES.get(m[1], '')}", text)))
    return files


def _root(config: MkDocsConfig) -> Path:
    return Path(config.config_file_path).parent
