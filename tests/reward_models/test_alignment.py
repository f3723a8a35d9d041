"""Aligning a response with its correction: against all alignments, and what each kind of edit costs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf_bench.reward_models.extraction import aligned_positions, aligned_signs, edit_signs

KEEP, SUBSTITUTE, INSERT, DELETE = range(4)
"""In the order of preference."""

FRESH, END = 98, 99
texts = st.lists(st.integers(0, 2), max_size=5)


def alignments(y: list[int], z: list[int], cut: bool) -> Iterator[tuple[int, ...]]:
    """Every way to write y while reading z, as operations from left to right."""
    if not y:
        yield () if cut else (DELETE,) * len(z)
        return
    for rest in alignments(y[1:], z, cut):
        yield (INSERT, *rest)
    if z:
        for rest in alignments(y[1:], z[1:], cut):
            yield (KEEP if y[0] == z[0] else SUBSTITUTE, *rest)
        for rest in alignments(y, z[1:], cut):
            yield (DELETE, *rest)


def best(y: list[int], z: list[int], cut: bool) -> tuple[int, ...]:
    """Fewest edits, then most tokens kept, then the preferred operation from left to right."""
    return min(alignments(y, z, cut), key=lambda ops: (sum(op != KEEP for op in ops), -ops.count(KEEP), ops))


def places(ops: tuple[int, ...]) -> list[int | None]:
    found: list[int | None] = []
    reading = 0
    for op in ops:
        if op != DELETE:
            found.append(reading if op == KEEP else None)
        reading += op != INSERT
    return found


def paid(ops: tuple[int, ...]) -> list[int]:
    """The rule in terms of operations: -1 for an edit and for a token right after a gap in kept text."""
    rewards, clean, gap = [], True, False
    for op in ops:
        if op == DELETE:
            gap = True
            continue
        rewards.append(1 if op == KEEP and not (gap and clean) else -1)
        clean, gap = op == KEEP, False
    return rewards


@given(texts, texts, st.booleans())
def test_the_alignment_is_the_best_of_all(y: list[int], z: list[int], cut: bool) -> None:
    ops = best(y, z, cut)
    assert aligned_positions(y, z, cut) == places(ops)
    assert edit_signs(aligned_positions(y, z, cut)) == paid(ops)


def signs(y: list[int], z: list[int], cut: bool = False) -> list[int]:
    return edit_signs(aligned_positions(y, z, cut))


@given(texts)
def test_an_identical_text_pays_nothing(z: list[int]) -> None:
    assert signs(z, z) == [1] * len(z)


@given(texts, texts)
def test_the_first_token_that_pays_is_the_first_divergence(y: list[int], z: list[int]) -> None:
    """As under the sign rule: a common prefix is kept, and the token after it gets -1 under every alignment."""
    y, z = [*y, END], [*z, END]
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(y, z, strict=False)))
    assert signs(y, z)[: same + 1] == ([1] * same + [-1])[: len(y)]


@given(texts, st.data())
def test_one_edit_costs_only_itself(z: list[int], data: st.DataObject) -> None:
    z = [*z, END]
    at = data.draw(st.integers(0, len(z) - 1))
    one = [-1 if t == at else 1 for t in range(len(z) + 1)]
    assert signs([*z[:at], FRESH, *z[at:]], z) == one  # inserted
    assert signs([*z[:at], FRESH, *z[at + 1 :]], z) == one[:-1]  # substituted
    assert signs(z, [*z[:at], FRESH, *z[at:]]) == one[:-1]  # left out: the token in its place pays
    again = data.draw(st.integers(0, 2))
    assert signs([*z[:at], again, *z[at:]], z).count(-1) == 1  # inserted, and possibly equal to its neighbours


@given(texts, st.integers(0, 5))
def test_a_truncated_response_pays_nothing_for_what_it_could_not_write(z: list[int], length: int) -> None:
    assert signs(z[:length], z, cut=True) == [1] * len(z[:length])


@pytest.mark.parametrize(
    ("y", "z", "cut", "expected"),
    [
        ([], [], False, []),
        ([], [1, 2], False, []),
        ([END], [END], False, [1]),
        ([END], [1, 2, END], False, [-1]),  # an empty response where something was to be said
        ([1, 2, END], [END], False, [-1, -1, 1]),
        ([1, 2, 3], [], False, [-1, -1, -1]),
        ([1, 2, END], [1, 2, 3, 4, END], False, [1, 1, -1]),  # stopped early: the end pays
        ([1, 2, 7, END], [1, 2, 3, 4, END], False, [1, 1, -1, 1]),  # the gap is paid by what stands in it
        ([5, 1, 2, 3, END], [1, 2, 3, END], False, [-1, 1, 1, 1, 1]),
        # moved text pays where it stands, and once where it is missing; as many edits as substituting all of it
        ([2, 1, END], [1, 2, END], False, [-1, 1, -1]),
        ([1, 2, 3, 4, END], [3, 4, 1, 2, END], False, [-1, -1, 1, 1, -1]),
        # no number of tokens kept is worth one edit more
        ([4, 5, 6, 1, 2, 7, END], [1, 2, 8, 9, 10, 11, END], False, [-1] * 6 + [1]),
        # a truncated response is compared with the beginning, not stretched over the whole correction
        ([1, 9, 3], [1, 2, 3, 4, 5, 9, 6, 3], True, [1, -1, 1]),
        ([1, 9, 3], [1, 2, 3, 4, 5, 9, 6, 3], False, [1, -1, -1]),
    ],
)
def test_by_hand(y: list[int], z: list[int], cut: bool, expected: list[int]) -> None:
    assert signs(y, z, cut) == expected


def test_a_batch_of_rows_as_tensors() -> None:
    ids = torch.tensor([[1, 2, END, 0], [1, 9, 3, 0], [1, 9, 3, 0], [END, 1, 1, 1], [7, 7, 7, 7]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]).bool()
    long = [1, 2, 3, 4, 5, 9, 6, 3]
    written = torch.tensor([[1, 2, 3, END] + [-1] * 4, long, long, [END] + [-1] * 7, long])
    rewards = aligned_signs(ids, mask, torch.tensor([True, False, True, True, False]), written)
    assert rewards.dtype == torch.float32
    assert rewards.tolist() == [[1, 1, -1, 0], [1, -1, 1, 0], [1, -1, -1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
