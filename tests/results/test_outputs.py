"""Results of earlier code that today's code writes again: digests of outputs, and bench claims --confirm."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from stored import Stored, make

from rlhf_bench.harness import store
from rlhf_bench.harness.cli.claims import claims as bench_claims
from rlhf_bench.harness.cli.claims import confirm
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.plan import experiments, stamps
from rlhf_bench.harness.results import result_files
from rlhf_bench.harness.results.outputs import outputs, unlike

NAME = "carelessness"
BEFORE, NOW = {"ppo": "0" * 12}, {"ppo": "1" * 12}


def run(root: Path, seeds: tuple[int, ...] = (1, 2, 3), **stored: Any) -> Path:
    cells = [path.stem for path in make(root, Stored(seeds=seeds, undecided=False, **stored))]
    (root / "experiments").mkdir(exist_ok=True)
    record: dict[str, Any] = {"name": NAME, "question": "So?", "seeds": list(seeds), "command": "bench", "left_out": {}}
    store.write_json(
        experiments.record_path(root, NAME), {**record, "runs": {"equally careless": cells}, "analyses": {}}
    )
    return root


def of(root: Path) -> dict[str, Any]:
    return outputs(store.read_json(experiments.record_path(root, NAME)), root)


@pytest.fixture(autouse=True)
def stages(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Today's digests of keys, and those that a run's records have: planning takes seconds."""
    found = {"today": BEFORE, "run": BEFORE}
    monkeypatch.setattr(stamps, "stamped", lambda *_: {"seeds": [], "stages": dict(found["run"])})
    monkeypatch.setattr(stamps, "of_today", lambda *_: dict(found["today"]))
    return found


@pytest.fixture
def page(tmp_path: Path) -> Path:
    out = tmp_path / "docs" / "results.md"
    assert bench_claims([run(tmp_path / "runs")], out) == 3
    return out


def kept(page: Path) -> result_files.ResultFile:
    return result_files.read(page.with_suffix("") / f"{NAME}.json")


def test_outputs_are_of_responses_and_verdicts_and_not_of_names(tmp_path: Path) -> None:
    first = of(run(tmp_path / "a"))
    assert [*first] == ["equally careless: scalar on dialogsum", "equally careless: seq2seq-token on dialogsum"]
    assert all([*seeds] == ["1", "2", "3"] for seeds in first.values())
    again = run(tmp_path / "b")
    assert of(again) == first
    (path,) = again.glob("ppo/dialogsum-scalar-s2-*/generations.jsonl")
    rows = store.read_rows(path)
    store.write_rows(path, [{**row, "a later column": 1} for row in rows])
    assert of(again) == first
    store.write_rows(path, [{**rows[0], "reward": rows[0]["reward"] + 1e-9}, *rows[1:]])
    assert unlike(first, of(again)) == ["equally careless: scalar on dialogsum, seed 2: other generations"]
    path.unlink()
    assert [*of(again)["equally careless: scalar on dialogsum"]] == ["1", "3"]


def test_two_arms_of_one_name_are_told_apart_by_their_order(tmp_path: Path) -> None:
    root = run(tmp_path)
    path = experiments.record_path(root, NAME)
    record = store.read_json(path)
    cells = record["runs"]["equally careless"]
    store.write_json(path, {**record, "runs": {"equally careless": cells * 2}})
    assert [*of(root)] == [
        f"equally careless: {rm} on dialogsum{number}" for number in ("", " (2)") for rm in ("scalar", "seq2seq-token")
    ]


def test_every_arm_needs_a_seed_and_everything_has_to_be_the_same() -> None:
    before = {"a": {"1": {"generations": "x", "won": "y"}, "2": {"generations": "z"}}, "b": {"1": {"generations": "u"}}}
    assert unlike(before, copy.deepcopy(before)) == []
    assert unlike(before, {"a": {"2": {"generations": "z"}}, "b": before["b"]}) == []
    assert unlike(before, {"a": before["a"]}) == ["b: no seed of it was run again"]
    assert unlike(before, {"a": {"1": {"generations": "x"}}, "b": before["b"]}) == ["a, seed 1: other won"]
    assert unlike(before, {**before, "b": {"9": {"generations": "u"}}}) == ["b: no seed of it was run again"]
    more = {"a": {"1": {**before["a"]["1"], "fluency": "f"}}, "b": before["b"]}  # a measure that is new
    assert unlike(before, more) == []
    assert unlike({}, before) == ["the stored results have no digests of what was written"]


def test_a_rerun_of_one_seed_confirms_results_of_earlier_code(page: Path, tmp_path: Path, stages: Any) -> None:
    stages["today"] = stages["run"] = NOW
    assert bench_claims([], page) == 3
    assert "**Stale**" in page.read_text()
    claims_before = kept(page).claims
    assert confirm([run(tmp_path / "again", (2,))], page) == 0
    file = kept(page)
    assert file.confirmed is not None
    assert (file.confirmed.seeds, file.confirmed.cells, file.confirmed.stages) == (["2"], 2, NOW)
    assert file.claims == claims_before
    text = page.read_text()
    assert "**Stale**" not in text
    assert "no: later code wrote the same on seeds 2" in text
    assert bench_claims([], page) == 3  # from the files alone: the same page
    assert page.read_text() == text
    stages["today"] = {"ppo": "2" * 12}  # the code changes once more
    bench_claims([], page)
    assert "**Stale**" in page.read_text()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"words": lambda *_: ("Other", " words", ".")}, "other generations"),
        ({"rms": ("scalar",)}, "no seed of it was"),
    ],
)
def test_what_differs_confirms_nothing(
    page: Path, tmp_path: Path, stages: Any, changed: Any, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stages["today"] = stages["run"] = NOW
    before = kept(page)
    assert confirm([run(tmp_path / "again", (2,), **changed)], page) == 3
    assert said in capsys.readouterr().err
    assert kept(page) == before
    assert "**Stale**" in page.read_text()


def test_a_rerun_of_other_code_than_todays_confirms_nothing(
    page: Path, tmp_path: Path, stages: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    stages["today"] = NOW
    assert confirm([run(tmp_path / "again", (2,))], page) == 3
    assert "not of today's code" in capsys.readouterr().err


@pytest.mark.usefixtures("page")
def test_without_a_page_or_results_there_is_nothing_to_confirm(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="--confirm without --out"):
        confirm([tmp_path / "runs"], None)
    with pytest.raises(BenchError, match="holds no results"):
        confirm([tmp_path / "runs"], tmp_path / "other.md")


def test_files_of_earlier_versions_have_no_outputs(page: Path, tmp_path: Path, stages: Any) -> None:
    path = page.with_suffix("") / f"{NAME}.json"
    data = json.loads(path.read_text())
    assert data["outputs"]
    del data["outputs"], data["confirmed"]
    path.write_text(json.dumps(data))
    assert kept(page).outputs == {}
    stages["today"] = stages["run"] = NOW
    assert confirm([run(tmp_path / "again", (2,))], page) == 3
