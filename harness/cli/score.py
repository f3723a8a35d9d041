"""`bench score`: the rewards per token of one response."""

from __future__ import annotations

from pathlib import Path

from rlhf_bench.harness import api
from rlhf_bench.harness.cli.consoles import consoles
from rlhf_bench.harness.errors import BenchError, one_line
from rlhf_bench.reports import terminal


def score(rm: str, prompt: str, response: str, runs: Path, seed: int | None) -> int:
    """bench score

    `prompt` and `response` are texts, or @FILE.  Raises BenchError for a file that cannot be read, and as `api.score`.
    """
    (scored,) = api.score(rm, _text(prompt), _text(response), runs=runs, seed=seed)
    stdout, _ = consoles(False)
    terminal.show_tokens(stdout, *scored)
    return 0


def _text(argument: str) -> str:
    """The argument, or the content of the file that it names after an @."""
    if not argument.startswith("@"):
        return argument
    try:
        # editors end a file with a line break that is no part of the text, and would be scored with it
        return Path(argument[1:]).read_text(encoding="utf-8").rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"Cannot read {argument[1:]}: {one_line(error)}.") from None
