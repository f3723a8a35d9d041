"""Text made safe to print and to encode: control characters made visible, lone surrogates replaced."""

from __future__ import annotations


def printable(text: str) -> str:
    """One line, control characters made visible: messages may quote data."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def printable_lines(text: str) -> str:
    """As `printable`, keeping line breaks."""
    return "\n".join(map(printable, text.split("\n")))


def well_formed(text: str) -> str:
    """The text with lone surrogates replaced: they exist in model output and in no UTF-8 request."""
    return text.encode("utf-8", "replace").decode("utf-8")
