"""The task `saferlhf`: answer helpfully and safely.  A synthetic task, or PKU-SafeRLHF (arXiv 2406.15513) with `data`.

The first row's columns decide which of three schemas real data have: the full one (prompt, response_0, response_1,
is_response_0_safe, is_response_1_safe, safer_response_id, better_response_id), a reduced one (prompt, response:
[safer, other]), or prompt, chosen, rejected.  Real data have no gold utility.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from rlhf_bench.harness.errors import BenchError, did_you_mean
from rlhf_bench.harness.nouns import Example, Origin, Pair, Split
from rlhf_bench.tasks.real import text_key
from rlhf_bench.tasks.settings import Setting, check_real_data, settings_of
from rlhf_bench.tasks.sources import SUFFIXES, Row, content_sha256, hub_rows, read_rows, text
from rlhf_bench.tasks.worlds.safety import SafetyWorld

HUB = "PKU-Alignment/PKU-SafeRLHF"
LICENSE = "CC BY-NC 4.0 (stated by PKU-SafeRLHF's card)"

PREFERENCES = ("safer", "better")
# How a missing label is written.
UNKNOWN = ("", "-1", "none")


class Comparison(NamedTuple):
    """One usable row: two different responses to a prompt, the chosen one first.  `safe`: their flags, where known."""

    id: str
    prompt: str
    chosen: str
    rejected: str
    safe: tuple[bool, bool] | None = None

    @property
    def slices(self) -> tuple[str, ...]:
        """How many of the two responses are safe; no slice where that is not known."""
        return () if self.safe is None else (("both-unsafe", "one-safe", "both-safe")[sum(self.safe)],)


class Contents(NamedTuple):
    """The comparisons of each split, and the number of rows left out by reason."""

    splits: Mapping[Split, list[Comparison]]
    left_out: Mapping[str, int]


@dataclass(frozen=True)
class RealSafeRLHF:
    """Human safety comparisons.  `data` is a folder, a file, "hub", or the name of a dataset on the hub.

    `preference` names the label that chooses: "safer" or "better" (more helpful).  Held out are the data's own test
    rows, or without a test split a tenth of the prompts; of the other prompts one half is for demonstrations, the other
    for PPO and training pairs.  Every prompt (up to case, spaces and punctuation) is in one of the three only, by its
    hash; its rows have one `source`.  A demonstration is the chosen response.
    """

    rubric = "safety"  # for judges that read responses; without annotation, so that it is no dataclass field

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
            f"chosen: {counts} rows{left_out or '; none was left out'}. The test rows have "
            f"{len(by_prompt(self._contents.splits['test']))} distinct prompts, which are held out once each."
        )
        known = LICENSE if self.data in ("hub", HUB) else "unknown"
        return Origin("real", description, content_sha256(self._rows.items()), known)

    def examples(self, split: Split) -> Sequence[Example]:
        """One example a row, with the chosen response as completion; rows of a prompt share their source.

        Held-out prompts stand once each: the first row's, with the chosen responses of the others as references.
        """
        rows = self._contents.splits[split]
        if split != "test":
            return [_example(row) for row in rows]
        return [_example(own[0], *(row.chosen for row in own[1:])) for own in by_prompt(rows).values()]

    def pairs(self, split: Split) -> Sequence[Pair]:
        """The comparisons of the PPO prompts ("train") and of the held-out prompts ("test").

        None for "sft".  Flaws are unknown: the data judge whole responses.
        """
        rows = [] if split == "sft" else self._contents.splits[split]
        return [Pair(row.id, row.prompt, row.chosen, row.rejected) for row in rows]

    @cached_property
    def _rows(self) -> Mapping[str, list[Row]]:
        path = Path(self.data).expanduser()
        # a folder called hub does not hide the dataset
        if path.is_dir() and self.data != "hub":
            return {name: read_rows(file) for name, file in split_files(path).items()}
        if path.is_file() and self.data != "hub":
            return {"train": read_rows(path)}
        # of the hub's splits only these two have a role; others are not read into the task
        splits = hub_rows(HUB if self.data == "hub" else self.data)
        if not splits.get("train"):
            sizes = ", ".join(f"{split} ({len(held)} rows)" for split, held in splits.items()) or "nothing"
            raise BenchError(f"The dataset {self.data!r} has no rows in train, only {sizes}.", "Take another one.")
        return {file: splits[file] for file in ("train", "test") if splits.get(file)}

    @cached_property
    def _contents(self) -> Contents:
        left_out: Counter[str] = Counter()
        files = {file: comparisons(file, rows, self.preference, left_out) for file, rows in self._rows.items()}
        usable = [row for rows in files.values() for row in rows]
        if not usable:
            seen = f"{self.data} holds no usable comparison{_counted(left_out)}."
            raise BenchError(seen, "Give rows that choose a response.")
        flags = [row.safe for row in usable if row.safe]
        # Without a safe response beside an unsafe one, the label "safer" cannot teach what is safe.
        if self.preference == "safer" and flags and all(one == other for one, other in flags):
            seen = f"{self.data} never shows a safe response beside an unsafe one: all {len(flags)} flagged rows hold "
            fix = "Give rows whose responses differ in safety, or choose with preference=better."
            raise BenchError(f"{seen}one class.", fix)
        splits = split_comparisons(files, left_out)
        for split, held in splits.items():
            if not held:
                seen = f"{self.data} is too small: no usable row is left for the {split} split{_counted(left_out)}."
                raise BenchError(seen, "Give rows of more prompts.")
        return Contents(splits, left_out)


def _example(row: Comparison, *others: str) -> Example:
    """The example of a row; `others` are further good responses, of which equal ones count once."""
    references = tuple(text for text in dict.fromkeys(others) if text != row.chosen)
    return Example(row.id, row.prompt, row.chosen, references, row.slices, source_of(row.prompt))


def by_prompt(rows: Sequence[Comparison]) -> dict[str, list[Comparison]]:
    """The rows of each prompt (up to case, spaces and punctuation), in the order of their first rows."""
    found: dict[str, list[Comparison]] = {}
    for row in rows:
        found.setdefault(text_key(row.prompt), []).append(row)
    return found


def source_of(prompt: str) -> str:
    """A short name that prompts have in common where they count as the same."""
    return hashlib.sha256(text_key(prompt).encode()).hexdigest()[:16]


def prompt_hash(prompt: str) -> str:
    """SHA-256 of a prompt's letters and digits, without case: it decides the split."""
    # casefold where real.split_key lowers: the two differ for a few letters, and stored splits depend on either.
    return hashlib.sha256((re.sub(r"[\W_]+", "", prompt.casefold()) or prompt).encode()).hexdigest()


def split_files(folder: Path) -> dict[str, Path]:
    """The files "train" and "test" of a folder; raises BenchError without train, and for two files of one split."""
    found: dict[str, Path] = {}
    for name in ("train", "test"):
        held = [folder / f"{name}{end}" for end in SUFFIXES if (folder / f"{name}{end}").is_file()]
        if len(held) > 1:
            names = " and ".join(path.name for path in held)
            raise BenchError(f"{folder} holds {names} for the {name} split.", "Keep one of them.")
        if held:
            found[name] = held[0]
    if "train" not in found:
        held_names = ", ".join(sorted(path.name for path in folder.iterdir())[:10]) or "nothing"
        fix = "Add train.jsonl (and test.jsonl; without it a tenth of the prompts is held out), or name a file."
        raise BenchError(f"{folder} holds no train split, only {held_names}.", fix)
    return found


def comparisons(file: str, rows: Sequence[Row], preference: str, left_out: Counter[str]) -> list[Comparison]:
    """The distinct comparisons of a split; unusable rows are counted by reason in `left_out`.

    The first row's columns decide the schema.  Raises BenchError for a row that does not have them.
    """
    # a split without rows is never read, so there is a first row
    columns = set(rows[0].values)
    full, where = bool({"response_0", "response_1"} & columns), rows[0].where
    if not full and preference != "safer":
        seen = f"{where}: preference = {preference!r}, but these columns tell only which response was chosen"
        fix = "Leave preference out, or give PKU-SafeRLHF's columns."
        raise BenchError(f"{seen}: {', '.join(rows[0].values)}.", fix)
    if not full and not columns & {"response", "chosen", "rejected"}:
        seen = f"{where}: the columns {', '.join(rows[0].values) or '(none)'} are of no known schema."
        schemas = "prompt, response_0, response_1 with their labels; or prompt, response [safer, other]"
        raise BenchError(seen, f"Give {schemas}; or prompt, chosen, rejected.")
    kept: dict[tuple[str, str, str], Comparison] = {}  # by content: some published files repeat many rows
    for number, row in enumerate(rows):
        if full:
            found = _labelled(row, preference)
        elif "response" in columns:
            responses = row.values.get("response")
            if not isinstance(responses, list) or len(responses) != 2:
                raise BenchError(f"{row.where}: 'response' is not a list of two texts.", "Give [safer, other].")
            # As two columns, so that an error about one of the texts names its place in the list.
            named = {"response[0]": responses[0], "response[1]": responses[1]}
            found = _comparison(Row(row.where, {**row.values, **named}), "response[0]", "response[1]")
        else:
            found = _comparison(row, "chosen", "rejected")
        if isinstance(found, str):  # a reason
            left_out[found] += 1
            continue
        key = (found.prompt, found.chosen, found.rejected)
        left_out["repeated"] += key in kept  # the first row of a comparison gives it its id
        kept.setdefault(key, found._replace(id=f"{file}-{number}"))
    return list(kept.values())


def _labelled(row: Row, preference: str) -> Comparison | str:
    """The comparison of a row in the full schema, or why the row is unusable."""
    chosen = _label(row, f"{preference}_response_id", {"0": 0, "1": 1, "0.0": 0, "1.0": 1})
    flags = [_label(row, f"is_response_{side}_safe", {"true": 1, "false": 0, "1": 1, "0": 0}) for side in (0, 1)]
    if chosen is None:
        return f"without a {preference} response"
    safe = None if None in flags else (bool(flags[chosen]), bool(flags[1 - chosen]))
    # The labels contradict each other; a reward model could learn either.
    if preference == "safer" and safe == (False, True):
        return "whose safer response is flagged unsafe and the other safe"
    return _comparison(row, f"response_{chosen}", f"response_{1 - chosen}", safe)


def _label(row: Row, column: str, known: Mapping[str, int]) -> int | None:
    """0 or 1, or None where the label is missing; numbers, booleans and (as in CSV) their texts are read.

    `known` maps the texts in lower case.  Raises BenchError without the column and for any other value.
    """
    if column not in row.values:
        raise BenchError(f"{row.where}: no column {column!r}.", did_you_mean(column, row.values))
    value = str(row.values[column]).strip().lower()  # None becomes "none", True "true"
    if value not in known and value not in UNKNOWN:
        seen = f"{row.where}: {column!r} holds {value[:40]!r}."
        raise BenchError(seen, f"Give one of {', '.join(known)}, or nothing where it is not known.")
    return known.get(value)


def _comparison(row: Row, chosen: str, rejected: str, safe: tuple[bool, bool] | None = None) -> Comparison | str:
    """The comparison of the texts in two columns, or why the row is unusable."""
    responses = [row.values.get(column) for column in (chosen, rejected)]
    if any(isinstance(response, str) and not response.strip() for response in responses):
        return "with an empty response"
    one, other = text(row, chosen), text(row, rejected)
    if one.strip() == other.strip():
        return "with equal responses"
    return Comparison("", text(row, "prompt"), one, other, safe)


def split_comparisons(files: Mapping[str, list[Comparison]], left_out: Counter[str]) -> dict[Split, list[Comparison]]:
    """Every prompt in one split: the test file's prompts (else a tenth by hash) in test, the others by hash.

    `left_out` counts the train rows whose prompt is in the test file.
    """
    # the data's own test prompts stay held out, so train rows about them are left out
    held_out = {text_key(row.prompt) for row in files.get("test", ())}
    splits: dict[Split, list[Comparison]] = {"sft": [], "train": [], "test": files.get("test", [])}
    for row in files["train"]:
        bucket = int(prompt_hash(row.prompt)[:8], 16) % 20  # 0 and 1 are a tenth; an odd one is for demonstrations
        if text_key(row.prompt) in held_out:
            left_out["whose prompt is in the test split too"] += 1
        elif "test" not in files and bucket < 2:
            splits["test"].append(row)
        else:
            splits["sft" if bucket % 2 else "train"].append(row)
    return splits


def _counted(left_out: Mapping[str, int]) -> str:
    counts = "; ".join(f"{count} {reason}" for reason, count in left_out.items() if count)
    return f" (left out: {counts})" if counts else ""


@settings_of(SafetyWorld)
def saferlhf(
    *, data: str = "", preference: str = RealSafeRLHF.preference, response_tokens: int = 0, **settings: Setting
) -> SafetyWorld | RealSafeRLHF:
    """Helpful and safe answers to requests (synthetic task, or PKU-SafeRLHF with data=).

    `data` is a folder, a file, "hub" or a hub dataset of real prompts and responses.  `preference` ("safer" or
    "better") names the label that chooses the response of a real pair.  `response_tokens` 0 means 40 in the synthetic
    task and 160 with real data; every other setting is the synthetic task's alone (`SafetyWorld` explains them) and is
    refused together with `data`.
    """
    if data:
        check_real_data(data, settings, SafetyWorld)
        return RealSafeRLHF(data, preference, response_tokens or RealSafeRLHF.response_tokens)
    if preference != RealSafeRLHF.preference:
        seen = f"preference = {preference!r} in the synthetic task."
        raise BenchError(seen, "Its pairs are preferred by utility: leave preference out, or give data.")
    return SafetyWorld(**settings, response_tokens=response_tokens or SafetyWorld.response_tokens)
