"""What a conformance check found, and how a probe says that a rule is broken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rlhf_bench.harness.errors import BenchError, one_line

Probe = Callable[[], str]
"""Tries one rule: returns what is worth telling, or raises."""

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule: `detail` says what was seen."""

    checked: str
    ok: bool
    detail: str = ""


class BrokenError(Exception):
    """A rule is broken; the message says how."""


def attempt(checked: str, probe: Probe) -> Finding:
    """The probe's finding, whatever a plugin raises inside it."""
    try:
        return Finding(checked, True, probe())
    except (BrokenError, BenchError) as error:
        return Finding(checked, False, str(error))
    except (Exception, SystemExit) as error:
        return Finding(checked, False, f"it raised {one_line(error)}")


def demand(kept: object, otherwise: str) -> None:
    """Raise BrokenError unless the rule is kept."""
    if not kept:
        raise BrokenError(otherwise)


def rows_of_kind(found: object, kind: type[Row], call: str) -> Sequence[Row]:
    """`found`, when it is a sequence of `kind`."""
    if not isinstance(found, Sequence):
        raise BrokenError(f"{call} is a {type(found).__name__}, not a list or tuple")
    strange = [row for row in found if not isinstance(row, kind)]
    demand(not strange, f"{call} holds {strange[:1]}, which is no {kind.__name__}")
    return found
