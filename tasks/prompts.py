"""The tasks `prompts`, `medical` and `code`: prompts alone, for asking a policy about what it was not trained on.

`bench run --task tldr --prompts medical --set medical.data=FILE`.  They have no demonstrations and no pairs, so no
policy and no reward model comes from them.  Nothing is fetched that was not asked for: `data` is required.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rlhf_bench.harness.errors import BenchError, did_you_mean
from rlhf_bench.harness.nouns import Example, Origin, Pair, Split
from rlhf_bench.harness.slices import TYPE_SLICES, rule_accuracy, type_by_rule
from rlhf_bench.tasks.real import check_data
from rlhf_bench.tasks.sources import Row, content_sha256, hub_rows, read_rows, text

MEDICAL, CODE = "lavita/MedQuAD", "openai/openai_humaneval"
LICENSES = {MEDICAL: "CC BY 4.0 (MedQuAD's own; the hub copy states none)", CODE: "MIT"}
RESPONSE_TOKENS = 128
RULE = "rule"


@dataclass(frozen=True)
class Prompts:
    """Texts of one column.  `data` is a file or a hub dataset; `split` names the latter's split where it has several.

    `references` names a column of reference answers ("" for none).  `types` says whether prompts are open-ended or
    closed-ended: a column that holds the words of slices.TYPE_SLICES, or "rule" for the rule of words
    (slices.type_by_rule), whose slices are called by-rule-open and by-rule-closed: a guess is not a statement, and
    reward models that read types go on treating it as one of their own.

    `train_share` of the prompts, by hash of the text, may be optimised on; the others are held out.  Equal texts count
    once, by their first row.  Prompts come in the order of their hash, so that the first n are a sample and no chapter
    of the file.
    """

    data: str
    column: str = "prompt"
    split: str = ""
    train_share: float = 0.0
    response_tokens: int = RESPONSE_TOKENS
    references: str = ""
    types: str = ""

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
        description = f"Prompts from {self.data}, column {self.column!r}: {held}, {left_out}.{self._said_of_types()}"
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
            reference = text(row, self.references) if self.references else ""
            example = Example(f"prompt-{number}", prompt, reference, slices=self._slices(row))
            _, first = found.setdefault(prompt, (place, example))
            if first.slices != example.slices:
                seen = f"{row.where}: {self.types!r} states another type than an earlier row with this prompt."
                raise BenchError(seen, "State one type for each prompt.")
        return sorted(found.values(), key=lambda one: one[0])

    def _slices(self, row: Row) -> tuple[str, ...]:
        """The prompt's type: what the column says, or the rule's guess by a name that says it is one."""
        if not self.types:
            return ()
        if self.types == RULE:
            return (f"by-rule-{type_by_rule(text(row, self.column))}",)
        stated = text(row, self.types).strip().lower()
        if stated not in TYPE_SLICES:
            seen = f"{row.where}: {self.types!r} holds {stated[:40]!r}, which is no type of prompt."
            raise BenchError(seen, f"Give one of {', '.join(TYPE_SLICES)}.")
        return (TYPE_SLICES[stated],)

    def _said_of_types(self) -> str:
        """How many prompts of each type there are, and how often the rule agrees where the data state types."""
        if not self.types:
            return ""
        examples = [example for _, example in self._examples]
        counts = Counter(name for example in examples for name in example.slices)
        said = f" Types by {'a rule of words' if self.types == RULE else f'column {self.types!r}'}: "
        said += ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
        accuracy = rule_accuracy(examples).accuracy
        return f"{said}." if accuracy is None else f"{said}; a rule of words gives the same for {accuracy:.0%}."

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


def _open(name: str, hub: str, settings: Mapping[str, Any]) -> Prompts:
    data = settings["data"]
    if not data or (data == "hub" and not hub):
        seen = f"data={data!r}: the task {name!r} has no prompts of its own."
        fix = f"Name a file or hub dataset with --set {name}.data=NAME (column {settings['column']!r})"
        raise BenchError(seen, f"{fix}, or 'hub' for {hub}." if hub else f"{fix}.")
    check_data(data)
    return Prompts(**{**settings, "data": hub if data == "hub" else data})


def prompts(
    *,
    data: str = "",
    column: str = "prompt",
    split: str = "",
    train_share: float = 0.0,
    response_tokens: int = RESPONSE_TOKENS,
    references: str = "",
    types: str = "",
) -> Prompts:
    """Prompts of any file or hub dataset.  See `Prompts`."""
    settings = dict(locals())
    return _open("prompts", "", settings)


def medical(
    *,
    data: str = "",
    column: str = "question",
    split: str = "",
    train_share: float = 0.0,
    response_tokens: int = RESPONSE_TOKENS,
    references: str = "",
    types: str = "",
) -> Prompts:
    """Medical questions: a file, a hub dataset, or "hub" for MedQuAD (47,441 questions, with repetitions)."""
    settings = dict(locals())
    return _open("medical", MEDICAL, settings)


def code(
    *,
    data: str = "",
    column: str = "prompt",
    split: str = "",
    train_share: float = 0.0,
    response_tokens: int = RESPONSE_TOKENS,
    references: str = "",
    types: str = "",
) -> Prompts:
    """Programs to complete: a file, a hub dataset, or "hub" for HumanEval (164 prompts)."""
    settings = dict(locals())
    return _open("code", CODE, settings)
