"""The documented form of report.json (schema.json, JSON Schema 2020-12).

`schema_version` grows when something that a reader relies on is renamed, removed or means something else; new optional
keys do not change it.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any


@cache
def report_schema() -> dict[str, Any]:
    """The schema that report.json is written to."""
    text = files("rlhf_bench.reports").joinpath("schema.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found
