"""Best-of-n: every estimate against all subsets, the KL bound against exact distributions, the stage against SFT."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import Tiny

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Case, Example, Generation, Pair, Split, Utility, to_row
from rlhf_bench.harness.pipeline.context import Context
from rlhf_bench.harness.results.proxy_curves import read_pool
from rlhf_bench.harness.stages import best_of_n as stages_best_of_n
from rlhf_bench.harness.stages import policy
from rlhf_bench.harness.stages import pool as stages_pool
from rlhf_bench.harness.stages.evaluation import read_generations
from rlhf_bench.harness.statistics import best_of_n
from rlhf_bench.harness.statistics.best_of_n import (
    check_ns,
    curve,
    expected,
    kl_bound,
    parse_ns,
    picks,
    weights,
    win_rate,
)
from rlhf_bench.judges.length import Length
from rlhf_bench.judges.utility import UtilityChange
from rlhf_bench.judges.winrate import WinRate

pools = st.integers(1, 6).flatmap(
    lambda n: st.tuples(
        st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), min_size=n, max_size=n),  # ties are common
        st.lists(st.floats(-10, 10), min_size=n, max_size=n),
        st.integers(1, n),
    )
)


def over_subsets(rewards: Sequence[float], values: Sequence[float], n: int) -> float:
    """The mean over all subsets of n of the mean value of their best, by brute force."""
    found = []
    for chosen in itertools.combinations(range(len(rewards)), n):
        top = max(rewards[i] for i in chosen)
        found.append(np.mean([values[i] for i in chosen if rewards[i] == top]))
    return float(np.mean(found))


def refused(call: Any, message: str) -> None:
    with pytest.raises(BenchError, match=message) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1


# ---- estimates ------------------------------------------------------------------------------------------------------


@given(pools)
def test_the_estimate_is_the_mean_over_all_subsets(pool: tuple[list[float], list[float], int]) -> None:
    rewards, values, n = pool
    assert expected([rewards], [values], n) == pytest.approx([over_subsets(rewards, values, n)], abs=1e-9)


@given(pools, st.randoms())
def test_weights_are_chances_that_know_no_order(pool: tuple[list[float], list[float], int], random: Any) -> None:
    rewards, _, n = pool
    found = weights(rewards, n)
    assert found.sum() == pytest.approx(1)
    assert (found >= 0).all()
    assert all(a == b for (r, a), (s, b) in itertools.product(zip(rewards, found, strict=True), repeat=2) if r == s)
    order = random.sample(range(len(rewards)), len(rewards))
    assert weights([rewards[i] for i in order], n).tolist() == found[order].tolist()


def test_weights_by_hand() -> None:
    assert weights([3, 1, 2], 2) == pytest.approx([2 / 3, 0, 1 / 3])
    assert weights([1, 1, 2], 2) == pytest.approx([1 / 6, 1 / 6, 2 / 3])
    assert weights([5, 5], 2).tolist() == [0.5, 0.5]
    assert weights([0.0, -0.0], 1).tolist() == [0.5, 0.5]
    assert weights(np.arange(2000), 1000).sum() == pytest.approx(1)


def test_one_sample_is_the_mean_and_all_are_the_best() -> None:
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=(2, 5, 64))
    assert expected(rewards, values, 1) == pytest.approx(values.mean(1))
    assert expected(rewards, values, 64) == pytest.approx(values[np.arange(5), rewards.argmax(1)])
    own = [expected(rewards, rewards, n) for n in range(1, 65)]
    assert (np.diff(own, axis=0) > 0).all()  # of the reward itself, more is better


def test_the_estimate_is_unbiased_over_all_pools() -> None:
    """Responses a, b, c with chances, rewards (two tie) and golds: the truth by all pairs, the estimate by all pools of
    four."""
    chance, reward, gold = [0.5, 0.3, 0.2], [1.0, 2.0, 2.0], [0.1, 0.7, -0.4]
    truth = sum(
        chance[i] * chance[j] * over_subsets([reward[i], reward[j]], [gold[i], gold[j]], 2)
        for i, j in itertools.product(range(3), repeat=2)
    )
    mean = sum(
        math.prod(chance[i] for i in pool) * expected([[reward[i] for i in pool]], [[gold[i] for i in pool]], 2)[0]
        for pool in itertools.product(range(3), repeat=4)
    )
    assert mean == pytest.approx(truth, abs=1e-12)


@given(pools)
def test_the_win_rate_is_over_all_subsets_and_opponents(pool: tuple[list[float], list[float], int]) -> None:
    rewards, values, n = pool
    if n == len(rewards):
        refused(lambda: win_rate([rewards], [values], n), "from a pool of")
        return
    found = []
    for opponent in range(len(rewards)):
        others = [i for i in range(len(rewards)) if i != opponent]
        won = [(np.sign(values[i] - values[opponent]) + 1) / 2 for i in others]
        found.append(over_subsets([rewards[i] for i in others], won, n))
    assert win_rate([rewards], [values], n) == pytest.approx([np.mean(found)], abs=1e-9)


def test_win_rates_of_a_perfect_reward_model() -> None:
    values = np.random.default_rng(0).normal(size=(3, 12))
    for n in (1, 2, 5, 11):
        assert win_rate(values, values, n) == pytest.approx([n / (n + 1)] * 3)
    assert win_rate(values, np.zeros((3, 12)), 4).tolist() == [0.5] * 3


def test_an_undecided_value_is_never_left_out() -> None:
    found = expected([[3.0, 2.0, 1.0]], [[1.0, np.nan, 5.0]], 3)
    assert found.tolist() == [1]  # the undecided one cannot be chosen
    assert math.isnan(expected([[3.0, 2.0, 1.0]], [[1.0, np.nan, 5.0]], 2)[0])
    assert math.isnan(win_rate([[3.0, 2.0, 1.0]], [[1.0, np.nan, 5.0]], 1)[0])


@given(st.lists(st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=6, max_size=6), min_size=1, max_size=4))
def test_picks_are_nested_and_the_earliest_best(rewards: list[list[float]]) -> None:
    found = {n: picks(rewards, n).tolist() for n in range(1, 7)}
    assert found[1] == [0] * len(rewards)
    for row, values in enumerate(rewards):
        for n in range(1, 7):
            assert found[n][row] == values.index(max(values[:n]))
            assert n == 1 or found[n][row] in (found[n - 1][row], n - 1)


# ---- the KL bound ---------------------------------------------------------------------------------------------------


def test_the_bound_by_hand() -> None:
    assert kl_bound(1) == 0
    assert kl_bound(2) == pytest.approx(math.log(2) - 0.5)
    assert kl_bound(64) == pytest.approx(3.174508, abs=1e-6)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=6), st.integers(1, 40))
def test_it_bounds_the_kl_of_any_distribution(counts: list[int], n: int) -> None:
    """Responses in order of reward: best-of-n takes the i-th with chance F_i^n - F_(i-1)^n."""
    p = np.array(counts) / sum(counts)
    below = np.concatenate([[0.0], np.cumsum(p)])
    q = below[1:] ** n - below[:-1] ** n
    kl = float(sum(b * math.log(b / a) for a, b in zip(p, q, strict=True) if b > 0))
    assert kl <= kl_bound(n) + 1e-9


def test_it_is_reached_where_no_response_comes_twice() -> None:
    n, size = 8, 200_000
    rank = np.arange(size + 1) / size
    q = rank[1:] ** n - rank[:-1] ** n
    assert float((q[q > 0] * np.log(q[q > 0] * size)).sum()) == pytest.approx(kl_bound(n), abs=1e-4)


# ---- curves ---------------------------------------------------------------------------------------------------------


def test_a_curve_is_the_intervals_of_its_estimates() -> None:
    from rlhf_bench.harness.statistics.intervals import interval

    rng = np.random.default_rng(1)
    rewards = rng.normal(size=(2, 20, 8))
    values = rewards + rng.normal(size=rewards.shape)
    found = curve(rewards, values, [8, 1, 4], 0.9, lambda: np.random.default_rng(0))
    assert [point.n for point in found] == [1, 4, 8]
    for point in found:
        cells = np.array([expected(r, v, point.n) for r, v in zip(rewards, values, strict=True)])
        assert point.value == interval("level", cells, 0.9, np.random.default_rng(0))
        assert point.kl_bound == kl_bound(point.n)
        change = cells - values.mean(2)
        assert point.change.value == pytest.approx(change.mean(), abs=1e-12)


# ---- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ns", "pool", "message"),
    [
        ([0], 4, r"Best of n = 0 samples\. n is 1 or more"),
        ([2, -1], 4, "Best of n = -1 samples"),
        ([1, 8], 4, r"Best of n = 8 from a pool of 4 samples\. Draw a pool of 8"),
        ([], 4, "No n was given"),
        ([2, 2], 4, "names one number twice"),
    ],
)
def test_impossible_ns(ns: list[int], pool: int, message: str) -> None:
    refused(lambda: check_ns(ns, pool), message)


def test_ns_as_text() -> None:
    assert parse_ns("1,2, 64") == (1, 2, 64)
    for text in ("", "1,,2", "one", "1.5", "1;2"):
        refused(lambda text=text: parse_ns(text), "is no list of whole numbers")
    refused(lambda: kl_bound(0), "Best of n = 0")


def test_pools_that_are_none() -> None:
    refused(lambda: expected([[1.0, 2.0]], [[1.0]], 1), r"rewards \(1, 2\) and values \(1, 1\)")
    refused(lambda: expected([1.0, 2.0], [1.0, 2.0], 1), "Give both as")
    refused(lambda: expected(np.zeros((0, 3)), np.zeros((0, 3)), 1), "not empty")
    refused(lambda: expected([[1.0, np.nan]], [[1.0, 2.0]], 1), "NaN or infinite")
    refused(lambda: weights([1.0, np.inf], 1), "finite")
    refused(lambda: picks([[1.0, 2.0]], 3), "from a pool of 2")
    refused(lambda: curve(np.zeros((2, 3)), np.zeros((2, 3)), [1], 0.9, np.random.default_rng), "seeds, prompts")


# ---- the stage ------------------------------------------------------------------------------------------------------

EXAMPLES = [Example(f"e{i}", f"Say {word}.", "yes", facts={"letter": word[0]}) for i, word in enumerate("abcdexyz")]


class Letters:
    """Gold: how often the response has the example's letter, less a bit per character."""

    max_response_tokens = 12

    def examples(self, split: Split) -> list[Example]:  # noqa: ARG002
        return EXAMPLES

    def pairs(self, split: Split) -> list[Pair]:  # noqa: ARG002
        return []

    def utility(self, example: Example, response: str) -> Utility:
        return Utility(response.count(example.facts["letter"]) - len(response) / 100)


class NoGold:
    max_response_tokens = 12
    examples = Letters.examples
    pairs = Letters.pairs


@pytest.fixture(scope="session")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prompts")
    for split in ("train", "test"):
        store.write_rows(folder / f"examples.{split}.jsonl", map(to_row, EXAMPLES))
    return folder


def context(tmp_path: Path, tiny: Tiny, prompts: Path, rm: str = "controls:LengthOnly", **more: Any) -> Context:
    best = {"n": more.pop("n", [1, 2, 4]), "pool": 4}
    params: dict[str, Any] = {
        "rm": {"name": f"rlhf_bench.reward_models.{rm}", "settings": more.pop("settings", {})},
        "task": {"name": f"test_best_of_n:{more.pop('task', 'Letters')}", "settings": {}},
        "seed": 3,
        "max_response": 12,
        "temperature": 1.0,
        "eval": {"prompts": 0, "batch": 3, "greedy": False},
        "best_of_n": best,
        "pool": {"samples": 4, "independent": more.pop("independent", False)},
    }
    assert not more
    work, scratch = tmp_path / "work", tmp_path / "scratch"
    for folder in (work, scratch):
        folder.mkdir(parents=True, exist_ok=True)
    return Context(params, {"sft": tiny.folder, "prompts": prompts}, work, scratch, "cpu")


def drawn(made: Context) -> Context:
    """The context of best-of-n over a pool that was drawn for it, in a folder of its own."""
    folders = [made.work.parent / "pool" / name for name in ("work", "scratch")]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    stages_pool.pool(replace(made, work=folders[0], scratch=folders[1]))
    return replace(made, inputs={**made.inputs, "pool": folders[0]})


def run(tmp_path: Path, tiny: Tiny, prompts: Path, **more: Any) -> tuple[list[Generation], list[dict[str, Any]]]:
    """What was generated, and the pool with the samples' texts."""
    made = drawn(context(tmp_path, tiny, prompts, **more))
    stages_best_of_n.best_of_n(made)
    pool = store.read_rows(made.work / "pool.jsonl")
    draws = [store.read_rows(stages_pool.draw_file(made.inputs["pool"], number)) for number in range(4)]
    for at, row in enumerate(pool):
        row["response"] = [draw[at]["response"] for draw in draws]
    return read_generations(made.work / "generations.jsonl"), pool


def test_best_of_one_is_the_baseline_to_every_judge(tmp_path: Path, tiny: Tiny, prompts: Path) -> None:
    generations, _ = run(tmp_path / "best", tiny, prompts)
    made = context(tmp_path / "baseline", tiny, prompts)
    policy.baseline(made)
    baseline = read_generations(made.work / "generations.jsonl")
    first = [g for g in generations if g.iteration == 1]
    assert [g.example_id for g in first] == [e.id for e in EXAMPLES]
    for one, other in zip(first, baseline, strict=True):
        assert (one.response, one.tokens, one.finished, one.kl) == (other.response, other.tokens, other.finished, 0)
    cases = [Case(e, g, b) for e, g, b in zip(EXAMPLES, first, baseline, strict=True)]
    itself = [Case(e, b, b) for e, b in zip(EXAMPLES, baseline, strict=True)]
    for judge in (WinRate(), UtilityChange(), Length()):
        assert list(judge.measure(cases, Letters())) == list(judge.measure(itself, Letters()))


def test_an_independent_pool_has_another_first_sample(tmp_path: Path, tiny_gpt2: Tiny, prompts: Path) -> None:
    shared, _ = run(tmp_path / "shared", tiny_gpt2, prompts)
    alone, pool = run(tmp_path / "alone", tiny_gpt2, prompts, independent=True)
    texts = [[g.response for g in found if g.iteration == 1] for found in (shared, alone)]
    assert texts[0] != texts[1]
    assert all(len(set(row["response"])) > 1 for row in pool)  # the draws of one prompt differ


def test_the_pool_holds_what_was_picked(tmp_path: Path, tiny_gpt2: Tiny, prompts: Path) -> None:
    generations, pool = run(tmp_path, tiny_gpt2, prompts)
    assert [(g.iteration, g.example_id) for g in generations] == [(n, e.id) for n in (1, 2, 4) for e in EXAMPLES]
    by_prompt = {row["example_id"]: row for row in pool}
    task = Letters()
    for row, example in zip(pool, EXAMPLES, strict=True):
        assert row["example_id"] == example.id
        assert {len(row[name]) for name in ("response", "tokens", "finished", "rewards", "gold")} == {4}
        assert row["gold"] == [task.utility(example, text).value for text in row["response"]]
        assert row["rewards"] == row["tokens"] == row["figures"]["sum"]  # of the reward model length-only
    for one in generations:
        row = by_prompt[one.example_id]
        assert one.reward == max(row["rewards"][: one.iteration])
        assert one.response == row["response"][row["rewards"].index(one.reward)]
        assert one.kl == kl_bound(one.iteration)
        assert one.decoding == "sample"


@pytest.mark.parametrize("stage", ["pool", "best_of_n"])
def test_it_goes_on_where_it_was_interrupted(tmp_path: Path, tiny_gpt2: Tiny, prompts: Path, stage: str) -> None:
    def made(name: str) -> Context:
        one = context(tmp_path / name, tiny_gpt2, prompts)
        return one if stage == "pool" else drawn(one)

    function = stages_pool.pool if stage == "pool" else stages_best_of_n.best_of_n
    whole, cut = made("whole"), made("cut")
    function(whole)
    for number in (0, 2):
        shutil.copy(stages_pool.draw_file(whole.scratch, number), cut.scratch)
    told: list[tuple[int, int]] = []
    function(replace(cut, progress=lambda done, total: told.append((done, total))))
    assert told == [(2, 4), (4, 4)]  # the second and the fourth
    found = {path.name: path.read_bytes() for path in cut.work.iterdir()}
    assert found == {path.name: path.read_bytes() for path in whole.work.iterdir()}
    assert set(found) == (
        {f"draw.{i}.jsonl" for i in range(4)} if stage == "pool" else {"pool.jsonl", "generations.jsonl"}
    )


def test_stored_samples_are_scored_as_they_were_drawn(tmp_path: Path, tiny: Tiny, prompts: Path) -> None:
    from rlhf_bench.harness.sampling.rollout import make_generator, sample

    made = drawn(context(tmp_path, tiny, prompts))
    rows = store.read_rows(stages_pool.draw_file(made.inputs["pool"], 1))[:3]
    texts = [example.prompt for example in EXAMPLES[:3]]
    generator = make_generator("best-of-n", 3, 1, 0)
    fresh = sample(tiny.model, tiny.tokenizer, texts, 12, generator=generator)
    again = stages_pool.stored_rollout(tiny.tokenizer, texts, rows, "cpu")
    assert again.responses == fresh.responses
    for name in ("prompt_ids", "prompt_mask", "response_ids", "mask", "finished"):
        assert getattr(again, name).tolist() == getattr(fresh, name).tolist()


def test_without_gold_none_is_made_up(tmp_path: Path, tiny_gpt2: Tiny, prompts: Path) -> None:
    _, pool = run(tmp_path, tiny_gpt2, prompts, task="NoGold")
    assert all("gold" not in row and len(row["rewards"]) == 4 for row in pool)
    assert read_pool(tmp_path / "work").gold is None


class Lost(Letters):
    """Gold that cannot say what an x is worth."""

    def utility(self, example: Example, response: str) -> Utility:
        return Utility(math.nan) if example.facts["letter"] == "x" else super().utility(example, response)


def test_a_stored_pool_gives_the_estimates(tmp_path: Path, tiny_gpt2: Tiny, prompts: Path) -> None:
    _, rows = run(tmp_path, tiny_gpt2, prompts, task="Lost")
    pool = read_pool(tmp_path / "work")
    assert pool.examples == tuple(e.id for e in EXAMPLES)
    assert pool.gold is not None
    found = expected(pool.rewards, pool.gold, 2)
    for row, value in zip(rows, found, strict=True):
        if row["example_id"] == "e5":  # undecided, and said so
            assert row["gold"] == [None] * 4
            assert math.isnan(value)
        else:
            assert value == pytest.approx(over_subsets(row["rewards"], row["gold"], 2))


def test_a_reward_model_that_reads_examples_is_shown_them(tmp_path: Path, tiny_gpt2: Tiny, prompts: Path) -> None:
    from rlhf_bench.reward_models.whitebox import Whitebox

    settings = {"formula": "rar", "types": "closed"}
    _, pool = run(tmp_path, tiny_gpt2, prompts, rm="whitebox:Whitebox", settings=settings)
    scorer = Whitebox(**settings).with_examples({"train": EXAMPLES, "test": EXAMPLES})
    for row, example in zip(pool, EXAMPLES, strict=True):
        again = scorer.scores([example.prompt] * 4, row["response"])
        assert row["rewards"] == pytest.approx(again.tolist(), abs=1e-6)
        assert row["figures"]["rar"] == pytest.approx(again.tolist(), abs=1e-6)


@pytest.mark.parametrize(("ns", "message"), [([0, 1], "Best of n = 0"), ([1, 5], "from a pool of 4")])
def test_impossible_ns_before_anything_is_drawn(
    tmp_path: Path, tiny_gpt2: Tiny, prompts: Path, ns: list[int], message: str
) -> None:
    made = context(tmp_path, tiny_gpt2, prompts, n=ns)
    refused(lambda: stages_best_of_n.best_of_n(made), message)
    assert not list(made.scratch.iterdir())


def test_the_default_ns_fit_their_own_pool() -> None:
    assert check_ns(best_of_n.DEFAULT_NS, max(best_of_n.DEFAULT_NS)) == best_of_n.DEFAULT_NS
