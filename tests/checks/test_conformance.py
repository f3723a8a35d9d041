"""The conformance checks pass plugins that keep the rules and say in one line what is wrong with others."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rlhf_bench.harness.checks.conformance import check
from rlhf_bench.harness.checks.findings import Finding
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Case, Example, Measure, Pair, Rollout, Split, Utility, Verdict
from rlhf_bench.harness.plugins import Kind
from rlhf_bench.harness.seams import Task

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "third_party"
SMALL = {"demonstrations": 20, "train_pairs": 8, "test_pairs": 8, "train_prompts": 8, "test_prompts": 8}


@pytest.fixture(autouse=True)
def plugins_on_the_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """`bench_echo` is importable, and `broken` is a module that tests put plugins into."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    module = ModuleType("broken")
    monkeypatch.setitem(sys.modules, "broken", module)
    yield module
    sys.modules.pop("bench_echo", None)


def findings(kind: Kind, factory: Any) -> list[Finding]:
    sys.modules["broken"].__dict__["plugin"] = factory
    return check(kind, "broken:plugin", {})


def broken(kind: Kind, factory: Any) -> str:
    """All failed findings, in one text."""
    return "\n".join(f"{f.checked}: {f.detail}" for f in findings(kind, factory) if not f.ok)


@pytest.mark.parametrize(
    ("kind", "name", "settings"),
    [
        ("task", "dialogsum", SMALL),
        ("task", "bench_echo:EchoWords", SMALL),
        ("reward-model", "bench_echo:Vowels", {}),
        ("reward-model", "scalar", {}),
        ("reward-model", "seq2seq-token", {}),
        ("judge", "bench_echo:ExactEcho", {}),
        ("judge", "winrate", {}),
        ("judge", "utility", {}),
        ("judge", "length", {}),
        ("judge", "empty", {}),
    ],
)
def test_good_plugins_pass(kind: Kind, name: str, settings: dict[str, Any]) -> None:
    found = check(kind, name, settings)
    assert [f for f in found if not f.ok] == []
    assert len(found) >= 4


def test_a_reward_model_that_must_be_trained_is_not_scored() -> None:
    (finding,) = (f for f in check("reward-model", "scalar", {}) if f.checked == "rewards")
    assert finding.detail == "not checked: it would have to be trained"


def test_an_unknown_name_is_an_error_not_a_finding() -> None:
    with pytest.raises(BenchError, match="Unknown judge 'winrat'"):
        check("judge", "winrat", {})


def test_a_plugin_that_cannot_be_built_or_lacks_members() -> None:
    def fails() -> None:
        raise RuntimeError("no such luck")

    def leaves() -> None:
        raise SystemExit(3)

    assert "no such luck" in broken("task", fails)
    assert "SystemExit" in broken("task", leaves)
    assert "lacks examples, max_response_tokens, pairs" in broken("task", object)
    assert "lacks rewards or object lacks load, recipe, train, training_settings" in broken("reward-model", object)
    assert "lacks measure, measures" in broken("judge", object)
    missing = check("judge", "nowhere:Judge", {})
    assert (missing[0].ok, len(missing)) == (False, 1)


# ---- tasks ----------------------------------------------------------------------------------------------------------


class Words:
    """A correct task, whose members the tests replace."""

    max_response_tokens = 8

    def examples(self, split: Split) -> Sequence[Example]:
        return [Example(f"{split}-{i}", f"{split} {i}", "yes", facts={"n": i}) for i in range(4)]

    def pairs(self, split: Split) -> Sequence[Pair]:
        return [Pair(f"{split}-{i}", f"{split} pair {i}", "yes", "no") for i in range(4)]

    def utility(self, example: Example, response: str) -> Utility:
        return Utility(float(response == "yes") + example.facts["n"])


def words(**parts: Any) -> Any:
    """The class `Words` with other members."""
    return type("Words", (Words,), parts)


def changed(**fields: Any) -> Callable[..., Sequence[Example]]:
    return lambda self, split: [replace(e, **fields) for e in Words.examples(self, split)]


def test_the_task_that_the_others_break_is_correct() -> None:
    assert broken("task", Words) == ""


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"max_response_tokens": 1}, "it is 1"),
        ({"examples": lambda *_: []}, "no sft examples, no train examples, no test examples"),
        ({"pairs": lambda *_: []}, "no train pairs, no test pairs"),
        ({"examples": lambda *_: iter([])}, "is a list_iterator, not a list or tuple"),
        ({"examples": lambda *_: [{"id": "a"}]}, "which is no Example"),
        ({"examples": changed(id="a")}, "1 ids occur twice in the sft examples, ['a'] among them"),
        ({"examples": changed(prompt="the same")}, "1 prompts are in training and in test, such as ['the same']"),
        ({"examples": changed(prompt=" ")}, "4 sft prompts are empty, ['sft-0'] among them"),
        ({"examples": changed(completion="")}, "4 demonstrations have no completion"),
        ({"examples": changed(facts={"n": {1, 2}})}, "'sft-0' is not JSON"),
        ({"examples": changed(facts={"n": math.nan})}, "'sft-0' is not JSON"),
        ({"pairs": lambda *_: [Pair("a", "p", "", "no")]}, "train pair 'a': the prompt or the chosen text is empty"),
        ({"pairs": lambda *_: [Pair("a", "p", "yes", "yes ")]}, "chosen and rejected are the same text"),
        ({"pairs": lambda *_: [Pair("a", "p", "yes", "no", ((0, 9),))]}, "the flaws [(0, 9)] lie outside the text"),
        ({"pairs": lambda *_: [Pair("a", "p", "yes", "no")]}, "1 prompts are in training and in test"),
        ({"examples": lambda self, _: self.nothing}, "it raised AttributeError"),
        ({"utility": lambda *_: Utility(math.inf)}, "Utility(value=inf"),
        ({"utility": lambda *_: 1.0}, "utility gives a float, not a Utility"),
        ({"utility": lambda _, __, response: Utility(1 / len(response))}, "it raised ZeroDivisionError"),
        ({"origin": "the web"}, "origin is a str, not an Origin"),
    ],
)
def test_broken_tasks_are_caught(parts: dict[str, Any], said: str) -> None:
    assert said in broken("task", words(**parts))


def test_a_task_with_random_data_is_caught() -> None:
    chance = words(examples=lambda self, s: random.sample(Words.examples(self, s) * 9, 36))
    assert "the sft examples differ: data must be a pure function of the settings" in broken("task", chance)


def test_a_utility_that_cannot_read_a_stored_example_is_caught() -> None:
    keyed = words(examples=changed(facts={1: 2.0}), utility=lambda _, example, __: Utility(example.facts[1]))
    assert "it raised KeyError" in broken("task", keyed)


# ---- reward models --------------------------------------------------------------------------------------------------


def reward_model(rewards: Callable[[Rollout], Any]) -> Any:
    return type("Rewards", (), {"rewards": lambda _, rollout: rewards(rollout)})


@pytest.mark.parametrize(
    ("rewards", "said"),
    [
        (lambda r: r.mask.float().sum(1), "returned rewards of shape [4]"),
        (lambda r: r.mask.float() / 0, "NaN or infinite"),
        (lambda r: r.mask.float() + 1, "rewards outside the response mask"),
        (lambda r: [1.0] * len(r.prompts), "returned a list"),
        (lambda r: r.mask.float() * random.random(), "when computed twice"),
        (lambda r: r.mask.float() * r.mask.shape[1], "in batches of 1: padding or other rows change them"),
        (lambda r: r.nothing, "it raised AttributeError"),
    ],
)
def test_broken_reward_models_are_caught(rewards: Callable[[Rollout], Any], said: str) -> None:
    assert said in broken("reward-model", reward_model(rewards))


def test_a_correct_reward_model_passes() -> None:
    assert broken("reward-model", reward_model(lambda rollout: rollout.mask.float())) == ""


def test_training_settings_must_be_json() -> None:
    parts = {"recipe": "mine", "training_settings": {"lr": {1}}, "train": print, "load": print}
    assert "training_settings are not JSON" in broken("reward-model", type("Trained", (), parts))
    assert "recipe is '', not a name" in broken("reward-model", type("Trained", (), {**parts, "recipe": ""}))


# ---- judges ---------------------------------------------------------------------------------------------------------


def judge(measure: Callable[[Sequence[Case], Task], Any], *measures: Measure) -> Any:
    named = measures or (Measure("win_rate", "win"),)
    return type("Judge", (), {"measures": named, "measure": lambda _, cases, task: measure(cases, task)})


def every(**values: Any) -> Callable[[Sequence[Case], Task], Any]:
    return lambda cases, _: [Verdict(values) for _ in cases]


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        (judge(every(win_rate=2.0)), "win_rate is 2.0, outside [0, 1]"),
        (judge(every(more=-1.5), Measure("more", "change", limit=1.0)), "more is -1.5, beyond its limit 1"),
        (judge(every(win_rate=math.nan)), "win_rate is nan"),
        (judge(every(win_rate="A")), "win_rate is 'A'"),
        (judge(every(win_rate=None)), "win_rate is undecided without a reason"),
        (judge(every(wins=1.0)), "measures ['wins'] instead of ['win_rate']"),
        (judge(lambda *_: [Verdict({"win_rate": 1.0})]), "gave 1 verdicts for 9 cases"),
        (judge(lambda *_: [Verdict({"win_rate": 1.0})]), "1 verdicts on no cases"),
        (judge(lambda cases, _: [1.0 for _ in cases]), "float 1.0 is no Verdict"),
        (judge(lambda cases, _: [Verdict({"win_rate": i % 2}) for i, _ in enumerate(cases[:-1])]), "8 verdicts for 9"),
        (
            judge(lambda cases, _: [Verdict({"win_rate": i / 9}) for i, _ in enumerate(cases)]),
            "with the order of cases",
        ),
        (judge(lambda cases, _: [Verdict({"win_rate": 1.0}, notes={"set": {1}}) for _ in cases]), "is not JSON"),
        (judge(lambda _, task: task.answer), "failed: AttributeError"),
        (judge(every(a=1.0), Measure("a", "share")), "a is of kind 'share'"),  # type: ignore[arg-type]
        (judge(every(a=1.0), Measure("a", "level", before="b")), "before='b', which is no measure"),
        (judge(every(a=1.0), Measure("a", "level"), Measure("a", "win")), "a name occurs twice"),
        (judge(every(a=1.0), Measure("a", "rate", format="euro")), "a has format='euro'"),  # type: ignore[arg-type]
        (judge(every(a=1.0), Measure("a", "rate", better="more")), "a has better='more'"),  # type: ignore[arg-type]
        (judge(every(a=1.0), Measure("a", "rate", shown=("page",))), "is shown at ['page']"),  # type: ignore[arg-type]
    ],
)
def test_broken_judges_are_caught(factory: Any, said: str) -> None:
    assert said in broken("judge", factory)


def test_a_correct_judge_passes() -> None:
    assert broken("judge", judge(every(win_rate=0.5))) == ""
    assert broken("judge", judge(lambda cases, _: [Verdict({"win_rate": None}, "no reply") for _ in cases])) == ""
