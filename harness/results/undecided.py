"""Sentences about judges that left too many cases undecided, with their reasons, from stored verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlhf_bench.harness import store
from rlhf_bench.harness.pipeline.stage import Stage
from rlhf_bench.harness.results.found import verdict_problems
from rlhf_bench.harness.seams import HasThreshold
from rlhf_bench.harness.stages.judge import load_judge, undecided

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject, Row


def stored_rows(stage: Stage, root: store.Store) -> list[JsonObject]:
    """The rows of verdicts.jsonl of a finished stage.  Raises BenchError as `store.read_rows`."""
    return store.read_rows(stage.folder(root) / "verdicts.jsonl")


def complaints(stages: Sequence[Stage], root: store.Store) -> list[str]:
    """A line for each judge that left more of some cell's cases undecided than its threshold allows, with reasons.

    `stages` are verdict stages; those without a result in `root`, or with a damaged one, are left out: reports name
    them.  [] if every judge is usable; with any line the commands exit with 3.
    """
    lines: list[str] = []
    stages = [stage for stage in stages if stage.kind == "verdicts"]  # the harness's own measures have no threshold
    for name in dict.fromkeys(stage.params["judge"]["name"] for stage in stages):
        own = [stage for stage in stages if stage.params["judge"]["name"] == name and stage.done(root)]
        # all stages of a call were planned with the same settings of this judge
        judge = load_judge(name, own[0].payload["judge_settings"]) if own else None
        if isinstance(judge, HasThreshold):  # other judges decide every case, or allow any number of undecided ones
            sound = [stage for stage in own if not any(verdict_problems(stage.folder(root)))]
            lines.append(too_many(name, [stored_rows(stage, root) for stage in sound], judge.threshold))
    return [line for line in lines if line]


def too_many(name: str, tables: Sequence[Sequence[Row]], threshold: float) -> str:
    """A sentence about the cells of a judge with too many undecided cases; "" if there are none.

    `tables` are rows by cell; `threshold` is the allowed share of undecided cases in each cell, from 0 to 1.
    """
    # by cell, not over all: one cell whose requests all failed must not be hidden by many good ones
    above = [rows for rows in tables if len(undecided(rows)) > threshold * len(rows)]
    if not above:
        return ""
    bad = [row for rows in above for row in undecided(rows)]
    reasons = ", ".join(f"{reason} ({count})" for reason, count in Counter(r["reason"] for r in bad).most_common())
    return (
        f"{name}: {len(bad)} of {sum(map(len, above))} cases are undecided in {len(above)} of {len(tables)} cells, "
        f"more than its threshold of {threshold:.1%}: {reasons}"
    )
