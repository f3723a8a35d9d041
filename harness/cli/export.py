"""`bench export`: a written report in forms that others read (reports/exports.py)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rlhf_bench.harness import api, store
from rlhf_bench.harness.cli.consoles import consoles
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.reports import exports


def export(report: Path, form: str, out: Path, organization: str) -> int:
    """bench export"""
    found = api.load_report(report).data
    stdout, _ = consoles(False)
    if form == "every-eval-ever" and not organization:
        raise BenchError("Every Eval Ever wants to know who evaluated.", "Give --organization NAME.")
    for name, value in _files(found, form, organization):
        path = out / name
        try:
            out.mkdir(parents=True, exist_ok=True)
            store.write_json(path, value)
        except OSError as error:
            raise BenchError(f"Cannot write to {out}: {error.strerror}.", "Give another --out.") from None
        stdout.print(str(path), markup=False, soft_wrap=True)
    return 0


def _files(report: dict[str, Any], form: str, organization: str) -> list[tuple[str, Any]]:
    """(file name, content), one an arm; names are made of the arm's key, which is a hash or a name of ours."""
    if form == "every-eval-ever":
        records = exports.every_eval_ever(report, str(int(time.time())), organization)
        return [(f"{_safe(record['model_info']['id'])}.json", record) for record in records]
    return [
        (f"{_safe(exports.model_name(arm))}.json", {"model-index": exports.model_index(report, arm)})
        for arm in report["arms"]
    ]


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name.removeprefix("rlhf-bench/")).lstrip(".")
