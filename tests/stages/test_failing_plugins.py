"""A reward model that fails outside of scoring is named in one line; faults of the machine stay what they are."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.stages.reward import guarded, load_reward_model


def raising(error: BaseException) -> Callable[[], object]:
    def call() -> object:
        raise error

    return call


@pytest.mark.parametrize("error", [KeyError("gone"), ValueError("two\nlines"), SystemExit(3), AssertionError()])
def test_whatever_a_plugin_raises_is_one_line_with_its_name(error: BaseException) -> None:
    with pytest.raises(BenchError) as caught:
        guarded("mine", "training", raising(error))
    assert "'mine' failed while training" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is error  # for RLHF_BENCH_DEBUG


def test_its_own_error_and_the_machines_keep_their_words() -> None:
    with pytest.raises(BenchError, match=r"'mine': Too few pairs\. Give more"):
        guarded("mine", "training", raising(BenchError("Too few pairs.", "Give more.")))
    with pytest.raises(BenchError, match="disk is full"):
        guarded("mine", "training", raising(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(BenchError, match="out of memory"):
        guarded("mine", "training", raising(RuntimeError("DefaultCPUAllocator: can't allocate memory")))
    with pytest.raises(KeyboardInterrupt):
        guarded("mine", "training", raising(KeyboardInterrupt()))


PLUGIN = """
class Trained:
    recipe = "own"
    training_settings = {}
    def train(self, job): return {}
    def load(self, folder, device): raise KeyError("gone")
"""


def test_a_plugin_that_cannot_load_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loads_nothing.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    params = {"rm": {"name": "loads_nothing:Trained", "settings": {}}}
    with pytest.raises(BenchError, match="'loads_nothing:Trained' failed while loading: KeyError: 'gone'"):
        load_reward_model(params, tmp_path, "cpu")
