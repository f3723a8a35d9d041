"""The task `preferences`: any preference data, from a file, a folder or the hub.

    bench run --task preferences --data FILE_OR_HUB_ID[@REVISION] ...

Columns are recognised (layouts.py) or named: `chosen` and `rejected` with a `prompt` as TRL documents them, and the
layouts of the common data sets; texts, transcripts or lists of messages.
"""

from __future__ import annotations

import hashlib
from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from rlhf_bench.harness.errors import BenchError, did_you_mean
from rlhf_bench.harness.nouns import Example, Origin, Pair, Split
from rlhf_bench.tasks.folders import Part, held_out_split, read_parts, split_files, training_split
from rlhf_bench.tasks.layouts import Layout, Names, recognise
from rlhf_bench.tasks.real import split_key, text_key
from rlhf_bench.tasks.settings import Setting, check_data, check_tokens, settings_of
from rlhf_bench.tasks.sources import REFUSE, SKIP, SUFFIXES, BadRows, Row, content_sha256, hub_rows, read_rows

PARTS = ("demonstrations", "training", "held-out pairs", "held-out prompts")


class Preference(NamedTuple):
    """One row: its id, a prompt, and the two responses."""

    id: str
    prompt: str
    chosen: str
    rejected: str | None


class Reading(NamedTuple):
    """What was read of all splits: rows of the training and of the held-out split, the rows as they were, and how."""

    splits: Mapping[str, list[Preference]]
    rows: Mapping[str, list[Row]]
    layout: Layout
    bad: BadRows


@dataclass(frozen=True)
class Preferences:
    """`data` is a file, a folder with a file per split, or a hub dataset, pinned as ID@REVISION.

    `split` is the training split and `test_split` the held-out one ("": the first of HELD_OUT that exists).  Prompts
    are divided by their hash, so that no prompt is in two parts: of the training split half are demonstrations (their
    chosen responses), the others PPO prompts and training pairs; of the held-out split half are held-out pairs and half
    held-out prompts.  Without a held-out split, a tenth of the prompts is for each.

    `prompt`, `chosen`, `rejected` and `system` name columns, with dots a field inside one ("": recognised; prompt "-":
    both answers begin with it).  Instructions and turns before the last question are part of the prompt, as turns for a
    chat template.  `bad_rows` says what is done with rows that cannot be used (skip, refuse).  `unpaired` says what is
    done with liked answers (KTO) that no other answer is compared with: they are left out (drop), or the SFT policy
    writes the rejected response (sample).
    """

    data: str
    split: str = "train"
    test_split: str = ""
    response_tokens: int = 128
    prompt: str = ""
    chosen: str = ""
    rejected: str = ""
    system: str = ""
    bad_rows: str = REFUSE
    unpaired: str = "drop"

    def __post_init__(self) -> None:
        check_tokens(self.response_tokens)
        for name, known in (("bad_rows", (REFUSE, SKIP)), ("unpaired", ("drop", "sample"))):
            if getattr(self, name) not in known:
                raise BenchError(f"{name}={getattr(self, name)!r}.", did_you_mean(getattr(self, name), known))

    @property
    def max_response_tokens(self) -> int:
        """As set; longer demonstrations are clipped and longer pairs left out, both counted."""
        return self.response_tokens

    @cached_property
    def origin(self) -> Origin:
        """What was read; the hash is of the rows as they were.

        The description counts the rows of each part and the training rows about held-out prompts, which are left out.
        """
        parts, read = self._parts, self._read
        counts = ", ".join(f"{len(rows)} {name}" for name, rows in parts.items())
        # what the parts lack of all rows is what `_parts` left out
        left = sum(map(len, read.splits.values())) - sum(map(len, parts.values()))
        described = (
            f"Preferences from {self.data}: rows for {counts}; {left} training rows about held-out prompts left out. "
            f"{read.layout.description}"
        )
        if read.layout.ties:
            described += f" {read.layout.ties} rows without a better answer left out."
        if read.layout.alone:
            described += f" {read.layout.alone} prompts without two different answers left out."
        if read.bad.faults:
            described += f" Left out: {read.bad.described()}"
        return Origin("real", described, content_sha256(read.rows.items()))

    def examples(self, split: Split) -> Sequence[Example]:
        """Distinct prompts, with the first chosen response as completion and other ones as references.

        In the order of their first rows, whose ids they have.
        """
        by_prompt: dict[str, list[Preference]] = {}
        for row in self._parts[{"sft": "demonstrations", "train": "training", "test": "held-out prompts"}[split]]:
            by_prompt.setdefault(row.prompt, []).append(row)
        examples = []
        for prompt, rows in by_prompt.items():
            completions = list(dict.fromkeys(row.chosen for row in rows))
            examples.append(Example(rows[0].id, prompt, completions[0], tuple(completions[1:])))
        return examples

    def pairs(self, split: Split) -> Sequence[Pair]:
        """Every row of the part as a pair.

        None for "sft".  Flaws are unknown: the data mark none.
        """
        if split == "sft":
            return []
        rows = self._parts["training" if split == "train" else "held-out pairs"]
        return [Pair(row.id, row.prompt, row.chosen, row.rejected) for row in rows]

    @cached_property
    def _parts(self) -> Mapping[str, list[Preference]]:
        """The rows by their part; raises BenchError where a part has none."""
        parts: dict[str, list[Preference]] = {name: [] for name in PARTS}
        held = {text_key(row.prompt) for row in self._read.splits["test"]}
        # Where the parts end in [0, 1); with a held-out split, the training split has the first two parts alone.
        ends = (0.5, 1.0, 1.0) if held else (0.4, 0.8, 0.9)
        for row in self._read.splits["train"]:
            if text_key(row.prompt) not in held:  # else it would train on a held-out prompt; `origin` counts these
                parts[PARTS[bisect(ends, _place(row.prompt))]].append(row)
        for row in self._read.splits["test"]:
            parts[PARTS[2 if _place(row.prompt) < 0.5 else 3]].append(row)
        for name, rows in parts.items():
            if not rows:
                total = sum(map(len, self._read.splits.values()))
                raise BenchError(
                    f"{self.data} leaves no row for {name} of its {total}.", "Give data about more prompts."
                )
        return parts

    @cached_property
    def _read(self) -> Reading:
        """The rows of the training split and the held-out one (empty: none).

        Raises BenchError for bad rows, unless they are left out, and for an unknown layout.
        """
        bad = BadRows(self.bad_rows == SKIP)
        rows = self._rows(bad)
        every = [row for split in rows.values() for row in split]
        layout = recognise(every, Names(self.prompt, self.chosen, self.rejected, self.system))
        splits = {
            split: [
                Preference(f"{split}-{one.number}", one.prompt, one.chosen, one.rejected)
                for one in layout.triples(found, bad, self.unpaired == "sample")
            ]
            for split, found in rows.items()
        }
        left = sum(map(len, splits.values()))
        bad.check(left)
        if not left:
            fix = "Give prompts with several answers"
            fix += ", or --set preferences.unpaired=sample." if layout.alone and self.unpaired == "drop" else "."
            seen = f"{self.data} compares no two answers ({layout.alone} prompts with one alone, {layout.ties} ties)."
            raise BenchError(seen, fix)
        return Reading(_numbered(splits), rows, layout, bad)

    def _rows(self, bad: BadRows) -> Mapping[str, list[Row]]:
        path = Path(self.data).expanduser()
        if path.is_file():
            return {"train": read_rows(path, bad), "test": []}
        # Files of a folder are read only where their split is used.
        splits: Mapping[str, list[Part] | list[Row]] = split_files(path) if path.is_dir() else hub_rows(self.data)
        train = training_split(splits, self.split) if self.split == Preferences.split else self.split
        # by rows, not by name: a hub dataset may hold an empty split
        test = self.test_split or held_out_split(splits, train)
        for name in filter(None, (train, test)):
            if not splits.get(name):
                raise BenchError(f"{self.data} has no rows in split {name!r}.", did_you_mean(name, splits))
        read = {"train": splits[train], "test": splits[test] if test else []}
        return {name: read_parts(found, bad) for name, found in read.items()}


def _numbered(splits: Mapping[str, list[Preference]]) -> dict[str, list[Preference]]:
    """The rows with ids that are unique where a row gives several pairs: the later ones end in their number."""
    found: dict[str, list[Preference]] = {}
    for split, rows in splits.items():
        seen: dict[str, int] = {}
        for row in rows:
            at = seen[row.id] = seen.get(row.id, -1) + 1
            found.setdefault(split, []).append(row._replace(id=f"{row.id}.{at}") if at else row)
    return {split: found.get(split, []) for split in splits}


def _place(prompt: str) -> float:
    """A number in [0, 1) from the hash of a prompt; the same for prompts that differ in case and spaces alone."""
    # 13 hexadecimal digits are 52 bits, which a float holds exactly.
    return int(hashlib.sha256(split_key(prompt).encode()).hexdigest()[:13], 16) / 2**52


def preference_texts(row: Row) -> tuple[str, str, str]:
    """(prompt, chosen, rejected) of a row read alone.  Raises BenchError, with the row's place, for an unusable row."""
    bad = BadRows()
    found = list(recognise([row]).triples([row], bad))
    bad.check(len(found))
    return found[0].prompt, found[0].chosen, found[0].rejected or ""


@settings_of(Preferences)
def preferences(*, data: str = "", **settings: Setting) -> Preferences:
    """Any preference data, by recognised or named columns (real data only).

    See `Preferences`.  Raises BenchError without `data`, and for `split` or `test_split` together with a file.
    """
    if data in ("", "hub"):
        fix = f"Add --data FILE_OR_HUB_ID (a {', '.join(SUFFIXES)} file with chosen, rejected and a prompt)."
        raise BenchError("The task 'preferences' has no data of its own.", fix)
    check_data(data)
    # the harness passes every setting, so one counts as set where it differs from its default
    splits = settings.get("split", Preferences.split), settings.get("test_split", Preferences.test_split)
    if Path(data).expanduser().is_file() and splits != (Preferences.split, Preferences.test_split):
        raise BenchError(f"split is set together with the file {data}.", "A file has no splits.")
    return Preferences(data, **settings)
