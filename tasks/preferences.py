"""The task `preferences`: any preference data in the standard columns, from a file, a folder or the hub.

    bench run --task preferences --data FILE_OR_HUB_ID[@REVISION] ...

Columns are as TRL documents them: `chosen` and `rejected` with a `prompt`, or with the prompt implicit in what both
begin with; texts, or lists of messages.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from rlhf_bench.harness.errors import BenchError, did_you_mean
from rlhf_bench.harness.nouns import Example, Origin, Pair, Split
from rlhf_bench.tasks.real import split_key, text_key
from rlhf_bench.tasks.settings import Setting, check_data, check_tokens, settings_of
from rlhf_bench.tasks.sources import SUFFIXES, Row, check_unicode, content_sha256, hub_rows, read_rows

# Names that a held-out split may have, in order of preference.
HELD_OUT = ("test", "validation", "dev", "eval")

PARTS = ("demonstrations", "training", "held-out pairs", "held-out prompts")

# The end of an implicit prompt in transcripts of plain text.
ANSWERS = "\n\nAssistant:"

SPEAKERS = {"system": "System", "user": "User", "assistant": "Assistant"}


class Preference(NamedTuple):
    """One row: its id, a prompt, and the two responses."""

    id: str
    prompt: str
    chosen: str
    rejected: str


class Message(NamedTuple):
    """One turn of a conversation; the role is one of SPEAKERS."""

    role: str
    content: str


@dataclass(frozen=True)
class Preferences:
    """`data` is a file, a folder with a file per split, or a hub dataset, pinned as ID@REVISION.

    `split` is the training split and `test_split` the held-out one ("": the first of HELD_OUT that exists).  Prompts
    are divided by their hash, so that no prompt is in two parts: of the training split half are demonstrations (their
    chosen responses), the others PPO prompts and training pairs; of the held-out split half are held-out pairs and half
    held-out prompts.  Without a held-out split, a tenth of the prompts is for each.  `system` and further turns before
    the last question become part of the prompt's text.
    """

    data: str
    split: str = "train"
    test_split: str = ""
    response_tokens: int = 128

    def __post_init__(self) -> None:
        check_tokens(self.response_tokens)

    @property
    def max_response_tokens(self) -> int:
        """As set; longer demonstrations are clipped and longer pairs left out, both counted."""
        return self.response_tokens

    @cached_property
    def origin(self) -> Origin:
        """What was read; the hash is of the rows as they were.

        The description counts the rows of each part and the training rows about held-out prompts, which are left out.
        """
        parts = self._parts
        counts = ", ".join(f"{len(rows)} {name}" for name, rows in parts.items())
        # what the parts lack of all rows is what `_parts` left out
        left = sum(map(len, self._read.values())) - sum(map(len, parts.values()))
        described = (
            f"Preferences from {self.data}: rows for {counts}; {left} training rows about held-out prompts left out."
        )
        return Origin("real", described, content_sha256(self._rows.items()))

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
        held = {text_key(row.prompt) for row in self._read["test"]}
        # Where the parts end in [0, 1); with a held-out split, the training split has the first two parts alone.
        ends = (0.5, 1.0, 1.0) if held else (0.4, 0.8, 0.9)
        for row in self._read["train"]:
            if text_key(row.prompt) not in held:  # else it would train on a held-out prompt; `origin` counts these
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
        """Rows as prompt, chosen and rejected, of the training split and the held-out one (empty: none)."""
        return {
            split: [Preference(f"{split}-{number}", *preference_texts(row)) for number, row in enumerate(rows)]
            for split, rows in self._rows.items()
        }

    @cached_property
    def _rows(self) -> Mapping[str, list[Row]]:
        path = Path(self.data).expanduser()
        if path.is_file():
            return {"train": read_rows(path), "test": []}
        # Files of a folder are read only where their split is used.
        splits: Mapping[str, Path | list[Row]] = files_by_split(path) if path.is_dir() else hub_rows(self.data)
        # by rows, not by name: a hub dataset may hold an empty split
        test = self.test_split or next((name for name in HELD_OUT if splits.get(name)), "")
        for name in filter(None, (self.split, test)):
            if not splits.get(name):
                raise BenchError(f"{self.data} has no rows in split {name!r}.", did_you_mean(name, splits))
        read = {"train": splits[self.split], "test": splits[test] if test else []}
        return {name: read_rows(rows) if isinstance(rows, Path) else rows for name, rows in read.items()}


def files_by_split(folder: Path) -> dict[str, Path]:
    """The files of rows in a folder by the name of their split; raises BenchError where two have one name.

    The split is the name without its suffix, as train of train.jsonl.gz; files with other suffixes are ignored.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        end = next((end for end in SUFFIXES if path.name.endswith(end)), "")
        if end and path.is_file():
            name = path.name.removesuffix(end)
            if name in found:  # train.jsonl and train.csv
                raise BenchError(f"{folder} holds {found[name].name} and {path.name}.", "Keep one of them.")
            found[name] = path
    return found


def _place(prompt: str) -> float:
    """A number in [0, 1) from the hash of a prompt; the same for prompts that differ in case and spaces alone."""
    # 13 hexadecimal digits are 52 bits, which a float holds exactly.
    return int(hashlib.sha256(split_key(prompt).encode()).hexdigest()[:13], 16) / 2**52


def preference_texts(row: Row) -> tuple[str, str, str]:
    """(prompt, chosen, rejected) of a row.  Raises BenchError, with the row's place, for an unusable row."""
    chosen, rejected = _value(row, "chosen"), _value(row, "rejected")
    prompt = _value(row, "prompt") if "prompt" in row.values else None
    if isinstance(chosen, str) and isinstance(rejected, str):
        if prompt is None:
            texts = split_transcripts(row, chosen, rejected)
        else:
            texts = prompt if isinstance(prompt, str) else flattened(row, prompt), chosen, rejected
    elif isinstance(chosen, list) and isinstance(rejected, list):
        texts = split_conversations(row, prompt, chosen, rejected)
    else:
        raise BenchError(f"{row.where}: one response is text, the other a list of messages.", "Give both alike.")
    if not texts[0].strip() or not texts[1].strip():
        empty = "chosen response" if texts[0].strip() else "prompt"
        raise BenchError(f"{row.where}: the {empty} is empty.", "Fill it in or drop the row.")
    return texts


def split_transcripts(row: Row, chosen: str, rejected: str) -> tuple[str, str, str]:
    """(prompt, chosen, rejected) of two transcripts without a column for the prompt.

    The prompt is what both begin with, up to the start of the last answer, else the last line that both have.  Raises
    BenchError where they have no beginning in common.
    """
    # letter by letter, so it may end inside a word that both answers begin with
    shared = chosen[: _shared(chosen, rejected)]
    end = shared.rfind(ANSWERS)
    # The shared beginning may go on into the answers: it is cut back to where both answers start.
    cut = end + len(ANSWERS) if end >= 0 else shared.rfind("\n") + 1
    if not shared[:cut].strip():
        raise BenchError(f"{row.where}: no column 'prompt', and both responses begin differently.", "Add the prompt.")
    prompt = shared[:end] if end >= 0 else shared[:cut]
    # Transcripts as those of HH-RLHF begin with "Human:" and mark every later turn.
    return prompt.strip().removeprefix("Human:").strip(), chosen[cut:].strip(), rejected[cut:].strip()


def split_conversations(
    row: Row, prompt: str | list[Message] | None, chosen: list[Message], rejected: list[Message]
) -> tuple[str, str, str]:
    """(prompt, chosen, rejected) of two conversations with a prompt, or with a common beginning.

    Raises BenchError without either, and where what follows is not one turn of the assistant.
    """
    before = [Message("user", prompt)] if isinstance(prompt, str) else prompt or []
    if before and chosen[: len(before)] == before and rejected[: len(before)] == before:
        chosen, rejected = chosen[len(before) :], rejected[len(before) :]  # some data repeat the prompt in both
    elif not before:
        count = _shared(chosen[:-1], rejected[:-1])  # never the answers themselves, even where they are equal
        before, chosen, rejected = chosen[:count], chosen[count:], rejected[count:]
    if not before:
        seen = f"{row.where}: no column 'prompt', and both conversations begin differently."
        raise BenchError(seen, "Add the prompt.")
    for name, left in (("chosen", chosen), ("rejected", rejected)):
        if [message.role for message in left] != ["assistant"]:
            roles = ", ".join(message.role for message in left) or "nothing"
            seen = f"{row.where}: after the prompt {name!r} holds {roles}."
            raise BenchError(seen, "Give one turn of the assistant.")
    return flattened(row, before), chosen[0].content, rejected[0].content


def _shared(a: Sequence[object], b: Sequence[object]) -> int:
    """The number of items that two sequences have in common at their start."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def flattened(row: Row, messages: Sequence[Message]) -> str:
    """A prompt of messages as one text: a single question as it is, several turns each after its speaker.

    Raises BenchError where the last turn is not the user's.
    """
    if not messages or messages[-1].role != "user":
        last = f"with a turn of {messages[-1].role!r}" if messages else "with nothing"
        raise BenchError(f"{row.where}: the prompt ends {last}.", "It must end with a turn of the user.")
    if len(messages) == 1:
        return messages[0].content
    return "\n\n".join(f"{SPEAKERS[message.role]}: {message.content}" for message in messages)


def _value(row: Row, column: str) -> str | list[Message]:
    """A column's text, or its messages; raises BenchError for anything else."""
    if column not in row.values:
        raise BenchError(
            f"{row.where}: no column {column!r}, only {', '.join(map(repr, row.values))}.",
            "Preference data have the columns chosen and rejected, and prompt unless both begin with it.",
        )
    value = row.values[column]
    if isinstance(value, str) and value.lstrip().startswith('[{"'):
        with suppress(ValueError):  # a text that only looks like JSON is a text
            value = json.loads(value)  # a CSV file holds messages as JSON
    if isinstance(value, str):
        return check_unicode(row, column, value)
    messages = []
    for one in value if isinstance(value, list) and value else [None]:
        if not isinstance(one, dict) or not all(isinstance(one.get(name), str) for name in ("role", "content")):
            seen = f"{row.where}: {column!r} is neither text nor a list of messages with role and content."
            raise BenchError(seen, 'Give "text" or [{"role": "user", "content": "text"}].')
        if one["role"] not in SPEAKERS:
            seen = f"{row.where}: {column!r} has a turn of {one['role']!r}."
            raise BenchError(seen, f"Known: {', '.join(SPEAKERS)}.")
        messages.append(Message(one["role"], one["content"]))
    return messages


@settings_of(Preferences)
def preferences(*, data: str = "", **settings: Setting) -> Preferences:
    """Any preference data in the standard columns (real data only).

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
