"""Policies in GGUF files, as llama.cpp and its kin use them: read through transformers, and kept as safetensors.

A file is converted once, into a folder of the user's cache that is named by the file's content.  Quantised weights are
unpacked to float32, which holds them exactly.  From there on the policy is a folder like any other.

The header is read here first, so that an empty, damaged or split file, or one that transformers would misread, is
refused in one line.  Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import re
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_bench.harness import cache, store
from rlhf_bench.harness.errors import BenchError, one_line
from rlhf_bench.harness.models.tensors import check_report

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject

SUFFIX = ".gguf"
RECORD = "gguf.json"
"""In the folder of a converted file: the file's name and the hash of what it was converted from."""
SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf\Z")
COPY = "Copy the file again."
SAFETENSORS = "Give the model in safetensors."
WIDTHS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Formats of the values of fixed size, as `struct` names them, by their type's number."""
STRING, ARRAY = 8, 9
ENCODINGS = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "chat_template.jinja")
"""Files of a tokenizer that, in a folder with the weights, go before the tokenizer inside of a file."""


def require_gguf(source: str | Path) -> None:
    """Raises BenchError where the optional package is missing."""
    if find_spec("gguf") is None:
        raise BenchError(f"{source} needs the package gguf.", "pip install 'rlhf-bench[gguf]'")


def is_gguf(source: str | Path) -> bool:
    """Whether `source` is a GGUF file by its name, or a folder whose only weights are such files."""
    path = Path(source).expanduser()
    if path.suffix == SUFFIX:
        return store.exists(path) and path.is_file()
    if not store.is_folder(path) or any(path.glob("*.safetensors")):
        return False
    return any(path.glob(f"*{SUFFIX}"))


def refuse_gguf(source: str | Path) -> None:
    """Raises BenchError for a GGUF file where another model than a policy is wanted."""
    if is_gguf(source):
        fix = "Convert it: load it with transformers (gguf_file=NAME) and save_pretrained() it."
        raise BenchError(f"{source} is in GGUF, which is read here for a policy alone.", fix)


def as_folder(source: str) -> str:
    """The folder that a GGUF file is converted to, made at its first use; any other source as it is.

    Raises BenchError where the optional package is missing, for a file that is damaged, one part of several, or of an
    architecture that transformers cannot read from GGUF, and where the cache cannot be written.
    """
    if not is_gguf(source):
        if source.endswith(SUFFIX):
            raise BenchError(f"There is no file {source}.", "Give the path of a GGUF file, or of a model's folder.")
        return source
    path = Path(source).expanduser()
    file = path if path.is_file() else _only_file(path)
    require_gguf(source)
    check_whole(file, read_header(file))
    digest = _digest(path, file)
    base = weights_folder()
    folder = base / f"{file.stem}-{digest[:16]}-{version('transformers')}"
    if not (folder / RECORD).is_file():
        _converted(path, file, digest, folder)
    return str(folder)


def converted_from(folder: Path) -> tuple[str, str] | None:
    """(name, hash) of the GGUF file that a folder of the cache was made from; None for any other folder."""
    try:
        # a record elsewhere may come from someone else, and say anything
        if folder.resolve().parent != weights_folder().resolve():
            return None
        record: JsonObject = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return str(record["name"]), str(record["sha256"])
    except (BenchError, OSError, ValueError, KeyError, TypeError):
        return None


def weights_folder() -> Path:
    """The folder of the user's cache for converted weights.  Raises BenchError where it cannot be used."""
    base = cache.user_folder()
    folder = None if base is None else base.with_name("weights")
    if folder is None or not cache.is_own(folder):
        seen = f"Converted weights cannot be kept in {folder or 'the cache: there is no home folder'}."
        raise BenchError(seen, "Set XDG_CACHE_HOME to a folder of your own.")
    return folder


def _only_file(folder: Path) -> Path:
    files = sorted(folder.glob(f"*{SUFFIX}"))
    if len(files) > 1 and not SPLIT.search(files[0].name):
        seen = f"{folder} has {len(files)} GGUF files: {files[0].name}, {files[1].name} ..."
        raise BenchError(seen, f"Name one: {files[0]}")
    return files[0]


def _digest(source: Path, file: Path) -> str:
    """sha256 of the file, and of a tokenizer's files beside it where the folder was named."""
    stamp = file.stat()
    parts = [_file_hash(file, stamp.st_size, stamp.st_mtime_ns)]
    parts += [_file_hash(one, 0, 0) for one in _encodings(source)]
    return parts[0] if len(parts) == 1 else hashlib.sha256("".join(parts).encode()).hexdigest()


def _encodings(source: Path) -> list[Path]:
    return [source / name for name in ENCODINGS if (source / name).is_file()] if source.is_dir() else []


@lru_cache  # several parts of a plan ask: reading gigabytes takes seconds
def _file_hash(file: Path, size: int, changed: int) -> str:  # noqa: ARG001 - what a file of this name is now
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# ---- the header ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Header:
    """What stands before the weights.

    `values`: metadata, of arrays their lengths; `tensors`: name to (shape, type, offset).

    Shapes have the fastest-moving dimension first.  `start` is where the data begins, in bytes.
    """

    values: Mapping[str, Any]
    tensors: Mapping[str, tuple[tuple[int, ...], int, int]]
    start: int

    @property
    def architecture(self) -> str:
        """The name of the model's family, "" where none is stated."""
        return str(self.values.get("general.architecture", ""))


def read_header(file: Path) -> Header:
    """The header of a GGUF file.  Raises BenchError for a file that is none, is cut off, or is of another version."""
    if file.stat().st_size == 0:
        raise BenchError(f"{file} is empty.", COPY)
    try:
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _header(_Reader(data))
    except (struct.error, UnicodeDecodeError, ValueError, OSError, OverflowError) as error:
        raise BenchError(f"{file} is no whole GGUF file: {one_line(error)}.", COPY) from None


class _Reader:
    """Reads values one after the other; struct.error past the end."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 0

    def number(self, form: str) -> Any:
        (value,) = struct.unpack_from(f"<{form}", self.data, self.at)
        self.at += struct.calcsize(f"<{form}")
        return value

    def count(self, least: int) -> int:
        """A number of things of at least `least` bytes each.  Raises ValueError where the file cannot hold them."""
        value: int = self.number("Q")
        if value * least > len(self.data) - self.at:
            raise ValueError(f"it states {value:,} entries and ends before them")
        return value

    def text(self) -> str:
        length = self.count(1)
        found = self.data[self.at : self.at + length].decode("utf-8")
        self.at += length
        return found

    def skip(self, kind: int, depth: int = 0) -> Any:
        """The value of a type; of an array, which is passed over, its length."""
        if kind in WIDTHS:
            return self.number(WIDTHS[kind])
        if kind == STRING:
            return self.text()
        if kind != ARRAY or depth > 2:
            raise ValueError(f"it has a value of the unknown type {kind}")
        inner = self.number("I")
        if inner in WIDTHS:
            width = struct.calcsize(f"<{WIDTHS[inner]}")
            many = self.count(width)
            self.at += many * width
            return many
        many = self.count(8)
        for _ in range(many):
            self.skip(inner, depth + 1)
        return many


def _header(read: _Reader) -> Header:
    if read.data[:4] != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    read.at = 4
    if (stated := read.number("I")) not in (2, 3):
        raise ValueError(f"its version is {stated}, known are 2 and 3")
    tensors, values = read.count(0), read.count(0)
    if max(tensors, values) * 12 > len(read.data):
        raise ValueError(f"it states {max(tensors, values):,} entries and ends before them")
    found = {}
    for _ in range(values):
        key = read.text()
        found[key] = read.skip(read.number("I"))
    table = {}
    for _ in range(tensors):
        name = read.text()
        dimensions = read.number("I")
        if dimensions > 8:
            raise ValueError(f"the tensor {name} has {dimensions} dimensions")
        shape = tuple(read.number("Q") for _ in range(dimensions))
        table[name] = (shape, read.number("I"), read.number("Q"))
    step = int(found.get("general.alignment") or 32)
    return Header(found, table, -(-read.at // step) * step)


def check_whole(file: Path, header: Header) -> None:
    """Raises BenchError unless the file is one whole model that transformers reads as it is meant."""
    part = SPLIT.search(file.name)
    parts = int(header.values.get("split.count") or (part and part[2]) or 1)
    if parts > 1:
        fix = "Join them: llama-gguf-split --merge FIRST_PART JOINED.gguf"
        raise BenchError(f"{file} is one of {parts} parts of a model.", fix)
    if not header.architecture:
        raise BenchError(f"{file} names no architecture.", SAFETENSORS)
    if not header.tensors:
        raise BenchError(f"{file} holds no weights.", "Give the file with the model's weights.")
    if "tokenizer.ggml.model" not in header.values:
        raise BenchError(f"{file} has no tokenizer.", SAFETENSORS)
    layers = header.values.get(f"{header.architecture}.block_count")
    if not isinstance(layers, int) or not 0 < layers <= len(header.tensors):
        seen = f"{file} states {layers!r} layers and holds {len(header.tensors)} tensors."
        raise BenchError(seen, COPY)
    if "rope_freqs.weight" in header.tensors or "rope_factors_long.weight" in header.tensors:
        seen = f"{file} scales its rotary positions by a tensor (Llama 3 and others), which transformers does not read."
        raise BenchError(seen, SAFETENSORS)
    _check_size(file, header)


def _check_size(file: Path, header: Header) -> None:
    """Raises BenchError where the file ends before its weights, or has a type of numbers that is not known."""
    from gguf import GGML_QUANT_SIZES

    sizes = {int(kind): size for kind, size in GGML_QUANT_SIZES.items()}
    held = file.stat().st_size
    for name, (shape, kind, offset) in header.tensors.items():
        if kind not in sizes:
            raise BenchError(f"{file}: the tensor {name} is of the unknown type {kind}.", "Update the package gguf.")
        block, width = sizes[kind]
        if (end := header.start + offset + prod(shape) // block * width) > held:
            raise BenchError(f"{file} is cut off: {name} ends at byte {end:,}, the file at {held:,}.", COPY)


# ---- conversion ----------------------------------------------------------------------------------------------------


def _converted(source: Path, file: Path, digest: str, folder: Path) -> None:
    """Convert `file` into `folder`, which is there whole or not at all.  Raises BenchError where that fails."""
    aside = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        aside.mkdir(mode=0o700)
        _write(source, file, aside)
        record = {"name": file.stem, "file": file.name, "sha256": digest}
        (aside / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        with contextlib.suppress(OSError):  # another process was faster: its folder holds the same
            aside.rename(folder)
        if not (folder / RECORD).is_file():
            raise OSError(f"{folder} cannot be made")
    except OSError as error:
        seen = f"{file} cannot be converted into {folder.parent}: {one_line(error)}."
        raise BenchError(seen, "It takes 4 bytes a weight there; XDG_CACHE_HOME names another place.") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write(source: Path, file: Path, folder: Path) -> None:
    """Write the model in float32 and its tokenizer, as `save_pretrained` does."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from rlhf_bench.harness.models.policies import quiet_transformers

    name = {"gguf_file": file.name}
    try:
        with quiet_transformers():
            model, report = AutoModelForCausalLM.from_pretrained(
                file.parent, dtype=torch.float32, output_loading_info=True, trust_remote_code=False, **name
            )
            words = {} if _encodings(source) else name
            tokenizer = AutoTokenizer.from_pretrained(file.parent, trust_remote_code=False, **words)
    except Exception as error:  # transformers raises many kinds
        seen = f"transformers cannot read {file}: {one_line(error)}."
        raise BenchError(seen, SAFETENSORS) from error
    check_report(str(file), report, left=lambda _: True)
    header = read_header(file)
    scaling = header.values.get(f"{header.architecture}.rope.scaling.type", "none")
    if scaling != "none" and not _is_scaled(model.config):
        seen = f"{file} scales its rotary positions ({scaling}), which transformers does not read."
        raise BenchError(seen, SAFETENSORS)
    # a model from GGUF counts as quantised, and is not saved: its weights go into a fresh one, without a copy
    config = type(model.config).from_dict({**model.config.to_dict(), "quantization_config": None})
    del config.quantization_config
    with torch.device("meta"):
        fresh = type(model)(config)
    fresh.load_state_dict(model.state_dict(), assign=True)
    fresh.tie_weights()
    fresh.generation_config = model.generation_config
    fresh.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if words:
        _drop_tokens(folder / "tokenizer.json", header.values.get("tokenizer.ggml.tokens", 0))


def _is_scaled(config: object) -> bool:
    """Whether a configuration scales rotary positions, in any kind of layer."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = [one for one in rope.values() if isinstance(one, dict)] or [rope]
    return any(one.get("rope_type", "default") != "default" for one in kinds)


def _drop_tokens(file: Path, known: int) -> None:
    """Take tokens out of a tokenizer.json that the GGUF file with `known` tokens lacks.

    transformers adds GPT-2's <|endoftext|> to every byte-level vocabulary, beyond the last embedding where it is new.
    """
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    tokenizer["added_tokens"] = [one for one in tokenizer["added_tokens"] if one["id"] < known]
    file.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
