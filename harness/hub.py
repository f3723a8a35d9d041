"""Names of models and data on the Hugging Face hub (ID or ID@REVISION), and one-line errors for what cannot be loaded.

Nothing here uses the network.  The hub's own client obeys HF_HUB_OFFLINE; the errors mention it where it is the cause.
"""

from __future__ import annotations

import os
from pathlib import Path

from rlhf_bench.harness.errors import BenchError, one_line

OFFLINE = "Go online (and unset HF_HUB_OFFLINE), or give a local folder."


def split_revision(source: str | Path) -> tuple[str, str | None]:
    """(id or path, revision) of ID@REVISION; an existing path has no revision, even with an @ in its name.

    Raises BenchError for an empty id or revision.
    """
    name, at, revision = str(source).rpartition("@")
    if not at or Path(source).exists():
        return str(source), None
    if not name or not revision:
        raise BenchError(f"{source!r} has an empty id or revision.", "Write ID@REVISION, for example org/name@main.")
    return name, revision


def is_hub_id(source: str | Path) -> bool:
    """Whether a name has the form of a hub id (org/name, pinned or not) and is no existing path.

    The hub is not asked, so a model of this name need not exist.
    """
    text = str(source)
    return not Path(text).exists() and text.count("/") == 1 and not text.startswith((".", "/", "~"))


def offline() -> bool:
    """Whether the environment forbids the network, read as the hub's client reads it."""
    # The texts of huggingface_hub.constants, which takes TRANSFORMERS_OFFLINE for its own variable too.
    return any(
        os.environ.get(n, "").upper() in ("1", "ON", "YES", "TRUE") for n in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def load_error(error: BaseException, source: str | Path, what: str) -> BenchError:
    """The error to raise when `what` (a model, a tokenizer, data) cannot be loaded from `source`, with its cause.

    `error` is what the library raised.  The fix depends on the cause: access, revision, id, or no network.
    """
    name, revision = split_revision(source)
    if Path(name).exists():
        return BenchError(f"No {what} can be loaded from {source}: {one_line(error)}.", "See: bench doctor")
    # Libraries wrap the hub's errors in their own, so the causes count as well.  They are told by the names of their
    # classes, so that huggingface_hub is not imported for them.
    chain: dict[int, BaseException] = {}
    cause: BaseException | None = error
    while cause is not None and id(cause) not in chain:  # a chain of causes can contain itself
        chain[id(cause)] = cause
        cause = cause.__cause__ or cause.__context__
    causes = {type(one).__name__ for one in chain.values()}
    seen = f"No {what} can be loaded from {source}"
    if "GatedRepoError" in causes:
        return BenchError(
            f"{seen}: the repository is gated.", "Accept its terms on the hub, then log in: hf auth login, or HF_TOKEN."
        )
    if "RevisionNotFoundError" in causes:
        return BenchError(f"{seen}: it has no revision {revision!r}.", "Give a branch, tag or commit of it.")
    if "RepositoryNotFoundError" in causes:
        return BenchError(f"{seen}: no such repository, or a private one.", "Check the id, or log in: hf auth login.")
    # After what the hub itself said: without the network it says nothing, and the name may still be right.
    if offline():
        return BenchError(f"{seen}: it is not in the local cache and HF_HUB_OFFLINE is set.", OFFLINE)
    if causes & {"LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectError", "ConnectTimeout"}:
        return BenchError(f"{seen}: the hub cannot be reached and it is not in the local cache.", OFFLINE)
    return BenchError(f"{seen}: {one_line(error)}.", OFFLINE)
