"""Every file of a stage is listed with its size and hash; what has changed is named, not used, and can be repaired."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from stored import Stored, make

from rlhf_bench.harness import store
from rlhf_bench.harness.checks.results import check_results
from rlhf_bench.harness.cli.main import bench
from rlhf_bench.harness.errors import BenchError, DamagedError
from rlhf_bench.harness.pipeline import integrity
from rlhf_bench.harness.pipeline.context import Context
from rlhf_bench.harness.pipeline.execute import execute
from rlhf_bench.harness.pipeline.machine import Machine
from rlhf_bench.harness.pipeline.repair import LEAVING, remove_damaged
from rlhf_bench.harness.pipeline.stage import Stage
from rlhf_bench.harness.plan.request import check_sources
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.harness.results.found import find_cells
from rlhf_bench.reports import build

CELL = "dialogsum-scalar-s1"


def write(context: Context) -> Mapping[str, Any]:
    """A stage with a text, weights in a folder, and figures whose keys are numbers."""
    (context.work / "text.json").write_text('"made"')
    (context.work / "policy").mkdir()
    (context.work / "policy" / "model.safetensors").write_bytes(bytes(64))
    return {"by_n": {1: 0.5, 10: 0.25, 2: 1e-30}, "odd": "\ud800"}


def stage(label: str, *inputs: Stage, kind: str = "note") -> Stage:
    return Stage(kind, label, "test_integrity:write", {"of": label}, {one.label: one for one in inputs})


A = stage("a")
B = stage("b", A)
C = stage("c", B)
D = stage("d")
PLAN = [A, B, C, D]


@pytest.fixture
def root(tmp_path: Path) -> store.Store:
    made = store.Store(tmp_path / "runs")
    made.prepare()
    execute(PLAN, made, Machine())
    return made


def change(path: Path) -> None:
    """Another content of the same size."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


DAMAGES = (change, cut, empty, lengthen, Path.unlink)


def times(root: store.Store) -> dict[str, int]:
    return {one.label: (one.folder(root) / store.MARKER).stat().st_ino for one in PLAN}


# --- a stage's files


def test_a_stage_lists_its_files_and_is_sound(root: store.Store) -> None:
    record = store.read_json(A.folder(root) / store.MARKER)
    assert set(record["files"]) == {"text.json", "policy/model.safetensors"}
    assert record["files"]["policy/model.safetensors"]["bytes"] == 64
    assert [integrity.used(one.folder(root)) for one in PLAN] == [[]] * 4


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["text.json", "policy/model.safetensors", store.MARKER])
def test_a_changed_file_is_named(root: store.Store, file: str, damage: Callable[[Path], None]) -> None:
    path = A.folder(root) / file
    damage(path)
    if damage is lengthen and file == store.MARKER:  # a blank line at the end of JSON
        assert integrity.used(A.folder(root)) == []
        return
    (sentence,) = integrity.used(A.folder(root))
    assert str(path) in sentence
    if damage is not change and file != store.MARKER:
        assert list(integrity.damage(A.folder(root), integrity.no_file)) == [sentence], "a size needs no hash"


def test_an_added_file_is_named_unless_it_is_hidden(root: store.Store) -> None:
    (A.folder(root) / ".DS_Store").touch()
    assert integrity.used(A.folder(root)) == []
    (A.folder(root) / "policy" / "adapter_config.json").touch()
    assert "adapter_config.json is no file of its stage" in integrity.used(A.folder(root))[0]


def test_a_stage_that_a_run_names_is_checked_when_it_is_planned(root: store.Store) -> None:
    copied = Path(shutil.copytree(A.folder(root), root.root / "shared"))
    for source in (f"path:{copied}", str(copied / "policy"), "tiny", "scalar", "a/hub-id"):
        check_sources([source])
    change(copied / "policy" / "model.safetensors")
    for source in (f"path:{copied}", str(copied / "policy")):
        with pytest.raises(DamagedError, match=r"model\.safetensors was changed"):
            check_sources([source])


def test_the_record_of_another_stage_is_no_record(root: store.Store) -> None:
    shutil.copyfile(B.folder(root) / store.MARKER, A.folder(root) / store.MARKER)
    (sentence,) = integrity.used(A.folder(root))
    assert "of another stage" in sentence
    copied = shutil.copytree(B.folder(root), root.root / "elsewhere")
    assert integrity.used(copied, moved=True) == []


@pytest.mark.parametrize("key", [integrity.SEAL, integrity.FILES])
def test_a_listed_stage_cannot_pass_for_an_old_one(root: store.Store, key: str) -> None:
    marker = A.folder(root) / store.MARKER
    store.write_json(marker, {name: value for name, value in store.read_json(marker).items() if name != key})
    assert integrity.used(A.folder(root)) != []


def test_an_old_stage_is_taken_as_it_is(root: store.Store) -> None:
    marker = A.folder(root) / store.MARKER
    old = {k: v for k, v in store.read_json(marker).items() if k not in (integrity.SEAL, integrity.FILES)}
    store.write_json(marker, old)
    change(A.folder(root) / "text.json")
    assert integrity.used(A.folder(root)) == []


# --- as an input


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_damaged_input_stops_only_what_needs_it(root: store.Store, jobs: int) -> None:
    change(A.folder(root) / "policy" / "model.safetensors")
    more = [stage("e", C), stage("f", A), stage("g", A), stage("h", D), stage("k", D)]
    more.append(stage("i", more[1]))
    outcome = execute([*PLAN, *more], root, Machine(jobs))
    assert sorted(outcome.made) == ["note e", "note h", "note k"], "c is sound: what a is now it does not say"
    assert sorted(outcome.skipped) == ["note f", "note g", "note i"]
    (sentence,) = outcome.damaged
    assert str(A.folder(root)) in sentence
    assert outcome.failed == {}


def test_verdicts_read_no_weights(root: store.Store) -> None:
    change(A.folder(root) / "policy" / "model.safetensors")
    judged, trained = stage("v", A, kind="verdicts"), stage("t", A)
    outcome = execute([A, judged, trained], root, Machine())
    assert outcome.made == ["verdicts v"]
    assert outcome.skipped == ["note t"]
    cut(A.folder(root) / "policy" / "model.safetensors")
    assert execute([A, stage("w", A, kind="verdicts")], root, Machine()).made == []


# --- repair


def test_repair_makes_the_damaged_stage_and_what_depends_on_it_again(root: store.Store) -> None:
    change(B.folder(root) / "policy" / "model.safetensors")
    before = times(root)
    (sentence,) = remove_damaged(PLAN, root)
    assert str(B.folder(root)) in sentence
    assert [one.done(root) for one in PLAN] == [True, False, False, True]
    assert execute(PLAN, root, Machine()).made == ["note b", "note c"]
    after = times(root)
    assert {label for label in before if before[label] != after[label]} <= {"b", "c"}
    assert remove_damaged(PLAN, root) == []
    assert not list((root.root / ".partial").glob(f"*{LEAVING}"))


def test_repair_sees_dependence_through_a_stage_that_is_gone(root: store.Store) -> None:
    change(A.folder(root) / "text.json")
    shutil.rmtree(B.folder(root))
    remove_damaged(PLAN, root)
    assert [one.done(root) for one in PLAN] == [False, False, False, True]


def test_repair_includes_folders_without_a_record(root: store.Store) -> None:
    (D.folder(root) / store.MARKER).unlink()
    with pytest.raises(BenchError, match="half-written"):
        D.done(root)
    assert len(remove_damaged(PLAN, root)) == 1
    assert not D.done(root)


def test_a_repair_that_is_killed_is_taken_up(root: store.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What depends on the damaged stage goes first: as long as anything is left, the damage is still found."""
    change(A.folder(root) / "text.json")
    removed = []

    def killed(path: Path, **_: object) -> None:
        removed.append(path)
        if len(removed) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            remove_damaged(PLAN, root)
    assert A.folder(root).exists()
    assert len(remove_damaged(PLAN, root)) == 1
    assert [one.done(root) for one in PLAN] == [False, False, False, True]
    assert not list((root.root / ".partial").glob(f"*{LEAVING}"))


# --- results folders


def list_files(runs: Path) -> None:
    """Give the records of a store written by hand what `run_stage` and `record_cells` write."""
    for marker in runs.glob(f"*/*/{store.MARKER}"):
        record = {**store.read_json(marker), integrity.FILES: integrity.listed(marker.parent)}
        store.write_json(marker, integrity.sealed(record, integrity.stage_place(record)))
    for path in (runs / "cells").glob("*.json"):
        store.write_json(path, integrity.sealed(store.read_json(path), path.name))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("whole") / "runs"
    make(runs, Stored(("scalar", "copier"), (1,), 4))
    list_files(runs)
    return runs


@pytest.fixture
def runs(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "runs"))


def key_of(runs: Path) -> str:
    return build.numbers_key(*find_cells([runs]), Estimator())


def a_digit(path: Path) -> None:
    """Another digit in a number: sound JSON of the same size."""
    text = path.read_text()
    at = max(k for k, one in enumerate(text) if one.isdigit() and text[k - 1] == ".")
    path.write_text(text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :])


def test_a_sound_store_has_no_problem(runs: Path) -> None:
    cells, missing = find_cells([runs])
    assert (len(cells), missing) == (2, [])
    found = check_results(runs, full=True)
    assert (found.problems, found.cells, found.unlisted) == ([], 2, 0)
    assert found.stages == len(list(runs.glob(f"*/*/{store.MARKER}")))


@pytest.mark.parametrize(
    "name",
    ["ppo/*scalar*/generations.jsonl", "ppo/*scalar*/steps.jsonl", "scale/*scalar*/scale.json",
     "ppo/*scalar*/stage.json", "verdicts/utility*scalar*/verdicts.jsonl", "cells/*scalar*.json"],
)  # fmt: skip
def test_a_changed_number_is_in_no_report(runs: Path, name: str) -> None:
    (path,) = runs.glob(name)
    if name.startswith("cells"):
        path.write_text(path.read_text().replace('"seed": 1', '"seed": 2'))
    else:
        a_digit(path)
    cells, (sentence,) = find_cells([runs])
    assert CELL in sentence
    assert str(path) in sentence or name.startswith("cells")
    assert len(cells) == 1 + name.startswith("verdicts")
    assert any(path.stem in problem for problem in check_results(runs, full=True).problems)


def test_a_file_that_no_report_reads_is_checked_by_its_size(runs: Path) -> None:
    weights = next(runs.glob("sft/*")) / "model.safetensors"
    weights.write_bytes(bytes(32))
    list_files(runs)
    change(weights)
    assert find_cells([runs])[1] == check_results(runs, full=False).problems == []
    assert check_results(runs, full=True).problems == [f"{weights} was changed after it was written"]
    cut(weights)
    assert len(find_cells([runs])[1]) == 2, "both cells have this policy"
    (problem,) = check_results(runs, full=False).problems
    assert f"{weights} has 30 bytes and was written with 32" in problem


def test_the_key_of_a_report_holds_what_was_read(runs: Path) -> None:
    before = key_of(runs)
    path = next(runs.glob("verdicts/utility*scalar*/verdicts.jsonl"))
    a_digit(path)
    list_files(runs)  # other content under the same keys, as judging again leaves it
    assert find_cells([runs])[1] == []
    assert key_of(runs) != before


def test_the_key_holds_what_was_read_of_an_old_store(tmp_path: Path) -> None:
    make(tmp_path / "runs", Stored(("scalar",), (1,), 4))
    before = key_of(tmp_path / "runs")
    a_digit(next((tmp_path / "runs").glob("verdicts/utility*/verdicts.jsonl")))
    assert find_cells([tmp_path / "runs"])[1] == []
    assert key_of(tmp_path / "runs") != before
    assert check_results(tmp_path / "runs", full=True).unlisted == 8


def test_a_deleted_record_of_a_cell_is_found(runs: Path) -> None:
    (runs / "cells" / f"{CELL}.json").unlink()
    cells, (sentence,) = find_cells([runs])
    assert len(cells) == 1
    assert "ppo/dialogsum-scalar-s1-000000000000: no record" in sentence
    assert len(check_results(runs, full=False).problems) == 1


def test_the_record_of_another_cell_is_no_record(runs: Path) -> None:
    shutil.copyfile(runs / "cells" / "dialogsum-copier-s1.json", runs / "cells" / f"{CELL}.json")
    cells, missing = find_cells([runs])
    assert len(cells) == 1
    assert any(CELL in sentence and "belongs elsewhere" in sentence for sentence in missing)


def invoke(*arguments: str) -> tuple[int, str]:
    ended = CliRunner().invoke(bench, arguments)
    assert ended.exception is None or isinstance(ended.exception, SystemExit), ended.exception
    return ended.exit_code, ended.output


@pytest.mark.parametrize("full", [True, False])
def test_check_store_says_what_is_wrong_with_code_3(runs: Path, full: bool) -> None:
    option = ["--full"] if full else []
    assert invoke("check", "store", str(runs), *option)[0] == 0
    path = next(runs.glob("baseline/*/generations.jsonl"))
    cut(path)
    code, text = invoke("check", "store", str(runs), *option)
    assert code == 3
    assert text.count(f"{path} has ") == 1, "once, not for every cell"


def test_check_store_says_that_a_store_is_old(tmp_path: Path) -> None:
    make(tmp_path / "runs", Stored(("scalar",), (1,), 2))
    code, text = invoke("check", "store", str(tmp_path / "runs"))
    assert code == 0
    assert "8 stages were made by a version that stored no hashes" in text


def test_check_store_refuses_what_is_no_store(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none", Path(__file__)):
        with pytest.raises(BenchError, match="no results folder"):
            check_results(path, full=False)
    with pytest.raises(BenchError, match="--full"):
        CliRunner().invoke(bench, ["check", "judge", "length", "--full"], catch_exceptions=False)
    with pytest.raises(BenchError, match="alone"):
        CliRunner().invoke(bench, ["check", "store", str(tmp_path), "--device", "cpu"], catch_exceptions=False)


def test_a_quiet_report_names_what_is_missing(runs: Path, tmp_path: Path) -> None:
    a_digit(next(runs.glob("ppo/*scalar*/generations.jsonl")))
    code, text = invoke("report", str(runs), "--out", str(tmp_path / "out"), "-q")
    assert code == 3
    (line,) = text.splitlines()
    assert CELL in line


# --- a written report


def test_a_damaged_report_is_written_again(runs: Path) -> None:
    from rlhf_bench.harness.api.reports import load_report, make_report

    out = runs / "report"

    def reported() -> dict[Path, bytes]:
        make_report([runs], out, Estimator(), "bench", reuse=True)
        return {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    first = reported()
    inodes = {path: path.stat().st_ino for path in first}
    assert {path: path.stat().st_ino for path in reported()} == inodes, "a whole report is reused"
    for path in first:
        for damage in (change, Path.unlink):
            damage(path)
            if path.name == "report.json" and damage is change:
                with pytest.raises(DamagedError, match="changed after it was written"):
                    load_report(out)
            assert len(check_results(runs, full=False).problems) == (path.name != ".files.json" or damage is change)
            assert reported() == first, path


LISTS: dict[str, object] = {
    "a text": {"a.jsonl": ".."},
    "no number": {"a.jsonl": {"bytes": [1], "sha256": ""}},
    "no hash": {"a.jsonl": {"bytes": 3}},
    "a number of 400 digits": {"a.jsonl": {"bytes": 10**400, "sha256": ""}},
    "outside": {"../../outside/secret": {"bytes": 2, "sha256": ""}},
    "half of a surrogate pair": {"\ud800": {"bytes": 2, "sha256": ""}},
    "a path of its own": {"/etc/passwd": {"bytes": 2, "sha256": ""}},
    "no dictionary": [],
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_of_files_of_another_form_opens_nothing(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its hash fits: someone else wrote it."""
    folder = tmp_path / "runs" / "ppo" / "x-0"
    folder.mkdir(parents=True)
    record = {"kind": "ppo", "label": "x", "key": "0", integrity.FILES: LISTS[name]}
    store.write_json(folder / store.MARKER, integrity.sealed(record, "ppo/x-0"))
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("{}")
    hashed: list[Path] = []
    monkeypatch.setattr(integrity, "file_hash", lambda path: hashed.append(path) or "")
    assert [text for text in integrity.used(folder) if "was changed after it was written" in text]
    assert not hashed


@pytest.mark.parametrize("listed", [-3, None, [], "x"])
def test_a_list_of_files_of_another_type_is_counted_as_none(root: store.Store, listed: object) -> None:
    marker = A.folder(root) / store.MARKER
    record = {**integrity.unsealed(store.read_json(marker)), integrity.FILES: listed}
    store.write_json(marker, integrity.sealed(record, integrity.stage_place(record)))
    (root.root / "cells").mkdir()
    store.write_json(root.root / "cells" / "x.json", {})
    found = check_results(root.root, full=True)
    assert any(A.folder(root).name in line for line in found.problems)
