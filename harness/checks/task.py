"""Conformance of a task: its data are read twice and checked, and its utility is computed for odd responses."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from rlhf_bench.harness import store
from rlhf_bench.harness.checks.findings import BrokenError, Probe, Warned, demand, sequence_of
from rlhf_bench.harness.errors import one_line
from rlhf_bench.harness.nouns import Example, Origin, Pair, Split, Utility, to_row, with_turns
from rlhf_bench.harness.plan.origins import KINDS, LABEL
from rlhf_bench.harness.seams import GoldTask, HasEmptyDemonstrations, HasOrigin, Task
from rlhf_bench.harness.text.types import JsonObject

SPLITS: tuple[Split, ...] = ("sft", "train", "test")
PAIR_SPLITS: tuple[Split, ...] = ("train", "test")
ODD = ("", " \n\t", "\x00\x1b[31m\u2028", "naïve 🤖 שלום \ufffd", "?!", "word " * 5000)
"""Responses that a badly trained policy may write."""

SAMPLED = 20
"""Examples whose utility is computed."""


def task_probes(task: Task, rebuild: Callable[[], Task]) -> Iterator[tuple[str, Probe]]:
    """The rules for a task and the probes that try them; `rebuild` builds it again with the same settings."""
    yield "max_response_tokens is at least 2", lambda: check_length(task)
    yield "no split is empty", lambda: check_sizes(task)
    yield "ids are unique within a split", lambda: check_ids(task)
    yield "no prompt is empty, and demonstrations have completions", lambda: check_texts(task)
    yield "held-out prompts are not trained on", lambda: check_held_out(task)
    yield "pairs have a chosen text that differs from the rejected one", lambda: check_pairs(task)
    yield "examples are JSON", lambda: check_json(task)
    yield "built again, it has the same content", lambda: check_reproducible(task, rebuild())
    yield "the origin of the data is stated", lambda: check_origin(task)
    yield "the utility of any response is finite", lambda: check_utility(task)


def examples_of(task: Task, split: Split) -> Sequence[Example]:
    """The examples of a split; BrokenError where they are not a sequence of Example."""
    return sequence_of(task.examples(split), Example, f"examples({split!r})")


def pairs_of(task: Task, split: Split) -> Sequence[Pair]:
    """The pairs of a split; BrokenError where they are not a sequence of Pair."""
    return sequence_of(task.pairs(split), Pair, f"pairs({split!r})")


def content_of(task: Task) -> Mapping[str, Sequence[Example | Pair]]:
    """All data of a task, by names for messages ("train examples", "test pairs").  Raises BrokenError as `pairs_of`."""
    examples = {f"{split} examples": examples_of(task, split) for split in SPLITS}
    return {**examples, **{f"{split} pairs": pairs_of(task, split) for split in PAIR_SPLITS}}


def check_length(task: Task) -> str:
    """A response has room for one token and end-of-sequence."""
    longest = task.max_response_tokens
    demand(isinstance(longest, int) and longest >= 2, f"it is {longest!r}")
    return str(longest)


def check_sizes(task: Task) -> str:
    """Every split has rows."""
    counts = {name: len(rows) for name, rows in content_of(task).items()}
    empty = [name for name, count in counts.items() if not count]
    demand(not empty, f"no {', no '.join(empty)}")
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def check_ids(task: Task) -> str:
    """Ids are unique within a split: responses and verdicts are matched by them."""
    for name, rows in content_of(task).items():
        repeated = [i for i, count in Counter(row.id for row in rows).items() if count > 1]
        demand(not repeated, f"{len(repeated)} ids occur twice in the {name}, {repeated[:1]} among them")
    return ""


def check_texts(task: Task) -> str:
    """No prompt is blank, and no demonstration that is not blank on purpose."""
    for split in SPLITS:
        blank = [e.id for e in examples_of(task, split) if not e.prompt.strip()]
        demand(not blank, f"{len(blank)} {split} prompts are empty, {blank[:1]} among them")
    # other splits may lack completions: SFT learns from them, PPO samples its own responses
    blank = [e.id for e in examples_of(task, "sft") if not e.completion.strip()]
    on_purpose = isinstance(task, HasEmptyDemonstrations) and task.sft_empty > 0
    demand(not blank or on_purpose, f"{len(blank)} demonstrations have no completion, {blank[:1]} among them")
    return ""


def check_held_out(task: Task) -> str:
    """No prompt of a test split is in training data, pairs included: such a prompt would not be held out.

    Test pairs count as held out too; a run refuses only what `stages.prompts` and `stages.pairs` compare.
    """
    # by text, as a run compares them: the same prompt under two ids would be trained on all the same
    trained = {row.prompt for rows in (examples_of(task, "sft"), examples_of(task, "train")) for row in rows}
    trained |= {pair.prompt for pair in pairs_of(task, "train")}
    held_out = {row.prompt for row in examples_of(task, "test")} | {pair.prompt for pair in pairs_of(task, "test")}
    shared = sorted(trained & held_out)
    # a prompt may be a whole article
    demand(not shared, f"{len(shared)} prompts are in training and in test, such as {shared[:1]}"[:300])
    return ""


def check_pairs(task: Task) -> str:
    """Every pair has texts that differ, and flaws that lie inside them."""
    for split in PAIR_SPLITS:
        for pair in pairs_of(task, split):
            place = f"{split} pair {pair.id!r}"
            written = pair.prompt.strip() and pair.chosen.strip()
            demand(written, f"{place}: the prompt or the chosen text is empty")
            # rejected None is sampled in a run, which drops pairs of equal texts: they teach nothing
            same = pair.rejected is not None and pair.chosen.strip() == pair.rejected.strip()
            demand(not same, f"{place}: chosen and rejected are the same text")
            for text, flaws in ((pair.chosen, pair.chosen_flaws), (pair.rejected or "", pair.rejected_flaws)):
                outside = [span for span in flaws or () if not 0 <= span[0] <= span[1] <= len(text)]
                demand(not outside, f"{place}: the flaws {outside} lie outside the text")
    return ""


def check_json(task: Task) -> str:
    """Every example can be stored as JSON and read back."""
    for split in SPLITS:
        for example in examples_of(task, split):
            try:
                stored(example)
            except (TypeError, ValueError) as error:
                raise BrokenError(f"{split} example {example.id!r} is not JSON: {one_line(error)}") from error
    return ""


def stored(example: Example) -> Example:
    """The example as later stages read it back: dictionary keys in `facts` are strings, tuples there are lists."""
    # as `stages.prompts.read_examples` makes it of a stored row
    row: JsonObject = json.loads(store.canonical(to_row(example)))
    row |= {name: tuple(row[name]) for name in ("slices", "references") if name in row}
    return Example(**with_turns(row))


def check_reproducible(task: Task, other: Task) -> str:
    """A second object with the same settings has the same data in the same order."""
    others = content_of(other)
    for name, rows in content_of(task).items():
        # by repr, to which NaN in `facts` is equal to NaN
        same = list(map(repr, rows)) == list(map(repr, others[name]))
        demand(same, f"the {name} differ: data must be a pure function of the settings")
    return ""


def check_origin(task: Task) -> str:
    """The origin, if stated, is an Origin of a known kind; without one, or without its description, a warning."""
    origin = task.origin if isinstance(task, HasOrigin) else None
    if origin is None:
        return Warned(f"{LABEL}: reports say so; give the task an `origin` (nouns.Origin)")
    demand(isinstance(origin, Origin), f"origin is a {type(origin).__name__}, not an Origin")
    demand(origin.kind in KINDS, f"origin.kind is {origin.kind!r}, neither {' nor '.join(map(repr, KINDS))}")
    if not origin.description.strip():
        return Warned(f"{LABEL}: its description is empty; reports say so")
    return f"{origin.kind}, licence: {origin.license}"


def check_utility(task: Task) -> str:
    """The utility, if there is one, is finite for any text, and the same for an example that was stored.

    Returns the mean utility of the references of SAMPLED examples: for an author to see whether they are good.
    """
    if not isinstance(task, GoldTask):
        return "the task has no gold utility"
    of_references = []
    for example in examples_of(task, "test")[:SAMPLED]:
        for response in (example.completion, *ODD):
            found = task.utility(example, response)
            demand(isinstance(found, Utility), f"utility gives a {type(found).__name__}, not a Utility")
            finite = all(map(math.isfinite, (found.value, *found.parts.values())))
            demand(finite, f"{found} for {response[:40]!r} to {example.id!r}")
            # judges run in a stage of their own and read examples back from JSON
            demand(task.utility(stored(example), response) == found, f"{example.id!r} read back has another utility")
        of_references.append(task.utility(example, example.completion).value)
    return f"{sum(of_references) / len(of_references):.2f} on average for the references"
