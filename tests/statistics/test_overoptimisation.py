"""The degree of overoptimisation: areas against quadrature, laws of Kim et al.'s gamma, and when it is undefined."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.statistics.gao import _area_between, _primitive, overoptimisation

LEVEL = 0.9
FORMS: dict[Any, Any] = {
    "rl": lambda d, a, b: d * (a - b * np.log(np.where(d > 0, d, 1.0))),
    "best-of-n": lambda d, a, b: d * (a - b * d),
}
DISTANCES = np.array([0.0, 0.5, 1.0, 1.6, 2.3])
numbers = st.floats(-3, 3).map(lambda x: round(x, 3))


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def run(
    form: Any, gold: tuple[float, float], proxy: tuple[float, float], noise: float = 0.0, seeds: int = 2
) -> tuple[Any, Any, Any]:
    """kl, gold and proxy [S, C, P]: the curves in standard deviations of the first point, which are 1 for both."""
    made, prompts = rng(), 50
    made_prompts = made.normal(size=prompts)
    made_prompts = (made_prompts - made_prompts.mean()) / made_prompts.std()
    cubes = []
    for a, b in (gold, proxy):
        cube = FORMS[form](DISTANCES, a, b)[None, :, None] + made_prompts
        extra = noise * made.normal(size=(seeds, DISTANCES.size, prompts))
        extra[:, 0] = 0
        cubes.append(np.broadcast_to(cube, (seeds, DISTANCES.size, prompts)) + extra)
    kl = np.broadcast_to((DISTANCES**2)[None, :, None], cubes[0].shape)
    return kl, *cubes


def gamma(form: Any, kl: Any, gold: Any, proxy: Any, resamples: int = 200) -> Any:
    return overoptimisation(form, kl, gold, proxy, LEVEL, rng(), resamples=resamples)


@given(st.sampled_from(list(FORMS)), numbers, numbers, st.floats(0.1, 6))
def test_areas_are_those_of_quadrature(form: Any, a: float, b: float, reach: float) -> None:
    coefficients, ends = np.array([[a, b]]), np.array([reach])
    # the integrand's zero is given to quad, whose error is small only where it is smooth
    with np.errstate(all="ignore"):
        zero = np.exp(a / b) if form == "rl" and b else a / b if b else 0.0
    points = [zero] if 0 < zero < reach else None
    signed = integrate.quad(lambda d: float(FORMS[form](np.array(d), a, b)), 0, reach)[0]
    absolute = integrate.quad(lambda d: abs(float(FORMS[form](np.array(d), a, b))), 0, reach, points=points)[0]
    with np.errstate(all="ignore"):
        assert _primitive(form, coefficients, ends)[0] == pytest.approx(signed, abs=1e-6)
        assert _area_between(form, coefficients, ends)[0] == pytest.approx(absolute, abs=1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("proxy", [(1.0, 0.0), (0.8, 0.6), (0.5, -0.3)])
def test_gamma_is_the_area_between_the_curves_by_golds(form: Any, proxy: tuple[float, float]) -> None:
    def f(d: float) -> float:
        return float(FORMS[form](np.array(d), 1.0, 0.3))

    def g(d: float) -> float:
        return float(FORMS[form](np.array(d), *proxy))

    between = integrate.quad(lambda d: abs(f(d) - g(d)), 0, DISTANCES[-1], limit=200)[0]
    expected = between / integrate.quad(f, 0, DISTANCES[-1])[0]
    found = gamma(form, *run(form, (1.0, 0.3), proxy))
    assert found.value == pytest.approx(expected, rel=1e-5)
    assert "2 seeds resampled" in found.note


@pytest.mark.parametrize("form", FORMS)
def test_a_proxy_that_gains_as_gold_does_has_0(form: Any) -> None:
    kl, gold, _ = run(form, (1.0, 0.3), (1.0, 0.3), noise=0.3)
    assert gamma(form, kl, gold, 4 - 2 * (5 - 3 * gold)).value == pytest.approx(0, abs=1e-9)
    still = np.repeat(gold[:, :1], DISTANCES.size, axis=1)  # a proxy that gains nothing: off by all that gold gains
    assert gamma(form, kl, gold, still).value == pytest.approx(1)


@pytest.mark.parametrize("seeds", [1, 3])
def test_affine_changes_of_gold_and_proxy(seeds: int) -> None:
    kl, gold, proxy = run("rl", (1.0, 0.3), (1.0, 0.1), noise=0.5, seeds=seeds)
    one, other = gamma("rl", kl, gold, proxy), gamma("rl", kl, 3 + 10 * gold, -1 + 0.2 * proxy)
    assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high))
    assert one.low < one.value < one.high
    assert ("conditional on this training run" in one.note) is (seeds == 1)


def test_where_gold_does_not_gain_there_is_nothing_to_divide_by() -> None:
    for gold in ((-1.0, 0.0), (0.0, 0.0)):
        found = gamma("rl", *run("rl", gold, (1.0, 0.1), noise=0.5))
        assert found.value is None
        assert "holds 0" in found.note
    kl, gold, proxy = run("rl", (1.0, 0.3), (1.0, 0.1))
    assert gamma("rl", kl, gold, np.ones_like(proxy)).value is None  # the proxy has no unit
    assert gamma("rl", kl[:, :1], gold[:, :1], proxy[:, :1]).value is None
    with pytest.raises(BenchError, match="Give both alike"):
        gamma("rl", kl, gold, proxy[:, 1:])
