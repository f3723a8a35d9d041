"""Real texts with human summaries: where a corpus may be stored, how it is split, and the task made of it.

Real data have no gold utility, so a real task has no `utility`.  The pairs of `RealSummaries` have no rejected text:
the harness samples the SFT policy for it.  Nothing is invented: data that lack something are refused.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Example, Origin, Pair, Split
from rlhf_bench.harness.text.words import normal
from rlhf_bench.tasks.settings import check_tokens
from rlhf_bench.tasks.sources import SUFFIXES, Row, content_sha256, hub_rows, read_rows, text

File = Literal["train", "dev", "test"]
# What the file or hub split of each role may be called.
NAMES: Mapping[File, tuple[str, ...]] = {"train": ("train",), "dev": ("dev", "validation"), "test": ("test",)}

# A text that two splits share stays in the first of these.
HELD_OUT_FIRST: tuple[File, ...] = ("test", "dev", "train")

# Rows that a single file needs to be split: a tenth of fewer is too little to test on.
SMALLEST = 20


class Entry(NamedTuple):
    """One text with its human summaries.

    `id` is unique within its split.  `number` is its place in the file, from 0, which decides the half of a train text.
    """

    id: str
    number: int
    body: str
    summaries: tuple[str, ...]


class Texts(NamedTuple):
    """Distinct texts by split, copies that each split lost to a more held-out one, and copies merged within a split."""

    files: Mapping[File, list[Entry]]
    dropped: Mapping[File, int]
    merged: int


@dataclass(frozen=True)
class Corpus:
    """What differs between corpora: names, columns and the instruction that tells a policy what to do.

    `files` is what the names of its split files may begin with, as in dialogsum.train.jsonl.
    """

    noun: str
    hub: str
    files: str
    column: str
    summaries: tuple[str, ...]
    ids: tuple[str, ...]
    instruction: str
    license: str

    def entries(self, file: File, rows: Sequence[Row]) -> list[Entry]:
        """The entries of a split.  Raises BenchError for a missing or blank text, and for an id that occurs twice."""
        entries: dict[str, Entry] = {}
        for number, row in enumerate(rows):
            ids = [str(row.values[column]) for column in self.ids if row.values.get(column) not in (None, "")]
            # the first id column that is filled: files of one corpus name it differently
            name = (ids or [f"{file}-{number}"])[0]
            if name in entries:
                seen = f"{row.where}: the id {name!r} is taken by an earlier row."
                raise BenchError(seen, "Give each row its own id.")
            # Where no summary column exists, the error of `text` names the first one.
            columns = [column for column in self.summaries if column in row.values] or self.summaries[:1]
            entries[name] = Entry(name, number, text(row, self.column), tuple(text(row, column) for column in columns))
        return list(entries.values())


@dataclass(frozen=True)
class RealSummaries:
    """Human texts and summaries.  `data` is a folder, a file, "hub", or the name of a dataset on the hub.

    Even-numbered train texts are the demonstrations, odd-numbered ones the PPO prompts and the training pairs (the two
    never share a text); the test split is the held-out prompts and the dev split the held-out pairs.  A single file is
    split 80/10/10 by the texts' hash.  With `prompts_only` there are held-out prompts and nothing else: the test split
    of a folder or a hub dataset, every row of a single file.
    """

    rubric = "summary"  # for judges that read responses; without annotation, so that it is no dataclass field

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
        noun, texts = self.corpus.noun, self._texts
        counts = ", ".join(f"{len(rows)} {file}" for file, rows in texts.files.items())
        left_out = "; ".join(f"{count} {file}" for file, count in texts.dropped.items() if count)
        description = (
            f"Human {noun} summaries from {self.data}: {counts} {noun}s. Left out because a held-out split has the "
            f"same {noun} (but for case, spaces and punctuation): {left_out or 'none'}. Repeated within a split, "
            f"merged into one with several references: {texts.merged}."
        )
        # The stated license holds for the corpus itself: the hub's dataset, or a folder with files of its name.
        folder, original = Path(self.data).expanduser(), self.data in ("hub", self.corpus.hub)
        if not original and folder.is_dir():
            original = split_file(folder, "test", self.corpus.files).name.startswith(f"{self.corpus.files}.")
        stated = self.corpus.license if original else "unknown"
        return Origin("real", description, content_sha256(self._rows.items()), stated)

    def examples(self, split: Split) -> Sequence[Example]:
        """Prompts with the first human summary as completion and the others as references.

        Raises BenchError under prompts_only for any split but "test", and where a half of the train texts is empty.
        """
        self._check_split(split)
        chosen = self._texts.files["test"] if split == "test" else self._half(0 if split == "sft" else 1)
        return [Example(entry.id, self._prompt(entry), entry.summaries[0], entry.summaries[1:]) for entry in chosen]

    def pairs(self, split: Split) -> Sequence[Pair]:
        """The human summary as chosen, no rejected; "train" on the PPO prompts' texts, "test" on the dev split.

        None for "sft".  Raises BenchError under prompts_only.
        """
        if split == "sft":
            return []
        # prompts_only has no pairs at all, not even held-out ones
        self._check_split("train")
        # the dev split and not the test split: held-out pairs and held-out prompts share no text
        entries = self._half(1) if split == "train" else self._texts.files["dev"]
        return [Pair(entry.id, self._prompt(entry), entry.summaries[0], None) for entry in entries]

    def _check_split(self, split: Split) -> None:
        if self.prompts_only and split != "test":
            refuse_training(self.data)

    def _prompt(self, entry: Entry) -> str:
        # Pretrained policies need to be told what to do.
        return f"{entry.body}\n\n{self.corpus.instruction}"

    def _half(self, odd: int) -> list[Entry]:
        # By the number in the file, so that texts left out elsewhere move no text to the other half.
        half = [entry for entry in self._texts.files["train"] if entry.number % 2 == odd]
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
        # "hub" before the path: a folder of that name does not hide the dataset
        if self.data == "hub" or not path.exists():
            name = self.corpus.hub if self.data == "hub" else self.data
            return needed_splits(name, hub_rows(name), files)
        if path.is_dir():
            return {file: read_rows(split_file(path, file, self.corpus.files)) for file in files}
        rows = read_rows(path)
        return {"test": rows} if self.prompts_only else split_rows(path, rows, self.corpus.column)

    @cached_property
    def _texts(self) -> Texts:
        texts = distinct({file: self.corpus.entries(file, rows) for file, rows in self._rows.items()})
        for file, count in texts.dropped.items():
            if not texts.files[file]:
                seen = f"{self.data}: all {count} {self.corpus.noun}s of the {file} split are in a more held-out split."
                raise BenchError(seen, f"Give splits that share no {self.corpus.noun}s.")
        return texts


def distinct(files: Mapping[File, list[Entry]]) -> Texts:
    """One entry for each text, in the most held-out split that has it; copies are equal by `text_key`.

    DialogSum repeats about a thousand dialogues, within and across its splits, up to spaces and punctuation: left in,
    they would put demonstrations among the PPO prompts and training texts among the held-out ones.
    """
    kept: dict[str, tuple[File, Entry]] = {}
    dropped: Counter[File] = Counter()
    merged = 0
    for file in HELD_OUT_FIRST:  # a copy then meets the more held-out text that is kept
        for entry in files.get(file, []):
            home, first = kept.setdefault(text_key(entry.body), (file, entry))
            if home != file:
                dropped[file] += 1
            elif first is not entry:
                merged += 1
                summaries = tuple(dict.fromkeys(first.summaries + entry.summaries))
                kept[text_key(entry.body)] = file, first._replace(summaries=summaries)
    by_split = {file: [entry for home, entry in kept.values() if home == file] for file in files}
    return Texts(by_split, dropped, merged)


def refuse_training(data: str) -> None:
    """Raises the BenchError of a task that was opened for its held-out prompts."""
    fix = "Leave prompts_only out, with data that are large enough to train on."
    raise BenchError(f"{data} is read with prompts_only=true: it has no demonstrations, PPO prompts or pairs.", fix)


def candidate_files(folder: Path, file: File, start: str) -> list[Path]:
    """The files of the folder that may hold a split: `start`.NAME.SUFFIX and NAME.SUFFIX."""
    names = (f"{before}{name}{end}" for name in NAMES[file] for before in (f"{start}.", "") for end in SUFFIXES)
    return [folder / name for name in names if (folder / name).is_file()]


def split_file(folder: Path, file: File, start: str) -> Path:
    """The one file of the folder that holds a split; raises BenchError where there is none, or more than one."""
    found = candidate_files(folder, file, start)
    if len(found) == 1:
        return found[0]
    if found:
        names = " and ".join(path.name for path in found)
        raise BenchError(f"{folder} holds {names} for the {file} split.", "Keep one of them.")
    held = ", ".join(sorted(path.name for path in folder.iterdir())[:10]) or "nothing"
    raise BenchError(f"{folder} holds no {file} split, only {held}.", f"Add {start}.{file}.jsonl or {file}.jsonl.")


def needed_splits(name: str, splits: Mapping[str, list[Row]], files: Sequence[File]) -> dict[File, list[Row]]:
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
    texts = [text(row, column) for row in held]  # read first: a fault of a row says more than the number of rows
    if len(held) < SMALLEST:
        raise BenchError(f"{path} is too small to split: {len(held)} rows, fewer than {SMALLEST}.", fix)
    rows: dict[File, list[Row]] = {file: [] for file in NAMES}
    for row, body in zip(held, texts, strict=True):
        # By content instead of position: neither new rows nor another order move a text to another split.
        bucket = int(hashlib.sha256(split_key(body).encode()).hexdigest()[:8], 16) % 10
        rows["train" if bucket < 8 else "dev" if bucket < 9 else "test"].append(row)
    for file, found in rows.items():
        if not found:
            raise BenchError(f"{path} is too small: its {file} split is empty.", fix)
    return rows


# Punctuation of sentences.  The rest is kept: "C#", "50%", "a/b", and what stands in a number or before it.
_SENTENCE_MARKS = r"(?!(?<=\d\s?).\s?\d)(?!(?<!\p{L})\p{Pd}\s?\d)[\p{P}--[#%&*/@\\]]"


def text_key(body: str) -> str:
    """Equal for two texts that count as the same: they differ in case, spaces and the punctuation of sentences alone.

    Texts that differ in a symbol, an accent or a vowel sign are two texts.  A text of punctuation alone is its own key.
    """
    import regex  # here: a task's import should not load it

    kept = regex.sub(_SENTENCE_MARKS, "", normal(body).lower(), flags=regex.VERSION1)
    return re.sub(r"\s+", "", kept) or body


def split_key(body: str) -> str:
    """The text whose hash decides a split: letters and digits, without case.

    Coarser than `text_key`, so texts that count as the same share a split.  Another rule would move texts between the
    splits of existing results.
    """
    return re.sub(r"[\W_]+", "", body.lower()) or body
