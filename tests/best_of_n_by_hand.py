"""Best-of-n by brute force, for the tests of its estimates and of its stage."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from rlhf_bench.harness.errors import BenchError


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
