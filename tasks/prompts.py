"""The tasks `prompts`, `medical` and `code`: prompts alone, to evaluate a policy on what it was not trained on.

    bench run --task tldr --prompts medical --set medical.data=FILE

They have no demonstrations and no pairs, so no policy and no reward model can be trained on them.  `data` is required:
nothing is downloaded by default.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rlhf_bench.harness.errors import BenchError, did_you_mean
from rlhf_bench.harness.nouns import Example, Origin, Pair, Split
from rlhf_bench.harness.slices import TYPE_SLICES, beyond_rule, rule_accuracy, type_by_rule
from rlhf_bench.tasks.folders import Part, read_parts, split_files
from rlhf_bench.tasks.layouts import Layout, prompt_layout, read_prompt
from rlhf_bench.tasks.settings import Setting, check_data, settings_of
from rlhf_bench.tasks.sources import REFUSE, SKIP, BadRows, Row, content_sha256, hub_rows, read_rows, text

# Datasets on the hub that "hub" stands for.
MEDICAL, CODE = "lavita/MedQuAD", "openai/openai_humaneval"
LICENSES = {MEDICAL: "CC BY 4.0 (MedQuAD's own; the hub copy states none)", CODE: "MIT"}
# The value of `types` that asks for the rule of words.
RULE = "rule"


@dataclass(frozen=True)
class Prompts:
    """Texts of one column.  `data` is a file, a folder or a hub dataset; `split` names a split where it has several.

    `column` "" finds the prompt in the files of the common benchmarks (MT-Bench, Arena-Hard, AlpacaEval, IFEval,
    WildBench and others), and so does the default where the data have no such column.  Instructions and earlier turns
    are part of the prompt, as turns for a chat template; of questions in turn, as MT-Bench's, it is the first.
    `bad_rows` says what is done with rows that cannot be used (skip, refuse).

    `references` names a column of reference answers ("" for none).  `types` says whether prompts are open-ended or
    closed-ended: a column that holds the words of slices.TYPE_SLICES, or "rule" for the rule of words
    (slices.type_by_rule).  The rule's slices are called by-rule-open and by-rule-closed, because a guess is no
    statement: reward models that read types treat it as their own guess.

    `train_share` of the prompts, by hash of the text, may be optimised on; the others are held out.  Equal texts count
    once, by their first row.  Prompts come in the order of their hash, so that the first n are a sample and not a
    section of the file.
    """

    data: str
    column: str = "prompt"
    split: str = ""
    train_share: float = 0.0
    response_tokens: int = 128
    references: str = ""
    types: str = ""
    bad_rows: str = REFUSE

    def __post_init__(self) -> None:
        if not 0 <= self.train_share < 1:
            raise BenchError(f"train_share={self.train_share}.", "Give 0 (all held out) or more, below 1.")
        # one token and end-of-sequence
        if self.response_tokens < 2:
            raise BenchError(f"response_tokens={self.response_tokens}.", "Give at least 2.")
        if self.bad_rows not in (REFUSE, SKIP):
            raise BenchError(f"bad_rows={self.bad_rows!r}.", did_you_mean(self.bad_rows, (REFUSE, SKIP)))

    @property
    def max_response_tokens(self) -> int:
        """As set.  A run keeps the limit of the task that its policy was trained on."""
        return self.response_tokens

    @cached_property
    def origin(self) -> Origin:
        """What was read; the hash is of the rows as they were.

        With types, the description counts them, and says how often the rule of words agrees with stated ones.
        """
        examples = [example for _, example in self._examples]
        left_out = f"{self._bad.total - len(self._bad.faults) - len(examples)} repeated ones left out"
        description = f"Prompts from {self.data}, column {self._layout.question!r}: {len(examples)}, {left_out}."
        if self._bad.faults:
            description += f" Left out: {self._bad.described()}"
        if self.types:
            counts = Counter(name for example in examples for name in example.slices)
            source = "a rule of words" if self.types == RULE else f"column {self.types!r}"
            description += f" Types by {source}: "
            description += ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
            # How often the rule agrees, which is known only where the data state types.
            accuracy = rule_accuracy(examples).accuracy
            description += "." if accuracy is None else f"; a rule of words gives the same for {accuracy:.0%}."
        return Origin("real", description, content_sha256([("", self._rows)]), LICENSES.get(self.data, "unknown"))

    def examples(self, split: Split) -> Sequence[Example]:
        """Prompts without completions; none in "sft", and none in "train" unless `train_share` is above 0.

        A reference answer, where there is one, is the completion.  Raises BenchError where a share leaves a split
        empty.
        """
        if split == "sft" or (split == "train" and not self.train_share):
            return []
        train = split == "train"
        # The side of a prompt depends on its own hash alone, not on the other prompts.
        found = [example for place, example in self._examples if (place < self.train_share) == train]
        if not found:
            seen = (
                f"train_share={self.train_share} leaves no {split} prompt of the {len(self._examples)} in {self.data}."
            )
            raise BenchError(seen, "Give more prompts, or another share.")
        return found

    def pairs(self, split: Split) -> Sequence[Pair]:  # noqa: ARG002
        """None in any split: prompts alone train no reward model."""
        return []

    @cached_property
    def _examples(self) -> list[tuple[float, Example]]:
        """(place in [0, 1) by hash, example), in order of place.

        Raises BenchError for rows that cannot be used, unless they are left out.
        """
        found: dict[str, tuple[float, Example]] = {}
        for number, row in enumerate(self._rows):
            try:
                example = self._example(number, row)
            except BenchError as error:
                self._bad.add(error)
                continue
            # 13 hexadecimal digits are 52 bits, which a float holds exactly.
            place = int(hashlib.sha256(example.prompt.encode()).hexdigest()[:13], 16) / 2**52
            # An equal text keeps its first row, so its type must not depend on which row that is.
            _, first = found.setdefault(example.prompt, (place, example))
            if first.slices != example.slices:
                seen = f"{row.where}: {self.types!r} states another type than an earlier row with this prompt."
                raise BenchError(seen, "State one type for each prompt.")
        self._bad.check(len(found))
        # by hash: the first n prompts are then a sample of the file, the same in every order of its rows
        return sorted(found.values(), key=lambda one: one[0])

    def _example(self, number: int, row: Row) -> Example:
        """The prompt of a row with its reference and its type.  Raises BenchError for an unusable row."""
        prompt = read_prompt(self._layout, row)
        reference = text(row, self.references) if self.references else ""
        # the prompt's type: what the column says, or the rule's guess by a name that marks it as one
        slices: tuple[str, ...] = ()
        if self.types == RULE:
            # the rule reads English: of a prompt in another script nothing is said
            slices = () if beyond_rule(prompt) else (f"by-rule-{type_by_rule(prompt)}",)
        elif self.types:
            stated = text(row, self.types).strip().lower()
            if stated not in TYPE_SLICES:
                seen = f"{row.where}: {self.types!r} holds {stated[:40]!r}, which is no type of prompt."
                raise BenchError(seen, f"Give one of {', '.join(TYPE_SLICES)}.")
            slices = (TYPE_SLICES[stated],)
        return Example(f"prompt-{number}", prompt, reference, slices=slices)

    @cached_property
    def _layout(self) -> Layout:
        return prompt_layout(self._rows, self.column, self.column == Prompts.column)

    @cached_property
    def _bad(self) -> BadRows:
        return BadRows(self.bad_rows == SKIP)

    @cached_property
    def _rows(self) -> list[Row]:
        path = Path(self.data).expanduser()
        if path.exists() and not path.is_dir():
            if self.split:
                raise BenchError(f"split={self.split!r} set together with the file {path}.", "A file has no splits.")
            return read_rows(path, self._bad)
        splits: Mapping[str, list[Part] | list[Row]] = split_files(path) if path.is_dir() else hub_rows(self.data)
        if self.split and self.split not in splits:
            raise BenchError(f"{self.data} has no split {self.split!r}.", did_you_mean(self.split, splits))
        if path.is_dir() and not splits:
            raise BenchError(f"{path} is a folder without files of rows.", "Name a file, or a folder with one.")
        if not self.split and len(splits) != 1:
            seen = f"{self.data} has {len(splits)} splits: {', '.join(splits) or 'none'}."
            raise BenchError(seen, "Name one with split=NAME.")
        # without a name there is exactly one split here
        name = self.split or next(iter(splits))
        if not splits[name]:
            raise BenchError(f"Split {name!r} of {self.data} holds no rows.", "Name another one.")
        return read_parts(splits[name], self._bad)


def _open(name: str, hub: str, data: str, settings: Mapping[str, Setting]) -> Prompts:
    """The task of `data`, "hub" standing for the dataset `hub`; raises BenchError without either."""
    if not data or (data == "hub" and not hub):
        seen = f"data={data!r}: the task {name!r} has no prompts of its own."
        column = settings.get("column", Prompts.column)
        fix = f"Name a file or hub dataset with --set {name}.data=NAME (column {column!r})"
        raise BenchError(seen, f"{fix}, or 'hub' for {hub}." if hub else f"{fix}.")
    check_data(data)
    return Prompts(hub if data == "hub" else data, **settings)


@settings_of(Prompts)
def prompts(*, data: str = "", **settings: Setting) -> Prompts:
    """Prompts of any file or hub dataset, for evaluation (real data only).

    See `Prompts` for the settings.
    """
    return _open("prompts", "", data, settings)


@settings_of(Prompts)
def medical(*, data: str = "", column: str = "question", **settings: Setting) -> Prompts:
    """Medical questions, for evaluation (data=hub for MedQuAD, or any file or hub dataset).

    MedQuAD has 47,441 questions, with repetitions.  See `Prompts` for the settings.
    """
    return _open("medical", MEDICAL, data, {"column": column, **settings})


@settings_of(Prompts)
def code(*, data: str = "", **settings: Setting) -> Prompts:
    """Programs to complete, for evaluation (data=hub for HumanEval, or any file or hub dataset).

    HumanEval has 164 prompts.  See `Prompts` for the settings.
    """
    return _open("code", CODE, data, settings)
