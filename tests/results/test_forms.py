"""Stored values of another type are named and not used, whatever their hashes say."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from stored import Stored, make

from rlhf_bench.harness import forms, store
from rlhf_bench.harness.api.reports import load_report, make_report
from rlhf_bench.harness.errors import BenchError, DamagedError
from rlhf_bench.harness.nouns import Example, Generation, Measure, Pair, to_row
from rlhf_bench.harness.pipeline import integrity
from rlhf_bench.harness.pipeline.stage import Stage
from rlhf_bench.harness.plan import stamps
from rlhf_bench.harness.plan.costs import rough_seconds
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.harness.stages.pairs import pair_row
from rlhf_bench.harness.text.turns import Conversation, Turn
from rlhf_bench.reports.experiments import FILE, build_experiment, find_records, folder_of
from rlhf_bench.reports.files import LIST
from rlhf_bench.reports.measures import of_report

HUGE = 10**400
GONE = "\0 left out"
"""For no value: the name is left out."""
CELL = "cells/dialogsum-scalar-s1.json"
ARM = "dialogsum-scalar-s1-000000000000"
PPO, SCALE = f"ppo/{ARM}/", f"scale/{ARM}/"
JUDGED = f"verdicts/winrate-{ARM}/"
PLACES: list[tuple[str, tuple[str | int, ...], object]] = [
    (CELL, ("differing", "ppo.kl"), ["0.1"]),
    (CELL, ("origin", "license"), None),
    (CELL, ("optimizer",), {}),
    (CELL, ("seed",), -1),
    (PPO + "stage.json", ("seconds",), "4"),
    (PPO + "stage.json", ("peak_memory_mb",), [[1]]),
    (PPO + "stage.json", ("cpu_seconds",), HUGE),
    (PPO + "stage.json", ("versions",), []),
    (PPO + "stage.json", ("key",), 3),
    (PPO + "steps.jsonl", (0, "kl"), "0"),
    (PPO + "steps.jsonl", (5, "clip_share"), None),
    (PPO + "generations.jsonl", (3, "response"), {"a": "a"}),
    (PPO + "generations.jsonl", (3, "tokens"), "7"),
    (PPO + "generations.jsonl", (7, "reward"), HUGE),
    (PPO + "generations.jsonl", (11, "token_rewards", 0), None),
    (SCALE + "scale.json", ("sft_samples", "variance"), "0"),
    (SCALE + "scale.json", ("pair_accuracy",), [0.5]),
    (JUDGED + "stage.json", ("figures", "undecided"), "0"),
    (JUDGED + "measures.json", (0,), "win_rate"),
    (JUDGED + "measures.json", (0, "name"), 3),
    (JUDGED + "measures.json", (0, "of another version"), 3),
    (SCALE + "scale.json", ("sft_samples", "negative_share"), GONE),
    ("pairs/dialogsum-s1-000000000000/stage.json", ("figures", "train_chosen_longer"), "4"),
    ("pairs/dialogsum-s1-000000000000/stage.json", ("figures", "train_equal"), GONE),
    ("prompts/dialogsum-s1-000000000000/stage.json", ("figures", "train_dropped"), [1]),
    ("sft/dialogsum-s1-000000000000/stage.json", ("figures", "clipped_demonstrations"), None),
    ("baseline/dialogsum-s1-000000000000/generations.jsonl", (0, "example_id"), "of another task"),
    (JUDGED + "verdicts.jsonl", (2, "values", "win_rate"), HUGE),
    (JUDGED + "verdicts.jsonl", (2, "slices"), [{}]),
    ("prompts/dialogsum-s1-000000000000/examples.test.jsonl", (0, "prompt"), None),
]


@pytest.mark.parametrize("measure", [Measure("x", "rate"), Measure("x", "change", "d", "y", 1.0, "t", 0.0, "share",
                                     "higher", (), "r")])  # fmt: skip
def test_measures_as_judges_give_them_have_the_form(measure: Measure) -> None:
    """A judge may leave everything empty: `shown` is None then, for everywhere."""
    stored = json.loads(json.dumps([asdict(measure)]))
    assert not forms.problem(stored, forms.MEASURES)


def put(path: Path, at: tuple[str | int, ...], value: object) -> None:
    """Another value at a place of a JSON file, or of rows, that was written without hashes."""
    lines = path.suffix == ".jsonl"
    whole: Any = store.read_rows(path) if lines else store.read_json(path)
    inner = whole
    for step in at[:-1]:
        inner = inner[step]
    inner[at[-1]] = value
    if value is GONE:
        del inner[at[-1]]
    if lines:
        store.write_rows(path, whole)
    else:
        path.write_text(json.dumps(whole))


@pytest.mark.parametrize(("file", "at", "value"), PLACES, ids=[f"{file} {at}" for file, at, _ in PLACES])
def test_a_value_of_another_type_is_named(tmp_path: Path, file: str, at: tuple[str | int, ...], value: object) -> None:
    make(tmp_path, Stored(seeds=(1,)))
    put(tmp_path / file, at, value)
    made, missing = make_report([tmp_path], tmp_path / "out", Estimator(), "bench report")
    shared = file.startswith(("prompts", "pairs", "sft", "baseline"))  # by both cells
    assert (made is None) == shared
    assert len(missing) == 1 + shared
    assert ARM.removesuffix("-000000000000") in missing[0]
    assert str(at[-1]) in missing[0] or str(at[-2]) in missing[0]
    assert len(missing[0]) < 500


REPORT: list[tuple[tuple[str | int, ...], object]] = [
    (("estimates", 0), 0.5),
    (("estimates", 0, "iteration"), 1.5),
    (("estimates", 0, "seeds"), "1"),
    (("estimates", 0, "value"), HUGE),
    (("arms", 0), None),
    (("arms", 0, "label"), ["a"]),
    (("warnings",), {"a": "b"}),
    (("manifest", "stages"), []),
    (("measures", 0), "win_rate"),
]


@pytest.mark.parametrize(("at", "value"), REPORT, ids=[str(at) for at, _ in REPORT])
def test_a_report_with_a_value_of_another_type_is_refused(
    tmp_path: Path, at: tuple[str | int, ...], value: object
) -> None:
    make(tmp_path, Stored(seeds=(1,)))
    make_report([tmp_path], tmp_path / "out", Estimator(), "bench report")
    assert load_report(tmp_path / "out").data["arms"]
    (tmp_path / "out" / LIST).unlink()  # as in reports of versions without hashes
    put(tmp_path / "out" / "report.json", at, value)
    with pytest.raises(BenchError, match="is damaged") as said:
        load_report(tmp_path / "out")
    assert "\n" not in str(said.value)
    assert str(at[0]) in str(said.value)


SOUND: dict[str, Any] = {
    "examples.train.jsonl": to_row(Example("a", "p", "c", ("r", "s"), ("plain",), "source", {"truth": {}})),
    "examples.test.jsonl": to_row(Example("a", Conversation([Turn("user", "p"), Turn("assistant", "q")]))),
    "pairs.train.jsonl": pair_row(Pair("a", "p", "c", "r", ((0, 1), (1, 2)), ())),
    "pairs.test.jsonl": pair_row(Pair("a", "p", "c", "")),
    "generations.jsonl": to_row(
        Generation("a", 0, "sample", "p", "", 0, True, 0.0, 1, -2.5, 3, ((0, 1),), (0.5,), "c")
    ),
}
OTHER: list[tuple[str, str, object]] = [
    ("examples.train.jsonl", "references", 3),
    ("examples.train.jsonl", "slices", "plain"),
    ("examples.train.jsonl", "facts", []),
    ("examples.train.jsonl", "of another version", 1),
    ("examples.train.jsonl", "prompt", GONE),
    ("examples.test.jsonl", "turns", 5),
    ("pairs.train.jsonl", "chosen", GONE),
    ("pairs.train.jsonl", "chosen_flaws", [[0]]),
    ("pairs.train.jsonl", "chosen_flaws", [[0, 1, 2]]),
    ("pairs.train.jsonl", "rejected_flaws", 1),
    ("pairs.test.jsonl", "rejected", None),
    ("generations.jsonl", "spans", [3]),
    ("generations.jsonl", "spans", [["0", 1]]),
    ("generations.jsonl", "token_rewards", "x"),
    ("generations.jsonl", "of another version", 1),
    ("generations.jsonl", "finished", GONE),
]


@pytest.mark.parametrize(
    ("file", "name", "value"), OTHER, ids=[f"{file} {name} {value}" for file, name, value in OTHER]
)
def test_rows_of_another_form_are_no_input_of_a_stage(tmp_path: Path, file: str, name: str, value: object) -> None:
    """Their hashes fit: someone else made the folder."""
    folder = tmp_path / "some" / "x-0"
    folder.mkdir(parents=True)

    def found() -> list[str]:
        record = {"kind": "some", "label": "x", "key": "0", integrity.FILES: integrity.listed(folder)}
        store.write_json(folder / store.MARKER, integrity.sealed(record, "some/x-0"))
        return integrity.used(folder)

    store.write_rows(folder / file, [SOUND[file]] * 3)
    assert not found()
    put(folder / file, (1, name), value)
    (sentence,) = found()
    assert f"{file} is damaged or of another version of this program (line 2: " in sentence
    assert name in sentence


CUT_LISTS: list[object] = ["{", "{}", "[]", '{"report.md": "0"}', '{"report.json": "0", "\\ud800": "0"}']


@pytest.mark.parametrize("text", CUT_LISTS, ids=str)
def test_a_changed_report_beside_a_cut_list_is_not_read(tmp_path: Path, text: str) -> None:
    make(tmp_path, Stored(seeds=(1,)))
    make_report([tmp_path], tmp_path / "out", Estimator(), "bench report")
    (tmp_path / "out" / LIST).write_text(text)
    put(tmp_path / "out" / "report.json", ("measures", 0, "title"), "another")
    with pytest.raises(DamagedError):
        load_report(tmp_path / "out")
    assert not kept(tmp_path)


def kept(root: Path) -> bool:
    """Whether bench report takes the report that lies there for its own, and leaves it as it is."""
    before = (root / "out" / "report.json").read_text()
    make_report([root], root / "out", Estimator(), "bench report", reuse=True)
    return (root / "out" / "report.json").read_text() == before


def test_a_report_of_a_later_version_may_say_more(tmp_path: Path) -> None:
    make(tmp_path, Stored(seeds=(1,)))
    make_report([tmp_path], tmp_path / "out", Estimator(), "bench report")
    before = of_report(load_report(tmp_path / "out").data)
    (tmp_path / "out" / LIST).unlink()
    put(tmp_path / "out" / "report.json", ("measures", 0, "of a later version"), 1)
    assert of_report(load_report(tmp_path / "out").data) == before


def test_a_plan_estimates_without_stages_of_another_form(tmp_path: Path) -> None:
    """Times of finished stages are an estimate's only source; those that are no numbers are left out."""
    make(tmp_path, Stored(seeds=(1,)))
    stage = Stage("ppo", "x", "m:f", {}, cost=2.0, family="f")
    marker = tmp_path / PPO / "stage.json"
    record = store.read_json(marker)
    for seconds, cost, expected in ((3.0, 1.0, 6.0), ("3", 1.0, None), (3.0, [1], None), (HUGE, 1.0, None)):
        marker.write_text(json.dumps({**record, "seconds": seconds, "cost": cost, "family": "f"}))
        assert rough_seconds([stage], store.Store(tmp_path)) == {stage.key: expected}
    marker.write_text("{")
    assert rough_seconds([stage], store.Store(tmp_path)) == {stage.key: None}


NO_PLACES: list[object] = [["ppo", "x"], ["ppo", "x", "y", "z"], [{}, "x", "y"], [1e300, "x", "y"], None]


@pytest.mark.parametrize("place", NO_PLACES, ids=str)
def test_a_page_is_stamped_without_cells_of_another_form(tmp_path: Path, place: object) -> None:
    make(tmp_path, Stored(rms=("scalar",), seeds=(1,)))
    record = {"analyses": {}, "runs": {"main": [Path(CELL).stem]}}
    whole = dict(stamps.of_results(record, tmp_path))
    assert "ppo" in whole
    put(tmp_path / CELL, ("stages", "ppo"), place)
    assert not stamps.of_results(record, tmp_path)


def test_a_page_is_not_stamped_with_a_changed_record(tmp_path: Path) -> None:
    make(tmp_path, Stored(rms=("scalar",), seeds=(1,)))
    path = tmp_path / CELL
    path.write_text(json.dumps(integrity.sealed(store.read_json(path), path.name)))
    record = {"analyses": {}, "runs": {"main": [path.stem]}}
    assert stamps.of_results(record, tmp_path)
    put(path, ("stages", "ppo", 2), "f" * 12)
    assert not stamps.of_results(record, tmp_path)


EXPERIMENTS: list[tuple[tuple[str | int, ...], object]] = [
    (("seeds",), [{}]),
    (("question",), None),
    (("command",), 5),
    (("left_out",), {"main": []}),
    (("runs", "main", 0), 7),
    (("runs", "main"), {"a": "b"}),
]


@pytest.mark.parametrize(("at", "value"), EXPERIMENTS, ids=[str(at) for at, _ in EXPERIMENTS])
def test_the_record_of_an_experiment_has_one_form(tmp_path: Path, at: tuple[str | int, ...], value: object) -> None:
    path = tmp_path / "experiments" / "headline.json"
    path.parent.mkdir()
    record = {"name": "headline", "question": "?", "seeds": [1], "command": "", "runs": {"main": ["x"]},
              "analyses": {}, "left_out": {}}  # fmt: skip
    path.write_text(json.dumps(record))
    assert find_records([tmp_path])
    put(path, at, value)
    with pytest.raises(BenchError):
        find_records([tmp_path])


@pytest.mark.parametrize(
    ("at", "value"), [(("missing",), [1]), (("claims", 0), "x"), (("claims", 0, "value"), "0"), (("report",), [])]
)
def test_a_stored_result_of_another_form_is_computed_again(
    tmp_path: Path, at: tuple[str | int, ...], value: object
) -> None:
    """Its key is that of its cells, and its hash fits: only its form says that this program did not write it."""
    cells = make(tmp_path, Stored(seeds=(1,)))
    record = {"name": "headline", "question": "?", "seeds": [1], "command": "", "analyses": {}, "left_out": {},
              "runs": {"summaries": [path.stem for path in cells]}}  # fmt: skip
    built = build_experiment(record, tmp_path, Estimator())
    path = folder_of(record, tmp_path) / FILE
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(built))
    put(path, at, value)
    path.write_text(json.dumps(integrity.sealed(store.read_json(path), FILE)))
    assert build_experiment(record, tmp_path, Estimator()) == built
