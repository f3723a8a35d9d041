"""A random reward head: two models of one seed agree through it, whatever they learned; a small one adds nothing."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import SENTENCES, Tiny, make_llama, save

from rlhf_bench.harness.nouns import Pair
from rlhf_bench.harness.presets import load_presets
from rlhf_bench.harness.results.alarms import untrained_alarm
from rlhf_bench.harness.sampling.rollout import text_rollout
from rlhf_bench.harness.seams import TrainingJob
from rlhf_bench.reward_models.scalar import Scalar
from rlhf_bench.reward_models.untrained import compare

pytestmark = pytest.mark.training
WORDS = " ".join(SENTENCES).split()
PRESETS = load_presets()


@pytest.fixture(scope="module")
def policy(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """As a pretrained policy: wide states before the head, and a rate of training at which they hardly move."""
    return save(make_llama(tokenizer), tokenizer, tmp_path_factory.mktemp("pretrained"))


def texts(seed: int, count: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(3, 9))) for _ in range(count)]


def trained(policy: Tiny, folder: Path, data: int, head_std: float, seed: int = 3) -> dict[str, float]:
    """A model trained on random labels of its own texts."""
    for part in ("out", "scratch"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    sides = texts(data, 32)
    pairs = [Pair(str(i), f"Where is {i}?", sides[2 * i], sides[2 * i + 1]) for i in range(16)]
    job = TrainingJob(pairs, policy.folder, folder / "out", folder / "scratch", seed, 40, "cpu")
    return dict(Scalar(epochs=4, batch=8, lr=3e-4, head_std=head_std).train(job))


def scores(policy: Tiny, folder: Path) -> torch.Tensor:
    """Within prompts: of 8 new texts to each of 6 prompts, less the prompt's mean."""
    prompts = [f"When, {i}?" for i in range(6) for _ in range(8)]
    rollout = text_rollout(policy.tokenizer, prompts, texts(99, 48), "cpu")
    grid = Scalar().load(folder / "out", "cpu").scores(rollout).double().reshape(6, 8)
    return grid - grid.mean(1, keepdim=True)


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a * b).sum() / (a.square().sum() * b.square().sum()).sqrt())


def test_two_models_of_one_seed_agree_through_a_large_head_though_they_learned_from_random_labels(
    policy: Tiny, tmp_path: Path
) -> None:
    proxy, gold = (trained(policy, tmp_path / name, at, 0.02) for at, name in enumerate(("proxy", "gold")))
    one, two = (scores(policy, tmp_path / name) for name in ("proxy", "gold"))
    assert correlation(one, two) > 0.9
    # the false gain: best-of-n by the proxy wins by the gold model
    assert bool((two.gather(1, one.argmax(1, keepdim=True)) > 0).all())
    for figures in (proxy, gold):
        assert figures["untrained_correlation"] > 0.8
        assert figures["untrained_share"] > 0.5
        assert untrained_alarm(figures)


def test_with_the_default_head_they_do_not_agree(policy: Tiny, tmp_path: Path) -> None:
    small = Scalar().head_std
    assert small == 1e-4
    found = [trained(policy, tmp_path / name, at, small) for at, name in enumerate(("proxy", "gold"))]
    one, two = (scores(policy, tmp_path / name) for name in ("proxy", "gold"))
    assert abs(correlation(one, two)) < 0.5
    for figures in found:
        # states that vary in few directions give any two heads a correlation: the share tells that this one is small
        assert abs(figures["untrained_share"]) < 0.1
        assert not untrained_alarm(figures)


def test_every_preset_but_that_of_stored_results_has_a_small_head() -> None:
    heads = {name: groups.get("scalar*", {}).get("head_std", Scalar().head_std) for name, groups in PRESETS.items()}
    assert heads.pop("tiny") == 0.02
    assert heads
    assert max(heads.values()) <= 1e-4


def test_the_comparison_by_hand() -> None:
    u, t = torch.tensor([1.0, -2.0, 2.0]), torch.tensor([2.0, -1.0, 2.0])
    found = compare(u, t)
    assert found["untrained_correlation"] == pytest.approx(8 / 9)
    assert found["untrained_share"] == pytest.approx(8 / 9)
    # which response is called the chosen one makes no difference
    turned = torch.tensor([1.0, -1.0, -1.0])
    assert compare(u * turned, t * turned) == pytest.approx(found)
    # a smaller head of the same direction: as correlated, and a smaller part
    half = compare(u / 100, t)
    assert half["untrained_correlation"] == pytest.approx(8 / 9)
    assert half["untrained_share"] == pytest.approx(8 / 900)
    assert compare(t, t)["untrained_share"] == pytest.approx(1)
    assert compare(0 * u, t) == compare(u, 0 * t) == {}


def test_the_comparison_changes_no_weight_and_takes_no_random_number(
    policy: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file

    trained(policy, tmp_path / "with", 0, 0.02)
    whole = load_file(tmp_path / "with" / "out" / "model.safetensors")
    after: list[torch.Tensor] = []

    def none(*_: object) -> dict[str, float]:
        after.append(torch.random.get_rng_state())
        return {}

    monkeypatch.setattr("rlhf_bench.reward_models.untrained.agreement", none)
    trained(policy, tmp_path / "without", 0, 0.02)
    assert all(
        torch.equal(whole[name], own) for name, own in load_file(tmp_path / "without/out/model.safetensors").items()
    )
    monkeypatch.undo()
    trained(policy, tmp_path / "again", 0, 0.02)
    assert torch.equal(torch.random.get_rng_state(), after[0])
