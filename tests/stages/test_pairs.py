"""Pairs as every reward model sees them: stored without loss, and split into thirds by lexical overlap."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_bench.harness import store
from rlhf_bench.harness.nouns import Pair
from rlhf_bench.harness.stages.pairs import THIRDS, by_overlap, overlap, pair_row, read_pairs, thirds

FLAWS = st.one_of(st.none(), st.lists(st.tuples(st.integers(0, 9), st.integers(10, 19)), max_size=3).map(tuple))
WORDS = st.lists(st.sampled_from(["a", "b", "c", "d", "e", "f"]), max_size=6).map(" ".join)
PAIRS = st.lists(st.tuples(WORDS, WORDS), max_size=20).map(
    lambda texts: [Pair(f"p{i % 7}", "x", chosen, rejected) for i, (chosen, rejected) in enumerate(texts)]
)


@given(FLAWS, FLAWS)
def test_known_to_be_clean_and_nobody_knows_are_two_things(tmp_path_factory: pytest.TempPathFactory, a, b) -> None:  # type: ignore[no-untyped-def]
    folder: Path = tmp_path_factory.mktemp("pairs")
    pair = Pair("id", "prompt", "chosen", "rejected", a, b)
    store.write_rows(folder / "pairs.test.jsonl", [pair_row(pair)])
    assert read_pairs(folder, "test") == [pair]


def test_overlap_by_hand() -> None:
    assert overlap(Pair("i", "", "the cat sat", "The cat ran")) == pytest.approx(2 / 4)
    assert overlap(Pair("i", "", "same", "same")) == 1
    assert overlap(Pair("i", "", "", None)) == 0


@given(PAIRS)
def test_the_thirds_split_the_pairs_by_overlap(found: list[Pair]) -> None:
    parts = {name: by_overlap(found, name) for name in THIRDS}
    assert sum(map(len, parts.values())) == len(found)
    assert sorted(map(id, found)) == sorted(id(pair) for part in parts.values() for pair in part)
    sizes = [len(part) for part in parts.values()]
    assert max(sizes) - min(sizes) <= 1
    for low, high in itertools.pairwise(THIRDS):
        if parts[low] and parts[high]:
            assert max(map(overlap, parts[low])) <= min(map(overlap, parts[high]))
    assert by_overlap(found, "all") == found
    assert [pair for pair, third in zip(found, thirds(found), strict=True) if third == "low"] == parts["low"]
