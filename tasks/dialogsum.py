"""The task `dialogsum`: summarise a dialogue.  A controlled world by default, DialogSum (arXiv 2105.06762) with `data`.

Real data have no gold utility, so `RealDialogSum` has no `utility`; its pairs have no rejected text either: the harness
samples the SFT policy for it.
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
from rlhf_bench.tasks.world import DialogueWorld

HUB = "knkarthick/dialogsum"
INSTRUCTION = "Summarize the dialogue above."
LICENSE = "CC BY-NC-SA 4.0 (stated for DialogSum; its dialogues belong to the users who created them)"

File = Literal["train", "dev", "test"]
NAMES: Mapping[File, tuple[str, ...]] = {"train": ("train",), "dev": ("dev", "validation"), "test": ("test",)}
"""What the split of each role may be called."""


class Entry(NamedTuple):
    """One dialogue with its human summaries; `number` is its place in the file, from 0."""

    id: str
    number: int
    dialogue: str
    summaries: tuple[str, ...]


@dataclass(frozen=True)
class RealDialogSum:
    """Human dialogues and summaries.  `data` is a folder, a file, "hub", or the name of a dataset on the hub.

    Even-numbered train dialogues are the demonstrations, odd-numbered ones the PPO prompts and the training pairs (the
    two never share a dialogue); the test split is the held-out prompts and the dev split the held-out pairs.
    """

    data: str
    response_tokens: int = 64

    def __post_init__(self) -> None:
        if self.response_tokens < 1:
            raise BenchError(f"response_tokens = {self.response_tokens}.", "Give at least 1, or 0 for the default.")

    @property
    def max_response_tokens(self) -> int:
        """As set; 64 tokens hold about 45 English words, which is longer than nine in ten of DialogSum's summaries."""
        return self.response_tokens

    @cached_property
    def origin(self) -> Origin:
        """What was read and left out; the hash is of the rows as they were, before anything was left out."""
        entries, dropped, merged = self._entries
        counts = ", ".join(f"{len(rows)} {file}" for file, rows in entries.items())
        left_out = "; ".join(f"{count} {file}" for file, count in dropped.items() if count)
        description = (
            f"Human dialogue summaries from {self.data}: {counts} dialogues. Left out because a held-out split has the "
            f"same dialogue (but for case, spaces and punctuation): {left_out or 'none'}. Repeated within a split, "
            f"merged into one with several references: {merged}."
        )
        return Origin(
            "real", description, content_sha256(self._rows.items()), LICENSE if self._is_original else "unknown"
        )

    def examples(self, split: Split) -> Sequence[Example]:
        """Prompts with the first human summary as completion and the others as references."""
        chosen = {"sft": self._half(0), "train": self._half(1), "test": self._entries[0]["test"]}[split]
        return [Example(entry.id, _prompt(entry), entry.summaries[0], entry.summaries[1:]) for entry in chosen]

    def pairs(self, split: Split) -> Sequence[Pair]:
        """The human summary as chosen, no rejected; "train" on the PPO prompts' dialogues, "test" on the dev split."""
        entries: dict[Split, list[Entry]] = {"sft": [], "train": self._half(1), "test": self._entries[0]["dev"]}
        return [Pair(entry.id, _prompt(entry), entry.summaries[0], None) for entry in entries[split]]

    def _half(self, odd: int) -> list[Entry]:
        half = [entry for entry in self._entries[0]["train"] if entry.number % 2 == odd]
        if not half:
            raise BenchError(
                f"{self.data} has no {'odd' if odd else 'even'}-numbered train dialogue.",
                "Even ones are the demonstrations, odd ones the PPO prompts: give more dialogues.",
            )
        return half

    @cached_property
    def _rows(self) -> Mapping[File, list[Row]]:
        if self.data == "hub" or not Path(self.data).expanduser().exists():
            return _from_hub(HUB if self.data == "hub" else self.data)
        path = Path(self.data).expanduser()
        return {file: read_rows(_find(path, file)) for file in NAMES} if path.is_dir() else _split(path)

    @cached_property
    def _entries(self) -> tuple[Mapping[File, list[Entry]], Mapping[File, int], int]:
        entries, dropped, merged = _distinct({file: _parse(file, rows) for file, rows in self._rows.items()})
        for file, count in dropped.items():
            if not entries[file]:
                seen = f"{self.data}: all {count} dialogues of the {file} split are in a more held-out split too."
                raise BenchError(seen, "Give splits that share no dialogues.")
        return entries, dropped, merged

    @property
    def _is_original(self) -> bool:
        folder = Path(self.data).expanduser()
        return self.data in ("hub", HUB) or (folder.is_dir() and _find(folder, "train").name.startswith("dialogsum."))


def _prompt(entry: Entry) -> str:
    """Pretrained policies need to be told what to do; the same line for all real data."""
    return f"{entry.dialogue}\n\n{INSTRUCTION}"


def _find(folder: Path, file: File) -> Path:
    names = [f"{start}{name}{end}" for name in NAMES[file] for start in ("dialogsum.", "") for end in SUFFIXES]
    found = [folder / name for name in names if (folder / name).is_file()]
    if len(found) == 1:
        return found[0]
    if found:
        both = " and ".join(path.name for path in found)
        raise BenchError(f"{folder} holds {both} for the {file} split.", "Keep one of them.")
    held = ", ".join(sorted(path.name for path in folder.iterdir())[:10]) or "nothing"
    raise BenchError(f"{folder} holds no {file} split, only {held}.", f"Add {names[0]} or {names[1]}.")


def _from_hub(name: str) -> Mapping[File, list[Row]]:
    splits = hub_rows(name)
    rows: dict[File, list[Row]] = {}
    for file, names in NAMES.items():
        known = [split for split in names if splits.get(split)]
        if not known:
            sizes = ", ".join(f"{split} ({len(held)} rows)" for split, held in splits.items()) or "nothing"
            raise BenchError(
                f"The dataset {name!r} has no rows in {' or '.join(names)}, only {sizes}.", "Take another one."
            )
        rows[file] = splits[known[0]]
    return rows


def _split(path: Path) -> Mapping[File, list[Row]]:
    """80% train, 10% dev, 10% test by the dialogue's hash, so that copies of a dialogue stay together."""
    rows: dict[File, list[Row]] = {file: [] for file in NAMES}
    for row in read_rows(path):
        bucket = int(hashlib.sha256(_key(text(row, "dialogue")).encode()).hexdigest()[:8], 16) % 10
        rows["train" if bucket < 8 else "dev" if bucket < 9 else "test"].append(row)
    for file, held in rows.items():
        if not held:
            fix = "Give more rows, or a folder with a file per split."
            raise BenchError(f"{path} is too small: its {file} split is empty.", fix)
    return rows


def _parse(file: File, rows: Sequence[Row]) -> list[Entry]:
    entries: dict[str, Entry] = {}
    for number, row in enumerate(rows):
        ids = [str(row.values[column]) for column in ("fname", "id") if row.values.get(column) not in (None, "")]
        name = (ids or [f"{file}-{number}"])[0]
        if name in entries:
            raise BenchError(f"{row.where}: the id {name!r} is taken by an earlier row.", "Give each row its own id.")
        entries[name] = Entry(name, number, text(row, "dialogue"), _summaries(row))
    return list(entries.values())


def _summaries(row: Row) -> tuple[str, ...]:
    columns = [name for name in ("summary", "summary1", "summary2", "summary3") if name in row.values] or ["summary"]
    return tuple(text(row, name) for name in columns)


def _distinct(files: Mapping[File, list[Entry]]) -> tuple[Mapping[File, list[Entry]], Mapping[File, int], int]:
    """One entry for each dialogue, how many copies each split lost to a more held-out one, and how many were merged.

    DialogSum repeats about a thousand dialogues, within and across its splits, up to spaces and punctuation: left in,
    they would put demonstrations among the PPO prompts and training dialogues among the held-out ones.
    """
    kept: dict[str, tuple[File, Entry]] = {}
    dropped: Counter[File] = Counter()
    merged = 0
    order: tuple[File, ...] = ("test", "dev", "train")
    for file in order:
        for entry in files[file]:
            home, first = kept.setdefault(_key(entry.dialogue), (file, entry))
            if home != file:
                dropped[file] += 1
            elif first is not entry:
                merged += 1
                summaries = tuple(dict.fromkeys(first.summaries + entry.summaries))
                kept[_key(entry.dialogue)] = file, first._replace(summaries=summaries)
    return {file: [entry for home, entry in kept.values() if home == file] for file in NAMES}, dropped, merged


def _key(dialogue: str) -> str:
    """What makes two dialogues the same: letters and digits, without case."""
    return re.sub(r"[\W_]+", "", dialogue.lower()) or dialogue


def dialogsum(
    *,
    data: str = "",
    response_tokens: int = 0,
    seed: int = DialogueWorld.seed,
    demonstrations: int = DialogueWorld.demonstrations,
    train_pairs: int = DialogueWorld.train_pairs,
    test_pairs: int = DialogueWorld.test_pairs,
    train_prompts: int = DialogueWorld.train_prompts,
    test_prompts: int = DialogueWorld.test_prompts,
    dialogue_words: int = DialogueWorld.dialogue_words,
    min_facts: int = DialogueWorld.min_facts,
    max_facts: int = DialogueWorld.max_facts,
    correction_rate: float = DialogueWorld.correction_rate,
    mention_rate: float = DialogueWorld.mention_rate,
    sft_drop: float = DialogueWorld.sft_drop,
    sft_wrong: float = DialogueWorld.sft_wrong,
    sft_invent: float = DialogueWorld.sft_invent,
    sft_filler: float = DialogueWorld.sft_filler,
    good_drop: float = DialogueWorld.good_drop,
    good_wrong: float = DialogueWorld.good_wrong,
    good_invent: float = DialogueWorld.good_invent,
    good_filler: float = DialogueWorld.good_filler,
    bad_drop: float = DialogueWorld.bad_drop,
    bad_wrong: float = DialogueWorld.bad_wrong,
    bad_invent: float = DialogueWorld.bad_invent,
    bad_filler: float = DialogueWorld.bad_filler,
    carelessness: float = DialogueWorld.carelessness,
    preference_noise: float = DialogueWorld.preference_noise,
) -> DialogueWorld | RealDialogSum:
    """The controlled world, or with `data` (a folder, a file, "hub", a hub dataset) real dialogues.

    `response_tokens` 0 means 48 in the world and 64 with real data; every other setting is the world's alone
    (`DialogueWorld` explains them) and is refused together with `data`.
    """
    knobs: dict[str, Any] = {name: value for name, value in locals().items() if name not in ("data", "response_tokens")}
    tokens = {"response_tokens": response_tokens} if response_tokens else {}
    if not data:
        return DialogueWorld(**knobs, **tokens)
    given = [name for name, value in knobs.items() if value != getattr(DialogueWorld, name)]
    if given:
        seen = f"{', '.join(given)} set together with data={data!r}."
        raise BenchError(seen, "These apply to the controlled world only: leave them out, or leave out data.")
    _check(data)
    return RealDialogSum(data, **tokens)


def _check(data: str) -> None:
    """Refuse at once what is neither a path that exists nor a possible name on the hub."""
    possible = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", data) and not data.endswith(SUFFIXES)
    if data != "hub" and not possible and not Path(data).expanduser().exists():
        fix = "Name a folder or file that exists, 'hub', or a hub dataset as 'owner/name'."
        raise BenchError(f"data={data!r}: there is no such file or folder, and it is no hub name.", fix)
