"""How near responses come to the references, beside the run's utility: ROUGE-L, and a sentence encoder's similarity."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Case, Measure, ReportPlace, Verdict
from rlhf_bench.harness.seams import Task
from rlhf_bench.judges.scorers import before_and_after, load_scorer, scorer_content
from rlhf_bench.judges.utility import change_verdict

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import Row


@dataclass(frozen=True)
class RougeL:
    """ROUGE-L F1 against the references, the largest of them, and its change against the SFT baseline.

    It is the scorer `rouge-l` as a judge of its own, so that a run can have it beside its utility.
    """

    needs_references = True  # without annotation, so that it is no field
    deterministic = True
    name, title = "rouge_l", "ROUGE-L"

    @property
    def source(self) -> str:
        """The scorer's name, as `winrate.scorer` takes it."""
        return "rouge-l"

    def __post_init__(self) -> None:
        load_scorer(self.source)  # an unusable scorer must be refused before training

    @property
    def verdict_settings(self) -> Row:
        """What a verdict depends on: the settings, and the scorer by its content."""
        return {**asdict(self), "content": scorer_content(self.source)}

    @property
    def measures(self) -> Sequence[Measure]:
        what = f"{self.title} against the references"
        change = f"{what}, more than the SFT baseline's response to the same prompt"
        before = f"{self.name}_baseline"
        shown: tuple[ReportPlace, ...] = ("headline", "curves", "figures", "pairs")
        return [
            Measure(f"{self.name}_change", "change", change, title=f"{self.title} change", shown=("headline", "pairs")),
            Measure(self.name, "level", f"{what} of the response", before=before, title=self.title, shown=shown),
            Measure(before, "level", f"{what} of the SFT baseline's response", shown=()),
        ]

    def measure(self, cases: Sequence[Case], task: Task) -> Iterable[Verdict]:
        """One verdict per case, in order; undecided where a prompt has no reference."""
        found = before_and_after(cases, task, load_scorer(self.source))
        return [change_verdict(before, after, self.name) for before, after in found]


@dataclass(frozen=True)
class Similarity(RougeL):
    """Cosine similarity with the nearest reference by a sentence encoder, and its change against the SFT baseline.

    `encoder` is a folder or hub id.  Raises BenchError without one, and for one that cannot be used.
    """

    name, title = "similarity", "similarity"

    encoder: str = ""

    @property
    def source(self) -> str:
        """The scorer's name, as `winrate.scorer` takes it."""
        if not self.encoder:
            raise BenchError("similarity has no encoder.", "Add --set similarity.encoder=FOLDER_OR_HUB_ID.")
        return f"embedding:{self.encoder}"
