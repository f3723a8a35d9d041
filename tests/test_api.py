"""The Python API: the numbers of the commands, errors as BenchError, and nothing heavy at import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small import SIZES, bench, command

from rlhf_bench.harness import api
from rlhf_bench.harness.api import experiments, judging, runs
from rlhf_bench.harness.api.reports import COLUMNS
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.pipeline.integrity import unsealed

SETTINGS = {**SIZES, "seq2seq-token.epochs": 1}


def ready(out: Path, *rms: str, **more: Any) -> api.Report:
    """`api.run` of the small run, in this process."""
    settings = {**SIZES, **{f"{rm}.epochs": 1 for rm in rms if rm != "length-only"}}
    return api.run("dialogsum", list(rms), out=out, settings=settings, jobs=1, **more)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results folder of a small run by the API."""
    out = tmp_path_factory.mktemp("api") / "runs"
    ready(out, "seq2seq-token", seeds=2)
    return out


def test_the_import_brings_neither_torch_nor_pandas() -> None:
    code = "import sys; from rlhf_bench.harness import api; print(sorted({'torch', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.training
def test_a_run_gives_the_numbers_of_the_command(made: Path, tmp_path: Path) -> None:
    finished = bench(*command(tmp_path / "runs", "--seeds", "2"))
    assert finished.returncode == 0, finished.stderr
    reports = [json.loads((out / "report" / "report.json").read_text()) for out in (made, tmp_path / "runs")]
    for arm in (arm for report in reports for arm in report["arms"]):
        assert arm.pop("cpu_seconds")  # of two runs: the times differ, and the key holds those of stages
    for name in ("estimates", "comparison", "warnings", "arms"):
        assert reports[0][name] == reports[1][name], name
    assert reports[0]["manifest"]["command"].startswith("api.run(task='dialogsum', rms=['seq2seq-token'], seeds=2")
    assert "out=" not in reports[0]["manifest"]["command"]
    assert reports[1]["manifest"]["command"].startswith("bench run")


@pytest.mark.training
def test_the_command_reuses_what_the_api_made(made: Path) -> None:
    again = bench(*command(made, "--seeds", "2", "--dry-run"))
    assert "\n0 of " in again.stdout


@pytest.mark.training
def test_the_same_call_computes_nothing_and_prints_nothing(made: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*.json")}
    events: list[tuple[str, str, int, int]] = []
    found = ready(made, "seq2seq-token", seeds=2, progress=lambda *event: events.append(event))
    assert events == []
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*.json")} == before
    assert capfd.readouterr() == ("", "")
    assert found == api.load_report(made / "report") == api.load_report(made / "report" / "report.json")
    assert found.path == made / "report"


@pytest.mark.training
@pytest.mark.filterwarnings("ignore:The judges named")
def test_progress_is_called_and_a_plan_shows_the_same_stages(made: Path, capfd: pytest.CaptureFixture[str]) -> None:
    planned = api.plan("dialogsum", "length-only", 2, settings=SIZES, out=made, judges="length")
    state = {stage.name: stage for stage in planned.stages}
    assert state["sft dialogsum-tiny-s0"] == ("sft dialogsum-tiny-s0", True, None)
    pending = [stage for stage in planned.stages if not stage.done]
    assert not planned.finished
    assert {stage.name.split()[0] for stage in pending} == {"scale", "ppo", "proxy", "fluency", "verdicts"}
    assert all(stage.seconds is not None for stage in pending)
    events: list[tuple[str, str, int, int]] = []
    ready(made, "length-only", seeds=2, judges=["length"], progress=lambda *event: events.append(event))
    assert [name for event, name, *_ in events if event == "end"] == [stage.name for stage in pending]
    assert any(event == "step" and done <= total for event, _, done, total in events)
    assert capfd.readouterr().out == ""
    assert api.plan("dialogsum", "length-only", 2, settings=SIZES, out=made, judges="length").finished


@pytest.mark.training
def test_a_report_as_a_frame(made: Path, tmp_path: Path) -> None:
    written = api.report(made, tmp_path / "report", level=0.9)
    frame = written.to_pandas()
    assert len(frame) == len(written.data["estimates"])
    assert list(frame.columns) == list(COLUMNS)
    kinds = {name: str(frame[name].dtype) for name in ("task", "iteration", "value", "n", "seeds")}
    assert kinds == {"task": "string", "iteration": "int64", "value": "float64", "n": "int64", "seeds": "object"}
    rows = frame[frame["statistic"].eq("win_rate") & frame["slice"].eq("all") & frame["decoding"].eq("sample")]
    last = rows[rows["iteration"].eq(rows["iteration"].max()) & rows["reward_model"].eq("seq2seq-token")]
    (row,) = last.to_dict("records")
    (wanted,) = (
        e
        for e in written.data["estimates"]
        if (e["reward_model"], e["statistic"], e["slice"], e["decoding"], e["iteration"])
        == ("seq2seq-token", "win_rate", "all", "sample", row["iteration"])
    )
    assert {name: row[name] for name in ("value", "low", "high", "level")} == {
        name: wanted[name] for name in ("value", "low", "high", "level")
    }
    assert (row["level"], row["seeds"], row["optimizer"], row["policy"]) == (0.9, (0, 1), "ppo", "tiny")
    assert written.warnings == written.data["warnings"]
    assert (tmp_path / "report" / "report.html").is_file()


@pytest.mark.training
def test_a_report_need_not_be_written(made: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    found = api.report([made])
    assert found.path is None
    assert found.data["manifest"]["command"] == f"api.report(runs=[{made!r}])"
    assert list(tmp_path.iterdir()) == []


def test_without_pandas_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(BenchError, match="pip install pandas"):
        api.Report(None, {"arms": [], "estimates": []}).to_pandas()


def test_an_empty_report_has_typed_columns_too() -> None:
    frame = api.Report(None, {"arms": [], "estimates": []}).to_pandas()
    assert str(frame["iteration"].dtype) == "int64"


@pytest.mark.training
def test_judging_again_adds_a_judge(made: Path) -> None:
    found = api.judge(made, "refusal")
    assert "refusal" in set(found.to_pandas()["judge"])
    assert found.path == made / "report"
    assert found.data["manifest"]["command"] == f"api.judge(runs='{made}', judges='refusal')"
    with pytest.raises(BenchError, match="refusals"):
        api.judge(made, ["refusal"], settings={"refusals.phrases": ""})


@pytest.mark.training
def test_scores_are_those_of_the_command(made: Path) -> None:
    texts = ["They meet.", "Anna asks Ben for the time, and Ben answers."]
    found = api.score("seq2seq-token", ["Anna: hi"] * 2, texts, runs=made)
    assert [one.response for one in found] == texts
    assert all(len(one.spans) == len(one.rewards) for one in found)
    shown = bench("score", "--rm", "seq2seq-token", "--runs", str(made), "--prompt", "Anna: hi", "--response", texts[0])
    assert f"sum {sum(found[0].rewards):+.4g}\t{len(found[0].rewards)} tokens" in shown.stdout
    with pytest.raises(BenchError, match="1 prompts and 2 responses"):
        api.score("seq2seq-token", "Anna: hi", texts, runs=made)


@pytest.mark.training
def test_an_experiment_is_that_of_the_command(tmp_path: Path) -> None:
    sizes = {**SIZES, "scalar.epochs": 1, "seq2seq-token.epochs": 1}
    found = api.experiment("overlap", [3], settings=sizes, out=tmp_path, jobs=1)
    assert found.path == tmp_path / "experiments" / "overlap"
    assert unsealed(json.loads((found.path / "experiment.json").read_text())) == found.data
    assert {claim["id"] for claim in found.claims} == {"low-overlap"}
    assert found.data["command"].startswith("api.experiment(name='overlap', seeds=[3], settings={")
    assert "api.experiment(name='overlap'" in (found.path / "experiment.md").read_text()
    assert found.report is not None
    assert api.load_report(found.path).data == found.report.data
    sets = [text for name, value in sizes.items() for text in ("--set", f"{name}={value}")]
    again = bench("experiment", "overlap", "--seeds", "3-3", "--out", str(tmp_path), "--dry-run", *sets)
    assert "\n0 of " in again.stdout


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda out: api.run("dialogsun", ["scalar"], out=out), "Did you mean 'dialogsum'"),
        (lambda out: api.run("dialogsum", "scaler", out=out), "Did you mean 'scalar'"),
        (lambda out: api.run("dialogsum", ["scalar"], judges="win-rate", out=out), "Did you mean 'winrate'"),
        (lambda out: api.run("dialogsum", ["scalar"], optimizers=["pp0"], out=out), "Did you mean 'ppo'"),
        (lambda out: api.run("dialogsum", ["scalar"], n=[1, 2], out=out), "without best-of-n"),
        (lambda out: api.run("dialogsum", ["scalar"], settings={"ppo.klx": 1}, out=out), "Did you mean 'kl'"),
        (lambda out: api.run("dialogsum", ["scalar"], settings={"kl": 1}, out=out), "group.key=value"),
        (lambda out: api.run("dialogsum", ["scalar"], settings={"ppo.kl": None}, out=out), "not a number"),
        (lambda out: api.run("dialogsum", ["scalar"], 0, out=out), "seeds is 0"),
        (lambda out: api.run("dialogsum", ["scalar"], [1, 1], out=out), r"seeds is \[1, 1\]"),
        (lambda out: api.run("dialogsum", ["scalar"], [], out=out), r"seeds is \[\]"),
        (lambda out: api.run("dialogsum", ["scalar"], -1, out=out), "seeds is -1"),
        (lambda out: api.run("dialogsum", ["scalar"], jobs=-1, out=out), "jobs is -1"),
        (lambda out: api.run("dialogsum", ["scalar"], device="abacus", out=out), "'abacus' cannot be used"),
        (lambda out: api.run("dialogsum", ["scalar"], trackers="tensorbord", out=out), "Did you mean 'tensorboard'"),
        (lambda out: api.plan("dialogsum", ["scalar"], preset="tinny", out=out), "Did you mean 'tiny'"),
        (lambda out: api.experiment("positiv", out=out), "Did you mean 'positive-only'"),
        (lambda out: api.report(out), "is not there"),
        (lambda out: api.report(out.parent), "No cell is finished"),
        (lambda out: api.report(out, level=2), "between 0.5 and 0.999"),
        (lambda out: api.judge(out, "length"), "is not there"),
        (lambda out: api.load_report(out), "is missing"),
    ],
)
def test_wrong_arguments_are_named_and_nothing_is_written(tmp_path: Path, call: Any, said: str) -> None:
    with pytest.raises(BenchError, match=said):
        call(tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("given", "wanted"),
    [(3, (0, 1, 2)), ("11-13", (11, 12, 13)), ([5], (5,)), ((4, 2), (4, 2)), (range(2, 4), (2, 3)), ("1,5", (1, 5))],
)
def test_seeds_in_every_form(given: Any, wanted: tuple[int, ...], tmp_path: Path) -> None:
    assert tuple(api.plan("dialogsum", "length-only", given, out=tmp_path).request.seeds) == wanted


def test_values_of_settings_are_the_texts_of_the_command(tmp_path: Path) -> None:
    values = {"ppo.kl": 0.1, "eval.greedy": False, "best_of_n.n": [1, 4], "dialogsum.demonstrations": 50}
    found = api.plan("dialogsum", "length-only", settings=values, optimizers=["best-of-n"], out=tmp_path)
    assert found.request.assignments == {
        "ppo": {"kl": "0.1"}, "eval": {"greedy": "false"}, "best_of_n": {"n": "1,4"},
        "dialogsum": {"demonstrations": "50"},
    }  # fmt: skip


def test_print_progress_writes_lines(capsys: pytest.CaptureFixture[str]) -> None:
    for event in ("start", "step", "end"):
        api.print_progress(event, "sft x", 1, 2)
    assert capsys.readouterr() == ("", "sft x ...\nsft x ended\n")


SHADOW = "open('sentinel', 'w').close()\nraise SystemExit(9)\n"


@pytest.mark.parametrize("call", ["plan", "run", "experiment", "judge", "score"])
def test_children_of_the_api_take_no_module_from_the_current_folder(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be someone else's; and the variable that keeps it so is the caller's own afterwards."""
    seen: list[str | None] = []

    def child(*_: object, **__: object) -> None:
        (tmp_path / "json.py").write_text(SHADOW)
        subprocess.run([sys.executable, "-m", "json.tool", "--help"], cwd=tmp_path, capture_output=True, check=False)
        seen.append(os.environ.get("PYTHONSAFEPATH"))
        raise BenchError("Seen.")

    for module in (runs, experiments, judging):
        for name in ("as_path", "as_list", "as_paths"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, child)
    arguments = {"plan": ("dialogsum", ["scalar"]), "run": ("dialogsum", ["scalar"]), "experiment": ("headline",),
                 "judge": (tmp_path, ["length"]), "score": ("scalar", "p", "r")}[call]  # fmt: skip
    for before in (None, "x"):
        monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
        if before:
            monkeypatch.setenv("PYTHONSAFEPATH", before)
        with pytest.raises(BenchError, match="Seen"):
            getattr(api, call)(*arguments)
        assert os.environ.get("PYTHONSAFEPATH") == before
    assert seen == ["1", "x"]
    assert not (tmp_path / "sentinel").exists()
