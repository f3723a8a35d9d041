"""Halves of the training pairs by prompt, labels of a gold model, and how far two scores agree."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Pair
from rlhf_bench.harness.stages.halves import halves, relabel
from rlhf_bench.harness.statistics.agreement import pair_accuracy, pearson, same_side

PAIRS = [Pair(f"p{n}", f"prompt {n % 7}", f"good {n}", f"bad {n}") for n in range(30)]


@pytest.mark.parametrize("seed", range(20))
def test_halves_are_disjoint_by_prompt_and_complete(seed: int) -> None:
    gold, proxies = halves(PAIRS, seed)
    assert {pair.prompt for pair in gold}.isdisjoint(pair.prompt for pair in proxies)
    assert sorted(pair.id for pair in (*gold, *proxies)) == sorted(pair.id for pair in PAIRS)
    assert [pair.id for pair in gold] == [pair.id for pair in PAIRS if pair in gold]  # in the order of the pairs
    # 7 prompts of 4 or 5 pairs: no order of them allows more than one prompt's difference
    assert gold
    assert proxies
    assert abs(len(gold) - len(proxies)) <= 5


def test_the_seed_draws_the_halves_and_the_order_of_pairs_does_not() -> None:
    found = {frozenset(pair.prompt for pair in halves(PAIRS, seed)[0]) for seed in range(20)}
    assert len(found) > 5
    ids = [{pair.id for pair in halves(order, 3)[0]} for order in (PAIRS, PAIRS[::-1])]
    assert ids[0] == ids[1]


def test_prompts_that_differ_in_white_space_are_one() -> None:
    pairs = [Pair("a", "one prompt", "x", "y"), Pair("b", "one  prompt\n", "x", "y"), Pair("c", "another", "x", "y")]
    for seed in range(10):
        sizes = sorted(len(part) for part in halves(pairs, seed))
        assert sizes == [1, 2]
    with pytest.raises(BenchError, match="1 prompt: they cannot be halved"):
        halves(pairs[:2], 0)


def test_relabelling_swaps_where_gold_disagrees_and_counts() -> None:
    pairs = [Pair(str(n), "q", f"good {n}", f"bad {n}", ((0, 1),), ()) for n in range(4)]
    kept, counts = relabel(pairs, [1.0, 0.0, 2.0, None], [0.0, 1.0, 2.0, 5.0])
    swapped = replace(pairs[1], chosen="bad 1", rejected="good 1", chosen_flaws=(), rejected_flaws=((0, 1),))
    assert kept == [pairs[0], swapped, pairs[2], pairs[3]]
    assert counts == {"swapped": 1, "gold_ties": 1, "gold_unscored": 1, "swapped_share": 0.25}


def test_agreement_of_two_scores() -> None:
    gold = [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (None, 1.0)]
    proxy = [(2.0, 1.0), (2.0, 1.0), (0.0, 1.0), (1.0, 0.0)]
    assert pair_accuracy(gold) == 0.5
    assert pair_accuracy(proxy) == 0.75
    assert same_side(gold, proxy) == 0.5  # one alike, one not, one tie
    assert pair_accuracy([(None, 1.0)]) is None
    assert pearson([1, 2, 3], [-1, -2, -3]) == pytest.approx(-1)
    assert pearson([1, 1, 1], [1, 2, 3]) is None
