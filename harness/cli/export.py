"""`bench export`: a written report in formats of other projects (reports/exports.py, reports/inspect_log.py)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_bench.harness import store
from rlhf_bench.harness.api.reports import load_report
from rlhf_bench.harness.cli.consoles import consoles
from rlhf_bench.harness.errors import BenchError, one_line
from rlhf_bench.harness.replacing import write_text
from rlhf_bench.reports import exports, inspect_log

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import Row


@dataclass(frozen=True)
class Asked:
    """What the command line says beside the format: who evaluated, the hub's data set, and the time of export."""

    organization: str = ""
    dataset: str = ""
    now: int = 0


Write = Callable[[Path], None]
Made = Iterable[tuple[str, Write]]
"""(path below --out, writes the file there) of every file."""


def export(report: Path, form: str, out: Path, organization: str, dataset: str) -> int:
    """bench export: one file for each arm

    Raises BenchError for a folder without a report, without what the format asks for, for a report that the format
    cannot hold, and where `out` cannot be written.
    """
    found = load_report(report).data
    # formats ask for the time of export, in seconds since 1970
    asked = Asked(organization, dataset, int(time.time()))
    try:
        files = list(FORMATS[form](found, asked))  # all before the first is written: a refusal leaves no folder behind
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:  # a report may be shared
        fix = "Write it again: bench report."
        raise BenchError(f"The report.json of {report} is damaged: {one_line(error)}.", fix) from error
    stdout, _ = consoles(False)
    for name, write in files:
        path = out / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path)
        except OSError as error:
            raise BenchError(f"Cannot write to {out}: {error.strerror}.", "Give another --out.") from None
        stdout.print(str(path), markup=False, soft_wrap=True)
    return 0


def every_eval_ever(report: Row, asked: Asked) -> Iterator[tuple[str, Write]]:
    """Records where the project's collection has them."""
    if not asked.organization:
        raise BenchError("Every Eval Ever wants to know who evaluated.", "Give --organization NAME.")
    for record in exports.every_eval_ever(report, str(asked.now), asked.organization):
        yield exports.datastore_path(record), _json(record)


def eval_results(report: Row, asked: Asked) -> Iterator[tuple[str, Write]]:
    """A folder for each arm, whose content belongs into the repository of its policy."""
    import yaml

    for arm in report["arms"]:
        entries = exports.eval_results(report, arm, asked.dataset)
        if entries:
            text = yaml.safe_dump(entries, sort_keys=False, allow_unicode=True, width=100)
            yield f"{_name(arm)}/.eval_results/rlhf-bench.yaml", _text(text)


def model_index(report: Row, _: Asked) -> Iterator[tuple[str, Write]]:
    """The metadata of a model card."""
    for arm in report["arms"]:
        yield f"{_name(arm)}.json", _json({"model-index": exports.model_index(report, arm)})


def inspect(report: Row, asked: Asked) -> Iterator[tuple[str, Write]]:
    """Logs that Inspect's viewer and library read."""
    for arm in report["arms"]:
        yield f"{_name(arm)}.json", _log(inspect_log.log_of(report, arm, asked.now))


FORMATS: Mapping[str, Callable[[Row, Asked], Iterator[tuple[str, Write]]]] = {
    "every-eval-ever": every_eval_ever,
    "eval-results": eval_results,
    "inspect": inspect,
    "model-index": model_index,
}
"""By the name that --format takes."""


def _name(arm: Row) -> str:
    return exports.model_name(arm).removeprefix("rlhf-bench/")


def _json(value: object) -> Write:
    return lambda path: store.write_json(path, value)


def _text(text: str) -> Write:
    return lambda path: write_text(path, text)


def _log(log: Any) -> Write:
    return lambda path: inspect_log.write(log, path)
