"""Removes the API key from what a server sends back, in whatever form it comes.

Servers quote the request in errors, proxies echo headers, and what is received is stored in the cache and shown.
"""

from __future__ import annotations

import html
import json
import re
from typing import Any
from urllib.parse import unquote

SHORTEST = 6
"""Shorter keys are placeholders of local servers ("none", "EMPTY"): they are no secret, and common in texts."""
SHOWN = "[key]"
LEVELS = 4
"""How many layers of escapes are undone: an error message may quote JSON that quotes JSON."""
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)", re.DOTALL)


def scrub(text: str, key: str) -> str:
    """The text without the key, which may be written plainly or in the escapes of JSON, URLs or HTML."""
    if len(key) < SHORTEST:
        return text
    plain = text.replace(key, SHOWN)
    if not _holds(plain, key):
        return plain
    # escaped: each text of the JSON value by itself, so that the rest of a response stays readable
    try:
        found = json.loads(plain, object_pairs_hook=lambda pairs: {_value(k, key): _value(v, key) for k, v in pairs})
        cleaned = json.dumps(found)
    except (ValueError, RecursionError):
        return SHOWN
    return SHOWN if _holds(cleaned, key) else cleaned


def _value(value: Any, key: str) -> Any:
    if isinstance(value, list):
        return [_value(one, key) for one in value]
    if not isinstance(value, str):
        return value  # objects are cleaned from the inside out
    plain = value.replace(key, SHOWN)
    return SHOWN if _holds(plain, key) else plain


def _holds(text: str, key: str) -> bool:
    """Whether the key shows in a text once its escapes are undone."""
    for _ in range(LEVELS):
        before, text = text, html.unescape(unquote(_ESCAPE.sub(_meant, text)))
        if key in text:
            return True
        if text == before:
            return False
    return False


def _meant(escape: re.Match[str]) -> str:
    """The character of a backslash escape; an unknown one is the character after the backslash."""
    found = escape[1]
    if len(found) > 1:
        return chr(int(found[1:], 16))
    return {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}.get(found, found)
