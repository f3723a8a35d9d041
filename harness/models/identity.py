"""What a policy is, as far as keys are concerned: its name is not enough when a folder's files change."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.hub import is_hub_id, split_revision
from rlhf_bench.harness.models.lora import require_peft
from rlhf_bench.harness.models.policies import check_folder
from rlhf_bench.harness.models.tiny_policy import TINY

if TYPE_CHECKING:
    from rlhf_bench.harness.settings import Settings

SIZES = ("layers", "width", "heads", "vocabulary")
"""Settings that make the tiny policy and mean nothing to another."""
WHOLE = 64 * 2**20


def policy_identity(source: str, settings: Settings) -> dict[str, Any]:
    """{"name", "source", "settings", "sha256"} of a policy: `tiny`, a folder, or a hub id, which may be pinned
    (ID@REVISION; unpinned, the commit it was then is recorded by the SFT stage).

    Raises BenchError for a folder that is no model and for a path that is not there.
    """
    if settings.policy.lora:
        require_peft()
    if source == TINY:
        return {"name": TINY, "source": TINY, "settings": settings.group("policy")}
    handling = {k: v for k, v in settings.group("policy").items() if k not in SIZES}
    path = Path(source).expanduser()
    if path.is_dir():
        _check(path)
        sha = folder_hash(path)
        return {"name": path.resolve().name, "source": str(path.resolve()), "sha256": sha, "settings": handling}
    if is_hub_id(source):
        name, revision = split_revision(source)
        label = name.replace("/", "--") + (f"@{revision[:12]}" if revision else "")
        return {"name": label, "source": source, "sha256": "", "settings": handling}
    raise BenchError(f"There is no policy {source!r}.", "Give 'tiny', a folder, or a hub id such as google/gemma-2b.")


def _check(path: Path) -> None:
    check_folder(path)
    names = {p.name for p in path.iterdir()}
    if not any(n.endswith(".safetensors") for n in names):
        raise BenchError(f"{path} has no safetensors weights.", "Save the model again with safetensors.")
    if not names & {
        "tokenizer.json",
        "tokenizer.model",
        "vocab.json",
        "vocab.txt",
        "spiece.model",
        "tokenizer_config.json",
    }:
        raise BenchError(f"{path} has no tokenizer.", "Put the tokenizer's files beside the model.")


def folder_hash(path: Path, without: Sequence[str] = ()) -> str:
    """sha256 over a model folder's files; of a file above 64 MiB its size and both ends stand for the rest."""
    digest = hashlib.sha256()
    for file in sorted(p for p in path.iterdir() if p.is_file() and p.name not in without):
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}:".encode())
        with file.open("rb") as stream:
            if size <= WHOLE:
                digest.update(stream.read())
            else:
                digest.update(stream.read(2**20))
                stream.seek(-(2**20), 2)
                digest.update(stream.read())
    return digest.hexdigest()
