"""Warnings about a reward model that kept its random head, and about a gold scorer that shares what the proxy has."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from stored import Stored, make, report_of

from rlhf_bench.harness import store
from rlhf_bench.harness.results.alarms import untrained_alarm
from rlhf_bench.harness.training.record import write_record
from rlhf_bench.judges.scorers import scorer_account
from rlhf_bench.judges.utility import UtilityChange
from rlhf_bench.judges.winrate import WinRate
from rlhf_bench.reports.markdown import markdown

PROXY = {
    "recipe": "scalar",
    "seed": 1,
    "head_std": 0.02,
    "settings": {"head_std": 0.02},
    "policy": {"sha256": "aa", "base": "tiny"},
    "adapters": 0,
    "pairs": {"count": 2, "sha256": "11", "sample": ["p1", "p2"]},
}
OTHER = {
    **PROXY,
    "seed": 7,
    "policy": {"sha256": "bb", "base": "tiny"},
    "pairs": {"count": 2, "sha256": "22", "sample": ["q1", "q2"]},
}


def results(root: Path, gold: Any = None, figures: dict[str, float] | None = None, role: str = "") -> list[str]:
    """The warnings of a report of two seeds; `gold` is what the scorer of the judge was trained with."""
    for path in make(root, Stored(rms=("scalar",), seeds=(1, 2), prompts=4)):
        record = store.read_json(path)
        judge = root.joinpath(record["judges"]["utility"][0], "-".join(record["judges"]["utility"][1:]))
        for name, facts in {"reward": PROXY, **({role: gold} if role else {})}.items():
            record["stages"][name] = ["reward", f"{path.stem}-{name}", "0" * 12]
            folder = root / "reward" / f"{path.stem}-{name}-{'0' * 12}"
            folder.mkdir(parents=True, exist_ok=True)
            marker = store.read_json(judge / store.MARKER)
            store.write_json(folder / store.MARKER, {**marker, "kind": "reward", "figures": figures or {}})
            write_record(folder, "scalar", {}, facts)
        if gold is not None and not role:
            store.write_json(judge / "account.json", {"trained": gold})
        path.write_text(json.dumps(record))
    report, _ = report_of(root)
    return [line for line in report["warnings"] if "gold" in line or "untrained" in line]


def test_a_gold_scorer_of_its_own_is_no_warning(tmp_path: Path) -> None:
    assert results(tmp_path / "a", OTHER) == []
    assert results(tmp_path / "b", None) == []
    assert results(tmp_path / "c", OTHER, role="gold") == []


def test_what_it_shares_is_named_once_for_all_seeds(tmp_path: Path) -> None:
    shares = {**OTHER, "seed": 1, "pairs": {"count": 2, "sha256": "22", "sample": ["p1", "q2"]}}
    (said,) = results(tmp_path, shares)
    assert said.startswith("scalar, 2 runs (seed 1, seed 2): the scorer of utility is no independent gold")
    assert "1 of its 2 training pairs are the proxy's too" in said
    assert "the heads of both were drawn from seed 1" in said
    assert "SFT policy" not in said


def test_a_gold_model_of_the_run_is_compared_too(tmp_path: Path) -> None:
    (said,) = results(tmp_path, {**OTHER, "policy": PROXY["policy"]}, role="gold")
    assert "the gold model is no independent gold: both start from the same SFT policy" in said


def test_models_of_other_runs_are_compared_by_what_the_run_kept_of_them(tmp_path: Path) -> None:
    """As --rm path:FOLDER and --gold rm:FOLDER: the folders may be gone when the report is made."""
    for path in make(tmp_path, Stored(rms=("scalar",), seeds=(1,), prompts=4)):
        record = store.read_json(path)
        scale = tmp_path.joinpath("scale", "-".join(record["stages"]["scale"][1:]))
        gold = scale.with_name(f"gold-{'0' * 12}")
        shutil.copytree(scale, gold)
        record["stages"]["gold_scale"] = ["scale", "gold", "0" * 12]
        figures = {"within_prompt_sd": 0.5, "within_prompt_correlation_with_length": None, "most_rewarded": []}
        for folder, facts in ((scale, PROXY), (gold, {**OTHER, "seed": 1})):
            store.write_json(folder / "sanity.json", {"prompts": 4, "samples": 2, **figures, "trained": facts})
        path.write_text(json.dumps(record))
    report, _ = report_of(tmp_path)
    assert any("the gold model is no independent gold: the heads of both" in line for line in report["warnings"])
    assert markdown(report).count("| gold model |") == 1


@pytest.mark.parametrize("odd", [{}, [], "x", {"seed": {}}, {**OTHER, "pairs": 3}])
def test_an_odd_record_is_no_fault(tmp_path: Path, odd: Any) -> None:
    assert results(tmp_path, odd) == []


def test_a_kept_head_is_said(tmp_path: Path) -> None:
    (said,) = results(tmp_path, figures={"untrained_correlation": 0.99, "untrained_share": 0.75})
    assert "its untrained random head: correlation 0.99 within prompts, 0.75 of its variance" in said


@pytest.mark.parametrize(
    ("correlation", "share", "warned"), [(0.9, 0.9, True), (0.9, 0.05, False), (0.4, 0.9, False), (-0.9, -1.0, False)]
)
def test_both_the_correlation_and_the_share_must_be_high(correlation: float, share: float, warned: bool) -> None:
    assert bool(untrained_alarm({"untrained_correlation": correlation, "untrained_share": share})) == warned
    assert untrained_alarm({}) == untrained_alarm({"loss": 0.1, "untrained_share": 1.0}) == []


def test_judges_say_what_their_scorer_was_trained_with(tmp_path: Path) -> None:
    assert scorer_account("rouge-l") == scorer_account(f"rm:{tmp_path}") == scorer_account("") == {}
    write_record(tmp_path, "scalar", {}, PROXY)
    assert scorer_account(f"rm:{tmp_path}") == {"trained": PROXY}
    # without a scorer there is no account, and no file beside the verdicts
    assert UtilityChange().account == WinRate().account == {}
