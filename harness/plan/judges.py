"""Which judges a request has, and what a plan needs of each: its settings, and what its verdicts depend on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError, one_line
from rlhf_bench.harness.plan.named import check_named, texts_of
from rlhf_bench.harness.plan.names import find_named
from rlhf_bench.harness.plan.tasks import TaskPlan
from rlhf_bench.harness.presets import factory_settings
from rlhf_bench.harness.seams import HasVerdictSettings, NeedsReferences, TakesGold
from rlhf_bench.harness.stages.judge import load_judge
from rlhf_bench.harness.stages.prompts import load_task
from rlhf_bench.harness.text.types import Row

DEFAULT_JUDGES = ("winrate", "utility", "length", "empty")
"""The judges of a request that names none, beside the task's own (`seams.HasOwnJudges`)."""
ADDS = "+"
"""In front of a judge's name: it joins the others instead of replacing the default ones."""


def plain_names(asked: Sequence[str]) -> tuple[str, ...]:
    """The judges that are named, without `+`, once each.  Raises BenchError for a `+` alone."""
    if ADDS in asked:
        raise BenchError("The judge '+' has no name.", "Write +NAME; see: bench list judges")
    return tuple(dict.fromkeys(name.removeprefix(ADDS) for name in asked))


def chosen(asked: Sequence[str], own: Sequence[str] = ()) -> tuple[str, ...]:
    """The judges of a request, once each; `own` are those of its task.

    Without a plain name those of DEFAULT_JUDGES and the task's own come first, and each +NAME joins them.  A plain name
    makes the list plain: it has what it names, with or without `+`.  Raises BenchError as `plain_names`.
    """
    defaults = () if any(not name.startswith(ADDS) for name in asked) else (*DEFAULT_JUDGES, *own)
    return tuple(dict.fromkeys([*defaults, *plain_names(asked)]))


def left_out(asked: Sequence[str], own: Sequence[str] = ()) -> tuple[str, ...]:
    """The default judges that a plain list leaves out; `own` are those of its task."""
    names = chosen(asked, own)
    return tuple(name for name in dict.fromkeys([*DEFAULT_JUDGES, *own]) if name not in names)


@dataclass(frozen=True)
class JudgeSpec:
    """A judge by name with all its settings; `content` is what its verdicts depend on, and enters keys.

    `content` is the judge's `verdict_settings` where it has any (`seams.HasVerdictSettings`), else all settings.
    `takes_gold`: in a run with a gold model it measures by that (`seams.TakesGold`).  `needs_references`: as in
    `seams.NeedsReferences`.
    """

    name: str
    settings: Row
    content: Row
    takes_gold: bool = False
    needs_references: bool = False


def judge_spec(name: str, given: Row) -> JudgeSpec:
    """Build the judge once and read what a plan needs of it.

    Raises BenchError for an unknown name, a wrong setting, and settings that are no JSON.
    """
    settings = factory_settings(name, find_named("judge", name).factory(), given)
    check_named(texts_of(settings))
    judge = load_judge(name, settings)
    content = dict(judge.verdict_settings) if isinstance(judge, HasVerdictSettings) else settings
    # tried here, where the judge's name is known: a stage's key would raise the same error without it
    try:
        store.canonical(content)
    except (TypeError, ValueError) as error:
        seen = f"The settings of the judge {name!r} are not JSON: {one_line(error)}."
        raise BenchError(seen, "Settings are texts, numbers and truth values.") from None
    takes_gold = isinstance(judge, TakesGold) and bool(judge.takes_gold)
    needs_references = isinstance(judge, NeedsReferences) and bool(judge.needs_references)
    return JudgeSpec(name, settings, content, takes_gold, needs_references)


def check_references(judges: Sequence[JudgeSpec], task: TaskPlan) -> None:
    """Raises BenchError for a judge that decides nothing on the task, whose held-out examples have no reference."""
    needing = next((judge for judge in judges if judge.needs_references), None)
    if needing is None:
        return
    found = load_task({"task": task.opened}).examples("test")
    if not any(text.strip() for one in found for text in (one.completion, *one.references)):
        seen = f"{needing.name} compares with references, and the held-out examples of {task.name!r} have none."
        raise BenchError(seen, f"Give {needing.name} another scorer, or data with references.")
