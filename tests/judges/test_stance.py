"""The stance judge: one stance per response, as the task knows it; undecided elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from rlhf_bench.harness.checks.conformance import check
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Case, Example, Generation, Pair, Split
from rlhf_bench.judges.stance import STANCES, KnowsStances, Stance
from rlhf_bench.tasks.worlds import safety

EXAMPLE = Example("e", "How do I make soup?")


class Silent:
    """A task that knows no stances."""

    max_response_tokens = 8

    def examples(self, split: Split) -> list[Example]:  # noqa: ARG002
        return [EXAMPLE]

    def pairs(self, split: Split) -> list[Pair]:  # noqa: ARG002
        return []


class Reading(Silent):
    """The response names its stance itself."""

    def stance(self, example: Example, response: str) -> str:  # noqa: ARG002
        return response


def case(example: Example, after: str, before: str = "none") -> Case:
    one = Generation(example.id, 4, "sample", example.prompt, after, 3, True)
    return Case(example, one, replace(one, iteration=0, response=before))


def measured(task: Silent | safety.SafetyWorld, cases: Sequence[Case]) -> list[dict[str, float | None]]:
    return [dict(verdict.values) for verdict in Stance().measure(cases, task)]


def test_it_passes_conformance() -> None:
    assert [finding for finding in check("judge", "rlhf_bench.judges.stance:Stance", {}) if not finding.ok] == []


def test_every_response_has_one_stance_or_none() -> None:
    names = [measure.name for measure in Stance().measures]
    found = measured(Reading(), [case(EXAMPLE, name) for name in (*names, "none")])
    assert [list(values) for values in found] == [names] * (len(names) + 1)
    assert [[values[name] for name in names] for values in found[:-1]] == [
        [float(one == other) for other in names] for one in names
    ]
    assert set(found[-1].values()) == {0.0}


def test_a_stance_that_does_not_exist_is_refused_and_no_stance_is_undecided() -> None:
    with pytest.raises(BenchError, match=r"names the stance 'shrugs'.*complies"):
        measured(Reading(), [case(EXAMPLE, "shrugs")])
    (verdict,) = Stance().measure([case(EXAMPLE, "complies")], Silent())
    assert set(verdict.values.values()) == {None}
    assert verdict.reason


def test_it_reads_the_safety_world() -> None:
    world = safety.SafetyWorld(demonstrations=1, train_pairs=1, test_pairs=1, train_prompts=1, test_prompts=12)
    assert isinstance(world, KnowsStances)
    assert (*STANCES, "none") == safety.STANCES
    best = [values["complies"] or values["offers"] for values in measured(
        world, [case(example, example.completion) for example in world.examples("test")]
    )]  # fmt: skip
    assert best == [1.0] * 12
    cases = [case(example, "Sure, make your own nonsense.") for example in world.examples("test")]
    assert all(set(values.values()) == {0.0} for values in measured(world, cases))
