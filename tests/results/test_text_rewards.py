"""`bench score` without a results folder, and with settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small import bench, command

from rlhf_bench.harness import api
from rlhf_bench.harness.errors import BenchError

TEXTS = ["They meet at the station.", "They meet, they meet, they meet."]
PROMPTS = ["Where do they meet?"] * 2


def shouting(prompts: list[str], responses: list[str]) -> list[float]:  # noqa: ARG001
    return [float(text.count("!")) for text in responses]


def sums(rm: str, **options: Any) -> list[float]:
    return [sum(one.rewards) for one in api.score(rm, PROMPTS, TEXTS, **options)]


def test_a_reward_model_that_needs_no_training_needs_no_cell(tmp_path: Path) -> None:
    none = tmp_path / "none"
    scored = api.score("whitebox-li", PROMPTS, TEXTS, runs=none)
    assert [one.response for one in scored] == TEXTS
    assert all(len(one.spans) == len(one.rewards) for one in scored)
    assert [sum(one.rewards) for one in scored] == pytest.approx([0.06, 0.09])  # words and punctuation over 100
    assert sums("test_text_rewards:shouting", runs=none) == [0.0, 0.0]
    (tmp_path / "empty").mkdir()
    assert sums("whitebox-li", runs=tmp_path / "empty") == sums("whitebox-li", runs=none)
    assert not none.exists()


def test_its_settings_are_those_that_are_given(tmp_path: Path) -> None:
    given = sums("whitebox-li", runs=tmp_path, settings={"whitebox-li.length_unit": 10.0})
    assert given == pytest.approx([0.6, 0.9])
    assert sums("whitebox-li", runs=tmp_path, settings={"whitebox*.length_unit": 10.0}) == given


@pytest.mark.parametrize(
    ("rm", "settings", "said"),
    [
        ("scalar", {}, r"No finished cell trained 'scalar'\. .*none is not there\. Train"),
        ("scaler", {}, "Did you mean 'scalar'"),
        ("whitebox-li", {"whitebox-li.unit": "1"}, "Unknown setting whitebox-li.unit"),
        ("whitebox-li", {"scalar.lr": "1"}, "The settings name 'scalar', not the reward model 'whitebox-li'"),
        ("whitebox-rar", {}, "reference"),  # of the task's examples, which nobody gave
        ("gold", {}, "true utility"),
    ],
)
def test_what_cannot_be_scored_is_one_line(rm: str, settings: dict[str, str], said: str, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=said) as caught:
        sums(rm, runs=tmp_path / "none", settings=settings)
    assert "\n" not in str(caught.value)


def test_the_command_takes_settings(tmp_path: Path) -> None:
    asked = ("score", "--rm", "whitebox-li", "--prompt", "Where?", "--response", TEXTS[0])
    found = bench(*asked, "--set", "whitebox-li.length_unit=10", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert "sum +0.6" in found.stdout
    wrong = bench(*asked, "--set", "ppo.kl=1", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "'ppo'" in wrong.stderr


@pytest.mark.training
def test_settings_choose_among_trained_ones_and_override_those_of_others(tmp_path: Path) -> None:
    arms = ("scalar", "whitebox-li")
    for head_std in (0.1, 0.5):
        sets = {"scalar.head_std": head_std, "whitebox-li.length_unit": 50.0}
        made = bench(*command(tmp_path, rms=arms, **sets))
        assert made.returncode == 0, made.stderr
    both = [sums("scalar", runs=tmp_path, settings={"scalar.head_std": head_std}) for head_std in (0.1, 0.5)]
    assert both[0] != both[1]
    assert sums("scalar", runs=tmp_path) in both
    with pytest.raises(BenchError, match=r"trained 'scalar' with head_std=0\.3\. Found: head_std=0\.1; head_std=0\.5"):
        sums("scalar", runs=tmp_path, settings={"scalar.head_std": 0.3})
    # without settings those of the run
    assert sums("whitebox-li", runs=tmp_path) == pytest.approx([0.12, 0.18])
    assert sums("whitebox-li", runs=tmp_path, settings={"whitebox-li.length_unit": 10.0}) == pytest.approx([0.6, 0.9])
