"""Fast paths that use private names of a library, each tested in this process before its first use.

A self-test runs the fast path on tiny inputs and compares it with the public path.  Any exception and any mismatch
turn the fast path off for the rest of the process; the public path then computes the same numbers, more slowly.
The private names stand in torch_private.py, transformers_private.py and training/trl_private.py; `bench doctor` shows
the states.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from rlhf_bench.harness.errors import one_line

if TYPE_CHECKING:
    from torch import Tensor


class FastPath:
    """A fast path with its self-test.

    `self_test(case)` raises where the fast path cannot be used.  It runs once per process and case; a case is, for
    example, an architecture.  `default_case` is the one that `state` tests where no other was.
    """

    def __init__(self, name: str, self_test: Callable[[str], None], default_case: str = "") -> None:
        self.name = name
        self._self_test, self._default_case = self_test, default_case
        self._failures: dict[str, str] = {}  # by case: what went wrong, "" where the self-test passed
        self._lock = threading.RLock()  # two threads may use a model for the first time at once

    def usable(self, case: str = "") -> bool:
        """Whether the self-test passes for this case; the result is kept for the process.

        Never raises: any exception of the self-test counts as "not usable", and `state` shows it.
        """
        case = case or self._default_case
        with self._lock:
            if case not in self._failures:
                try:
                    import torch

                    # torch's default modes, and a random state that is put back: the first use of a fast path may lie
                    # inside inference mode, autocast or another default device, and a tiny model's weights are random
                    with (
                        torch.device("cpu"),  # the default device of new tensors
                        torch.random.fork_rng(devices=[]),
                        torch.inference_mode(False),  # enables gradients as a side effect, so no_grad comes after it
                        torch.no_grad(),
                        torch.autocast("cpu", enabled=False),
                    ):
                        self._self_test(case)
                    self._failures[case] = ""
                except Exception as error:  # any at all: an update of a library can break a private name in any way
                    self._failures[case] = one_line(error)
            return not self._failures[case]

    def disable(self, error: Exception, case: str = "") -> None:
        """Turn the fast path off for a case after an error in use, for the rest of the process; say so on stderr.

        The caller then computes the public path.
        """
        with self._lock:
            self._failures[case or self._default_case] = one_line(error)
        sys.stderr.write(f"{self.name} turned off: {one_line(error)}\n")

    def state(self) -> str:
        """ "on", or "off: " and the reasons, each with its case.  `bench doctor` shows it.

        Runs the self-test of the default case where no case was tested before.
        """
        with self._lock:  # held while `usable` takes it again, hence a lock that its owner may take twice
            if not self._failures:
                self.usable()
            reasons = [f"{reason} ({case})" if case else reason for case, reason in self._failures.items() if reason]
            return f"off: {'; '.join(reasons)}" if reasons else "on"


def require_close(found: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    """Raise ValueError unless the shapes are equal and all numbers differ by at most `tolerance` times the largest
    expected one (at least 1)."""
    if found.shape != expected.shape:
        raise ValueError(f"shape {tuple(found.shape)} instead of {tuple(expected.shape)}")
    # the largest number, not each number by itself, is the scale: an entry near 0 may be off by rounding of the others
    error, scale = float((found.float() - expected.float()).abs().max()), max(1.0, float(expected.abs().max()))
    if not error <= tolerance * scale:  # also where the error is not a number
        raise ValueError(f"off by {error:.2g} from the public path")
