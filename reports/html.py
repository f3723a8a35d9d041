"""The report as one page that opens from disk: no network, no other file.

Text of models and of data is hostile.  The template escapes everything, the rows for looking inside travel as JSON that
the page's script shows through `textContent` alone, and the Content-Security-Policy allows nothing but the page's one
script and one style sheet, by their hashes.  Equal reports and rows give equal bytes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from rlhf_bench.harness.printable import printable_lines
from rlhf_bench.reports.inside import embedded
from rlhf_bench.reports.view import view

if TYPE_CHECKING:
    from jinja2 import Template

SCRIPTS = ("page.js", "compare.js", "inside.js")


def page(report: Mapping[str, Any], inside: Mapping[str, Any] | None = None) -> str:
    """The page of `report`; `inside` (reports/inside.py) are the rows to look into, None where there are none."""
    shown = view(report)
    compare = [{"task": one["task"], **one["compare"]} for one in shown["tasks"]]
    rows = inside or {"tasks": [], "left_out": []}
    data = {"compare": [_without(one, "rows") for one in compare], "inside": rows}
    script, style = "\n".join(map(_file, SCRIPTS)), _file("page.css")
    text: str = _template().render(
        **shown,
        inside=rows,
        script=Markup(script),
        style=Markup(style),
        policy=policy(script, style),
        json=Markup(embedded(data)),
    )
    return text


def policy(script: str, style: str) -> str:
    """The Content-Security-Policy: nothing is loaded, and only this script and this style sheet count."""
    return (
        f"default-src 'none'; script-src '{digest(script)}'; style-src '{digest(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def digest(text: str) -> str:
    """A CSP hash source."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _without(found: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key != name}


def _file(name: str) -> str:
    return files("rlhf_bench.reports").joinpath(name).read_text(encoding="utf-8")


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=_visible, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_file("page.html"))


def _visible(value: object) -> object:
    """Control characters made visible, in all text that is no markup of ours."""
    return printable_lines(value) if isinstance(value, str) and not isinstance(value, Markup) else value
