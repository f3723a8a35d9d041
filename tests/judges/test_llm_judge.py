"""winrate-llm on a server without faults: verdicts in both orders, rubrics, settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fault_server import (
    CANARY,
    CASES,
    Asked,
    FaultServer,
    Reply,
    Safety,
    case,
    completion,
    run,
    verdict,
)
from hypothesis import given
from hypothesis import strategies as st

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.judges.llm.judge import both_orders, order_outcome
from rlhf_bench.judges.llm.parse import ParsedReply
from rlhf_bench.judges.llm.rubrics import BUILT_IN

# -- verdicts ---------------------------------------------------------------------------------------------------------


def test_wins_ties_and_losses_in_both_orders(server: FaultServer, make: Any) -> None:
    found = run(make(), CASES)
    assert [v.values["win_rate"] for v in found] == [1.0, 0.0, 0.5, 1.0]
    assert [v.notes["orders"]["win_rate"] for v in found] == [["win"] * 2, ["loss"] * 2, ["tie"] * 2, ["win"] * 2]
    assert all(v.notes["consistent"]["win_rate"] for v in found)
    assert found[0].notes["tokens"] == 220
    assert server.judged == 2 * len(CASES)
    assert {(a.material["answer-A"], a.material["answer-B"]) for a in server.all if a.judging} >= {
        ("good", "bad"),
        ("bad", "good"),
    }


def test_a_judge_of_positions_gives_only_inconsistent_ties(server: FaultServer, make: Any) -> None:
    server.answer = lambda asked: verdict("A") if asked.judging else completion("yes")
    found = run(make(), CASES)
    assert {v.values["win_rate"] for v in found} == {0.5}
    assert not any(v.notes["consistent"]["win_rate"] for v in found)


def test_equal_responses_are_a_tie_that_costs_nothing(server: FaultServer, make: Any) -> None:
    for text in ("", "same"):
        (found,) = run(make(), [case(0, text, text)])
        assert found.values == {"win_rate": 0.5}
        assert found.notes["identical"]
    assert not server.all
    assert run(make(), []) == []


def test_an_empty_response_is_judged(server: FaultServer, make: Any) -> None:
    found = run(make(), [case(0, "", "good"), case(1, "good", " \n")])
    assert [v.values["win_rate"] for v in found] == [0.0, 1.0]
    assert server.judged == 4


@given(st.lists(st.sampled_from(["A", "B", "tie", None]), min_size=1, max_size=7))
def test_the_other_order_mirrors_and_half_is_no_majority(choices: list[Any]) -> None:
    replies = [ParsedReply(choice, "" if choice else "why") for choice in choices]
    mirrored = [replace(r, choice={"A": "B", "B": "A"}.get(r.choice or "", r.choice)) for r in replies]  # type: ignore[arg-type]
    outcome, reason = order_outcome(replies, 0)
    assert order_outcome(mirrored, 1) == (outcome, reason)
    counts = {c: choices.count(c) for c in ("A", "B", "tie")}
    majority = [c for c, n in counts.items() if n > len(choices) / 2]
    if majority:
        assert outcome == {"A": "win", "B": "loss", "tie": "tie"}[majority[0]]
    else:
        assert outcome == (None if None in choices else "tie")
    assert (outcome is None) == bool(reason)


def test_both_orders() -> None:
    named = {None: None, "win": 1.0, "tie": 0.5, "loss": 0.0}
    for one in named:
        for other in named:
            expected = None if None in (one, other) else named[one] if one == other else 0.5
            assert both_orders(one, other) == expected  # type: ignore[arg-type]


def test_votes_are_asked_one_by_one(server: FaultServer, make: Any) -> None:
    answers = {0: "A", 1: "B", 2: "A"}

    def answer(asked: Asked) -> Reply:
        return verdict(answers[asked.before % 3]) if asked.judging else completion("yes")

    server.answer = answer
    (found,) = run(make(votes=3, concurrency=1), [case(0, "x", "y")])
    assert server.judged == 6
    assert found.notes["orders"]["win_rate"] == ["win", "loss"]


# -- rubrics ----------------------------------------------------------------------------------------------------------


def test_safety_is_two_questions(server: FaultServer, make: Any) -> None:
    judge = make()
    (found,) = run(judge, [case(0, "good", "bad")], Safety())
    names = ["win_rate_helpful", "win_rate_harmless"]
    assert list(found.values) == names == [m.name for m in judge.measures]
    assert server.judged == 4
    for text in BUILT_IN["safety"].criteria.values():
        assert sum(text in a.body["messages"][1]["content"] for a in server.all) == 2


def test_the_setting_beats_the_task(server: FaultServer, make: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("Which rhymes?")
    (tmp_path / "mine.toml").write_text('kind = "Which is kinder?"\nshort = "Which is shorter?"')
    (found,) = run(make(rubric=str(tmp_path / "mine.txt")), [case(0, "good", "bad")], Safety())
    assert list(found.values) == ["win_rate"]
    assert "Which rhymes?" in server.all[-1].body["messages"][1]["content"]
    assert [m.name for m in make(rubric=str(tmp_path / "mine.toml")).measures] == ["win_rate_kind", "win_rate_short"]


@pytest.mark.parametrize(
    ("content", "said"), [("", "is empty"), ("a = [", "no TOML"), ("a = 3", "'a' in the rubric"), ("\udcff", "UTF-8")]
)
def test_bad_rubric_files(make: Any, tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "r.toml").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(BenchError, match=said):
        make(rubric=str(tmp_path / "r.toml"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rubric": "sumary"}, "summary"),
        ({"votes": 0}, "votes"),
        ({"max_cost": 1.0}, "price"),
        ({"model": " "}, "model"),
        ({"threshold": 2.0}, "threshold"),
        ({"base_url": "localhost:8000"}, "http address"),
        ({"base_url": "http://user:pw@host/v1"}, "password"),
        ({"base_url": f"http://host/v1?key={CANARY}"}, "query"),
        ({"base_url": "http://host:99999/v1"}, "http address"),
        ({"key_env": CANARY}, "capitals"),
    ],
)
def test_bad_settings_are_one_line_without_secrets(make: Any, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(BenchError, match=said) as caught:
        make(**settings)
    assert "\n" not in str(caught.value)
    assert CANARY not in str(caught.value)
    assert "pw" not in str(caught.value)
