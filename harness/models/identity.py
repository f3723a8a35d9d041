"""The identity of a policy for stage keys.  A name is not enough: the files of a folder can change."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.hub import is_hub_id, split_revision
from rlhf_bench.harness.models.adapter_folders import read_adapter
from rlhf_bench.harness.models.gguf_files import as_folder, converted_from
from rlhf_bench.harness.models.lora import require_peft
from rlhf_bench.harness.models.policies import TOKENIZER_FILES, check_folder, tokenizer_source
from rlhf_bench.harness.models.tiny_policy import TINY, check_sizes
from rlhf_bench.harness.store import is_folder

if TYPE_CHECKING:
    from rlhf_bench.harness.settings import Settings
    from rlhf_bench.harness.text.types import JsonObject

TINY_SETTINGS = ("layers", "width", "heads", "vocabulary")
"""Settings that shape the tiny policy and have no meaning for another."""

WHOLE = 64 * 2**20
"""Bytes up to which a file is hashed completely."""


def policy_identity(source: str, settings: Settings) -> JsonObject:
    """{"name", "source", "settings", "sha256"} of a policy: `tiny`, a folder, a GGUF file, or a hub id.

    A GGUF file is converted here at its first use; its source is the folder it was converted to, its name and hash are
    the file's.  A hub id may be pinned (ID@REVISION); of an unpinned one the SFT stage records the commit that it
    loaded.  Raises BenchError for a folder without a model or tokenizer, and for a path that does not exist.
    """
    if settings.policy.lora:  # asked for here, where a run is planned, instead of hours later in SFT
        require_peft()
    if source == TINY:
        # here, at planning: the model itself is made by the first stage, maybe minutes later
        check_sizes(settings.policy.width, settings.policy.heads)
        return {"name": TINY, "source": TINY, "settings": settings.group("policy")}
    # without the sizes of the tiny policy: a change of them must not change the keys of other policies
    others = {k: v for k, v in settings.group("policy").items() if k not in TINY_SETTINGS}
    path = Path(as_folder(source)).expanduser()
    if original := converted_from(path):
        return {"name": original[0], "source": str(path), "sha256": original[1], "settings": others}
    if is_folder(path):  # before the hub: a folder named like a hub id is the folder, as in transformers
        adapter = read_adapter(path)
        model = Path(adapter.base) if adapter else path
        if is_folder(model):  # the base of an adapter may be a hub id, too
            check_folder(model)
            if not any(model.glob("*.safetensors")):
                raise BenchError(f"{model} has no safetensors weights.", "Save the model again with safetensors.")
        words = Path(tokenizer_source(path))
        if is_folder(words) and {p.name for p in words.iterdir()}.isdisjoint(TOKENIZER_FILES):
            raise BenchError(f"{words} has no tokenizer.", "Put the tokenizer's files beside the model.")
        sha = model_hash(path)
        return {"name": path.resolve().name, "source": str(path.resolve()), "sha256": sha, "settings": others}
    if is_hub_id(source):
        name, revision = split_revision(source)
        # the label becomes part of a path
        label = name.replace("/", "--") + (f"@{revision[:12]}" if revision else "")
        return {"name": label, "source": source, "sha256": "", "settings": others}
    raise BenchError(f"There is no policy {source!r}.", "Give 'tiny', a folder, or a hub id such as google/gemma-2b.")


def model_hash(path: Path) -> str:
    """`folder_hash` of a model's folder; of an adapter's, a hash of its files and of its base's, or its base's name.

    Raises BenchError for an adapter that cannot be used.
    """
    adapter, own = read_adapter(path), folder_hash(path)
    if adapter is None:
        return own
    base = Path(adapter.base)
    found = folder_hash(base) if is_folder(base) else adapter.base
    return hashlib.sha256(f"{own}:{found}".encode()).hexdigest()


def folder_hash(path: Path, without: Sequence[str] = ()) -> str:
    """sha256 of a model folder's files, in the order of their names, those of `without` left out.

    Of a file above WHOLE bytes its size and its first and last MiB are hashed: hashing many gigabytes takes minutes.
    """
    digest = hashlib.sha256()
    for file in sorted(p for p in path.iterdir() if p.is_file() and p.name not in without):
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}:".encode())  # so that bytes cannot move from one file to the next
        with file.open("rb") as stream:
            if size <= WHOLE:
                digest.update(stream.read())
            else:
                digest.update(stream.read(2**20))
                stream.seek(-(2**20), 2)  # from the end
                digest.update(stream.read())
    return digest.hexdigest()
