"""Sobol points in three dimensions, and the root of a function: what `scipy.stats` and `scipy.optimize` give.

Here because loading these two takes longer than all that a report computes with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from rlhf_bench.harness.statistics.cells import Array

BITS = 30
Words = npt.NDArray[np.uint32]


def points(rng: np.random.Generator, log2: int) -> Array:
    """[2^log2, 3] points in [0, 1), those of `scipy.stats.qmc.Sobol(3, rng=rng).random_base2(log2)`.

    Scrambled by a random linear matrix and a digital shift (Matousek 1998).
    """
    rng = rng.spawn(1)[0]
    powers = np.uint32(1) << np.arange(BITS, dtype=np.uint32)
    shifts = (rng.integers(2, size=(3, BITS), dtype=np.uint32) * powers).sum(axis=1, dtype=np.uint32)
    lower = np.tril(rng.integers(2, size=(3, BITS, BITS), dtype=np.uint32), -1) | np.eye(BITS, dtype=np.uint32)
    found = np.empty((2**log2, 3))
    for at, (directions, matrix, shift) in enumerate(zip(_directions(), lower, shifts, strict=True)):
        # the bits of every direction number, the first one the highest: [BITS, numbers]
        bits = (directions >> np.arange(BITS - 1, -1, -1, dtype=np.uint32)[:, None]) & np.uint32(1)
        mixed = ((matrix @ bits & np.uint32(1)) * powers[::-1, None]).sum(axis=0, dtype=np.uint32)
        line = shift[None]
        for direction in mixed[:log2]:  # in the order of the Gray code: each half mirrors the one before
            line = np.concatenate([line, line[::-1] ^ direction])
        found[:, at] = line * 2.0**-BITS
    return found


def _directions() -> list[Words]:
    """The direction numbers [BITS] of the first three dimensions (Joe and Kuo 2008), as fractions of 2^BITS."""
    # the primitive polynomials 1, x + 1 and x^2 + x + 1, by their inner coefficients, and the first odd numbers
    made = []
    for inner, odd in (((), [1] * BITS), ((), [1]), ((1,), [1, 3])):
        numbers, degree = list(odd), len(inner) + 1
        while len(numbers) < BITS:
            new = numbers[-degree] ^ (numbers[-degree] << degree)
            for k, coefficient in enumerate(inner, 1):
                new ^= coefficient * numbers[-k] << k
            numbers.append(new)
        made.append(np.array([number << (BITS - 1 - at) for at, number in enumerate(numbers)], dtype=np.uint32))
    return made


def root(function: Callable[[float], float], low: float, high: float, xtol: float, rtol: float) -> float:
    """A root between two places whose values have other signs, by Brent's method (1973): `scipy.optimize.brentq`.

    It lies within xtol + rtol |root| of the true one.  Raises ValueError where the signs are equal.
    """
    before, now = low, high
    of_before, of_now = function(before), function(now)
    if of_before == 0:
        return before
    if of_before * of_now > 0:
        raise ValueError("the function has one sign at both ends")
    other, of_other, step, last = before, of_before, now - before, now - before
    while True:
        if of_before != 0 and of_now != 0 and (of_before < 0) != (of_now < 0):
            other, of_other = before, of_before
            step = last = now - before
        if abs(of_other) < abs(of_now):
            before, now, other = now, other, now
            of_before, of_now, of_other = of_now, of_other, of_now
        delta = (xtol + rtol * abs(now)) / 2
        half = (other - now) / 2
        if of_now == 0 or abs(half) < delta:
            return now
        guess = math.inf
        if abs(last) > delta and abs(of_now) < abs(of_before):
            if before == other:
                guess = -of_now * (now - before) / (of_now - of_before)
            else:  # inverse quadratic
                first, second = (of_before - of_now) / (before - now), (of_other - of_now) / (other - now)
                below = second * first * (of_other - of_before)
                # 0 where tiny numbers underflow
                guess = -of_now * (of_other * second - of_before * first) / below if below else math.inf
        kept = 2 * abs(guess) < min(abs(last), 3 * abs(half) - delta)
        last, step = (step, guess) if kept else (half, half)  # else bisection
        before, of_before = now, of_now
        now += step if abs(step) > delta else math.copysign(delta, half)
        of_now = function(now)
