"""What puts a reward on the scale that all arms share, from its sums on samples of the SFT policy."""

from __future__ import annotations

import pytest
import torch

from rlhf_bench.harness.ppo.arithmetic import Standard
from rlhf_bench.harness.settings import PPOSettings
from rlhf_bench.harness.stages.scale import standard

SUMS = torch.tensor([1.0, 3.0, 5.0, 7.0])


@pytest.mark.parametrize("centre", ["none", "sequence", "token"])
def test_rewards_as_they_come_are_divided_by_1(centre: str) -> None:
    assert standard(SUMS, 8.0, PPOSettings(normalise="none", centre=centre)).scale == 1.0  # type: ignore[arg-type]


def test_otherwise_by_the_standard_deviation_of_the_sums() -> None:
    assert standard(SUMS, 8.0, PPOSettings(normalise="sd")).scale == pytest.approx(5**0.5)


def test_the_centre_is_the_mean_of_the_sums() -> None:
    assert standard(SUMS, 8.0, PPOSettings(normalise="none", centre="none")) == Standard()
    found = {c: standard(SUMS, 8.0, PPOSettings(centre=c)) for c in ("sequence", "token")}  # type: ignore[arg-type]
    for kind, one in found.items():
        assert one.offset + 8.0 * one.token_offset == pytest.approx(4.0), kind
