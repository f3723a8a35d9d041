"""Does a task keep the rules of its seam?"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rlhf_bench.harness import store
from rlhf_bench.harness.checks.findings import BrokenError, Probe, demand, rows_of_kind
from rlhf_bench.harness.errors import one_line
from rlhf_bench.harness.nouns import Example, Origin, Pair, Split, Utility, to_row
from rlhf_bench.harness.seams import GoldTask, HasOrigin, Task

SPLITS: tuple[Split, ...] = ("sft", "train", "test")
PAIR_SPLITS: tuple[Split, ...] = ("train", "test")
ODD = ("", " \n\t", "\x00\x1b[31m\u2028", "naïve 🤖 שלום \ufffd", "?!", "word " * 5000)
"""Responses that a policy may write and nobody wishes for."""

SAMPLED = 20


def task_probes(task: Task, again: Callable[[], Task]) -> Iterator[tuple[str, Probe]]:
    yield "max_response_tokens is at least 2", lambda: _longest(task)
    yield "no split is empty", lambda: _sizes(task)
    yield "ids are unique within a split", lambda: _unique(task)
    yield "no prompt is empty, and demonstrations have completions", lambda: _filled(task)
    yield "held-out prompts are not trained on", lambda: _apart(task)
    yield "pairs have a chosen text that differs from the rejected one", lambda: _pairs(task)
    yield "examples are JSON", lambda: _as_json(task)
    yield "made again, it has the same content", lambda: _same_content(task, again())
    yield "the origin of the data is stated", lambda: _origin(task)
    yield "the utility of any response is finite", lambda: _utility(task)


def _longest(task: Task) -> str:
    longest = task.max_response_tokens
    demand(isinstance(longest, int) and longest >= 2, f"it is {longest!r}")
    return str(longest)


def _examples(task: Task, split: Split) -> Sequence[Example]:
    return rows_of_kind(task.examples(split), Example, f"examples({split!r})")


def _all_pairs(task: Task, split: Split) -> Sequence[Pair]:
    return rows_of_kind(task.pairs(split), Pair, f"pairs({split!r})")


def _sizes(task: Task) -> str:
    counts = {f"{split} examples": len(_examples(task, split)) for split in SPLITS}
    counts |= {f"{split} pairs": len(_all_pairs(task, split)) for split in PAIR_SPLITS}
    empty = [name for name, count in counts.items() if not count]
    demand(not empty, f"no {', no '.join(empty)}")
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _unique(task: Task) -> str:
    ids = {f"{split} examples": [e.id for e in _examples(task, split)] for split in SPLITS}
    ids |= {f"{split} pairs": [pair.id for pair in _all_pairs(task, split)] for split in PAIR_SPLITS}
    for name, given in ids.items():
        twice = [i for i, count in Counter(given).items() if count > 1]
        demand(not twice, f"{len(twice)} ids occur twice in the {name}, {twice[:1]} among them")
    return ""


def _filled(task: Task) -> str:
    for split in SPLITS:
        bare = [e.id for e in _examples(task, split) if not e.prompt.strip()]
        demand(not bare, f"{len(bare)} {split} prompts are empty, {bare[:1]} among them")
    mute = [e.id for e in _examples(task, "sft") if not e.completion.strip()]
    demand(not mute, f"{len(mute)} demonstrations have no completion, {mute[:1]} among them")
    return ""


def _apart(task: Task) -> str:
    trained = {row.prompt for rows in (_examples(task, "sft"), _examples(task, "train")) for row in rows}
    trained |= {pair.prompt for pair in _all_pairs(task, "train")}
    held = {row.prompt for row in _examples(task, "test")} | {pair.prompt for pair in _all_pairs(task, "test")}
    shared = sorted(trained & held)
    demand(not shared, f"{len(shared)} prompts stand in training and in test, such as {shared[:1]}"[:300])
    return ""


def _pairs(task: Task) -> str:
    for split in PAIR_SPLITS:
        for pair in _all_pairs(task, split):
            wrong = _wrong_with(pair)
            demand(not wrong, f"{split} pair {pair.id!r}: {wrong}")
    return ""


def _wrong_with(pair: Pair) -> str:
    if not pair.prompt.strip() or not pair.chosen.strip():
        return "the prompt or the chosen text is empty"
    if pair.rejected is not None and pair.chosen.strip() == pair.rejected.strip():
        return "chosen and rejected are the same text"
    for text, flaws in ((pair.chosen, pair.chosen_flaws), (pair.rejected or "", pair.rejected_flaws)):
        outside = [span for span in flaws or () if not 0 <= span[0] <= span[1] <= len(text)]
        if outside:
            return f"the flaws {outside} lie outside the text"
    return ""


def stored(example: Example) -> Example:
    """The example as later stages read it back."""
    row: dict[str, Any] = json.loads(store.canonical(to_row(example)))
    row |= {name: tuple(row[name]) for name in ("slices", "references") if name in row}
    return Example(**row)


def _as_json(task: Task) -> str:
    for split in SPLITS:
        for example in _examples(task, split):
            try:
                stored(example)
            except (TypeError, ValueError) as error:
                raise BrokenError(f"{split} example {example.id!r} is not JSON: {one_line(error)}") from error
    return ""


def _same_content(task: Task, other: Task) -> str:
    for split in SPLITS:
        same = list(map(repr, _examples(task, split))) == list(map(repr, _examples(other, split)))
        demand(same, f"the {split} examples differ: data must be a pure function of the settings")
    for split in PAIR_SPLITS:
        same = list(map(repr, _all_pairs(task, split))) == list(map(repr, _all_pairs(other, split)))
        demand(same, f"the {split} pairs differ: data must be a pure function of the settings")
    return ""


def _origin(task: Task) -> str:
    if not isinstance(task, HasOrigin):
        return "not stated: reported as of unknown origin"
    demand(isinstance(task.origin, Origin), f"origin is a {type(task.origin).__name__}, not an Origin")
    return f"{task.origin.kind}, licence: {task.origin.license}"


def _utility(task: Task) -> str:
    if not isinstance(task, GoldTask):
        return "the task has no gold utility"
    demonstrations = []
    for example in _examples(task, "test")[:SAMPLED]:
        for response in (example.completion, *ODD):
            found = task.utility(example, response)
            demand(isinstance(found, Utility), f"utility gives a {type(found).__name__}, not a Utility")
            finite = all(map(math.isfinite, (found.value, *found.parts.values())))
            demand(finite, f"{found} for {response[:40]!r} to {example.id!r}")
            demand(task.utility(stored(example), response) == found, f"{example.id!r} read back has another utility")
        demonstrations.append(task.utility(example, example.completion).value)
    return f"{sum(demonstrations) / len(demonstrations):.2f} on average for the references"
