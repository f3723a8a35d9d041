"""The task `preferences`: any preference data in the standard columns, from a file, a folder or the hub.

`bench run --task preferences --data FILE_OR_HUB_ID[@REVISION] ...`.  Columns as TRL documents them: `chosen` and
`rejected` with a `prompt`, or with the prompt implicit in what both begin with; texts, or lists of messages.
"""

from __future__ import annotations

import hashlib
from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_bench.harness.errors import BenchError, did_you_mean
from rlhf_bench.harness.nouns import Example, Origin, Pair, Split
from rlhf_bench.tasks.conversations import parted
from rlhf_bench.tasks.real import check_data, check_tokens, key
from rlhf_bench.tasks.sources import SUFFIXES, Row, content_sha256, hub_rows, read_rows

HELD_OUT = ("test", "validation", "dev", "eval")
"""What the split that is held out may be called."""
RESPONSE_TOKENS = 128
PARTS = ("demonstrations", "training", "held-out pairs", "held-out prompts")


class Preference(NamedTuple):
    """One row: who it is, what was asked, what was preferred to what."""

    id: str
    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True)
class Preferences:
    """`data` is a file, a folder with a file per split, or a hub dataset, pinned as ID@REVISION.

    `split` is the training split and `test_split` the one held out ("": the first of HELD_OUT there is).  Prompts are
    parted by their hash, so that one prompt never stands on two sides: of the training split half are demonstrations
    (their chosen responses), the others PPO prompts and training pairs; of the held-out split half are held-out pairs
    and half held-out prompts.  Where nothing is held out, a tenth of the prompts is for each.  `system` and further
    turns before the last question become part of the prompt's text.
    """

    data: str
    split: str = "train"
    test_split: str = ""
    response_tokens: int = RESPONSE_TOKENS

    def __post_init__(self) -> None:
        check_tokens(self.response_tokens)

    @property
    def max_response_tokens(self) -> int:
        """As set; longer demonstrations are clipped and longer pairs left out, both counted."""
        return self.response_tokens

    @cached_property
    def origin(self) -> Origin:
        """What was read; the hash is of the rows as they were."""
        parts = self._parts
        counts = ", ".join(f"{len(rows)} {name}" for name, rows in parts.items())
        left = sum(map(len, self._read.values())) - sum(map(len, parts.values()))
        described = (
            f"Preferences from {self.data}: rows for {counts}; {left} training rows about held-out prompts left out."
        )
        return Origin("real", described, content_sha256(self._rows.items()))

    def examples(self, split: Split) -> Sequence[Example]:
        """Distinct prompts, with the first chosen response as completion and other ones as references."""
        found: dict[str, list[Preference]] = {}
        for row in self._parts[{"sft": "demonstrations", "train": "training", "test": "held-out prompts"}[split]]:
            found.setdefault(row.prompt, []).append(row)
        made = []
        for prompt, rows in found.items():
            said = list(dict.fromkeys(row.chosen for row in rows))
            made.append(Example(rows[0].id, prompt, said[0], tuple(said[1:])))
        return made

    def pairs(self, split: Split) -> Sequence[Pair]:
        """Every row of the part as a pair."""
        if split == "sft":
            return []
        rows = self._parts["training" if split == "train" else "held-out pairs"]
        return [Pair(row.id, row.prompt, row.chosen, row.rejected) for row in rows]

    @cached_property
    def _parts(self) -> Mapping[str, list[Preference]]:
        """The rows by what they are for; raises BenchError where nothing is left for one of them."""
        parts: dict[str, list[Preference]] = {name: [] for name in PARTS}
        held = {key(row.prompt) for row in self._read["test"]}
        ends = (0.5, 1.0, 1.0) if held else (0.4, 0.8, 0.9)
        for row in self._read["train"]:
            if key(row.prompt) not in held:
                parts[PARTS[bisect(ends, _place(row.prompt))]].append(row)
        for row in self._read["test"]:
            parts[PARTS[2 if _place(row.prompt) < 0.5 else 3]].append(row)
        for name, rows in parts.items():
            if not rows:
                total = sum(map(len, self._read.values()))
                raise BenchError(
                    f"{self.data} leaves no row for {name} of its {total}.", "Give data about more prompts."
                )
        return parts

    @cached_property
    def _read(self) -> Mapping[str, list[Preference]]:
        """Rows as prompt, chosen and rejected, of the training split and the one held out (empty: none)."""
        return {
            split: [Preference(f"{split}-{number}", *parted(row)) for number, row in enumerate(rows)]
            for split, rows in self._rows.items()
        }

    @cached_property
    def _rows(self) -> Mapping[str, list[Row]]:
        path = Path(self.data).expanduser()
        if path.is_file():
            return {"train": read_rows(path), "test": []}
        splits: Mapping[str, Any] = _files(path) if path.is_dir() else hub_rows(self.data)
        test = self.test_split or next((name for name in HELD_OUT if splits.get(name)), "")
        for name in filter(None, (self.split, test)):
            if not splits.get(name):
                raise BenchError(f"{self.data} has no rows in split {name!r}.", did_you_mean(name, splits))
        read = {"train": splits[self.split], "test": splits[test] if test else []}
        return {name: read_rows(rows) if isinstance(rows, Path) else rows for name, rows in read.items()}


def _files(folder: Path) -> dict[str, Path]:
    """The files of rows in a folder by the name of their split; raises BenchError where two have one name."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        end = next((end for end in SUFFIXES if path.name.endswith(end)), "")
        if end and path.is_file():
            name = path.name.removesuffix(end)
            if name in found:
                raise BenchError(f"{folder} holds {found[name].name} and {path.name}.", "Keep one of them.")
            found[name] = path
    return found


def _place(prompt: str) -> float:
    """Where in [0, 1) the hash of a prompt puts it; prompts that differ in case and spaces alone lie together."""
    return int(hashlib.sha256(key(prompt).encode()).hexdigest()[:13], 16) / 2**52


def preferences(
    *, data: str = "", split: str = "train", test_split: str = "", response_tokens: int = RESPONSE_TOKENS
) -> Preferences:
    """Any preference data.  See `Preferences`."""
    if data in ("", "hub"):
        fix = f"Add --data FILE_OR_HUB_ID (a {', '.join(SUFFIXES)} file with chosen, rejected and a prompt)."
        raise BenchError("The task 'preferences' has no data of its own.", fix)
    check_data(data)
    if Path(data).expanduser().is_file() and (split != "train" or test_split):
        raise BenchError(f"split is set together with the file {data}.", "A file has no splits.")
    return Preferences(data, split, test_split, response_tokens)
