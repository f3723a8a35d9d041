"""What a gold scorer shares with a proxy, by the records of both trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlhf_bench.harness import store
from rlhf_bench.harness.nouns import Pair
from rlhf_bench.harness.results.shared_training import common_pairs, shared
from rlhf_bench.harness.training.record import RECORD, SAMPLE, trained_on, training_of, write_record


def pairs(numbers: range, turned: bool = False) -> list[Pair]:
    texts = [(f"good {i}", f"bad {i}") for i in numbers]
    return [
        Pair(str(i), f"Say {i}.", *(reversed(two) if turned else two)) for i, two in zip(numbers, texts, strict=True)
    ]


def trained(folder: Path, numbers: range, seed: int = 3, weights: str = "w", turned: bool = False, **more: Any) -> Any:
    policy = folder / f"sft-{weights}"
    policy.mkdir(exist_ok=True)
    (policy / "model.safetensors").write_text(weights)
    settings = {"lr": 1e-3, "head_std": 1e-4, **more}
    return trained_on("scalar", settings, seed, policy, pairs(numbers, turned))


def test_the_record_says_what_a_model_was_trained_with(tmp_path: Path) -> None:
    policy = tmp_path / "sft"
    policy.mkdir()
    (policy / "model.safetensors").write_text("weights")
    store.write_json(policy / store.MARKER, {"params": {"policy": {"source": "/home/me/model", "sha256": "ab12"}}})
    facts = trained_on("scalar", {"head_std": 1e-4, "lr": 1e-3}, 7, policy, pairs(range(3)))
    write_record(tmp_path, "scalar", {"lr": 1e-3}, facts)
    found = training_of(tmp_path)
    assert found == facts
    assert (found["recipe"], found["seed"], found["head_std"], found["adapters"]) == ("scalar", 7, 1e-4, 0)
    assert found["policy"]["base"] == "ab12"
    assert found["pairs"]["count"] == len(found["pairs"]["sample"]) == 3
    assert "/home" not in (tmp_path / RECORD).read_text()
    # the policy's own record names a run: a copy of the weights is the same beginning
    (policy / store.MARKER).unlink()
    assert trained_on("scalar", {}, 7, policy, [])["policy"]["sha256"] == found["policy"]["sha256"]


def test_a_record_without_these_facts_or_with_others_says_nothing(tmp_path: Path) -> None:
    assert training_of(tmp_path) == {}
    for text in ('{"name": "scalar", "settings": {}}', '{"trained": 3}', "[1]", '{"tra'):
        (tmp_path / RECORD).write_text(text)
        assert training_of(tmp_path) == {}
    sound = trained(tmp_path, range(4))
    for odd in ({}, {"seed": 3}, {**sound, "seed": "3"}, {**sound, "pairs": {"count": 4}}, {**sound, "policy": []}):
        assert shared(odd, sound) == shared(sound, odd) == []


def test_what_is_shared_is_named(tmp_path: Path) -> None:
    proxy = trained(tmp_path, range(8))
    assert shared(trained(tmp_path, range(8, 20), 4, "other"), proxy) == []
    assert shared(proxy, proxy) == ["it was trained exactly as the proxy, so it is the proxy itself"]
    (data,) = shared(trained(tmp_path, range(5, 20), 4, "other"), proxy)
    assert data == "3 of its 15 training pairs are the proxy's too"
    # with new labels they are the same texts
    assert shared(trained(tmp_path, range(5, 20), 4, "other", turned=True), proxy) == [data]
    (seed,) = shared(trained(tmp_path, range(8, 20), 3, "other", head_std=0.02), proxy)
    assert seed == "the heads of both were drawn from seed 3"
    (start,) = shared(trained(tmp_path, range(8, 20), 4), proxy)
    assert start == "both start from the same SFT policy"
    # without a random head a seed draws nothing that both have
    assert shared(trained(tmp_path, range(8, 20), 3, "other", head_std=None), proxy) == []
    assert shared({**trained(tmp_path, range(8, 20), 3, "other"), "adapters": 8}, {**proxy, "adapters": 8}) == [
        "the heads and adapters of both were drawn from seed 3"
    ]
    assert len(shared(trained(tmp_path, range(5, 20)), proxy)) == 3


@pytest.mark.parametrize("common", [0, 500, 1500, 2000])
def test_the_overlap_of_many_pairs_is_estimated(tmp_path: Path, common: int) -> None:
    one, other = trained(tmp_path, range(2000)), trained(tmp_path, range(2000 - common, 4000 - common), 4, "other")
    found = common_pairs(one["pairs"], other["pairs"])
    # the share of the union has the standard error of a share of SAMPLE
    union, share = 4000 - common, common / (4000 - common)
    error = union * (share * (1 - share) / SAMPLE) ** 0.5
    assert abs(found - common) <= 4 * error
    assert found == common_pairs(other["pairs"], one["pairs"])
    clauses = shared(one, other)
    assert any(f"about {found} of its 2000" in clause for clause in clauses) == bool(common)
