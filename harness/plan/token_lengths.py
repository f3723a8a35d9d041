"""Lengths in the policy's tokens of all texts that a run reads, for a plan of its memory and time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.evenly import evenly
from rlhf_bench.harness.stages.prompts import limited, load_task

if TYPE_CHECKING:
    from rlhf_bench.harness.plan.request import Plan
    from rlhf_bench.harness.settings import PolicySettings
    from rlhf_bench.harness.text.types import Tokenizer

MOST = 500
"""Texts of each kind that are tokenised, evenly spread: a plan needs no more."""
TOKENS_A_WORD = 1.5
"""Of English under vocabularies of 30,000 to 150,000 tokens, with some room; for a tokenizer that is not here."""
TURN = 30
"""Tokens of a chat template around a prompt, for a tokenizer that is not here."""
SPREAD = 2.5
"""Standard deviations above the mean of the largest of some hundred batches."""

Counts = tuple[int, ...]


@dataclass(frozen=True)
class Lengths:
    """Numbers of tokens of a sample of rows, and how many rows there are in all."""

    counts: Counts
    rows: int

    @property
    def mean(self) -> float:
        """Tokens of a row; 0 without any."""
        return sum(self.counts) / len(self.counts) if self.counts else 0.0

    @property
    def longest(self) -> int:
        """Tokens of the longest row of the sample."""
        return max(self.counts, default=0)

    def batch(self, rows: int, packed: bool) -> int:
        """Tokens of a large batch of `rows` rows (0: all): end to end where rows are `packed`, else padded to the
        longest row of all.
        """
        rows = min(rows, self.rows) or self.rows
        if not packed:
            return rows * self.longest
        mean = self.mean
        spread = math.sqrt(sum((count - mean) ** 2 for count in self.counts) / len(self.counts)) if self.counts else 0.0
        return math.ceil(min(rows * self.longest, rows * mean + SPREAD * spread * math.sqrt(rows)))

    def plus(self, tokens: float) -> Lengths:
        """The same rows with `tokens` more in each."""
        return Lengths(tuple(count + round(tokens) for count in self.counts), self.rows)


@dataclass(frozen=True)
class TokenLengths:
    """Of a run's texts: demonstrations with their prompts, prompts by split, both sides of the pairs with their
    prompts, and what a seq2seq reward model learns from (prompt, response, correction).

    `limit`: tokens of the longest response that is sampled; `response`: those of an average one, which is unknown
    before it is sampled: half-way between the demonstrations and the limit.  `exact`: counted by the policy's own
    tokenizer.
    """

    demonstrations: Lengths
    train: Lengths
    test: Lengths
    sides: Lengths
    corrections: Lengths
    test_sides: Lengths
    response: float
    limit: int
    exact: bool


def token_lengths(made: Plan, source: str) -> TokenLengths:
    """The lengths of the home task's texts, as the policy `source` reads them.

    Where its tokenizer is not here, they are estimated from words.  Of another task's prompts (`--prompts`) those of
    the home task stand in.
    """
    home, settings = made.cells[0].home, made.settings
    count, exact = _counter(source, made)
    task = load_task({"task": home.opened})
    splits = limited(task, ("sft", "train", "test"), settings.data.limit)
    longest = settings.data.max_prompt_tokens or math.inf
    limit = home.max_response

    def prompts(split: str) -> Lengths:
        found = [example.prompt for example in splits[split]]
        kept = [n for n in count(evenly(found, MOST), True) if n <= longest]
        return _of(kept, min(len(found), MOST), len(found))

    demos = splits["sft"]
    asked = count(evenly([e.prompt for e in demos], MOST), True)
    answered = count(evenly([e.completion for e in demos], MOST), False)
    rows = [(p, min(a + 1, limit)) for p, a in zip(asked, answered, strict=True) if p <= longest]
    mean = sum(a for _, a in rows) / len(rows) if rows else limit / 2
    sides, corrections = _pairs(task, "train", settings.data.limit, count, longest, limit)
    test_sides, _ = _pairs(task, "test", settings.data.limit, count, longest, limit)
    return TokenLengths(
        demonstrations=_of([p + a for p, a in rows], len(asked), len(demos)),
        train=prompts("train"),
        test=prompts("test"),
        sides=sides,
        corrections=corrections,
        test_sides=test_sides,
        response=(min(mean, limit) + limit) / 2,
        limit=limit,
        exact=exact,
    )


Counter = Callable[[Sequence[str], bool], list[int]]
"""Tokens of each text; the second argument says whether they are prompts, which have the policy's form."""


def _counter(source: str, made: Plan) -> tuple[Counter, bool]:
    """The policy's own counts, and True; where its tokenizer is not here an estimate from words, and False."""
    from rlhf_bench.harness.text.chat import encode_answers
    from rlhf_bench.harness.text.templates import encode_prompts

    tokenizer = tokenizer_of(source, made.settings.policy)
    if tokenizer is None:
        return _by_words, False
    return lambda texts, asked: [
        len(row) for row in (encode_prompts if asked else encode_answers)(tokenizer, texts)
    ], True


def tokenizer_of(source: str, form: PolicySettings) -> Tokenizer | None:
    """The tokenizer of the policy `source`; None where it cannot be read here, which SFT then names.

    A hub id is not downloaded, also not the base of an adapter: a plan needs no network.
    """
    folder = Path(source).expanduser()
    if not store.is_folder(folder):
        return None
    from rlhf_bench.harness.models.policies import load_tokenizer

    try:
        return load_tokenizer(folder, form.template, form.system, form.thinking)
    except BenchError:
        return None


def _by_words(texts: Sequence[str], asked: bool) -> list[int]:
    return [math.ceil(TOKENS_A_WORD * len(text.split())) + TURN * asked for text in texts]


def _pairs(task: object, split: str, most: int, count: Counter, longest: float, limit: int) -> tuple[Lengths, Lengths]:
    """Both sides of the pairs, and what a corrector reads of them; pairs that the run drops are left out."""
    found = list(task.pairs(split))[: most or None]  # type: ignore[attr-defined]
    looked = evenly(found, MOST)
    prompts, chosen = count([pair.prompt for pair in looked], True), count([pair.chosen for pair in looked], False)
    # one that a task leaves out is sampled later
    rejected = count([pair.rejected if pair.rejected is not None else pair.chosen for pair in looked], False)
    rows = [
        (p, c + 1, r + 1)
        for p, c, r in zip(prompts, chosen, rejected, strict=True)
        if p <= longest and max(c, r) < limit
    ]
    kept = round(len(found) * len(rows) / max(1, len(looked)))
    sides = tuple(tokens for p, c, r in rows for tokens in (p + c, p + r))
    mapped = tuple(tokens for p, c, r in rows for tokens in (p + r + c, p + c + c))
    return Lengths(sides, 2 * kept), Lengths(mapped, 2 * kept)


def _of(kept: Sequence[int], looked: int, rows: int) -> Lengths:
    return Lengths(tuple(kept), round(rows * len(kept) / max(1, looked)))
