"""A module's forward replaced for a while, whatever ends it, and whoever has replaced it before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def patched_forward(module: Any, function: Callable[..., Any]) -> Iterator[None]:
    """Inside, `module` computes function(its own forward, ...)."""
    inner, own = module.forward, vars(module).get("forward")
    module.forward = lambda *given, **named: function(inner, *given, **named)
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:  # somebody else's wrapper
            module.forward = own
