"""`bench power`: which cells a plan starts from, and one line for what is not there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from arms import make_arm

from rlhf_bench.harness.cli.power import pilots, plan_table
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.results.contrasts import Where
from rlhf_bench.harness.statistics import power

GOLD = Where("gold", "gold")


def test_the_pilot_is_the_arm_or_the_difference_of_two(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(10, 5))
    a = make_arm(tmp_path, "a", lambda i, seed: float(noise[i, seed]), (1, 2, 3))
    b = make_arm(tmp_path, "b", lambda i, seed: float(i + seed), (1, 2, 3))
    alone = {pilot.name: pilot.cells for pilot in pilots([a, b], GOLD, "", "")}
    assert set(alone) == {"a on t", "b on t"}
    assert alone["a on t"] == pytest.approx(noise[:, 1:4].T)
    (pair,) = pilots([a, b], GOLD, "a", "b")
    assert pair.name == "a - b on t"
    assert pair.cells == pytest.approx(alone["a on t"] - alone["b on t"])
    plans = power.table(pair.cells, 1.0, pair.clusters, (1, 3), (50, 100))
    shown = plan_table(pair, "gold.gold", 1.0, plans)
    assert len(shown.rows) == len(plans)
    assert shown.columns[-1] == "power for 1"


@pytest.mark.parametrize(
    ("names", "said"), [(("c", ""), "'c'"), (("a", "c"), "'c'"), (("", "b"), "needs --rm"), (("a", "b"), "silver")]
)
def test_what_is_not_there_is_named(tmp_path: Path, names: tuple[str, str], said: str) -> None:
    arms = [make_arm(tmp_path, name, lambda i, _: float(i), (1, 2)) for name in "ab"]
    with pytest.raises(BenchError, match=said):
        list(pilots(arms, Where("gold", "silver"), *names))
