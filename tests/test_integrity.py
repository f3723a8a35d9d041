"""Every file of a stage is listed with its size and hash; what has changed is named, not used, and can be repaired."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from damages import DAMAGES, change, cut, lengthen

from rlhf_bench.harness import store
from rlhf_bench.harness.checks.results import check_results
from rlhf_bench.harness.errors import BenchError, DamagedError
from rlhf_bench.harness.pipeline import integrity
from rlhf_bench.harness.pipeline.context import Context
from rlhf_bench.harness.pipeline.execute import execute
from rlhf_bench.harness.pipeline.machine import Machine
from rlhf_bench.harness.pipeline.repair import LEAVING, remove_damaged
from rlhf_bench.harness.pipeline.stage import Stage
from rlhf_bench.harness.plan.request import check_sources


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


LISTS: dict[str, object] = {
    "a text": {"a.jsonl": ".."},
    "no number": {"a.jsonl": {"bytes": [1], "sha256": ""}},
    "no hash": {"a.jsonl": {"bytes": 3}},
    "a number of 400 digits": {"a.jsonl": {"bytes": 10**400, "sha256": ""}},
    "outside": {"../../outside/secret": {"bytes": 2, "sha256": ""}},
    "a line break": {"a\nb": {"bytes": 2, "sha256": ""}},
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


def test_a_stage_of_another_place_is_named_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "ppo" / "x-0"
    folder.mkdir(parents=True)
    record = {"kind": "ppo", "label": "x", "key": "a\nb\x1b", integrity.FILES: {}}
    store.write_json(folder / store.MARKER, integrity.sealed(record, integrity.stage_place(record)))
    (sentence,) = integrity.damage(folder, integrity.every_file)
    assert "is of another stage" in sentence
    assert sentence.isprintable()
