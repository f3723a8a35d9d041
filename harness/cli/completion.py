"""`bench completion`: click's own completion of commands, options and names, for bash, zsh and fish."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_bench.harness.errors import BenchError

if TYPE_CHECKING:
    import click
    from click.shell_completion import CompletionItem

    from rlhf_bench.harness.plugins import Kind

PROGRAM = "bench"
VARIABLE = "_BENCH_COMPLETE"
"""The environment variable by which the script asks `bench` for completions; click derives it from the name."""


def completion(command: click.Command, shell: str, install: bool) -> int:
    """bench completion

    Prints the script of a shell, or writes it to the place where that shell looks for a user's completions and says
    what is left to do.  No file of settings (.bashrc and its like) is changed.  Raises BenchError where another
    program's completion lies in that place.
    """
    from rlhf_bench.harness.cli.consoles import consoles
    from rlhf_bench.harness.replacing import write_text

    text = script(command, shell)
    stdout, _ = consoles(False)
    if not install:
        print(text)  # as it is: rich would wrap it
        return 0
    place = place_of(shell)
    if place.exists() and VARIABLE not in place.read_text(encoding="utf-8", errors="replace"):
        raise BenchError(
            f"{place} is of another program.", f"Save the script elsewhere: bench completion {shell} > FILE"
        )
    place.parent.mkdir(parents=True, exist_ok=True)
    write_text(place, f"{text}\n")
    stdout.print(f"{place}\n{hint(shell, place)}", markup=False, soft_wrap=True)
    return 0


def script(command: click.Command, shell: str) -> str:
    """The script that makes a shell complete `bench`, by click."""
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None  # click.Choice has checked the shell
    # the template itself: `source` of bash first starts a bash to ask for its version, which need not be there
    found = made(command, {}, PROGRAM, VARIABLE)
    return str(found.source_template % found.source_vars()).strip()


def place_of(shell: str) -> Path:
    """Where a shell looks for completions of a user.

    bash: https://github.com/scop/bash-completion#faq; fish: its manual on completions; zsh has no such place, and takes
    the folders of `fpath`.
    """
    home = Path.home()
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    bash = Path(os.environ.get("BASH_COMPLETION_USER_DIR") or data / "bash-completion")
    return {
        "bash": bash / "completions" / PROGRAM,
        "zsh": data / "zsh" / "site-functions" / f"_{PROGRAM}",
        "fish": config / "fish" / "completions" / f"{PROGRAM}.fish",
    }[shell]


def hint(shell: str, place: Path) -> str:
    """What a user still has to do."""
    if shell == "bash":
        return f"New shells load it where bash-completion is installed.  Elsewhere add to ~/.bashrc: source '{place}'"
    if shell == "zsh":
        return f"Add to ~/.zshrc, before compinit: fpath=('{place.parent}' $fpath)"
    return "New shells load it."


# -- names -------------------------------------------------------------------------------------------------------------

Complete = Callable[["click.Context", "click.Parameter", str], "list[CompletionItem]"]


def names(source: Callable[[click.Context], Iterable[str]], *prefixes: str) -> Complete:
    """A `shell_complete` for names; each may also follow one of `prefixes`."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
        from click.shell_completion import CompletionItem

        first = next((prefix for prefix in prefixes if incomplete.startswith(prefix)), "")
        found = (first + name for name in sorted(source(ctx)))
        return [CompletionItem(name) for name in found if name.startswith(incomplete)]

    return complete


def plugin_names(kind: Kind) -> Callable[[click.Context], Iterator[str]]:
    """The registered plugins of a kind; none is imported."""

    def found(ctx: click.Context) -> Iterator[str]:  # noqa: ARG001
        from rlhf_bench.harness import plugins

        yield from plugins.available(kind)

    return found


def preset_names(ctx: click.Context) -> Iterable[str]:  # noqa: ARG001
    from rlhf_bench.harness.presets import load_presets

    return load_presets()


def experiment_names(ctx: click.Context) -> Iterable[str]:  # noqa: ARG001
    from rlhf_bench.harness.plan import experiments

    return experiments.load()


def checked_names(ctx: click.Context) -> Iterable[str]:
    """What `bench check KIND` can be followed by: plugins of that kind."""
    from rlhf_bench.harness.cli.listing import KINDS

    kind = ctx.params.get("kind")
    return plugin_names(kind)(ctx) if kind in KINDS else ()


def group_names(ctx: click.Context) -> Iterable[str]:
    """What `bench list settings` can be followed by: groups of the harness and plugins."""
    if ctx.params.get("what") != "settings":
        return ()
    from rlhf_bench.harness.cli.listing import KINDS
    from rlhf_bench.harness.settings import GROUPS

    return {*GROUPS, *(name for kind in KINDS for name in plugin_names(kind)(ctx))}
