"""The arm `gold`: it pays the task's true utility, knows its own prompts alone, and has its own place in the plan."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import Tiny

from rlhf_bench.harness import plugins
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.plan.cells import Cell, plan_cell
from rlhf_bench.harness.plan.tasks import Tasks, open_task
from rlhf_bench.harness.sampling.rollout import text_rollout
from rlhf_bench.harness.settings import Settings
from rlhf_bench.reward_models.gold import Gold
from rlhf_bench.tasks.worlds.world import DialogueWorld

WORLD = DialogueWorld(demonstrations=4, train_pairs=2, test_pairs=2, train_prompts=6, test_prompts=3)
SIZES = {"demonstrations": "8", "train_pairs": "4", "test_pairs": "4", "train_prompts": "8", "test_prompts": "4"}


def true_utility(prompt: str, response: str) -> float | None:
    found = {example.prompt: example for example in WORLD.examples("test")}
    return WORLD.utility(found[prompt], response).value if prompt in found else None


@given(st.lists(st.integers(0, 30), max_size=4), st.integers(0, 2))
def test_both_forms_pay_the_utility(tiny_gpt2: Tiny, numbers: list[int], at: int) -> None:
    """Of any text: sentences of the world, of no world, a last one that is cut off."""
    example = WORLD.examples("test")[at]
    known = [*example.completion.split(". "), "They will go hiking together.", "No such", "It is. fine"]
    text = " ".join(known[number % len(known)] for number in numbers)
    rollout = text_rollout(tiny_gpt2.tokenizer, [example.prompt], [text], "cpu")
    whole = Gold().with_utility(true_utility).rewards(rollout)
    parts = Gold(per_sentence=True).with_utility(true_utility).rewards(rollout)
    expected = WORLD.utility(example, text).value
    assert float(whole.sum()) == pytest.approx(expected, abs=1e-5)
    assert float(parts.sum()) == pytest.approx(expected, abs=1e-5)
    assert not whole[:, :-1].any()
    assert not (whole * ~rollout.mask).any()
    assert not (parts * ~rollout.mask).any()


def test_a_sentence_is_paid_where_it_ends(tiny_gpt2: Tiny) -> None:
    example = WORLD.examples("test")[0]
    rollout = text_rollout(tiny_gpt2.tokenizer, [example.prompt], [example.completion], "cpu")
    (row,) = Gold(per_sentence=True).with_utility(true_utility).rewards(rollout).tolist()
    paid = [example.completion[:end] for (_, end), value in zip(rollout.spans[0], row, strict=True) if value]
    assert len(paid) == len(example.facts["truth"])
    assert all(text.endswith(".") for text in paid)
    assert [value for value in row if value] == pytest.approx([1 / len(paid)] * len(paid))


def test_other_prompts_are_declined_and_named(tiny_gpt2: Tiny) -> None:
    scorer = Gold().with_utility(true_utility)
    assert scorer.why_not("Anna: Hello.") == "no example of the task"
    assert scorer.why_not(WORLD.examples("test")[0].prompt) == ""
    rollout = text_rollout(tiny_gpt2.tokenizer, ["Anna: Hello."], ["Yes."], "cpu")
    with pytest.raises(BenchError, match=r"No example has the prompt 'Anna: Hello\.'"):
        scorer.rewards(rollout)


def test_without_a_task_there_is_no_reward(tiny_gpt2: Tiny) -> None:
    rollout = text_rollout(tiny_gpt2.tokenizer, ["?"], ["Yes."], "cpu")
    with pytest.raises(BenchError, match="'gold' needs a task with a true utility"):
        Gold().rewards(rollout)


def planned(rm: str, evaluated: str = "dialogsum", **world: str) -> Cell:
    home = open_task("dialogsum", SIZES | world)
    tasks = Tasks(home, home, home if evaluated == "dialogsum" else open_task(evaluated, SIZES))
    policy: dict[str, Any] = {"name": "tiny", "source": "tiny", "settings": {}}
    return plan_cell(tasks, rm, 0, policy, Settings())


def test_its_results_depend_on_what_the_utility_pays() -> None:
    """A setting of the world may change the utility and no example: it is in this arm's parameters, not in others'."""
    # both worlds' examples are the same: the setting is one of pairs
    one, two = (planned("gold", bad_wrong=rate).stages["ppo"].params["utility"] for rate in ("0.2", "0.3"))
    assert one != two
    assert "utility" not in planned("length-only").stages["ppo"].params


def test_the_evaluated_task_has_a_utility_of_its_own() -> None:
    cell = planned("gold", "tldr")
    assert cell.stages["generations"].params["utility"][1]["name"] == "tldr"
    assert "train_prompts" in cell.stages["generations"].inputs


def test_a_task_without_a_utility_is_refused_by_the_plan() -> None:
    home = open_task("dialogsum", SIZES)
    bare = replace(home, name="bare", has_utility=False)
    policy: dict[str, Any] = {"name": "tiny", "source": "tiny", "settings": {}}
    with pytest.raises(BenchError, match="'gold' pays the true utility, and 'bare' has none"):
        plan_cell(Tasks(home, home, bare), "gold", 0, policy, Settings())


def test_it_is_a_plugin() -> None:
    assert plugins.build("reward-model", "gold", {"per_sentence": True}) == Gold(per_sentence=True)
