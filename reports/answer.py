"""What a report answers in one sentence: under which reward models the policy after PPO is better or worse.

An arm counts as better or worse than the SFT baseline only when its whole interval lies on one side of the measure's
reference value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from rlhf_bench.harness.results.table import interval
from rlhf_bench.harness.statistics.entropy_matched import CONTROL
from rlhf_bench.harness.statistics.runs import RULE
from rlhf_bench.reports.gold import RULES, gold_words
from rlhf_bench.reports.measures import COLLAPSED, Column, Report, arms_on, of_report, pick, shown_at

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import Row

CEILING_ARM = "gold"
"""The reward model that pays the true utility itself (results/ceiling.py, which this does not import: statistics)."""
QUESTION = "How good is the policy after PPO with each reward model?"

VERDICTS = ("supported", "contradicted", "inconclusive", "not run")
"""Rulings on claims (`results.claims.Ruling`) in the order in which they are counted."""

ALONE = "the arm called gold alone trains on it"

Side = Literal["better", "worse", "undecided", "unknown"]


class Outcome(NamedTuple):
    """One arm's estimate of a measure, and on which side of the baseline it lies.

    `estimate` is None where the arm has none for this measure; the side is then "unknown".
    """

    arm: Row
    estimate: Row | None
    side: Side


def question(report: Report) -> str:
    """The question the report answers: an experiment's own, or the general one."""
    return str(report.get("question") or QUESTION)


def terms(report: Report) -> list[str]:
    """What the short names mean that a report's first lines use, as sentences without a full stop."""
    by_gold = any(column.statistic.startswith("gold") for column in of_report(report))
    found = [f"gold: {'; or '.join(gold_words(report) or [RULES])}; {ALONE}"] if by_gold else []
    if any(e["statistic"].endswith(COLLAPSED) and e["value"] for e in report["estimates"]):
        found.append(RULE)
    return found


def answering(report: Report) -> list[Column]:
    """The measures that say better or worse: win rates first, then the others, each in the order of columns."""
    found = [column for column in shown_at(report, "headline") if column.answers]
    return sorted(found, key=lambda column: column.kind != "win")  # sorting keeps the order of equals


def outcomes(report: Report, task: str, column: Column) -> list[Outcome]:
    """Every arm of the task at the last checkpoint, the best estimate first and unknown ones last.

    `column` must answer (`Column.answers`): without a better side the largest estimate would count as the best.
    """
    found = []
    for arm in arms_on(report, task):
        estimate = pick(report, arm["arm"], column.key)
        found.append(Outcome(arm, estimate, side(estimate, column)))
    sign = 1.0 if column.better == "lower" else -1.0

    def place(outcome: Outcome) -> tuple[bool, float, str]:
        value = outcome.estimate["value"] if outcome.estimate else None
        return (value is None, sign * (value or 0.0), outcome.arm["label"])  # equal ones by name

    return sorted(found, key=place)


def candidates(found: Sequence[Outcome]) -> list[Outcome]:
    """The outcomes that somebody can choose between, in the same order.

    Without the control that has no reward model, and without the ceiling: nobody has the true utility to train on.
    """
    return [
        outcome
        for outcome in found
        if outcome.arm.get("optimizer") != CONTROL and outcome.arm["reward_model"] != CEILING_ARM
    ]


def side(estimate: Row | None, column: Column) -> Side:
    """On which side of the measure's reference value the whole interval lies.

    "unknown" without a value, "undecided" without an interval and where it holds the reference value.
    """
    if estimate is None or estimate["value"] is None:
        return "unknown"
    if estimate["low"] is None or estimate["high"] is None or column.reference is None:
        return "undecided"
    # an interval that touches the reference value decides nothing
    above, below = estimate["low"] > column.reference, estimate["high"] < column.reference
    if not above and not below:
        return "undecided"
    # one of the two is true here: below is not above
    return "better" if above == (column.better != "lower") else "worse"


def sentence(report: Report, task: str) -> str:
    """The answer for one task: who is better or worse than the baseline, and the best estimate with its interval.

    Sides are not adjusted for the number of reward models; the table of pairs is (`comparison.pairs`).
    """
    # one measure answers in the sentence: the first that was measured on this task
    column = next((c for c in answering(report) if any(o.estimate for o in outcomes(report, task, c))), None)
    if column is None:
        return f"On {task}, no judge measured whether the responses got better than the SFT baseline's."
    everything = outcomes(report, task, column)
    ceiling = [one for one in everything if one.arm["reward_model"] == CEILING_ARM and one.estimate]
    # the control without a reward model answers nothing about any, and a ceiling alone answers for itself
    results = candidates(everything) or ceiling
    if not results:
        return f"On {task}, no policy was optimised: {CONTROL} alone was sampled."
    known = [outcome for outcome in results if outcome.side != "unknown"]
    if not known:
        return f"On {task}, every case of {column.title} is undecided: nothing can be said."
    best = interval(known[0].estimate, column.format)  # outcomes are sorted, the best one first
    reach = ""
    if ceiling and results[0] is not ceiling[0]:
        reach = f" With the true utility as the reward (gold): {interval(ceiling[0].estimate, column.format)}."
    reach = f"{_undone(report, known)}{reach}"
    if len(results) == 1:
        words = {"better": "better than", "worse": "worse than"}
        # an interval that holds the reference value shows no difference, which is not the same as being equal
        word = words.get(known[0].side, "not clearly better or worse than")
        said = f"{_made_by(results)} {known[0].arm['label']} leaves the policy {word} the SFT baseline"
        return f"On {task}, {said}: {column.title} {best} ({_size(known)}).{reach}"
    largest = "smallest" if column.better == "lower" else "largest"
    lead = f"the {largest} estimate is {known[0].arm['label']}'s {column.title}"
    return f"On {task}, {_of_several(results)}; {lead} {best} ({_size(known)}).{reach}"


def some_runs_collapsed(report: Report, arm: Row) -> Row | None:
    """The share of an arm's runs that collapsed, by the first judge that measured one above 0; None without any."""
    names = sorted(column.key for column in of_report(report) if column.statistic.endswith(COLLAPSED))
    found = [pick(report, arm["arm"], name) for name in names]
    return next((one for one in found if one is not None and one["value"]), None)


def _undone(report: Report, known: Sequence[Outcome]) -> str:
    """Which arms are better in the mean alone, since some of their runs collapsed."""
    shares = [(one.arm["label"], some_runs_collapsed(report, one.arm)) for one in known if one.side == "better"]
    said = [f"{label}, {share['note'].partition(':')[0]}" for label, share in shares if share]
    return f" Better in the mean alone: {'; '.join(said)}." if said else ""


def _made_by(results: Sequence[Outcome]) -> str:
    """What changed the policy: PPO against a reward model, or another optimiser, which the arm's label names."""
    return "PPO against" if all(one.arm.get("optimizer", "ppo") == "ppo" for one in results) else "The arm"


def over_tasks(report: Report) -> str:
    """The arm with the largest mean win rate over the report's tasks, "" for one task or without such means."""
    rows = [row for row in report.get("comparison", {}).get("over_tasks", ()) if row["value"] is not None]
    ceilings = {arm["label"] for arm in report["arms"] if arm["reward_model"] == CEILING_ARM}
    wins = {(c.judge, c.statistic): c for c in of_report(report) if c.kind == "win"}
    found = [row for row in rows if (row["judge"], row["statistic"]) in wins and row["label"] not in ceilings]
    if not found:
        return ""
    first = next(key for key in wins if any((row["judge"], row["statistic"]) == key for row in found))
    best = max((row for row in found if (row["judge"], row["statistic"]) == first), key=lambda row: row["value"])
    return (
        f"Over the tasks {', '.join(best['tasks'])}, each counting alike, the largest mean {best['title']} is "
        f"{best['label']}'s {interval(best)} ({best['seeds']} common training seeds; of these tasks alone)."
    )


def of_claims(rows: Sequence[Row]) -> str:
    """How many of an experiment's claims its intervals support, and the first of them, "" for none."""
    counts = {name: sum(row["verdict"] == name for row in rows) for name in VERDICTS}
    said = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    first = f" The first: “{rows[0]['text'].rstrip('.')}” is {rows[0]['verdict']}." if len(rows) > 1 else ""
    return f"Of {len(rows)} claim{'' if len(rows) == 1 else 's'} about it: {said}.{first}" if rows else ""


def _of_several(results: Sequence[Outcome]) -> str:
    """Under how many reward models, or in how many arms of several optimisers, the policy is better and worse.

    Named where they are few.
    """

    ppo = all(one.arm.get("optimizer", "ppo") == "ppo" for one in results)
    noun, word = ("reward models", "under") if ppo else ("arms", "in")
    lead = "PPO leaves the policy" if ppo else "the policy is"

    def some(labels: Sequence[str]) -> str:
        if not labels:
            return "none"
        shown = f" ({', '.join(labels)})" if len(labels) <= 3 else ""
        return f"{len(labels)} of {len(results)} {noun}{shown}"

    counts = {name: [o.arm["label"] for o in results if o.side == name] for name in ("better", "worse")}
    rest = len(results) - sum(map(len, counts.values()))  # undecided, or without an estimate
    better, worse = map(some, counts.values())
    if rest == len(results):
        return f"{lead} not clearly better or worse than the SFT baseline {word} any of {rest} {noun}"
    ruled = f"{lead} better than the SFT baseline {word} {better}, worse {word} {worse}"
    return f"{ruled}, and {rest} {'is' if rest == 1 else 'are'} undecided" if rest else ruled


def _size(known: Sequence[Outcome]) -> str:
    """Training seeds and prompts of the estimates; an interval over one seed is conditional on its training run."""
    seeds = sorted({len(outcome.arm["seeds"]) for outcome in known})
    prompts = sorted({outcome.estimate["n"] for outcome in known if outcome.estimate})
    if seeds == [1]:  # the spread between training runs was not measured, and is in no interval
        return f"one training seed, {_range(prompts)} prompts: conditional on this training run"
    layered = any(isinstance(seed, str) for outcome in known for seed in outcome.arm["seeds"])
    return f"{_range(seeds)} {'runs in layers of' if layered else 'training'} seeds, {_range(prompts)} prompts"


def _range(numbers: Sequence[int]) -> str:
    return f"{numbers[0]}" if numbers[0] == numbers[-1] else f"{numbers[0]} to {numbers[-1]}"
