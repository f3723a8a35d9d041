"""Real safety data: PKU-SafeRLHF (arXiv 2406.15513), files in its schema, in a reduced one, or in standard columns.

Schemas, told apart by the first row's columns: the full one (prompt, response_0, response_1, is_response_0_safe,
is_response_1_safe, safer_response_id, better_response_id), the reduced one (prompt, response: [safer, other]), and
prompt, chosen, rejected.  There is no gold utility.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

from rlhf_bench.harness.errors import BenchError, did_you_mean
from rlhf_bench.harness.nouns import Example, Origin, Pair, Split
from rlhf_bench.tasks.sources import SUFFIXES, Row, content_sha256, hub_rows, read_rows, text

HUB = "PKU-Alignment/PKU-SafeRLHF"
LICENSE = "CC BY-NC 4.0 (stated by PKU-SafeRLHF's card)"

PREFERENCES = ("safer", "better")
UNKNOWN = ("", "-1", "none")
"""How a label that nobody gave is written."""

File = Literal["train", "test"]
Reader = Callable[[Row, str], "Comparison | str"]
"""A row and the preference -> the comparison, or why the row is none."""


class Comparison(NamedTuple):
    """One usable row: two different responses to a prompt, the chosen one first.  `safe`: their flags, where known."""

    id: str
    prompt: str
    chosen: str
    rejected: str
    safe: tuple[bool, bool] | None = None

    @property
    def slices(self) -> tuple[str, ...]:
        return () if self.safe is None else (("both-unsafe", "one-safe", "both-safe")[sum(self.safe)],)


class Contents(NamedTuple):
    """The comparisons of each split, and how many rows were left out for which reason."""

    splits: Mapping[Split, list[Comparison]]
    left_out: Mapping[str, int]


@dataclass(frozen=True)
class RealSafeRLHF:
    """Human safety comparisons.  `data` is a folder, a file, "hub", or the name of a dataset on the hub.

    `preference` names the label that chooses: "safer" or "better" (more helpful).  Held out are the set's own test
    rows, or without a test split a tenth of the prompts; of the other prompts one half is for demonstrations, the other
    for PPO and training pairs.  Every prompt (up to case, spaces and punctuation) is in one of the three only, by its
    hash; its rows have one `source`.  A demonstration is the chosen response.
    """

    rubric = "safety"  # of judges that read; no annotation, so that it is no field

    data: str
    preference: str = "safer"
    response_tokens: int = 160

    def __post_init__(self) -> None:
        if self.preference not in PREFERENCES:
            raise BenchError(f"preference = {self.preference!r} is unknown.", f"Choose {' or '.join(PREFERENCES)}.")
        if self.response_tokens < 2:
            raise BenchError(f"response_tokens = {self.response_tokens}.", "Give at least 2, or 0 for the default.")

    @property
    def max_response_tokens(self) -> int:
        """As set; 160 tokens hold about 110 English words, which is longer than nine in ten of the set's responses."""
        return self.response_tokens

    @cached_property
    def origin(self) -> Origin:
        """What was read and left out; the hash is of the rows as they were, before anything was left out."""
        counts = ", ".join(f"{len(rows)} {split}" for split, rows in self._contents.splits.items())
        left_out = _counted(self._contents.left_out)
        description = (
            f"Human safety comparisons (harmful text among them) from {self.data}, the {self.preference} response "
            f"chosen: {counts} rows{left_out or '; none was left out'}."
        )
        known = LICENSE if self.data in ("hub", HUB) else "unknown"
        return Origin("real", description, content_sha256(self._rows.items()), known)

    def examples(self, split: Split) -> Sequence[Example]:
        """One example a row, with the chosen response as completion; rows of a prompt share their source."""
        return [
            Example(row.id, row.prompt, row.chosen, slices=row.slices, source=prompt_hash(row.prompt)[:16])
            for row in self._contents.splits[split]
        ]

    def pairs(self, split: Split) -> Sequence[Pair]:
        """The comparisons of the PPO prompts ("train") and of the held-out prompts ("test")."""
        rows = [] if split == "sft" else self._contents.splits[split]
        return [Pair(row.id, row.prompt, row.chosen, row.rejected) for row in rows]

    @cached_property
    def _rows(self) -> Mapping[str, list[Row]]:
        path = Path(self.data).expanduser()
        if self.data == "hub" or not path.exists():
            return _of_use(hub_rows(HUB if self.data == "hub" else self.data), self.data)
        if path.is_file():
            return {"train": read_rows(path)}
        return _of_use({name: read_rows(file) for name, file in _files(path).items()}, self.data)

    @cached_property
    def _contents(self) -> Contents:
        left_out: Counter[str] = Counter()
        rows = {file: _usable(file, held, self.preference, left_out) for file, held in self._rows.items()}
        _check_classes(self.data, self.preference, [row for held in rows.values() for row in held], left_out)
        splits = _split(rows, left_out)
        for split, held in splits.items():
            if not held:
                seen = f"{self.data} is too small: no usable row is left for the {split} split{_counted(left_out)}."
                raise BenchError(seen, "Give rows of more prompts.")
        return Contents(splits, left_out)


def prompt_hash(prompt: str) -> str:
    """SHA-256 of what makes two prompts the same: letters and digits, without case."""
    return hashlib.sha256((re.sub(r"[\W_]+", "", prompt.casefold()) or prompt).encode()).hexdigest()


def _files(folder: Path) -> dict[File, Path]:
    found: dict[File, Path] = {}
    names: tuple[File, ...] = ("train", "test")
    for name in names:
        held = [folder / f"{name}{end}" for end in SUFFIXES if (folder / f"{name}{end}").is_file()]
        if len(held) > 1:
            both = " and ".join(path.name for path in held)
            raise BenchError(f"{folder} holds {both} for the {name} split.", "Keep one of them.")
        if held:
            found[name] = held[0]
    if "train" not in found:
        held_names = ", ".join(sorted(path.name for path in folder.iterdir())[:10]) or "nothing"
        fix = "Add train.jsonl (and test.jsonl; without it a tenth of the prompts is held out), or name a file."
        raise BenchError(f"{folder} holds no train split, only {held_names}.", fix)
    return found


def _of_use(splits: Mapping[str, list[Row]], name: str) -> Mapping[str, list[Row]]:
    """The train and test rows of a dataset; others, such as "validation", are not asked for."""
    if not splits.get("train"):
        sizes = ", ".join(f"{split} ({len(held)} rows)" for split, held in splits.items()) or "nothing"
        raise BenchError(f"The dataset {name!r} has no rows in train, only {sizes}.", "Take another one.")
    return {file: splits[file] for file in ("train", "test") if splits.get(file)}


def _usable(file: str, rows: Sequence[Row], preference: str, left_out: Counter[str]) -> list[Comparison]:
    """The comparisons of the rows; those that are none are counted by reason."""
    kept: dict[tuple[str, str, str], Comparison] = {}
    read = _schema(rows[0], preference)
    for number, row in enumerate(rows):
        found = read(row, preference)
        if isinstance(found, str):
            left_out[found] += 1
            continue
        key = (found.prompt, found.chosen, found.rejected)
        left_out["repeated"] += key in kept
        kept.setdefault(key, found._replace(id=f"{file}-{number}"))
    return list(kept.values())


def _schema(row: Row, preference: str) -> Reader:
    """How to read a row, by the columns of the first one."""
    if {"response_0", "response_1"} & set(row.values):
        return _full
    if preference != "safer":
        seen = f"{row.where}: preference = {preference!r}, but these columns tell only which response was chosen"
        raise BenchError(f"{seen}: {', '.join(row.values)}.", "Leave preference out, or give PKU-SafeRLHF's columns.")
    if "response" in row.values:
        return _reduced
    if {"chosen", "rejected"} & set(row.values):
        return _standard
    seen = f"{row.where}: the columns {', '.join(row.values) or '(none)'} are of no known schema."
    fix = (
        "Give prompt, response_0, response_1 with their labels; or prompt, response [safer, other]; or prompt, chosen, "
    )
    raise BenchError(seen, fix + "rejected.")


def _full(row: Row, preference: str) -> Comparison | str:
    chosen = _label(row, f"{preference}_response_id", {"0": 0, "1": 1, "0.0": 0, "1.0": 1})
    flags = [_label(row, f"is_response_{side}_safe", {"true": 1, "false": 0, "1": 1, "0": 0}) for side in (0, 1)]
    if chosen is None:
        return f"without a {preference} response"
    safe = None if None in flags else (bool(flags[chosen]), bool(flags[1 - chosen]))
    if preference == "safer" and safe == (False, True):
        return "whose safer response is flagged unsafe and the other safe"
    return _comparison(row, f"response_{chosen}", f"response_{1 - chosen}", safe)


def _reduced(row: Row, _: str) -> Comparison | str:
    responses = row.values.get("response")
    if not isinstance(responses, list) or len(responses) != 2:
        raise BenchError(f"{row.where}: 'response' is not a list of two texts.", "Give [safer, other].")
    named = {"response[0]": responses[0], "response[1]": responses[1]}
    return _comparison(Row(row.where, {**row.values, **named}), "response[0]", "response[1]")


def _standard(row: Row, _: str) -> Comparison | str:
    return _comparison(row, "chosen", "rejected")


def _comparison(row: Row, chosen: str, rejected: str, safe: tuple[bool, bool] | None = None) -> Comparison | str:
    """Of the texts in two columns."""
    responses = [row.values.get(column) for column in (chosen, rejected)]
    if any(isinstance(response, str) and not response.strip() for response in responses):
        return "with an empty response"
    one, other = text(row, chosen), text(row, rejected)
    if one.strip() == other.strip():
        return "with equal responses"
    return Comparison("", text(row, "prompt"), one, other, safe)


def _label(row: Row, column: str, known: Mapping[str, int]) -> int | None:
    """0 or 1, or None where nobody labelled; numbers, booleans and (as in CSV) their texts are read."""
    if column not in row.values:
        raise BenchError(f"{row.where}: no column {column!r}.", did_you_mean(column, row.values))
    value = str(row.values[column]).strip().lower()
    if value not in known and value not in UNKNOWN:
        seen = f"{row.where}: {column!r} holds {value[:40]!r}."
        raise BenchError(seen, f"Give one of {', '.join(known)}, or nothing where it is not known.")
    return known.get(value)


def _check_classes(data: str, preference: str, rows: Sequence[Comparison], left_out: Counter[str]) -> None:
    if not rows:
        raise BenchError(f"{data} holds no usable comparison{_counted(left_out)}.", "Give rows that choose a response.")
    flags = [row.safe for row in rows if row.safe]
    if preference == "safer" and flags and all(one == other for one, other in flags):
        seen = f"{data} never shows a safe response beside an unsafe one: all {len(flags)} flagged rows hold one class."
        raise BenchError(seen, "Give rows whose responses differ in safety, or choose with preference=better.")


def _split(files: Mapping[str, list[Comparison]], left_out: Counter[str]) -> Mapping[Split, list[Comparison]]:
    """Every prompt in one split: the test file's prompts (else a tenth by hash) in test, the others by hash."""
    held_out = {prompt_hash(row.prompt) for row in files.get("test", ())}
    splits: dict[Split, list[Comparison]] = {"sft": [], "train": [], "test": files.get("test", [])}
    for row in files["train"]:
        key = prompt_hash(row.prompt)
        bucket = int(key[:8], 16) % 20
        if key in held_out:
            left_out["whose prompt is in the test split too"] += 1
        elif "test" not in files and bucket < 2:
            splits["test"].append(row)
        else:
            splits["sft" if bucket % 2 else "train"].append(row)
    return splits


def _counted(left_out: Mapping[str, int]) -> str:
    counts = "; ".join(f"{count} {reason}" for reason, count in left_out.items() if count)
    return f" (left out: {counts})" if counts else ""
