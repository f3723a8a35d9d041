"""Settings of reward models that a command does not run: one command line serves several runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_bench.harness import api
from rlhf_bench.harness.cli import main
from rlhf_bench.harness.plan import experiments
from rlhf_bench.harness.plan.request import Request, make_plan

GIVEN = {"scalar": {"epochs": "1"}, "seq2seq-token": {"epochs": "1"}, "ppo": {"kl": "0.1"}}


def test_settings_of_another_arm_change_no_key_and_no_label() -> None:
    with_both = make_plan(Request("dialogsum", ("scalar",), (0,), "tiny", ("length",), GIVEN))
    own = {name: keys for name, keys in GIVEN.items() if name != "seq2seq-token"}
    alone = make_plan(Request("dialogsum", ("scalar",), (0,), "tiny", ("length",), own))
    assert with_both.unused == ("seq2seq-token",)
    assert not alone.unused
    assert [cell.record() for cell in with_both.cells] == [cell.record() for cell in alone.cells]
    assert "seq2seq-token.epochs" not in with_both.cells[0].differing


def test_a_run_says_in_one_line_what_has_no_effect(tmp_path: Path) -> None:
    planned = api.plan("dialogsum", "length-only", settings={"scalar.epochs": 1, "seq2seq-*.batch": 4}, out=tmp_path)
    (note,) = planned.notes
    assert note == "Without effect: settings of scalar, seq2seq-*, reward models that this run does not have."


def test_an_experiment_says_so_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    used = {rm for run in experiments.find("positive-only").runs for rm in run.rms}
    assert "length-only" not in used
    arguments = [
        "bench",
        "experiment",
        "positive-only",
        "--seeds",
        "1",
        "--set",
        "length-only.per_token=true",
        "--dry-run",
    ]
    monkeypatch.setattr("sys.argv", [*arguments, "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        main.main()
    assert "note: Without effect: settings of length-only" in capsys.readouterr().err
