"""Hostile folders and files of data, for hostile.py."""

# ruff: noqa: ARG001, ARG005 - every builder takes the same arguments

from __future__ import annotations

import gzip
import json
import os
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

from hostile_folders import OUTWARD, SECRET, SHORT, TERMINAL, Build, Folder, target_of
from hostile_place import Place
from payloads import PAYLOADS
from small import settings


def dialogues(text: str = "I call you.", count: int = 60) -> list[dict[str, str]]:
    return [
        {"fname": f"d{i}", "dialogue": f"Anna: Hello {i}.\nBen: {text}", "summary": f"Anna greets {i}.", "topic": "x"}
        for i in range(count)
    ]


def as_lines(found: list[dict[str, str]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in found)


def data_folders() -> Iterator[Folder]:
    """`--set dialogsum.data=FOLDER` and `--data FOLDER`."""
    sizes = shlex.join(
        settings(("length-only",), world=False, **{k: v for k, v in SHORT.items() if not k.startswith("dialogsum.")})
    )
    run = f"run --task dialogsum --rm length-only --set dialogsum.data=shared --out new {sizes}"
    lines = (run, "run --task preferences --data shared --rm length-only --out new --dry-run")

    def with_files(**content: bytes) -> Build:
        def build(place: Place, stock: Path) -> None:
            shared = place.home / "shared"
            shared.mkdir()
            for name in ("train.jsonl", "validation.jsonl", "test.jsonl"):
                (shared / name).write_bytes(as_lines(dialogues()))
            for name, data in content.items():
                path = shared / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)

        return build

    def evil_pickle(*names: str, keep: bool = True) -> Build:
        def build(place: Place, stock: Path) -> None:
            from hostile_stock import pickles

            with_files()(place, stock)
            if not keep:
                for path in (place.home / "shared").iterdir():
                    path.unlink()
            pickles(place, place.home / "shared", names)

        return build

    def replaced(name: str, make_it: Callable[[Place, Path], object]) -> Build:
        def build(place: Place, stock: Path) -> None:
            with_files()(place, stock)
            (place.outside / "rows.jsonl").write_bytes(as_lines(dialogues(SECRET)))
            path = place.home / "shared" / name
            path.unlink(missing_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            make_it(place, path)

        return build

    yield Folder(
        "pickles in data",
        "beside rows",
        evil_pickle("rows.pkl", "rows.npz", "rows.npy", "rows.pt", "cache.arrow"),
        lines,
    )
    for name in ("train.npz", "train.npy", "train.pkl", "train.pt"):
        yield Folder("pickles in data", f"{name} alone", evil_pickle(name, keep=False), lines)
    for name in ("train.parquet", "train.jsonl", "train.jsonl.gz", "data-00000-of-00001.arrow", "state.json"):
        yield Folder("pickles in data", f"{name} is one", evil_pickle(name, keep=False), lines)
    script = b"import evil\nevil.run()\n"
    yield Folder(
        "code in data",
        "a loading script",
        with_files(**{"shared.py": script, "dialogsum.py": script, "conftest.py": script}),
        lines,
    )
    state = {
        "_data_files": [{"filename": "../outside/secret"}, {"filename": "/etc/passwd"}],
        "_format_type": "evil:run",
    }
    info = json.dumps(
        {"features": {"x": {"_type": "evil.run"}}, "builder_name": "evil", "citation": SECRET[:0]}
    ).encode()
    yield Folder(
        "code in data",
        "state.json names files elsewhere",
        with_files(**{"state.json": json.dumps(state).encode(), "dataset_info.json": info}),
        lines,
    )
    splits = json.dumps({"splits": ["../outside", "train"]}).encode()
    yield Folder(
        "code in data", "dataset_dict.json names folders elsewhere", with_files(**{"dataset_dict.json": splits}), lines
    )
    yield Folder(
        "code in data",
        "README with a script and a config",
        with_files(**{"README.md": b"---\nconfigs:\n- data_files: ../outside/secret\n---\n"}),
        lines,
    )

    for split in ("train", "test"):
        yield Folder(
            "links in data",
            f"{split} rows elsewhere",
            replaced(f"{split}.jsonl", lambda p, path: path.symlink_to(p.outside / "rows.jsonl")),
            lines,
        )
    for name, target in OUTWARD.items():
        yield Folder(
            "links in data",
            name,
            replaced("train.jsonl", lambda p, path, t=target: path.symlink_to(target_of(p, path, t))),
            lines,
        )
    yield Folder(
        "links in data", "a folder elsewhere", replaced("data", lambda p, path: path.symlink_to(p.outside)), lines
    )
    yield Folder(
        "links in data",
        "a folder within itself",
        replaced("data/more", lambda p, path: path.symlink_to(p.home / "shared")),
        lines,
    )
    yield Folder("links in data", "a pipe", replaced("train.jsonl", lambda p, path: os.mkfifo(path)), lines)

    yield Folder(
        "bombs in data",
        "a gzip file of one line",
        replaced("train.jsonl.gz", lambda p, path: (zipped(path, 8 * 2**30), (path.parent / "train.jsonl").unlink())),
        lines,
    )
    yield Folder(
        "bombs in data",
        "a gzip file of JSON",
        replaced("train.json.gz", lambda p, path: (zipped(path, 8 * 2**30), (path.parent / "train.jsonl").unlink())),
        lines,
    )
    yield Folder(
        "bombs in data",
        "a Parquet file of one repeated text",
        replaced("train.parquet", lambda p, path: (column(path), (path.parent / "train.jsonl").unlink())),
        lines,
    )
    yield Folder("bombs in data", "JSON of a million levels", with_files(**{"train.jsonl": b"[" * 10**6}), lines)
    yield Folder(
        "bombs in data",
        "a number of a million digits",
        with_files(**{"train.jsonl": b'{"dialogue": ' + b"9" * 10**6 + b"}\n"}),
        lines,
    )
    for name, text in {"tags": " ".join(PAYLOADS), "escapes": TERMINAL}.items():
        yield Folder(
            "texts for pages and terminals",
            f"{name} in data",
            with_files(**{f"{split}.jsonl": as_lines(dialogues(text)) for split in ("train", "test")}),
            lines,
        )


def zipped(path: Path, size: int) -> None:
    """A gzip file of one row of so many bytes, of a few MB: members may follow one another."""
    member = gzip.compress(b"x" * 2**26, 9)
    path.write_bytes(gzip.compress(b'{"fname": "') + member * (size // 2**26))


def column(path: Path) -> None:
    """A Parquet file of a few kB whose one column holds a text of a megabyte a million times."""
    import pyarrow as pa
    from pyarrow import parquet

    text = pa.DictionaryArray.from_arrays(pa.array([0] * 200_000, pa.int32()), pa.array(["x" * 2**20]))
    parquet.write_table(pa.table({"dialogue": text, "summary": text, "fname": text}), path)
