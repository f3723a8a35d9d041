"""What a call that must be refused says."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rlhf_bench.harness.errors import BenchError


def refusal(call: Callable[[], object]) -> str:
    """The one line of the BenchError that `call` raises, which says how to mend it."""
    with pytest.raises(BenchError) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert caught.value.fix
    return str(caught.value)
