"""Changes of stored JSON and JSON Lines files: of values at random places of the parsed file, and of its bytes.

A `Change` is plain data, so that what broke a reader can be made again.  `Folder` applies changes to a results folder
and takes them back; a changed file gets a new inode, so that no cache of this process takes it for the old one.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_bench.harness.pipeline import integrity

AS_IS, SEALED, OLDER = "as is", "sealed", "older"
"""What follows the changes: nothing; new hashes in all records, as someone who shares a folder can write them; or no
hashes at all, as in records of earlier versions."""
PLACE = "@PLACE@"
"""Stands for the folder that holds the results folder, in values."""
VALUES = (
    *("null", "true", "false", "0", "1", "-1", "2", "0.5", "-0.0", "1e308", "1e999", "-1e999", "5e-324", "NaN"),
    *("Infinity", "1" + "0" * 30, "-" + "9" * 400, "7" * 5000, "1e-400", "[]", "{}", "[[]]", "[null]", '{"": null}'),
    *('""', '" "', '"x"', '"\\ud800"', '"\\u0000"', '"\\u202e\\u2028\\u0085"', '"\\u001b[31m"', '"a\\nb"', '"0"'),
    *('"nan"', '"1e999"', '".."', '"."', '"~"', '"../../outside/secret"', f'"{PLACE}/outside/secret"', '"/etc/passwd"'),
    *('"a/b"', '"os:system"', '"all"', '"sample"', '"greedy"', '"<script>alert(1)</script>"', '"[b]|x|`"'),
    *('"{0}"', '"%s"', '"' + "x" * 300 + '"', '"' + "long " * 2000 + '"', '"\\ud83d\\ude00\\u0301"'),
    *("[" * 300 + "]" * 300, "[" * 100_000, '{"a":' * 1500 + "1" + "}" * 1500, '{"a": 1, "a": "2"}', "[1, [2], {}]"),
)
"""JSON texts, a few of them none, that are put in the place of a value."""
NAMES = ("", "..", "x", "a/b", "all", "\ud800", "record_sha256", "files", "<b>", "0", "a\nb", "__class__", "x" * 300)


class Change(NamedTuple):
    """`way` on the file `file`; `at` is a path of names and numbers, or of one number of bytes; `value` a JSON text,
    another file or a name."""

    file: str
    way: str
    at: tuple[str | int, ...] = ()
    value: str = ""


class Input(NamedTuple):
    """Changes, and what is done about the hashes that they break."""

    changes: tuple[Change, ...]
    hashes: str

    def text(self) -> str:
        changes = [list(one) for one in self.changes]
        return json.dumps([self.hashes, changes])[:1500]


Files = dict[str, bytes]


class Mutator:
    """Draws inputs for the files of one folder: {path below it: content}."""

    def __init__(self, files: Files, rng: random.Random) -> None:
        self.files, self.rng = files, rng
        self.parsed: dict[str, Any] = {}
        # by name first: of a few names there are many files
        self.names: dict[str, list[str]] = {}
        for name in sorted(files):
            self.names.setdefault(kind_of(name), []).append(name)

    def parse(self, file: str) -> Any:
        if file not in self.parsed:
            self.parsed[file] = parse(file, self.files[file])
        return self.parsed[file]

    def input(self, kinds: Sequence[str], corpus: Sequence[Input]) -> Input:
        rng = self.rng
        hashes = rng.choice((AS_IS, SEALED, SEALED, SEALED, OLDER))
        known = [kind for kind in kinds if kind in self.names]
        base: tuple[Change, ...] = ()
        if corpus and rng.random() < 0.5:
            found = rng.choice(corpus[-200:])
            base, hashes = found.changes, found.hashes if rng.random() < 0.8 else hashes
            if len(base) > 1 and rng.random() < 0.4:
                base = tuple(rng.sample(base, len(base) - 1))
        more = [self.change(rng.choice(known)) for _ in range(rng.choice((1, 1, 1, 1, 2, 3)))]
        return Input((*base, *more)[-5:], hashes)

    def change(self, kind: str) -> Change:
        rng = self.rng
        file = rng.choice(self.names[kind])
        if rng.random() < 0.1:
            return self.of_bytes(file)
        at = self.place(file)
        way = rng.choice(("set", "set", "set", "set", "copy", "delete", "double", "rename", "retype", "reverse"))
        if way == "set":
            return Change(file, way, at, rng.choice(VALUES))
        if way == "copy":  # a value of the right form in the wrong place
            other = file if rng.random() < 0.6 else rng.choice(self.names[rng.choice(list(self.names))])
            return Change(file, "set", at, json.dumps(value_at(self.parse(other), self.place(other))))
        if way == "rename":
            return Change(file, way, at, rng.choice((*NAMES, str(rng.choice(at)) if at else "y")))
        return Change(file, way, at)

    def of_bytes(self, file: str) -> Change:
        rng = self.rng
        way = rng.choice(("cut", "flip", "flip", "insert", "remove", "swap", "empty", "link", "folder"))
        size = len(self.files[file])
        at = (rng.randrange(size + 1),)
        if way == "swap":
            alike = self.names[kind_of(file)]
            return Change(file, way, (), rng.choice(alike if rng.random() < 0.7 else sorted(self.files)))
        value = rng.choice(("\ufeff", "\x00", "\n", "}", '"', ",", "\xff", "[", "0", "\r")) if way == "insert" else ""
        return Change(file, way, at, value or (str(rng.randrange(8)) if way == "flip" else ""))

    def place(self, file: str) -> tuple[str | int, ...]:
        """A random place in the parsed file, shallow ones as likely as deep ones."""
        value, at = self.parse(file), []
        while isinstance(value, dict | list) and value and (not at or self.rng.random() < 0.75):
            step = self.rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
            at.append(step)
            value = value[step]
        return tuple(at)


def kind_of(file: str) -> str:
    """What is drawn with equal chance: the folder of a kind of stage with the name in it."""
    parts = file.split("/")
    return f"{parts[0]}/{parts[-1]}" if parts[0] not in ("cells", "experiments") else parts[0] + f"/{len(parts)}"


def parse(file: str, content: bytes) -> Any:
    if file.endswith(".jsonl"):
        return [json.loads(line) for line in content.decode("utf-8").splitlines()]
    return json.loads(content)


def value_at(value: Any, at: Sequence[str | int]) -> Any:
    for step in at:
        value = value[step]
    return value


class Raw:
    """JSON texts that no Python value gives, by the placeholder that stands for each."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def put(self, text: str) -> str:
        name = f"@RAW{len(self.texts)}@"
        self.texts[name] = text
        return name

    def dumps(self, value: Any) -> str:
        text = json.dumps(value)
        for name, raw in self.texts.items():
            text = text.replace(f'"{name}"', raw)
        return text


def changed(value: Any, way: str, at: Sequence[str | int], text: str, raw: Raw) -> Any:
    """The value with a change at a place, which may be gone by an earlier change."""
    if not at:
        return raw.put(text) if way == "set" else retyped(value) if way == "retype" else value
    step, rest = at[0], at[1:]
    try:
        inner = value[step]
    except (LookupError, TypeError):
        return value
    copy = dict(value) if isinstance(value, dict) else list(value) if isinstance(value, list) else None
    if copy is None:
        return value
    if rest:
        copy[step] = changed(inner, way, rest, text, raw)
    elif way in ("set", "retype", "reverse"):
        reverse = inner[::-1] if isinstance(inner, list | str) else inner
        copy[step] = raw.put(text) if way == "set" else retyped(inner) if way == "retype" else reverse
    elif way == "delete":
        del copy[step]
    elif isinstance(copy, list):
        copy.insert(step, inner)  # type: ignore[arg-type]
    elif way == "rename":
        return {text if name == step else name: inner for name, inner in copy.items()}
    else:
        copy[f"{step} "] = inner
    return copy


def retyped(value: Any) -> Any:
    """The value in another type that holds as much."""
    match value:
        case bool() | None:
            return str(value)
        case int() | float():
            return str(value) if value != int(value) or value % 2 else [value]
        case str():
            return [value] if len(value) % 2 else {value: value}
        case list():
            return {str(at): one for at, one in enumerate(value)}
        case dict():
            return list(value.values())
    return value


class Folder:
    """A results folder at `root`, whose files are changed and given back."""

    def __init__(self, root: Path, files: Files) -> None:
        self.root, self.files = root, files
        self.aside = root.with_name("aside")
        self.aside.mkdir(exist_ok=True)
        self.moved: dict[Path, Path] = {}

    def contents(self, one: Input, place: str) -> dict[str, bytes | Change | None]:
        """The new content of every changed file; None for one that is gone, the change for one that is no file."""
        found: dict[str, bytes | Change | None] = {}
        for file in dict.fromkeys(change.file for change in one.changes):
            own = [change for change in one.changes if change.file == file]
            data, raw, value = self.files[file], Raw(), None
            for change in own:
                if change.way in ("set", "delete", "double", "rename", "retype", "reverse"):
                    value = parse(file, data) if value is None else value
                    value = changed(value, change.way, change.at, change.value, raw)
            if value is not None:
                data = written(file, value, raw).replace(PLACE.encode(), place.encode())
            found[file] = data
            for change in own:
                content = found[file]
                if isinstance(content, bytes):
                    found[file] = of_bytes(content, change, self.files)
        if one.hashes != AS_IS:
            rehash(found, self.files, one.hashes == OLDER)
        return found

    def apply(self, contents: dict[str, bytes | Change | None]) -> None:
        for number, (file, content) in enumerate(contents.items()):
            path = self.root / file
            self.moved[path] = self.aside / str(number)
            path.rename(self.moved[path])
            if isinstance(content, bytes):
                path.write_bytes(content)
            elif isinstance(content, Change) and content.way == "link":
                path.symlink_to(self.root.parent / "outside" / "secret")
            elif isinstance(content, Change):
                path.mkdir()

    def restore(self) -> None:
        for path, kept in self.moved.items():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            path.unlink(missing_ok=True)
            kept.replace(path)
        self.moved.clear()


def written(file: str, value: Any, raw: Raw) -> bytes:
    if file.endswith(".jsonl") and isinstance(value, list):
        text = "".join(raw.dumps(row) + "\n" for row in value)
    else:
        text = raw.dumps(value) + "\n"
    return text.encode()


def of_bytes(data: bytes, change: Change, files: Files) -> bytes | Change | None:
    at = change.at[0] if change.at and isinstance(change.at[0], int) else 0
    match change.way:
        case "cut":
            return data[:at]
        case "insert":
            return data[:at] + change.value.encode("latin-1" if change.value == "\xff" else "utf-8") + data[at:]
        case "flip":
            return data[:at] + bytes(byte ^ 1 << int(change.value) for byte in data[at : at + 1]) + data[at + 1 :]
        case "swap":
            return files[change.value]
        case "empty":
            return b""
        case "remove":
            return None
        case "link" | "folder":
            return change
    return data


def rehash(contents: dict[str, bytes | Change | None], files: Files, drop: bool) -> None:
    """New hashes in the records of what was changed, or none at all; a record that is no JSON object stays."""
    now = {**files, **contents}
    for marker in [name for name in files if name.endswith("/stage.json")]:
        folder = marker.removesuffix("stage.json")
        own = [name for name in contents if name.startswith(folder) and name != marker]
        if own or marker in contents:
            reseal(contents, now, marker, {name.removeprefix(folder): now[name] for name in own}, drop)
    for name in [name for name in contents if name.startswith(("cells/", "experiments/"))]:
        reseal(contents, now, name, {}, drop)
    hashes = "report/.files.json"
    if any(name.startswith("report/") for name in contents) and hashes in files and hashes not in contents:
        listed = json.loads(files[hashes])
        for name, content in contents.items():
            if isinstance(content, bytes) and name.startswith("report/"):
                listed[name.removeprefix("report/")] = hashlib.sha256(content).hexdigest()
        contents[hashes] = None if drop else json.dumps(listed).encode()


def reseal(
    contents: dict[str, bytes | Change | None],
    now: dict[str, Any],
    name: str,
    own: dict[str, Any],
    drop: bool,
) -> None:
    try:
        record = json.loads(now[name])
    except (ValueError, TypeError, RecursionError):
        return
    if not isinstance(record, dict):
        return
    if drop:
        record = {key: value for key, value in record.items() if key not in (integrity.SEAL, integrity.FILES)}
    else:
        listed = record.get(integrity.FILES)
        for file, content in own.items():
            if isinstance(listed, dict) and isinstance(content, bytes):
                listed[file] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        place = integrity.stage_place(record) if name.endswith("/stage.json") else name.rpartition("/")[2]
        try:
            record = integrity.sealed(record, place)
        except (ValueError, RecursionError):
            return
    contents[name] = json.dumps(record).encode()


def json_files(root: Path) -> Iterator[str]:
    """The files below `root` that are read as JSON or JSON Lines by this program's own readers."""
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        own = path.suffix in (".json", ".jsonl") and not name.startswith(".partial/")
        library = path.name in ("tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json")
        if path.is_file() and own and not library:
            yield name


def loses_its_hash(contents: dict[str, bytes | Change | None]) -> bool:
    """Whether a record has no hash of itself any more: it is then read as one of an earlier version."""
    for name, content in contents.items():
        if name.startswith(("cells/", "experiments/")) or name.endswith(("/stage.json", "/.files.json")):
            try:
                record = json.loads(content) if isinstance(content, bytes) else ""
            except (ValueError, RecursionError):
                continue
            if name.endswith("/.files.json") or (isinstance(record, dict) and integrity.SEAL not in record):
                return True
    return False
