"""`bench score`: the rewards per token of one response."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rlhf_bench.harness import api, store
from rlhf_bench.harness.cli.consoles import consoles
from rlhf_bench.reports import terminal


def score(rm: str, prompt: str, response: str, runs: Path, seed: int | None, trust: Sequence[str]) -> int:
    """bench score"""
    (scored,) = api.score(rm, _text(prompt), _text(response), runs=runs, seed=seed, trust=trust)
    stdout, _ = consoles(False)
    terminal.show_tokens(stdout, *scored)
    return 0


def _text(argument: str) -> str:
    """The argument, or the content of the file that it names after an @."""
    if not argument.startswith("@"):
        return argument
    return store.read_text(Path(argument[1:])).rstrip("\n")
