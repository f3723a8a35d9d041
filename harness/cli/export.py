"""`bench export`: a written report in formats of other projects (reports/exports.py)."""

from __future__ import annotations

import time
from pathlib import Path

from rlhf_bench.harness import store
from rlhf_bench.harness.api.reports import load_report
from rlhf_bench.harness.cli.consoles import consoles
from rlhf_bench.harness.errors import BenchError, one_line
from rlhf_bench.reports import exports


def export(report: Path, form: str, out: Path, organization: str) -> int:
    """bench export: one JSON file for each arm

    Raises BenchError for a folder without a report, without an organization where the format needs one, for a report
    that the format cannot hold, and where `out` cannot be written.
    """
    found = load_report(report).data
    if form == "every-eval-ever" and not organization:
        raise BenchError("Every Eval Ever wants to know who evaluated.", "Give --organization NAME.")
    try:
        if form == "every-eval-ever":
            # the format wants the time of export, in seconds since 1970
            records = exports.every_eval_ever(found, str(int(time.time())), organization)
            files = {file_name(record["model_info"]["id"]): record for record in records}
        else:
            files = {
                file_name(exports.model_name(arm)): {"model-index": exports.model_index(found, arm)}
                for arm in found["arms"]
            }
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:  # a report may be shared
        fix = "Write it again: bench report."
        raise BenchError(f"The report.json of {report} is damaged: {one_line(error)}.", fix) from error
    stdout, _ = consoles(False)
    # after all records are made: a report that the format cannot hold leaves no folder behind
    for name, value in files.items():
        try:
            out.mkdir(parents=True, exist_ok=True)
            store.write_json(out / name, value)
        except OSError as error:
            raise BenchError(f"Cannot write to {out}: {error.strerror}.", "Give another --out.") from None
        stdout.print(str(out / name), markup=False, soft_wrap=True)
    return 0


def file_name(model: str) -> str:
    """The file of a model; what is no letter, digit, dot or underscore becomes a hyphen.

    Letters of any script count, so the name of a model stays readable.
    """
    # reward models may be called path:FOLDER, and a slash or a leading dot would name another or a hidden file
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in model.removeprefix("rlhf-bench/"))
    return f"{name.lstrip('.')}.json"
