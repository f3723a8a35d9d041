"""Places and links in results folders of others lead nowhere else, and nothing is written through them.

Each case builds a hostile folder for one command.  Nothing outside may change, the code that the folder names may not
run, and one line must say why.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from hostile_place import ARM, Place, Refused
from hostile_results import JUDGE, LEADING, POWER, REPORT, SCORE
from small import command

from rlhf_bench.harness import api, store

READERS = (REPORT, POWER, JUDGE, SCORE, "report runs --terminal")


@pytest.mark.parametrize("line", READERS)
@pytest.mark.parametrize("case", range(len(LEADING)))
def test_a_cell_leads_nowhere_else(place: Place, refused: Refused, line: str, case: int) -> None:
    build, said = LEADING[case]
    build(place)
    refused(line, said)


@pytest.mark.parametrize("folder", ["cells", "report", "tracking", "experiments", ".partial"])
@pytest.mark.parametrize(
    "line",
    [
        "run --task dialogsum --rm length-only --out runs",
        "experiment headline --out runs",
        JUDGE,
    ],
)
def test_nothing_is_written_through_a_link(place: Place, refused: Refused, line: str, folder: str) -> None:
    place.move_out(folder)
    refused(line, "leads outside of")


def test_the_tables_of_a_report_are_not_written_through_a_link(place: Place, refused: Refused) -> None:
    (place.home / "new").mkdir()
    (place.home / "new" / "tables").symlink_to(place.outside)
    refused(REPORT, "leads outside of new")


def planned(place: Place) -> Any:
    """The SFT stage of a small run in `runs`."""
    given = dict(text.split("=", 1) for text in command(place.runs, rms=("length-only",)) if "=" in text)
    return api.plan("dialogsum", "length-only", settings=given, out=place.runs).cells.order[0]


@pytest.mark.parametrize("what", ["folder", "file", "partial", "scratch", "checkpoint", "lock"])
def test_a_resumed_run_follows_no_link(place: Place, refused: Refused, what: str) -> None:
    stage = planned(place)
    unfinished = f".partial/{stage.kind}-{stage.key[: store.KEY_LENGTH]}"
    folder = stage.folder(store.Store(place.runs)).relative_to(place.runs)
    paths = {
        "folder": str(folder), "file": f"{folder}/config.json", "partial": unfinished, "lock": f"{unfinished}.lock",
        "scratch": f"{unfinished}/scratch", "checkpoint": f"{unfinished}/scratch/checkpoint-2",
    }  # fmt: skip
    place.move_out(paths[what])
    if what in ("folder", "file"):
        (place.runs / folder / "stage.json").write_text("{}")
    refused(shlex.join(command(place.runs, rms=("length-only",))), "leads outside of")


def test_a_checkpoint_holds_the_files_of_its_trainer_alone(place: Place, refused: Refused) -> None:
    """A scaler of mixed precision, which no trainer here writes, ended in the trainer's own AttributeError."""
    stage = planned(place)
    folder = place.runs / f".partial/{stage.kind}-{stage.key[: store.KEY_LENGTH]}/scratch/checkpoint-2"
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text("{}")
    (folder / "scaler.pt").write_bytes(b"x")
    refused(shlex.join(command(place.runs, rms=("length-only",))), "scaler.pt is no file of a checkpoint")


def test_a_stage_of_another_place(place: Place, refused: Refused) -> None:
    place.change(f"ppo/{ARM}/stage.json", lambda r: {**r, "kind": "..", "label": "outside"})
    refused(JUDGE, "is of another stage")


def test_a_results_folder_may_itself_be_a_link(place: Place, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(place.runs)
    assert api.report(tmp_path / "link").data["arms"]
    (place.runs / "ppo").rename(place.runs / "moved")
    (place.runs / "ppo").symlink_to("moved")  # within the folder
    assert api.report(tmp_path / "link").data["arms"]
