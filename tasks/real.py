"""Real texts with human summaries: where a corpus may lie, how it is split, and the task made of it.

Real data have no gold utility, so a real task has no `utility`; the pairs of `RealSummaries` have no rejected text
either: the harness samples the SFT policy for it.  Nothing is made up: data that lack something are refused.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Example, Origin, Pair, Split
from rlhf_bench.tasks.sources import SUFFIXES, Row, content_sha256, hub_rows, read_rows, text

File = Literal["train", "dev", "test"]
NAMES: Mapping[File, tuple[str, ...]] = {"train": ("train",), "dev": ("dev", "validation"), "test": ("test",)}
"""What the split of each role may be called."""

SMALLEST = 20
"""Rows that a single file needs to be split: a tenth of fewer is nothing to test on."""


@dataclass(frozen=True)
class Corpus:
    """What tells one corpus from another: its names, its columns and the line that tells a policy what to do.

    `files` is what its split files' names may begin with, as in dialogsum.train.jsonl.
    """

    noun: str
    hub: str
    files: str
    column: str
    summaries: tuple[str, ...]
    ids: tuple[str, ...]
    instruction: str
    license: str


class Entry(NamedTuple):
    """One text with its human summaries; `number` is its place in the file, from 0."""

    id: str
    number: int
    body: str
    summaries: tuple[str, ...]


@dataclass(frozen=True)
class RealSummaries:
    """Human texts and summaries.  `data` is a folder, a file, "hub", or the name of a dataset on the hub.

    Even-numbered train texts are the demonstrations, odd-numbered ones the PPO prompts and the training pairs (the two
    never share a text); the test split is the held-out prompts and the dev split the held-out pairs.  A single file is
    split 80/10/10 by the texts' hash.  With `prompts_only` there are held-out prompts and nothing else: the test split
    of a folder or a hub dataset, every row of a single file.
    """

    rubric = "summary"  # of judges that read; no annotation, so that it is no field

    corpus: Corpus
    data: str
    response_tokens: int = 64
    prompts_only: bool = False

    def __post_init__(self) -> None:
        check_tokens(self.response_tokens)

    @property
    def max_response_tokens(self) -> int:
        """As set; 64 tokens hold about 45 English words, which is longer than nine in ten of DialogSum's summaries."""
        return self.response_tokens

    @cached_property
    def origin(self) -> Origin:
        """What was read and left out; the hash is of the rows as they were, before anything was left out."""
        entries, dropped, merged = self._entries
        noun = self.corpus.noun
        counts = ", ".join(f"{len(rows)} {file}" for file, rows in entries.items())
        left_out = "; ".join(f"{count} {file}" for file, count in dropped.items() if count)
        description = (
            f"Human {noun} summaries from {self.data}: {counts} {noun}s. Left out because a held-out split has the "
            f"same {noun} (but for case, spaces and punctuation): {left_out or 'none'}. Repeated within a split, "
            f"merged into one with several references: {merged}."
        )
        stated = self.corpus.license if self._is_original else "unknown"
        return Origin("real", description, content_sha256(self._rows.items()), stated)

    def examples(self, split: Split) -> Sequence[Example]:
        """Prompts with the first human summary as completion and the others as references."""
        self._check_split(split)
        chosen = self._entries[0]["test"] if split == "test" else self._half(0 if split == "sft" else 1)
        return [Example(entry.id, self._prompt(entry), entry.summaries[0], entry.summaries[1:]) for entry in chosen]

    def pairs(self, split: Split) -> Sequence[Pair]:
        """The human summary as chosen, no rejected; "train" on the PPO prompts' texts, "test" on the dev split."""
        if split == "sft":
            return []
        self._check_split("train")
        entries = self._half(1) if split == "train" else self._entries[0]["dev"]
        return [Pair(entry.id, self._prompt(entry), entry.summaries[0], None) for entry in entries]

    def _check_split(self, split: Split) -> None:
        if self.prompts_only and split != "test":
            refuse_training(self.data)

    def _prompt(self, entry: Entry) -> str:
        """Pretrained policies need to be told what to do; the same line for the whole corpus."""
        return f"{entry.body}\n\n{self.corpus.instruction}"

    def _half(self, odd: int) -> list[Entry]:
        half = [entry for entry in self._entries[0]["train"] if entry.number % 2 == odd]
        if not half:
            raise BenchError(
                f"{self.data} has no {'odd' if odd else 'even'}-numbered train {self.corpus.noun}.",
                f"Even ones are the demonstrations, odd ones the PPO prompts: give more {self.corpus.noun}s.",
            )
        return half

    @cached_property
    def _rows(self) -> Mapping[File, list[Row]]:
        files: tuple[File, ...] = ("test",) if self.prompts_only else tuple(NAMES)
        path = Path(self.data).expanduser()
        if self.data == "hub" or not path.exists():
            name = self.corpus.hub if self.data == "hub" else self.data
            return by_role(name, hub_rows(name), files)
        if path.is_dir():
            return {file: read_rows(find(path, file, self.corpus.files)) for file in files}
        rows = read_rows(path)
        return {"test": rows} if self.prompts_only else split_rows(path, rows, self.corpus.column)

    @cached_property
    def _entries(self) -> tuple[Mapping[File, list[Entry]], Mapping[File, int], int]:
        parsed = {file: _parse(self.corpus, file, rows) for file, rows in self._rows.items()}
        entries, dropped, merged = _distinct(parsed)
        for file, count in dropped.items():
            if not entries[file]:
                seen = f"{self.data}: all {count} {self.corpus.noun}s of the {file} split are in a more held-out split."
                raise BenchError(seen, f"Give splits that share no {self.corpus.noun}s.")
        return entries, dropped, merged

    @property
    def _is_original(self) -> bool:
        folder = Path(self.data).expanduser()
        if self.data in ("hub", self.corpus.hub):
            return True
        return folder.is_dir() and find(folder, "test", self.corpus.files).name.startswith(f"{self.corpus.files}.")


def check_tokens(tokens: int) -> None:
    """Raises BenchError for a longest response of no tokens."""
    if tokens < 1:
        raise BenchError(f"response_tokens = {tokens}.", "Give at least 1, or 0 for the default.")


def refuse_training(data: str) -> None:
    """Raises the BenchError of a task that was opened for its held-out prompts."""
    fix = "Leave prompts_only out, with data that are large enough to train on."
    raise BenchError(f"{data} is read with prompts_only=true: it has no demonstrations, PPO prompts or pairs.", fix)


def candidates(folder: Path, file: File, start: str) -> list[Path]:
    """The files of the folder that may hold a split."""
    return [folder / name for name in _names(file, start) if (folder / name).is_file()]


def _names(file: File, start: str) -> list[str]:
    return [f"{before}{name}{end}" for name in NAMES[file] for before in (f"{start}.", "") for end in SUFFIXES]


def find(folder: Path, file: File, start: str) -> Path:
    """The one file of the folder that holds a split; raises BenchError where there is none, or more than one."""
    found = candidates(folder, file, start)
    if len(found) == 1:
        return found[0]
    if found:
        both = " and ".join(path.name for path in found)
        raise BenchError(f"{folder} holds {both} for the {file} split.", "Keep one of them.")
    held = ", ".join(sorted(path.name for path in folder.iterdir())[:10]) or "nothing"
    raise BenchError(f"{folder} holds no {file} split, only {held}.", f"Add {start}.{file}.jsonl or {file}.jsonl.")


def by_role(name: str, splits: Mapping[str, list[Row]], files: Sequence[File]) -> dict[File, list[Row]]:
    """The wanted splits of a hub dataset; raises BenchError where one is missing or empty."""
    rows: dict[File, list[Row]] = {}
    for file in files:
        known = [split for split in NAMES[file] if splits.get(split)]
        if not known:
            sizes = ", ".join(f"{split} ({len(held)} rows)" for split, held in splits.items()) or "nothing"
            seen = f"The dataset {name!r} has no rows in {' or '.join(NAMES[file])}, only {sizes}."
            raise BenchError(seen, "Take another one.")
        rows[file] = splits[known[0]]
    return rows


def split_rows(path: Path, held: Sequence[Row], column: str) -> dict[File, list[Row]]:
    """80% train, 10% dev, 10% test by the hash of the text in `column`, so that copies of a text stay together."""
    fix = "Give more rows or a folder with a file per split; for held-out prompts alone, prompts_only takes every row."
    texts = [text(row, column) for row in held]  # read first: what is wrong with a row says more than their number
    if len(held) < SMALLEST:
        raise BenchError(f"{path} is too small to split: {len(held)} rows, fewer than {SMALLEST}.", fix)
    rows: dict[File, list[Row]] = {file: [] for file in NAMES}
    for row, said in zip(held, texts, strict=True):
        bucket = int(hashlib.sha256(key(said).encode()).hexdigest()[:8], 16) % 10
        rows["train" if bucket < 8 else "dev" if bucket < 9 else "test"].append(row)
    for file, found in rows.items():
        if not found:
            raise BenchError(f"{path} is too small: its {file} split is empty.", fix)
    return rows


def _parse(corpus: Corpus, file: File, rows: Sequence[Row]) -> list[Entry]:
    entries: dict[str, Entry] = {}
    for number, row in enumerate(rows):
        ids = [str(row.values[column]) for column in corpus.ids if row.values.get(column) not in (None, "")]
        name = (ids or [f"{file}-{number}"])[0]
        if name in entries:
            raise BenchError(f"{row.where}: the id {name!r} is taken by an earlier row.", "Give each row its own id.")
        columns = [column for column in corpus.summaries if column in row.values] or corpus.summaries[:1]
        entries[name] = Entry(name, number, text(row, corpus.column), tuple(text(row, column) for column in columns))
    return list(entries.values())


def _distinct(files: Mapping[File, list[Entry]]) -> tuple[Mapping[File, list[Entry]], Mapping[File, int], int]:
    """One entry for each text, how many copies each split lost to a more held-out one, and how many were merged.

    DialogSum repeats about a thousand dialogues, within and across its splits, up to spaces and punctuation: left in,
    they would put demonstrations among the PPO prompts and training texts among the held-out ones.
    """
    kept: dict[str, tuple[File, Entry]] = {}
    dropped: Counter[File] = Counter()
    merged = 0
    order: tuple[File, ...] = ("test", "dev", "train")
    for file in order:
        for entry in files.get(file, []):
            home, first = kept.setdefault(key(entry.body), (file, entry))
            if home != file:
                dropped[file] += 1
            elif first is not entry:
                merged += 1
                summaries = tuple(dict.fromkeys(first.summaries + entry.summaries))
                kept[key(entry.body)] = file, first._replace(summaries=summaries)
    return {file: [entry for home, entry in kept.values() if home == file] for file in files}, dropped, merged


def key(body: str) -> str:
    """What makes two texts the same: letters and digits, without case."""
    return re.sub(r"[\W_]+", "", body.lower()) or body


def parted(given: Mapping[str, Any], *others: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A factory's parameters as (the controlled world's settings, the longest response unless it is left to default).

    `others` are those that neither takes.
    """
    knobs = {name: value for name, value in given.items() if name not in ("response_tokens", *others)}
    tokens = given["response_tokens"]
    return knobs, {"response_tokens": tokens} if tokens else {}


def refuse_knobs(data: str, knobs: Mapping[str, Any], defaults: type) -> None:
    """Raises BenchError where settings of the controlled world (attributes of `defaults`) came with real data."""
    given = [name for name, value in knobs.items() if value != getattr(defaults, name)]
    if given:
        seen = f"{', '.join(given)} set together with data={data!r}."
        raise BenchError(seen, "These apply to the controlled world only: leave them out, or leave out data.")


def refuse_prompts_only(prompts_only: bool) -> None:
    """Raises BenchError where a controlled world is asked for its prompts only: it always has everything."""
    if prompts_only:
        raise BenchError("prompts_only is set without data.", "It applies to real data: add data, or leave it out.")


def check_data(data: str) -> None:
    """Refuse at once what is neither a path that exists nor a possible name on the hub."""
    possible = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?", data) and not data.endswith(SUFFIXES)
    if data != "hub" and not possible and not Path(data).expanduser().exists():
        fix = "Name a folder or file that exists, 'hub', or a hub dataset as 'owner/name'."
        raise BenchError(f"data={data!r}: there is no such file or folder, and it is no hub name.", fix)
