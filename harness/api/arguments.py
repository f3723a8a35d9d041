"""From the arguments of API calls to what planning takes, and back to text for manifests."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.presets import parse_assignments, parse_seeds

# Everything is taken in the forms that a notebook has at hand: one name or several, numbers or texts.
Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
Seeds = int | str | Sequence[int]
"""A number of seeds (3: seeds 0, 1, 2), the seeds themselves, or a text like "11-14"."""
Setting = str | int | float | bool | os.PathLike[str] | Sequence[int]
"""A value of a setting; several numbers where the command takes 1,2,4."""
Settings = Mapping[str, Setting]
"""By "group.key", as in `--set group.key=value`."""


def print_progress(event: str, name: str, done: int, total: int) -> None:  # noqa: ARG001
    """For `progress`: write one line to stderr when a stage starts, and one when it ends."""
    if event in ("start", "end"):  # a stage has many steps: a line for each would bury the others
        print(f"{name} {'...' if event == 'start' else 'ended'}", file=sys.stderr, flush=True)


def call_text(function: Callable[..., object], given: Mapping[str, object]) -> str:
    """The call as Python text, for a manifest: its arguments that differ from their defaults.

    `given` is the caller's `locals()` before it binds anything else.  `out` and `progress` are left out: a folder of
    this machine is no part of what was done.
    """
    parameters = inspect.signature(function).parameters
    shown = {
        name: os.fspath(value) if isinstance(value, os.PathLike) else value
        for name, value in given.items()
        # repr: arrays have no single truth value
        if name not in ("out", "progress") and repr(value) != repr(parameters[name].default)
    }
    return f"api.{function.__name__}({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


LONGEST_NAME, LONGEST_PATH = 255, 4096
"""Bytes of a file's name and of a path on the usual file systems; a longer one raises wherever it is looked for."""


def check_paths(*given: str | os.PathLike[str]) -> None:
    """Raises BenchError for an empty text, and for one that no file system takes as a path."""
    for text in [os.fspath(one) for one in given]:
        if not text or "\0" in text:
            raise BenchError(f"{text!r} is no path.", "Name a file or a folder.")
        encoded = text.encode("utf-8", "surrogatepass")
        if len(encoded) > LONGEST_PATH or max(map(len, encoded.split(b"/"))) > LONGEST_NAME:
            raise BenchError(f"{text[:40]!r}... is too long for a path.", "Name a file or a folder.")


def as_list(given: str | Sequence[str]) -> list[str]:
    # a text is a sequence, too: "scalar" must not become the names "s", "c", "a", ...
    return [given] if isinstance(given, str) else list(given)


def as_path(given: str | os.PathLike[str]) -> Path:
    """The path.  Raises BenchError as `check_paths`."""
    check_paths(given)
    return Path(given)


def as_paths(given: Paths) -> list[Path]:
    """The paths.  Raises BenchError as `check_paths`."""
    return [as_path(one) for one in ([given] if isinstance(given, str | os.PathLike) else given)]


def as_layer(name: str, given: Seeds | None) -> tuple[int, ...]:
    """The seeds of a layer, () for None; raises BenchError as `as_seeds`, with the argument's name."""
    return () if given is None else as_seeds(given, name)


def as_seeds(given: Seeds, name: str = "seeds") -> tuple[int, ...]:
    """Seeds of a number, a list, or a text as --seeds takes it; `name` is the argument's.

    Raises BenchError for no seed, a repeated one, one outside 0 .. 2**31 - 1, and for what is no whole number.
    """
    if isinstance(given, int | str):
        text = str(given)
    else:
        numbers = [str(seed) for seed in given]
        # one parser for all forms; there a lone number means how many seeds, so [5] becomes the range 5-5
        text = ",".join(numbers) if len(numbers) != 1 else f"{numbers[0]}-{numbers[0]}"
    try:
        return parse_seeds(text)
    except ValueError:
        raise BenchError(
            f"{name} is {given!r}.", "Give a number of seeds, a list of different seeds, or a text like '11-14'."
        ) from None


def as_assignments(settings: Settings | None) -> dict[str, dict[str, str]]:
    """Settings as --set gives them: group -> key -> text.

    Texts, not values: `make_settings` parses them by the types of the defaults, with one set of errors for both
    callers.  Raises BenchError for a name that is not of the form "group.key".
    """
    return parse_assignments(tuple(f"{name}={as_text(value)}" for name, value in (settings or {}).items()))


def as_text(value: Setting) -> str:
    if isinstance(value, bool):
        return str(value).lower()  # as --set takes it, so that both record the same text
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(map(str, value))
    return os.fspath(value) if isinstance(value, os.PathLike) else str(value)
