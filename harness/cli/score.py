"""`bench score`: the rewards per token of one response."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rlhf_bench.harness import api, store
from rlhf_bench.harness.cli.consoles import consoles
from rlhf_bench.reports import terminal


def score(
    rm: str, prompt: str, response: str, runs: Path, seed: int | None, settings: Mapping[str, str], trust: Sequence[str]
) -> int:
    """bench score

    `prompt` and `response` are texts, or @FILE.  Raises BenchError for a file that cannot be read, and as `api.score`.
    """
    (scored,) = api.score(rm, _text(prompt), _text(response), runs=runs, seed=seed, settings=settings, trust=trust)
    stdout, _ = consoles(False)
    terminal.show_tokens(stdout, *scored)
    return 0


def _text(argument: str) -> str:
    """The argument, or the content of the file that it names after an @."""
    if not argument.startswith("@"):
        return argument
    # editors end a file with a line break that is no part of the text, and would be scored with it
    return store.read_text(Path(argument[1:])).rstrip("\n")
