"""The pages that people write, and the commands and links on them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GENERATED = {
    "results.md",
    "results-whitebox.md",
    "performance.md",
    "coverage.md",
    "reliability.md",
    "second-draw.md",
    "monitors.md",
}
"""Written by commands, as is docs/sample-report/."""
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted(p for p in (ROOT / "docs").glob("*.md") if p.name not in GENERATED),
    *sorted((ROOT / "docs" / "api").glob("*.md")),
]
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(text: str, language: str) -> list[str]:
    """The contents of the fenced blocks in a language ("" is any)."""
    return [body for found, body in FENCE.findall(text) if language in ("", found)]


def spans(text: str) -> list[str]:
    """The code spans outside fenced blocks."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", FENCE.sub("", text))]


def commands(text: str) -> Iterator[list[str]]:
    """The words after `bench` of every command line in a fenced block."""
    for body in blocks(text, ""):
        for line in body.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|\|\||;", line.partition(" #")[0]):
                if part.strip().startswith("bench "):
                    yield shlex.split(part, comments=True)[1:]


def links(text: str) -> list[str]:
    """The targets of links to files, without fragments."""
    found = [target.partition("#")[0] for target in LINK.findall(FENCE.sub("", text)) if "://" not in target]
    return [target for target in found if target]
