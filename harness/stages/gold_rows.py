"""The stored scores of a gold model (stages/gold.py), for judges: reading them needs no model and no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Answer, Scored

if TYPE_CHECKING:
    from rlhf_bench.harness.pipeline.context import Context

ROWS = "gold.jsonl"
"""The file of a gold model's scores."""

Key = tuple[str, str, bool]
"""Example id, response, and whether it ended with end-of-sequence."""


@dataclass(frozen=True)
class StoredScores:
    """A gold model's scores of the responses of a run (`seams.GoldScores`)."""

    name: str
    known: Mapping[Key, Scored]

    @classmethod
    def of(cls, context: Context) -> StoredScores:
        """Those of a stage with the inputs gold_baseline and gold_generations and the parameter gold, its name."""
        rows = [
            row
            for role in ("gold_baseline", "gold_generations")
            for row in store.read_rows(context.inputs[role] / ROWS)
        ]
        known = {(r["example_id"], r["response"], r["finished"]): Scored(r["gold"], r.get("reason", "")) for r in rows}
        return cls(context.params["gold"], known)

    def scores(self, answers: Sequence[Answer]) -> list[Scored]:
        """One score per answer, in order.  Raises BenchError for a response that is not stored."""
        found = [self.known.get((one.example.id, one.response, one.finished)) for one in answers]
        if None in found:
            seen = "The gold model has no score of a response that a judge asks for."
            raise BenchError(seen, "It scores what the run wrote, nothing else.")
        return [one for one in found if one is not None]
