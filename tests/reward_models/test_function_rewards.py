"""A Python function as a reward model: no class, no registration, and every fault is an error of one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import SENTENCES

from rlhf_bench.harness import plugins
from rlhf_bench.harness.checks.conformance import check
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.ppo.scoring import NamedRewardModel
from rlhf_bench.harness.sampling.rollout import text_rollout

PROMPTS, RESPONSES = ("Where?", "Who?", "When?"), (SENTENCES[0], "", "é 🤖")
Write = Callable[[str], Any]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """write(source) makes the module `mine` and gives its reward model `mine:score`."""
    import sys

    monkeypatch.syspath_prepend(tmp_path)

    def put(source: str) -> Any:
        (tmp_path / "mine.py").write_text(source)
        sys.modules.pop("mine", None)
        return plugins.build("reward-model", "mine:score", {"source": "mine:score"})

    yield put
    sys.modules.pop("mine", None)


@pytest.fixture
def rollout(tokenizer: Any) -> Any:
    return text_rollout(tokenizer, PROMPTS, RESPONSES, "cpu")


def test_a_reward_of_a_response_sits_on_its_last_token(write: Write, rollout: Any) -> None:
    model = write("def score(prompts, responses): return [len(p) + len(r) for p, r in zip(prompts, responses)]")
    rewards = NamedRewardModel("x", model, 2).rewards(rollout)
    assert rewards.sum(1).tolist() == [len(p) + len(r) for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    assert ((rewards != 0).sum(1) == 1).all()


def test_rewards_of_tokens_come_by_their_spans(write: Write, rollout: Any) -> None:
    model = write("def score(prompts, responses, spans): return [[b - a for a, b in row] for row in spans]")
    rewards = NamedRewardModel("x", model, 2).rewards(rollout)
    assert rewards.sum(1).tolist() == [len(text) for text in RESPONSES]
    assert (rewards[0] > 0).sum() == rollout.mask[0].sum() - 1  # all but end-of-sequence


def test_tensors_and_arrays_are_numbers_too(write: Write, rollout: Any) -> None:
    for made in ("__import__('numpy').ones(len(responses))", "__import__('torch').ones(len(responses))"):
        assert write(f"def score(prompts, responses): return {made}").rewards(rollout).sum() == len(RESPONSES)


def test_it_keeps_the_rules_of_the_seam(write: Write) -> None:
    write("def score(prompts, responses): return [float(len(r)) for r in responses]")
    assert all(finding.ok for finding in check("reward-model", "mine:score", {"source": "mine:score"}))


def test_changed_code_is_another_reward_model(write: Write) -> None:
    write("def score(prompts, responses): return [1.0 for r in responses]")
    before = plugins.find("reward-model", "mine:score").fingerprint()
    write("def score(prompts, responses): return [2.0 for r in responses]")
    assert plugins.find("reward-model", "mine:score").fingerprint() != before


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def score(prompts, responses): return [1.0]", "1 values for 3 responses"),
        ("def score(prompts, responses): return 1.0", "returned float, no list"),
        ("def score(prompts, responses): return 'abc'", "3 values for 3 responses"),
        ("def score(prompts, responses): return [None] * 3", "returned no numbers: TypeError"),
        ("def score(prompts, responses): return [[1.0]] * 3", "returned no numbers"),
        ("def score(prompts, responses): return [float('inf')] * 3", "returned inf for 3 of 3 responses"),
        ("def score(prompts, responses): return 1 / 0", "failed: ZeroDivisionError"),
        ("def score(prompts, responses): exit()", "failed: SystemExit"),
        ("def score(prompts, responses, spans): return [[1.0]] * 3", "1 values for"),
        ("def score(prompts, responses, spans): return [1.0] * 3", "returned float, no list"),
    ],
)
def test_what_goes_wrong_is_one_line(write: Write, rollout: Any, source: str, said: str) -> None:
    model = write(source)
    with pytest.raises(BenchError, match=said) as caught:
        NamedRewardModel("mine:score", model).rewards(rollout)
    assert len(str(caught.value).splitlines()) == 1
    assert "mine:score" in str(caught.value)


def test_a_class_is_a_factory_whatever_its_parameters(write: Write) -> None:
    with pytest.raises(BenchError, match="cannot be made"):
        write("class score:\n    def __init__(self, prompts, responses): pass")
