"""Names of models and data on the hub, pinned as ID@REVISION, and why one cannot be had, in one line.

Nothing here asks the network; `HF_HUB_OFFLINE` is honoured by the hub's own client, and said in the errors.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from rlhf_bench.harness.errors import BenchError, one_line

OFFLINE = "Go online (and unset HF_HUB_OFFLINE), or give a local folder."


def split_revision(source: str | Path) -> tuple[str, str | None]:
    """(id or path, revision) of ID@REVISION; a path that is there has no revision, whatever stands in its name."""
    name, at, revision = str(source).rpartition("@")
    if not at or Path(source).exists():
        return str(source), None
    if not name or not revision:
        raise BenchError(f"{source!r} has an empty id or revision.", "Write ID@REVISION, for example org/name@main.")
    return name, revision


def is_hub_id(source: str | Path) -> bool:
    """Whether a name can be a hub id (org/name, pinned or not); whether it is there only the hub can tell."""
    text = str(source)
    return not Path(text).exists() and text.count("/") == 1 and not text.startswith((".", "/", "~"))


def offline() -> bool:
    """Whether the environment forbids the network, as the hub's client reads it."""
    return any(
        os.environ.get(n, "").upper() in ("1", "ON", "YES", "TRUE") for n in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def why_not(error: BaseException, source: str | Path, what: str) -> BenchError:
    """`what` (a model, a tokenizer, data) cannot be had from `source`: the cause behind a library's error, and its fix.

    Libraries wrap the hub's errors in their own, so the whole chain of causes is looked through.
    """
    name, revision = split_revision(source)
    if Path(name).exists():
        return BenchError(f"No {what} can be loaded from {source}: {one_line(error)}.", "See: bench doctor")
    found = {type(link).__name__: link for link in _chain(error)}
    seen, fix = f"No {what} can be loaded from {source}", OFFLINE
    if "GatedRepoError" in found:
        return BenchError(
            f"{seen}: the repository is gated.", "Accept its terms on the hub, then log in: hf auth login, or HF_TOKEN."
        )
    if "RevisionNotFoundError" in found:
        return BenchError(f"{seen}: it has no revision {revision!r}.", "Give a branch, tag or commit of it.")
    if "RepositoryNotFoundError" in found:
        return BenchError(f"{seen}: no such repository, or a private one.", "Check the id, or log in: hf auth login.")
    if offline():
        return BenchError(f"{seen}: it is not in the local cache and HF_HUB_OFFLINE is set.", fix)
    if found.keys() & {"LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectError", "ConnectTimeout"}:
        return BenchError(f"{seen}: the hub cannot be reached and it is not in the local cache.", fix)
    return BenchError(f"{seen}: {one_line(error)}.", fix)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
