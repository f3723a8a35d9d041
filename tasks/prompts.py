"""The tasks `prompts`, `medical` and `code`: prompts alone, for asking a policy about what it was not trained on.

`bench run --task tldr --prompts medical --set medical.data=FILE`.  They have no demonstrations and no pairs, so no
policy and no reward model comes from them.  Nothing is fetched that was not asked for: `data` is required.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rlhf_bench.harness.errors import BenchError, did_you_mean
from rlhf_bench.harness.nouns import Example, Origin, Pair, Split
from rlhf_bench.tasks.real import check_data
from rlhf_bench.tasks.sources import Row, content_sha256, hub_rows, read_rows, text

MEDICAL, CODE = "lavita/MedQuAD", "openai/openai_humaneval"
LICENSES = {MEDICAL: "CC BY 4.0 (MedQuAD's own; the hub copy states none)", CODE: "MIT"}
RESPONSE_TOKENS = 128


@dataclass(frozen=True)
class Prompts:
    """Texts of one column.  `data` is a file or a hub dataset; `split` names the latter's split where it has several.

    `train_share` of the prompts, by hash of the text, may be optimised on; the others are held out.  Equal texts count
    once.  Prompts come in the order of their hash, so that the first n are a sample and no chapter of the file.
    """

    data: str
    column: str = "prompt"
    split: str = ""
    train_share: float = 0.0
    response_tokens: int = RESPONSE_TOKENS

    def __post_init__(self) -> None:
        if not 0 <= self.train_share < 1:
            raise BenchError(f"train_share={self.train_share}.", "Give 0 (all held out) or more, below 1.")
        if self.response_tokens < 2:
            raise BenchError(f"response_tokens={self.response_tokens}.", "Give at least 2.")

    @property
    def max_response_tokens(self) -> int:
        """As set.  A run keeps to the limit of the task its policy was trained on."""
        return self.response_tokens

    @cached_property
    def origin(self) -> Origin:
        """What was read; the hash is of the rows as they were."""
        held = len(self._examples)
        left_out = f"{len(self._rows) - held} repeated ones left out"
        description = f"Prompts from {self.data}, column {self.column!r}: {held}, {left_out}."
        return Origin("real", description, content_sha256([("", self._rows)]), LICENSES.get(self.data, "unknown"))

    def examples(self, split: Split) -> Sequence[Example]:
        """Prompts without completions; none in "sft", and none in "train" unless `train_share` is above 0."""
        if split == "sft" or (split == "train" and not self.train_share):
            return []
        train = split == "train"
        found = [example for place, example in self._examples if (place < self.train_share) == train]
        if not found:
            seen = (
                f"train_share={self.train_share} leaves no {split} prompt of the {len(self._examples)} in {self.data}."
            )
            raise BenchError(seen, "Give more prompts, or another share.")
        return found

    def pairs(self, split: Split) -> Sequence[Pair]:  # noqa: ARG002
        """None."""
        return []

    @cached_property
    def _examples(self) -> list[tuple[float, Example]]:
        """(place in [0, 1) by hash, example), in order of place."""
        found: dict[str, tuple[float, Example]] = {}
        for number, row in enumerate(self._rows):
            prompt = text(row, self.column)
            place = int(hashlib.sha256(prompt.encode()).hexdigest()[:13], 16) / 2**52
            found.setdefault(prompt, (place, Example(f"prompt-{number}", prompt)))
        return sorted(found.values(), key=lambda one: one[0])

    @cached_property
    def _rows(self) -> list[Row]:
        path = Path(self.data).expanduser()
        return self._local(path) if path.exists() else self._hub()

    def _local(self, path: Path) -> list[Row]:
        if self.split:
            raise BenchError(f"split={self.split!r} set together with the file {path}.", "A file has no splits.")
        return read_rows(path)

    def _hub(self) -> list[Row]:
        splits = hub_rows(self.data)
        if self.split and self.split not in splits:
            raise BenchError(f"{self.data} has no split {self.split!r}.", did_you_mean(self.split, splits))
        if not self.split and len(splits) != 1:
            seen = f"{self.data} has {len(splits)} splits: {', '.join(splits) or 'none'}."
            raise BenchError(seen, "Name one with split=NAME.")
        name = self.split or next(iter(splits))
        if not splits[name]:
            raise BenchError(f"Split {name!r} of {self.data} holds no rows.", "Name another one.")
        return splits[name]


def _open(name: str, hub: str, data: str, column: str, split: str, train_share: float, tokens: int) -> Prompts:
    if not data or (data == "hub" and not hub):
        seen = f"data={data!r}: the task {name!r} has no prompts of its own."
        fix = f"Name a file or hub dataset with --set {name}.data=NAME (column {column!r})"
        raise BenchError(seen, f"{fix}, or 'hub' for {hub}." if hub else f"{fix}.")
    check_data(data)
    return Prompts(hub if data == "hub" else data, column, split, train_share, tokens)


def prompts(
    *,
    data: str = "",
    column: str = "prompt",
    split: str = "",
    train_share: float = 0.0,
    response_tokens: int = RESPONSE_TOKENS,
) -> Prompts:
    """Prompts of any file or hub dataset.  See `Prompts`."""
    return _open("prompts", "", data, column, split, train_share, response_tokens)


def medical(
    *,
    data: str = "",
    column: str = "question",
    split: str = "",
    train_share: float = 0.0,
    response_tokens: int = RESPONSE_TOKENS,
) -> Prompts:
    """Medical questions: a file, a hub dataset, or "hub" for MedQuAD (47,441 questions, with repetitions)."""
    return _open("medical", MEDICAL, data, column, split, train_share, response_tokens)


def code(
    *,
    data: str = "",
    column: str = "prompt",
    split: str = "",
    train_share: float = 0.0,
    response_tokens: int = RESPONSE_TOKENS,
) -> Prompts:
    """Programs to complete: a file, a hub dataset, or "hub" for HumanEval (164 prompts)."""
    return _open("code", CODE, data, column, split, train_share, response_tokens)
