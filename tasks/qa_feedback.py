"""The task `qa-feedback`: long-form answers from passages, with spans that people marked as errors and pair choices.

Real data alone (fine-grained RLHF, arXiv 2306.01693).  People chose between the samples of one policy, two at a time,
and marked the errors of the first sample to the character, which is ground truth for the credit of token rewards.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import NamedTuple, TypeVar

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Example, Origin, Pair, Split
from rlhf_bench.harness.text.tokens import Span
from rlhf_bench.tasks.real import split_key, text_key
from rlhf_bench.tasks.settings import Setting, check_data, settings_of
from rlhf_bench.tasks.sources import SUFFIXES, Row, content_sha256, hub_rows, read_rows, text

V = TypeVar("V")

SOURCE = "github.com/allenai/FineGrainedRLHF, tasks/qa_feedback/data/dev_feedback.json and train_feedback.json"
FILES = ("dev_feedback", "train_feedback")
LICENSE = "Apache-2.0 (the repository's, none is stated for the data; the passages are Wikipedia's, by way of ASQA)"
INSTRUCTION = "Answer the question from the passages above."
SAMPLES = (1, 2, 3, 4)
# The samples that a row's six preferences compare: 1 prefers the first, 2 the second, 0 neither (README of SOURCE).
COMPARISONS = tuple(combinations(SAMPLES, 2))


class Entry(NamedTuple):
    """One question.

    `errors` are the flaws of the first sample, None where a span does not fit its text; `marked` counts the marked
    spans, `unfit` those that do not fit.
    """

    id: str
    question: str
    passages: str
    gold: str
    samples: Mapping[int, str]
    preferences: tuple[int, ...]
    errors: tuple[Span, ...] | None
    marked: int
    unfit: int


@dataclass(frozen=True)
class QAFeedback:
    """Questions with passages.  `data` is one of the files of SOURCE, a folder with them, or a hub dataset of the form.

    Split by the hash of the question: `test_share` are held-out prompts and pairs, `sft_share` demonstrations (the
    written gold answers), the rest PPO prompts and training pairs.  Passages are cut to their first `passage_words`
    words (0: not cut), so a cut prompt may lack the support of a claim.  Only the first sample's flaws are known;
    missing information, which people marked too, has no span in a response and is left out.
    """

    data: str
    passage_words: int = 300
    response_tokens: int = 200
    test_share: float = 0.3
    sft_share: float = 0.3

    def __post_init__(self) -> None:
        # a response is one token and end-of-sequence at least
        if self.response_tokens < 2 or self.passage_words < 0:
            seen = f"response_tokens={self.response_tokens}, passage_words={self.passage_words}."
            raise BenchError(seen, "Give at least 2 response_tokens, and passage_words of 0 (all) or more.")
        if min(self.test_share, self.sft_share) <= 0 or self.test_share + self.sft_share >= 1:
            seen = f"test_share={self.test_share}, sft_share={self.sft_share}."
            raise BenchError(seen, "Give shares above 0 that leave some for training: their sum must be below 1.")

    @property
    def max_response_tokens(self) -> int:
        """As set; 200 is the limit of the source's own policy."""
        return self.response_tokens

    @cached_property
    def origin(self) -> Origin:
        """What was read, cut and left out; the hash is of the rows as they were."""
        entries = self._entries
        votes = Counter(vote for entry in entries for vote in entry.preferences)
        marked, unfit = sum(entry.marked for entry in entries), sum(entry.unfit for entry in entries)
        cut = sum(len(entry.passages.split()) > self.passage_words > 0 for entry in entries)
        description = (
            f"Questions with human feedback from {self.data}: {len(entries)} questions, {votes[1] + votes[2]} choices "
            f"between samples and {votes[0]} ties (left out). {marked} error spans; {unfit} do not fit their text "
            f"(the flaws of those responses count as unknown). Passages cut to {self.passage_words or 'all'} words in "
            f"{cut} questions."
        )
        # files of the source's names are taken for the source's, whose license is known
        stated = LICENSE if all(name in FILES for name, _ in self._files) else "unknown"
        return Origin("real", description, content_sha256(self._files), stated)

    def examples(self, split: Split) -> Sequence[Example]:
        """Prompts with the gold answer as completion; rows of one question share their source.

        Raises BenchError for a split without a question.
        """
        return [
            Example(entry.id, self._prompt(entry), entry.gold, source=text_key(entry.question))
            for entry in self._of(split)
        ]

    def pairs(self, split: Split) -> Sequence[Pair]:
        """Every choice between two samples of different text; ids end with the samples' numbers, as in "1v3".

        Flaws are known of the first sample alone, None of the others.  Raises BenchError for a split without a
        question.
        """
        if split == "sft":
            return []
        found = []
        for entry in self._of(split):
            for (first, second), vote in zip(COMPARISONS, entry.preferences, strict=True):
                chosen, rejected = (first, second) if vote == 1 else (second, first)
                # a tie has no chosen side, and a choice between equal texts teaches nothing
                if not vote or entry.samples[first].strip() == entry.samples[second].strip():
                    continue
                # Errors were marked in the first sample alone; those of the others are unknown, not absent.
                flaws = (entry.errors if sample == SAMPLES[0] else None for sample in (chosen, rejected))
                texts = (entry.samples[chosen], entry.samples[rejected])
                found.append(Pair(f"{entry.id}-{first}v{second}", self._prompt(entry), *texts, *flaws))
        return found

    def _of(self, split: Split) -> list[Entry]:
        """The entries of a split; raises BenchError where there is none."""
        found = []
        for entry in self._entries:
            # By the question alone: rows of one question, with other passages, stay together.
            place = int(hashlib.sha256(split_key(entry.question).encode()).hexdigest()[:8], 16) / 2**32
            trained = "sft" if place < self.test_share + self.sft_share else "train"
            # The held-out questions have the smallest places, so a larger `test_share` only adds to them.
            if split == ("test" if place < self.test_share else trained):
                found.append(entry)
        if not found:
            seen = f"No question of {self.data} falls in split {split!r} ({len(self._entries)} in all)."
            raise BenchError(seen, "Give more rows, or other test_share and sft_share.")
        return found

    def _prompt(self, entry: Entry) -> str:
        passages = first_words(entry.passages, self.passage_words)
        return f"{passages}\n\n{INSTRUCTION}\n{entry.question}" if passages else entry.question

    @cached_property
    def _files(self) -> list[tuple[str, list[Row]]]:
        """(name without suffixes, rows) of each file, or of each split of a hub dataset."""
        path = Path(self.data).expanduser()
        if not path.exists():
            return list(hub_rows(self.data).items())
        if path.is_file():
            return [(_stem(path), read_rows(path))]
        found = [path / f"{name}{end}" for name in FILES for end in SUFFIXES if (path / f"{name}{end}").is_file()]
        if not found:
            held = ", ".join(sorted(file.name for file in path.iterdir())[:10]) or "nothing"
            raise BenchError(f"{path} holds no feedback file, only {held}.", f"Add {FILES[0]}.json or name a file.")
        return [(_stem(file), read_rows(file)) for file in found]

    @cached_property
    def _entries(self) -> list[Entry]:
        entries = {}
        for stem, rows in self._files:
            for number, row in enumerate(rows):
                entry = parse(row, f"{stem}-{number}")
                if entry.id in entries:
                    raise BenchError(f"{self.data} holds {stem} twice.", "Keep one of the files.")
                entries[entry.id] = entry
        return list(entries.values())


def _stem(path: Path) -> str:
    return path.name.partition(".")[0]


def parse(row: Row, name: str) -> Entry:
    """The entry of a row in the source's form; any other form is a BenchError that names the row."""
    samples = {number: text(row, f"prediction {number}") for number in SAMPLES}
    marks = marked_spans(row)
    fitting = [span for span in marks if fits(samples[SAMPLES[0]], span)]
    unfit = len(marks) - len(fitting)  # one is enough: the offsets are then of another text
    question = text(row, "question").strip()

    passages = _value(row, "passages", list)
    if not all(isinstance(one, list) and all(isinstance(part, str) for part in one) for one in passages):
        raise BenchError(f"{row.where}: 'passages' are not lists of texts.", f"Rows must be as in {SOURCE}.")
    lines = []
    # an empty passage has no title to unpack
    for title, *sentences in filter(None, passages):
        body = " ".join(sentences).removeprefix(f"{title}\n\n")  # the first sentence may begin with the title
        lines.append(" ".join(f"{title}: {body}".split()))

    gold = text(row, "gold").strip()
    votes = _value(row, "preference", list)
    # type() instead of isinstance(): True is an int, but no vote.
    if len(votes) != len(COMPARISONS) or any(type(vote) is not int or vote not in (0, 1, 2) for vote in votes):
        seen = f"{row.where}: 'preference' holds {str(votes)[:60]}."
        raise BenchError(seen, f"Give {len(COMPARISONS)} numbers: 1 first, 2 second, 0 neither.")
    errors = None if unfit else tuple(fitting)
    return Entry(name, question, "\n".join(lines), gold, samples, tuple(votes), errors, len(marks), unfit)


def fits(response: str, span: Span) -> bool:
    """Whether a span lies in the response and cuts no word: offsets into another text rarely do."""
    start, end = span
    if not 0 <= start < end <= len(response):
        return False
    return not any(
        0 < edge < len(response) and response[edge - 1].isalnum() and response[edge].isalnum() for edge in span
    )


def marked_spans(row: Row) -> list[Span]:
    """The spans marked in the first sample, ordered; raises BenchError for edges that are no integers."""
    errors = _value(row, "feedback", dict).get("errors")
    if not isinstance(errors, list):
        raise BenchError(f"{row.where}: 'feedback' has no list of 'errors'.", f"Rows must be as in {SOURCE}.")
    spans: list[Span] = []
    for error in errors:
        start, end = edges = [error.get(name) if isinstance(error, dict) else None for name in ("start", "end")]
        if type(start) is not int or type(end) is not int:
            raise BenchError(f"{row.where}: an error span has the edges {edges}.", "Give start and end as integers.")
        spans.append((start, end))
    return sorted(spans)


def first_words(passages: str, count: int) -> str:
    """The text up to the end of its first `count` words, white space unchanged (0: all)."""
    # ends of words in the text itself: joining split words again would change its white space
    ends = [match.end() for match in re.finditer(r"\S+", passages)]
    return passages[: ends[count - 1]] if 0 < count < len(ends) else passages


def _value(row: Row, column: str, kind: type[V]) -> V:
    value = row.values.get(column)
    if not isinstance(value, kind):
        seen = f"{row.where}: {column!r} " + ("is missing." if value is None else f"is a {type(value).__name__}.")
        raise BenchError(seen, f"Rows must be as in {SOURCE}.")
    return value


@settings_of(QAFeedback)
def qa_feedback(*, data: str = "", **settings: Setting) -> QAFeedback:
    """Long-form answers from passages, with marked errors and choices (real data only: fine-grained RLHF).

    `data` is a file or folder of SOURCE, or a hub dataset of that form.  See `QAFeedback` for the settings.
    """
    if data in ("", "hub"):
        seen = f"data={data!r}: the task qa-feedback needs real data, and no copy of them on the hub is known."
        raise BenchError(seen, f"Fetch {SOURCE}, and name the file or folder with --data.")
    check_data(data)
    return QAFeedback(data, **settings)
