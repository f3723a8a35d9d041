"""Scores of a gold model: each text once, not again after a kill; judges that read them; plans of every kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from small import settings

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Answer, Case, Example, Generation, Scored
from rlhf_bench.harness.pipeline.context import Context
from rlhf_bench.harness.plan import experiments
from rlhf_bench.harness.plan.cells import Cell
from rlhf_bench.harness.plan.request import Request, make_plan
from rlhf_bench.harness.presets import parse_assignments
from rlhf_bench.harness.stages import gold
from rlhf_bench.harness.stages.gold import GoldText, scored
from rlhf_bench.harness.stages.gold_rows import StoredScores
from rlhf_bench.judges.utility import UtilityChange
from rlhf_bench.judges.winrate import WinRate

TEXTS = [GoldText("q", "a" * (n % 7), n % 2 == 0) for n in range(40)]


def context(tmp_path: Path, **params: Any) -> Context:
    for name in ("work", "scratch"):
        (tmp_path / name).mkdir(exist_ok=True)
    return Context({"eval": {"batch": 4}, **params}, {}, tmp_path / "work", tmp_path / "scratch", "cpu")


def counting(monkeypatch: pytest.MonkeyPatch, fail_at: int = -1) -> list[GoldText]:
    """What is scored from now on, in order; the score is the response's length, undecided for none."""
    seen: list[GoldText] = []

    def score(texts: Sequence[GoldText]) -> list[Scored]:
        if len(seen) == fail_at:
            raise KeyboardInterrupt
        seen.extend(texts)
        return [Scored(float(len(t.response))) if t.response else Scored(None, "empty") for t in texts]

    monkeypatch.setattr(gold, "_scorer", lambda _: score)
    monkeypatch.setattr(gold, "PART", 5)
    return seen


def test_equal_texts_are_scored_once_and_keep_their_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = counting(monkeypatch)
    found = scored(context(tmp_path), TEXTS)
    assert [one.value for one in found] == [len(t.response) or None for t in TEXTS]
    assert found[0].reason == "empty"
    assert sorted(seen) == sorted(set(TEXTS))


def test_what_was_scored_before_a_kill_is_not_scored_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = counting(monkeypatch, fail_at=10)
    with pytest.raises(KeyboardInterrupt):
        scored(context(tmp_path), TEXTS)
    again = counting(monkeypatch)
    found = scored(context(tmp_path), TEXTS)
    assert len(first) == 10
    assert set(first).isdisjoint(again)
    assert [one.value for one in found] == [len(t.response) or None for t in TEXTS]


def generations(tmp_path: Path) -> Path:
    rows = [
        {"example_id": str(n), "iteration": 3, "decoding": "sample", "prompt": "q", "response": "ab", "tokens": 2}
        | {"finished": n > 0}
        for n in range(2)
    ]
    store.write_rows(tmp_path / "generations.jsonl", rows)
    return tmp_path


@pytest.mark.parametrize(("cut_off", "read"), [("keep", "ab"), ("lose", "")])
def test_a_cut_off_response_is_read_as_the_setting_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut_off: str, read: str
) -> None:
    counting(monkeypatch)
    own = context(tmp_path, **({} if cut_off == "keep" else {"cut_off": cut_off}))
    own.inputs["generations"] = generations(tmp_path)  # type: ignore[index]
    figures = gold.gold_scores(own)
    rows = store.read_rows(tmp_path / "work" / "gold.jsonl")
    assert [row["response"] for row in rows] == [read, "ab"]
    assert figures == {"responses": 2, "undecided": int(not read)}


# ---- judges ---------------------------------------------------------------------------------------------------------


def test_judges_take_the_gold_model_s_scores() -> None:
    known = {
        ("1", "before", True): Scored(1.0),
        ("1", "after", True): Scored(3.0),
        ("1", "after", False): Scored(None, "too long"),
    }
    scores = StoredScores("scalar@half", known)
    example = Example("1", "q")
    before = Generation("1", 0, "sample", "q", "before", 1, True)
    cases = [Case(example, Generation("1", 1, "sample", "q", "after", 1, ended), before) for ended in (True, False)]
    by_gold = UtilityChange().with_gold(scores)
    one, other = by_gold.measure(cases, object())  # type: ignore[arg-type]
    assert one.values == {"gold_change": 2.0, "gold": 3.0, "gold_baseline": 1.0}
    assert (other.values, other.reason) == ({"gold_change": None, "gold": None, "gold_baseline": 1.0}, "too long")
    assert [m.name for m in by_gold.measures] == [m.name for m in UtilityChange().measures]
    assert "the gold model scalar@half" in by_gold.measures[0].description
    wins = [v.values["win_rate"] for v in WinRate().with_gold(scores).measure(cases, object())]  # type: ignore[arg-type]
    assert wins == [1.0, None]
    # a judge with a scorer of its own keeps it
    assert UtilityChange().takes_gold
    assert not WinRate(scorer="rouge-l").takes_gold
    with pytest.raises(BenchError, match="no score of a response"):
        scores.scores([Answer(example, "another")])


# ---- plans ----------------------------------------------------------------------------------------------------------


def planned(by: str, rms: Sequence[str] = ("length-only", "gold")) -> list[Cell]:
    given = parse_assignments(tuple(settings(())[1::2]))
    request = Request("dialogsum", rms, (0,), "tiny", (), given, optimizers=("best-of-n",), n="1,2", gold=by)
    return list(make_plan(request).cells)


def test_a_reward_model_of_another_run_is_gold_under_its_own_record(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    store.write_json(tmp_path / "reward_model.json", {"name": "seq2seq-token", "settings": {}})
    proxy, ceiling = planned(f"path:{tmp_path}")
    assert proxy.record()["gold"] == {"name": f"path:{tmp_path.name}", "relabel": False}
    assert proxy.stages["gold_pool"].key == ceiling.stages["gold_pool"].key
    assert proxy.stages["gold_pool"].params["rm"]["content"]["sha256"]
    assert ceiling.reward_model == "gold"
    assert ceiling.stages["scale"].params["rm"] == proxy.stages["gold_pool"].params["rm"]
    # the pairs stay whole, and nothing is trained
    assert proxy.stages["pairs"].kind == "pairs"
    assert "gold" not in proxy.stages
    assert proxy.stages["gold_scale"].key == ceiling.stages["gold_scale"].key


def test_another_gold_model_leaves_what_was_generated(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    store.write_json(tmp_path / "reward_model.json", {"name": "seq2seq-token", "settings": {}})
    (without,) = planned("", ("length-only",))
    (by,) = planned(f"path:{tmp_path}", ("length-only",))
    assert without.key == by.key
    assert {role: stage.key for role, stage in without.stages.items()}.items() <= {
        role: stage.key for role, stage in by.stages.items()
    }.items()


def test_experiments_take_a_gold_model() -> None:
    run = experiments.ExperimentRun(rms=("scalar",), gold="scalar@half")
    assert experiments.with_gold(run, experiments.ByGold()) == run
    other = experiments.with_gold(run, experiments.ByGold("rm:FOLDER", relabel=True))
    assert (other.gold, other.relabel) == ("rm:FOLDER", True)
    credit = experiments.ExperimentRun(rms=("scalar",), kind="credit")
    assert experiments.with_gold(credit, experiments.ByGold("scalar@half")) == credit
    found = experiments.Experiment("own", "?", "1", (run,))
    made = experiments.make(found, (), {"dialogsum": {"train_pairs": "24", "test_pairs": "8"}})
    (cell,) = made.plans["main"].cells
    assert cell.gold == {"name": "scalar@half", "relabel": False}
    assert {"half", "gold", "gold_scores"} <= {stage.kind for stage in made.order}
