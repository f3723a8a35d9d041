"""Reading what was typed, and the two consoles it is answered on."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlhf_bench.harness.printable import printable

if TYPE_CHECKING:
    from rich.console import Console


def command_line() -> str:
    """The command as it was typed."""
    return "bench " + shlex.join(sys.argv[1:])


def complain(lines: Sequence[str], fix: str) -> bool:
    """Say on stderr, whatever is quiet, why the exit code will be 3."""
    for line in lines:
        print(printable(f"{line}. {fix}").strip(), file=sys.stderr)
    return bool(lines)


def consoles(quiet: bool) -> tuple[Console, Console]:
    """(stdout, stderr): results go to the first, progress to the second."""
    from rich.console import Console

    return Console(quiet=quiet, highlight=False), Console(stderr=True, quiet=quiet, highlight=False)
