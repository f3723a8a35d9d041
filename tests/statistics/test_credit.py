"""Token credit: every statistic against a brute-force reference, intervals by clusters, and the stage's rows."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tiny import Tiny

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Pair, Rollout
from rlhf_bench.harness.pipeline.context import Context
from rlhf_bench.harness.ppo.scoring import NamedRewardModel
from rlhf_bench.harness.stages import credit as stages_credit
from rlhf_bench.harness.stages.credit import credit, is_flawed, marked_responses
from rlhf_bench.harness.statistics import credit as c
from rlhf_bench.harness.statistics.credit import KEYS, SEQUENCE_LEVEL, WITHIN, credit_estimates

LEVEL = 0.95


def row(pair: str, rewards: list[float], flawed: list[bool], side: str = "rejected", **more: Any) -> dict[str, Any]:
    spans = [[i, i + 1] for i in range(len(rewards))]
    return {"pair": pair, "side": side, "spans": spans, "rewards": rewards, "flawed": flawed, "end": 0.0, **more}


def estimate(*tables: list[dict[str, Any]], seed: int = 0) -> dict[str, Any]:
    return credit_estimates(dict(enumerate(tables)), LEVEL, np.random.default_rng(seed))


responses = st.lists(st.tuples(st.sampled_from([-1.0, -0.5, 0.0, 0.25, 1.0]), st.booleans()), min_size=1, max_size=6)


# ---- the statistics -------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.lists(responses, min_size=2, max_size=6))
def test_every_value_follows_its_definition(texts: list[list[tuple[float, bool]]]) -> None:
    rows = [row(str(i), [r for r, _ in text], [f for _, f in text]) for i, text in enumerate(texts)]
    found = estimate(rows)
    tokens = [token for text in texts for token in text]
    bad, good = [r for r, f in tokens if f], [r for r, f in tokens if not f]
    negative = [f for r, f in tokens if r < 0]
    assert found["flawed share"].value == pytest.approx(len(bad) / len(tokens))
    if not any(r for r, _ in tokens):
        assert all(found[key].value is None for key in KEYS if key != "flawed share")
        return
    expected = {
        "precision": np.mean(negative) if negative else None,
        "recall": np.mean([r < 0 for r in bad]) if bad else None,
        "flagged share": len(negative) / len(tokens),
        "auroc": brute_auroc(bad, good),
        WITHIN: within(texts),
    }
    for key, value in expected.items():
        assert found[key].value == (None if value is None else pytest.approx(value)), key
    rewards, flawed = map(np.array, zip(*tokens, strict=True))
    if bad and good and len(set(rewards)) > 1:
        assert found["point-biserial"].value == pytest.approx(stats.pearsonr(rewards, flawed).statistic)
        assert found["spearman"].value == pytest.approx(stats.spearmanr(rewards, flawed).statistic)
    else:
        assert found["point-biserial"].value is None
        assert found["spearman"].value is None


def brute_auroc(bad: list[float], good: list[float]) -> float | None:
    if not bad or not good:
        return None
    return float(np.mean([1.0 if b < g else 0.5 if b == g else 0.0 for b in bad for g in good]))


def within(texts: list[list[tuple[float, bool]]]) -> float | None:
    each = [brute_auroc([r for r, f in text if f], [r for r, f in text if not f]) for text in texts]
    kept = [one for one in each if one is not None]
    return float(np.mean(kept)) if kept else None


@settings(max_examples=40)
@given(st.lists(responses, min_size=1, max_size=5), st.integers(1, 3))
def test_no_value_is_nan_and_undefined_ones_have_a_reason(texts: list[list[tuple[float, bool]]], seeds: int) -> None:
    table = [row(str(i), [r for r, _ in text], [f for _, f in text]) for i, text in enumerate(texts)]
    found = estimate(*[table] * seeds)
    assert set(found) == set(KEYS)
    for one in found.values():
        assert all(number is None or math.isfinite(number) for number in (one.value, one.low, one.high))
        if one.value is None:
            assert one.note
        elif one.low is not None and one.high is not None:
            assert -1 <= one.low <= one.value <= one.high <= 1


def test_by_hand() -> None:
    """Flawed tokens get -1, -1, 0; clean ones +1, +1, -1: of 9 comparisons 6 are won, two at -1 tie, one is lost."""
    rows = [row("a", [1.0, -1.0, -1.0], [False, True, False]), row("b", [1.0, -1.0, 0.0], [False, True, True])]
    found = estimate(rows)
    assert found["precision"].value == pytest.approx(2 / 3)
    assert found["recall"].value == pytest.approx(2 / 3)
    assert found["auroc"].value == pytest.approx((6 + 2 * 0.5) / 9)
    assert found[WITHIN].value == pytest.approx((0.75 + 1.0) / 2)


def test_a_reward_that_only_separates_responses_is_at_chance_within_them() -> None:
    rows = [row("a", [-1.0] * 4, [True, True, False, True]), row("b", [1.0] * 4, [False, False, True, False])]
    found = estimate(rows)
    assert found["auroc"].value == pytest.approx(0.75)
    assert found[WITHIN].value == 0.5


def test_a_sequence_level_reward_has_no_token_credit() -> None:
    found = estimate([row("a", [0.0, 0.0], [True, False], end=2.5), row("b", [0.0], [False], end=-1.0)])
    assert found["auroc"].note == SEQUENCE_LEVEL
    assert all(found[key].value is None for key in KEYS if key != "flawed share")
    assert found["flawed share"].value == pytest.approx(1 / 3)
    assert SEQUENCE_LEVEL not in estimate([row("a", [0.0, 0.0], [True, False])])["auroc"].note


def test_tables_without_flaws_or_with_one_kind_of_token() -> None:
    for tables in ([], [[]], [[], []]):
        assert all(one.value is None and one.note for one in estimate(*tables).values())
    clean = estimate([row("a", [-1.0, 1.0], [False, False]), row("b", [1.0], [False])])
    assert clean["auroc"].note == "no token is flawed"
    assert clean["recall"].note == "no token is flawed"
    assert clean["precision"].value == 0.0
    assert (clean["precision"].high or 0) > 0.5  # one cluster of evidence is no certainty
    mute = estimate([row("a", [0.0, 1.0], [True, False]), row("b", [1.0], [False])])
    assert mute["precision"].note == "no token has a negative reward"
    assert mute["recall"].value == 0.0
    flawed = estimate([row("a", [-1.0, 1.0], [True, True]), row("b", [1.0], [True])])
    assert flawed["auroc"].note == "every token is flawed"


def test_one_pair_has_no_interval() -> None:
    found = estimate([row("a", [-1.0, 1.0, 0.0], [True, False, False])])
    assert found["auroc"].value == 1.0
    assert found["auroc"].low is None
    assert "one pair" in found["auroc"].note


def test_a_damaged_row_is_named() -> None:
    with pytest.raises(BenchError, match="'a' has 1 spans, 2 rewards"):
        estimate([row("a", [1.0, 2.0], [True, False], spans=[[0, 1]])])


# ---- the intervals --------------------------------------------------------------------------------------------------


def noisy(rng: np.random.Generator, pairs: int, tokens: int = 8, shift: float = 0.0) -> list[dict[str, Any]]:
    """Rewards N(0, 1), less 1 where flawed, plus one disturbance that all tokens of a pair share."""
    rows = []
    for i in range(pairs):
        flawed = rng.random(tokens) < 0.3
        rewards = rng.normal(size=tokens) - flawed + rng.normal() + shift
        rows.append(row(str(i), rewards.tolist(), flawed.tolist()))
    return rows


def test_copies_of_a_pair_on_one_prompt_add_no_evidence() -> None:
    rows = noisy(np.random.default_rng(1), 30)
    copies = [{**one, "pair": f"{one['pair']}-{k}", "cluster": one["pair"]} for one in rows for k in range(4)]
    once, four = estimate(rows), estimate(copies)
    for key in KEYS:
        assert four[key].value == pytest.approx(once[key].value), key
        width, same = four[key].high - four[key].low, once[key].high - once[key].low
        assert width == pytest.approx(same, rel=0.05), key
    apart = estimate([{**one, "cluster": one["pair"]} for one in copies])
    assert apart["auroc"].high - apart["auroc"].low < 0.6 * (once["auroc"].high - once["auroc"].low)


def test_the_same_generator_gives_the_same_interval() -> None:
    rows = noisy(np.random.default_rng(2), 10)
    assert estimate(rows, seed=5) == estimate(rows, seed=5)


def test_memory_bound_does_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = noisy(np.random.default_rng(3), 10)
    whole = estimate(rows)
    monkeypatch.setattr(c, "ROOM", 100)
    pieces = estimate(rows)
    assert pieces["auroc"].value == whole["auroc"].value
    assert pieces["auroc"].low == pytest.approx(whole["auroc"].low)


def test_several_seeds_mean_and_more_spread_than_one() -> None:
    rng = np.random.default_rng(4)
    rows = noisy(rng, 25)
    flip = [{**one, "rewards": [-r for r in one["rewards"]]} for one in rows]
    one, equal, opposed = estimate(rows), estimate(rows, rows, rows), estimate(rows, flip, rows)
    assert equal["auroc"].value == pytest.approx(one["auroc"].value)
    assert opposed["auroc"].value == pytest.approx((2 * one["auroc"].value + 1 - one["auroc"].value) / 3)
    widths = [found["auroc"].high - found["auroc"].low for found in (equal, opposed)]
    assert widths[1] > 2 * widths[0]
    assert equal["auroc"].method == "t over seeds and pairs"
    assert widths[0] == pytest.approx(one["auroc"].high - one["auroc"].low, rel=0.5)  # equal seeds add nothing


def test_seeds_may_miss_tokens_and_lack_a_value() -> None:
    rows = noisy(np.random.default_rng(5), 12)
    constant = [{**one, "rewards": [1.0] * 8} for one in rows]
    found = estimate(rows, rows[:6], constant)
    assert "1 of 3 seeds without a value" in found["spearman"].note
    assert found["auroc"].value is not None


@pytest.mark.parametrize("seeds", [1, 4])
def test_the_interval_contains_the_truth(seeds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewards of flawed and clean tokens are normal with means -1 and 0 and variance 2: AUROC is Phi(1 / 2).

    With several seeds each shifts its flawed tokens by its own amount, so the truth is a mean over seeds too.
    """
    monkeypatch.setattr(c, "RESAMPLES", 300)
    rng = np.random.default_rng(6)
    shifts = rng.normal(scale=0.3, size=20_000) if seeds > 1 else np.zeros(1)
    truth = float(stats.norm.cdf((1 - shifts) / 2).mean())
    hits, trials = 0, 120
    for _ in range(trials):
        rows = noisy(rng, 40)
        tables: dict[int, list[dict[str, Any]]] = {}
        for seed in range(seeds):
            moved = rng.normal(scale=0.3) if seeds > 1 else 0.0
            tables[seed] = []
            for one in rows:
                moves = moved * np.array(one["flawed"]) + rng.normal(scale=1e-3, size=8)
                tables[seed].append({**one, "rewards": (one["rewards"] + moves).tolist()})
        found = credit_estimates(tables, 0.9, rng)["auroc"]
        hits += found.low <= truth <= found.high
    assert hits / trials >= 0.9 - 3 * math.sqrt(0.9 * 0.1 / trials)


# ---- the stage ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("span", "flaws", "expected"),
    [
        ((3, 7), [(4, 7)], True),  # " bad" in "so, bad idea": the space is outside the flaw, the word inside
        ((7, 12), [(4, 8)], False),  # " idea": only its space lies in the flaw
        ((7, 12), [(4, 9)], True),
        ((3, 4), [(3, 4)], True),  # nothing but white space: then it counts
        ((0, 2), [(2, 4), (4, 7)], False),
        ((0, 2), [], False),
        ((4, 7), [(5, 5)], False),  # an empty flaw marks nothing inside a token
    ],
)
def test_overlap(span: tuple[int, int], flaws: list[tuple[int, int]], expected: bool) -> None:
    assert is_flawed("so, bad idea", span, flaws) is expected


PAIRS = [
    Pair("1v2", "Who?", "Anna and Ben.", "Ben will bring a lamp.", None, ((4, 8),)),
    Pair("3v2", "Who?", "They go at nine.", "Ben will bring a lamp.", (), ((4, 8),)),
    Pair("x", "Where?", "Où est la gare?", "Zoë: naß \N{ROBOT FACE}!", (), ((5, 8), (9, 10))),
]


def test_a_response_in_two_pairs_is_scored_once() -> None:
    found = marked_responses([*PAIRS, replace(PAIRS[0], id="again", prompt="Who else?")])
    assert [(one.pair, one.side) for one in found] == [
        ("1v2", "rejected"),
        ("3v2", "chosen"),
        ("x", "chosen"),
        ("x", "rejected"),
        ("again", "rejected"),
    ]


def by_position(rollout: Rollout) -> Any:
    """Rewards 1, 2, 3 ... on a response's tokens."""
    import torch

    return torch.arange(1.0, rollout.mask.shape[1] + 1)[None] * rollout.mask


def run_stage(tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, pairs: list[Pair]) -> tuple[Any, Any]:
    scorer = NamedRewardModel("by-position", SimpleNamespace(rewards=by_position), batch=2)  # type: ignore[arg-type]
    monkeypatch.setattr(stages_credit, "scorer_of", lambda _: scorer)
    monkeypatch.setattr(stages_credit, "read_pairs", lambda *_: pairs)
    context = Context({}, {"sft": tiny.folder, "pairs": tmp_path}, tmp_path, tmp_path, "cpu")
    figures = credit(context)
    return figures, store.read_rows(tmp_path / "credit.jsonl")


def test_rows_of_the_stage(tmp_path: Path, tiny_gpt2: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    figures, rows = run_stage(tmp_path, tiny_gpt2, monkeypatch, PAIRS)
    texts = {(p.id, side): getattr(p, side) for p in PAIRS for side in ("chosen", "rejected")}
    flaws = {(p.id, side): getattr(p, f"{side}_flaws") for p in PAIRS for side in ("chosen", "rejected")}
    assert [(one["pair"], one["side"]) for one in rows] == [
        ("1v2", "rejected"),
        ("3v2", "chosen"),
        ("x", "chosen"),
        ("x", "rejected"),
    ]
    assert figures["repeated"] == 1
    assert figures["misaligned"] == 0
    for one in rows:
        text, ends = texts[one["pair"], one["side"]], [end for _, end in one["spans"]]
        assert [start for start, _ in one["spans"]] == [0, *ends[:-1]]  # no token of width 0, no end-of-sequence
        assert ends[-1] == len(text)
        assert one["end"] > max(one["rewards"])
        for (start, end), flawed in zip(one["spans"], one["flawed"], strict=True):
            inside = any(
                low <= i < high and not text[i].isspace()
                for low, high in flaws[one["pair"], one["side"]]
                for i in range(start, end)
            )
            assert flawed is inside
    assert rows[0]["cluster"] == rows[1]["cluster"] != rows[2]["cluster"]
    assert figures["flawed_tokens"] == sum(sum(one["flawed"]) for one in rows) > 0
    assert figures["tokens"] == sum(len(one["flawed"]) for one in rows)
    assert estimate(rows)["precision"].note == "no token has a negative reward"


def test_a_text_that_does_not_round_trip_is_counted_and_left_out(
    tmp_path: Path, tiny_gpt2: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = stages_credit.decode
    monkeypatch.setattr(stages_credit, "decode", lambda tokenizer, ids: decode(tokenizer, ids).replace("ß", "ss"))
    figures, rows = run_stage(tmp_path, tiny_gpt2, monkeypatch, PAIRS)
    assert figures["misaligned"] == 1
    assert figures["responses"] == len(rows) == 3


def test_without_known_flaws_the_table_is_empty(
    tmp_path: Path, tiny_gpt2: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures, rows = run_stage(tmp_path, tiny_gpt2, monkeypatch, [Pair("a", "Who?", "Anna.", "Ben.")])
    assert rows == []
    assert figures["responses"] == 0
    assert all(one.value is None for one in estimate(rows).values())
