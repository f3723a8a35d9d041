"""Text that is safe to print and to encode: control characters made visible, lone surrogates replaced."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with control characters and line breaks written as escapes (`\\n`, `\\x1b`).

    Messages quote data, and an escape sequence in data could change what a terminal shows.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def printable_lines(text: str) -> str:
    """As `printable`, but line breaks are kept."""
    # not splitlines: it also splits at characters such as U+2028, which would then be lost
    return "\n".join(map(printable, text.split("\n")))


FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
"""What a formula of a spreadsheet begins with."""


def is_formula(text: str) -> bool:
    """Whether a spreadsheet could run the text of a cell; it skips white space before a formula."""
    return text.lstrip().startswith(FORMULA)


def well_formed(text: str) -> str:
    """The text with lone surrogates replaced by "?": model output may have them, and UTF-8 cannot encode them."""
    return text.encode("utf-8", "replace").decode("utf-8")
