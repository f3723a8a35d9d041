"""Reading what was typed, and the two consoles it is answered on."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from rlhf_bench.harness.errors import BenchError

if TYPE_CHECKING:
    from rich.console import Console

KINDS: dict[str, Literal["task", "reward-model", "judge"]] = {
    "tasks": "task",
    "reward-models": "reward-model",
    "judges": "judge",
}


def printable(text: str) -> str:
    """One line, control characters made visible: messages may quote data."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def printable_lines(text: str) -> str:
    """As `printable`, keeping line breaks."""
    return "\n".join(map(printable, text.split("\n")))


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


def parse_seeds(text: str) -> tuple[int, ...]:
    """Seeds of a count, a range or a list; ValueError for anything else, negative ones and none at all."""
    if "," in text:
        seeds = tuple(int(part) for part in text.split(","))
    elif "-" in text[1:]:
        low, _, high = text.partition("-")
        seeds = tuple(range(int(low), int(high) + 1))
    else:
        seeds = tuple(range(int(text)))
    if not seeds or min(seeds) < 0 or max(seeds) >= 2**31 or len(set(seeds)) < len(seeds):
        raise ValueError(text)
    return seeds


def parse_assignments(texts: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """--set group.key=value texts as group -> key -> value; the value may contain anything."""
    groups: dict[str, dict[str, str]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        group, dot, key = name.strip().rpartition(".")
        if not equals or not dot or not group or not key:
            raise BenchError(f"--set {text!r} is not of the form group.key=value.", "For example: --set ppo.kl=0.1")
        groups.setdefault(group, {})[key] = value.strip()
    return groups
