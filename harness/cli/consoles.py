"""What a command writes to: results on stdout, progress (progress.py) and complaints on stderr."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rlhf_bench.harness.printable import printable, printable_lines

if TYPE_CHECKING:
    from rich.console import Console


def command_line() -> str:
    """The command as it was typed, for manifests.

    Quoted for a shell, so that it can be pasted; `ledger.without_folder` splits it again.
    """
    return "bench " + shlex.join(sys.argv[1:])


def complain(lines: Sequence[str], fix: str) -> bool:
    """Say on stderr, under --quiet too, why the exit code will be 3; whether there is anything to say.

    `lines`: sentences without a full stop.  `fix`: what to do about each of them, "" for nothing.
    """
    for line in lines:
        # print, not a console: rich would wrap the line and drop it under --quiet
        print(printable(f"{line}. {fix}").strip(), file=sys.stderr)
    return bool(lines)


def consoles(quiet: bool) -> tuple[Console, Console]:
    """(stdout, stderr): results go to the first, progress to the second.

    With `quiet` neither prints anything; errors and `complain` do not pass through them.  Control characters of a text
    are printed as escapes; tables make their own texts printable (reports/terminal.py).
    """
    from rich.console import Console

    class Safe(Console):
        """A console on which no text is a control code: names and notes may come from files of someone else."""

        def print(self, *objects: object, **options: Any) -> None:
            super().print(*(printable_lines(one) if isinstance(one, str) else one for one in objects), **options)

    # without highlighting: rich would colour the numbers in names and paths
    return Safe(quiet=quiet, highlight=False), Safe(stderr=True, quiet=quiet, highlight=False)
