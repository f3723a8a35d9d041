"""Slices by prompt length: thirds by words, none where the thirds do not differ."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rlhf_bench.harness.slices import LONGEST, MIN_PROMPTS, SHORTEST, length_slices


@given(st.lists(st.integers(0, 12), min_size=MIN_PROMPTS, max_size=60))
def test_thirds_are_of_equal_size_and_differ_in_length(words: list[int]) -> None:
    rows = [{"id": str(i), "prompt": "a " * n} for i, n in enumerate(words)]
    found = length_slices(rows)
    short, long = ([words[int(i)] for i, name in found.items() if name == which] for which in (SHORTEST, LONGEST))
    assert len(short) == len(long) == (len(words) // 3 if found else 0)
    rest = [n for i, n in enumerate(words) if str(i) not in found]
    if found:
        assert max(short) <= min(rest) <= max(rest) <= min(long)
        assert max(short) < min(long)
    else:
        ordered, third = sorted(words), len(words) // 3
        assert ordered[third - 1] == ordered[-third]
    assert length_slices(rows[::-1]) == found


def test_few_prompts_have_none() -> None:
    assert length_slices([{"id": str(i), "prompt": "a " * i} for i in range(MIN_PROMPTS - 1)]) == {}
