"""Which lines of the package an input is the first to reach: what guides the search for inputs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

CALLS = 6
"""Calls of one function that are traced during one input: the others of a loop reach the same lines."""


class Lines:
    """The lines of code below `package` that were not reached yet; `found` counts those that were."""

    def __init__(self, package: Path) -> None:
        self.package = str(package)
        self.left: dict[int, set[int]] = {}
        self.kept: list[CodeType] = []  # so that no other code gets the id of one that is known
        self.calls: dict[int, int] = {}
        self.found = 0

    @contextmanager
    def traced(self) -> Iterator[None]:
        """Trace what the block calls in this thread."""
        self.calls.clear()
        sys.settrace(self._call)
        try:
            yield
        finally:
            sys.settrace(None)

    def _call(self, frame: FrameType, event: str, arg: Any) -> Any:  # noqa: ARG002
        code = frame.f_code
        left = self.left.get(id(code))
        if left is None:
            own = code.co_filename.startswith(self.package)
            left = self.left[id(code)] = {line for *_, line in code.co_lines() if line} if own else set()
            self.kept.append(code)
        if not left:
            return None
        calls = self.calls[id(code)] = self.calls.get(id(code), 0) + 1
        return self._line if calls <= CALLS else None

    def _line(self, frame: FrameType, event: str, arg: Any) -> Any:  # noqa: ARG002
        if event == "line":
            left = self.left[id(frame.f_code)]
            if frame.f_lineno in left:
                left.discard(frame.f_lineno)
                self.found += 1
        return self._line
