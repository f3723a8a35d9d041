"""What `bench run --dry-run` and `bench doctor` say of memory."""

from __future__ import annotations

from pathlib import Path

import pytest
from families import FAMILIES

from rlhf_bench.harness.cli.memory import gib, plan_rows, preset_rows
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.models import identity, lora
from rlhf_bench.harness.presets import load_presets, make_settings, which_policy


def test_a_plan_names_every_role_and_says_whether_it_fits(tmp_path: Path) -> None:
    folder = FAMILIES["llama"](tmp_path)
    rows = plan_rows(str(folder), make_settings("small", {}, frozenset()), 32, "cpu")
    assert {"policy", "critic", "reference", "reward model", "sampling", "update", "peak", "PPO"} <= {
        r[0] for r in rows
    }
    (peak,) = [row for row in rows if row[0] == "peak"]
    assert peak[1].startswith("fits")


def test_every_preset_of_a_real_policy_has_a_line() -> None:
    named = [n for n, groups in load_presets().items() if groups["preset"].get("policy", "tiny") != "tiny"]
    rows = dict(preset_rows("cpu"))
    assert list(rows) == [f"preset {name}" for name in named]
    assert all("GiB" in text and "PPO about" in text for text in rows.values())


def test_sizes_are_read_by_people() -> None:
    assert gib(3 * 2**30) == "3.0 GiB"
    assert gib(2**29) == "512.0 MiB"


def test_which_policy_a_run_has() -> None:
    assert which_policy("", "") == "tiny"
    assert which_policy("", "paper-2b") == "google/gemma-2b"
    assert which_policy("a/b", "paper-2b") == "a/b"
    for preset, said in (("small", "names no policy"), ("papr-2b", "Did you mean 'paper-2b'")):
        with pytest.raises(BenchError, match=said):
            which_policy("", preset)


def test_adapters_without_peft_are_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora, "find_spec", lambda _: None)
    with pytest.raises(BenchError, match="peft"):
        identity.policy_identity("tiny", make_settings("tiny", {"policy": {"lora": "8"}}, frozenset()))
