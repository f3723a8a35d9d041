"""What a conformance check finds, and how a probe says that a rule is broken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rlhf_bench.harness.errors import BenchError, one_line

Probe = Callable[[], str]
"""Tries one rule.  Returns a detail to show ("" for none), or raises: BrokenError, or what the plugin raises."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome for one rule, `checked`; `detail` says what was seen, "" for nothing worth showing.

    `warns`: the rule is kept, and its author should read the detail all the same.
    """

    checked: str
    ok: bool
    detail: str = ""
    warns: bool = False


class Warned(str):
    """A probe's detail that is a warning."""

    __slots__ = ()


class BrokenError(Exception):
    """A rule is broken; the message says how."""


def attempt(checked: str, probe: Probe) -> Finding:
    """Call a probe.  Its exceptions become the finding's detail, SystemExit included: a plugin may call sys.exit.

    KeyboardInterrupt is no finding: it passes through.
    """
    try:
        seen = probe()
        return Finding(checked, True, seen, isinstance(seen, Warned))
    # ours say what is wrong in words; of a plugin's own exceptions the type is needed too
    except (BrokenError, BenchError) as error:
        return Finding(checked, False, str(error))
    except (Exception, SystemExit) as error:
        return Finding(checked, False, f"it raised {one_line(error)}")


def demand(kept: object, otherwise: str) -> None:
    """Raise BrokenError with the message `otherwise` unless `kept` is true."""
    if not kept:
        raise BrokenError(otherwise)


def sequence_of(found: object, kind: type[T], call: str) -> Sequence[T]:
    """`found`, if it is a sequence of objects of class `kind`; BrokenError otherwise, with `call` as its name."""
    # by hand, not by `demand`: mypy then knows the type below
    if not isinstance(found, Sequence):
        raise BrokenError(f"{call} is a {type(found).__name__}, not a list or tuple")
    strange = [one for one in found if not isinstance(one, kind)]
    demand(not strange, f"{call} holds {strange[:1]}, which is no {kind.__name__}")
    return found
