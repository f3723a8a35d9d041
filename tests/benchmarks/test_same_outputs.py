"""Two codes run every arm, small: what the comparison asks of either."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.plan import experiments
from rlhf_bench.harness.results import outputs

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
import same_outputs  # noqa: E402


def test_the_sizes_are_settings_of_every_run_and_the_note_has_them() -> None:
    made = experiments.make(experiments.find("ood"), [301], same_outputs.SIZE)
    assert made.plans
    for plan in made.plans.values():
        assert (plan.settings.sft.steps, plan.settings.ppo.iterations, plan.settings.data.limit) == (60, 3, 96)
    assert [int(number) for number in re.findall(r"\d+", same_outputs.NOTE)] == [60, 3, 96]


def test_code_that_fails_is_one_error() -> None:
    assert same_outputs.under(ROOT, "print([1, 2])") == [1, 2]
    with pytest.raises(BenchError, match="exit code 3"):
        same_outputs.under(ROOT, "raise SystemExit(3)")


def test_only_results_of_the_commit_before_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the stored results are of another code, nothing is run; where the outputs differ, the arm is named."""
    file = same_outputs.result_files.read(same_outputs.PAGES / "ood.json")
    stamp = same_outputs.result_files.plain(file.stamp)
    rows: dict[str, outputs.Outputs] = {"old": {"arm": {"301": {"g": "a"}}}, "new": {"arm": {"301": {"g": "b"}}}}
    told = {"stale": {}}

    def answers(checkout: Path, code: str, *arguments: str) -> object:  # noqa: ARG001
        if code == same_outputs.STAMP:
            return [stamp, told["stale"]]
        return rows["old" if '/old"' in arguments[0] else "new"]

    monkeypatch.setattr(same_outputs, "under", answers)
    assert same_outputs.compared("ood", ROOT, tmp_path, 1) == ["ood: arm, seed 301: other g"]
    rows["new"] = rows["old"]
    assert same_outputs.compared("ood", ROOT, tmp_path, 1) == rows["old"]
    told["stale"] = {"ood": ["ppo"]}
    assert same_outputs.compared("ood", ROOT, tmp_path, 1) == ["ood: the stored results are not of the commit before"]
