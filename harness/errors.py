"""The error for bad input, in one line: what was seen, and how to fix it.

```python
raise BenchError(f"{path} is missing.", "Give a folder that exists.")
```
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BenchError(Exception):
    """Bad input.  The command line prints `seen` and `fix` without a traceback and exits with 2.

    `seen` is what was found, `fix` what to do about it ("" for nothing); `str()` of the error is both, in that order.
    """

    def __init__(self, seen: str, fix: str = "") -> None:
        super().__init__(f"{seen} {fix}".strip())
        self.seen, self.fix = seen, fix

    def __reduce__(self) -> tuple[type[BenchError], tuple[str, str]]:
        return type(self), (self.seen, self.fix)  # errors of stages cross processes under --jobs, with both parts


class DamagedError(BenchError):
    """A stored file is not what was written.  The command line exits with 3."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The `fix` for an unknown name: the nearest known one, if any is near, and all known ones."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.55)
    if close:
        return f"Did you mean {close[0]!r}? Known: {', '.join(names)}."
    return f"Known: {', '.join(names) or 'none'}."


def one_line(error: BaseException) -> str:
    """An exception's type and the first line of its message, at most 300 characters; without a message the type."""
    text = str(error).strip().split("\n")[0][:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
