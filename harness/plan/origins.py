"""Where a task's data come from, as far as the task says so, and what reports call it.

A task without `origin` may have any data: it is labelled "origin not stated", never "real".
"""

from __future__ import annotations

from collections.abc import Mapping

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Origin, to_row
from rlhf_bench.harness.seams import Task

KINDS = ("generated", "real")
"""The kinds that a task can state (`nouns.Origin`)."""
NOT_STATED = "not stated"
"""The kind in the record of a run whose task states none."""
LABEL = "origin not stated"
"""What reports, exports, checks and lists show instead of a kind."""
NOT_SAID = "a task that does not say where its data come from"
"""The description of such an origin, also in records of earlier versions, which called its kind "real"."""


def origin_of(task: Task) -> Origin:
    """The origin that the task states, else one of kind NOT_STATED with the hash of its content.

    Raises BenchError for an origin that is no `Origin`, and what the task's members raise; `open_task` makes a
    BenchError of the latter.
    """
    stated = getattr(task, "origin", None)  # None states no more than no member does
    if isinstance(stated, Origin):
        return stated
    if stated is not None:
        raise BenchError(f"The task's origin is a {type(stated).__name__}, not an Origin.", "See: bench check task")
    # examples and pairs: the hash names the data in keys, so every row must enter it
    rows = [to_row(e) for split in ("sft", "train", "test") for e in task.examples(split)]
    rows += [to_row(pair) for split in ("train", "test") for pair in task.pairs(split)]
    # Origin's own type lists what a task can state; a wider one would change the keys of all stored results
    return Origin(NOT_STATED, NOT_SAID, store.content_key(rows))  # type: ignore[arg-type]


def is_stated(origin: Mapping[str, str]) -> bool:
    """Whether the origin in a record or a report says where the data come from: its kind, and a description.

    Records of earlier versions name a kind where none was stated; their description tells.
    """
    description = origin.get("description", "").strip()
    return origin.get("kind") in KINDS and description != "" and not description.startswith(NOT_SAID)


def kind_label(origin: Mapping[str, str]) -> str:
    """ "generated" or "real" as the task states it, else LABEL."""
    return origin["kind"] if is_stated(origin) else LABEL
