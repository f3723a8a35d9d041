"""The documented form of report.json (schema.json, JSON Schema 2020-12).

`schema_version` grows when something that a reader relies on is renamed, removed or means something else; new optional
keys do not change it.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from rlhf_bench.harness import forms

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject


@cache
def report_schema() -> JsonObject:
    """The schema that report.json is written to, as the object of its JSON.

    For tests and for readers of reports; writing a report does not validate it.
    """
    text = files("rlhf_bench.reports").joinpath("schema.json").read_text(encoding="utf-8")
    found: JsonObject = json.loads(text)
    return found


@cache
def report_form() -> forms.Form:
    """The types that the schema gives the values of report.json; reading a report checks them."""
    return forms.of_schema(report_schema(), report_schema())
