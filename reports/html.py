"""The report as one page that opens from disk: no network, no other file.

Text of models and of data is hostile.  The template escapes everything, the page's script shows the rows of the section
"Look inside" through `textContent` alone, and the Content-Security-Policy allows only the page's one script and one
style sheet, by their hashes.  Equal reports and rows give equal bytes.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from markupsafe import Markup

from rlhf_bench.harness.printable import printable_lines
from rlhf_bench.reports.inside import embedded
from rlhf_bench.reports.view import view

if TYPE_CHECKING:
    from jinja2 import Template

    from rlhf_bench.harness.text.types import Row

SCRIPTS = ("page.js", "compare.js", "carry.js", "inside.js")


def page(report: Row, inside: Row | None = None, *, beside: bool = False) -> str:
    """The page of `report`; `inside` (reports/inside.py) holds the responses and verdicts, None for a page without.

    `beside`: it reads more of them from files beside it.  Returns the whole HTML document.  Raises
    jinja2.UndefinedError where the template names what `view` does not give.
    """
    shown = view(report)
    rows = inside or {"tasks": [], "left_out": []}
    # the template shows the rows of the comparison; the script computes other ones from the estimates
    compare = [
        {"task": one["task"], **{key: value for key, value in one["compare"].items() if key != "rows"}}
        for one in shown["tasks"]
    ]
    data = {"compare": compare, "inside": rows}
    # one script and one style sheet, whose hashes the policy names: nothing else can run
    script, style = "\n".join(map(packaged, SCRIPTS)), packaged("page.css")
    text: str = template("page.html").render(
        **shown,
        inside=rows,
        # Markup, which autoescape leaves alone: files of this package, and JSON that `embedded` has made safe
        script=Markup(script),
        style=Markup(style),
        policy=policy(script, style, beside=beside),
        json=Markup(embedded(data)),
    )
    return text


def policy(script: str, style: str, *, beside: bool = False) -> str:
    """The Content-Security-Policy: nothing is loaded, and only this script and this style sheet are allowed.

    `beside`: and the scripts that this script itself adds to the page, the files of details ('strict-dynamic').  A
    script element in injected markup is still refused, whatever it names.  From disk nothing else would do: a page of
    file:// may not fetch, 'self' is not said to match its neighbours, and a hash of a script file needs the attribute
    `integrity`, which browsers refuse there because such a file is of another origin without CORS.

    Injected markup would run no script even if escaping failed.  Style attributes have no effect either, those of this
    package included: figures use classes of page.css.
    """
    dynamic = " 'strict-dynamic'" if beside else ""
    return (
        f"default-src 'none'; script-src '{digest(script)}'{dynamic}; style-src '{digest(style)}'; img-src blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def digest(text: str) -> str:
    """The hash source of an inline script or style (Content Security Policy): of the text between its tags."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def packaged(name: str) -> str:
    """The text of a file beside this module."""
    return files("rlhf_bench.reports").joinpath(name).read_text(encoding="utf-8")


@cache  # compiled once in a process that writes several pages
def template(name: str) -> Template:
    """The template in a file beside this module: it escapes every value that is no Markup."""
    from jinja2 import Environment, StrictUndefined

    def visible(value: object) -> object:
        """Control characters made visible in all text that is no markup of this package."""
        return printable_lines(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    # StrictUndefined: a misspelled name is an error, not an empty place on the page
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=visible, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(packaged(name))
