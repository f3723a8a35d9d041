"""Experiments and reports of others, and modules of the current folder, neither run code nor lead outside.

Each case builds a hostile folder for one command.  Nothing outside may change, the code that the folder names may not
run, and one line must say why.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hostile_place import EVIL, Place, Refused
from hostile_results import experiment_record, of_task

from rlhf_bench.harness import api
from rlhf_bench.harness.cli import main
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.text import vet
from rlhf_bench.reports.files import LIST


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"runs": {"main": ["../../outside/cells/x"]}}, "nothing in its results folder"),
        ({"runs": {"main": ["/etc/passwd"]}}, "nothing in its results folder"),
        (
            {"analyses": {"main": [{"reward_model": "", "seed": 1, "place": ["..", "x", "y"]}]}},
            "nothing in its results",
        ),
        ({"analyses": {"main": [{"reward_model": "", "seed": 1, "place": [1, "x", "y"]}]}}, "nothing in its results"),
        ({"name": "../../outside"}, "Unknown experiment"),
        ({"runs": []}, "is damaged"),
        ({"analyses": {"main": "x"}}, "is damaged"),
    ],
)
def test_the_record_of_an_experiment_names_its_own_folder(
    place: Place, refused: Refused, more: dict[str, Any], said: str
) -> None:
    experiment_record(place, **more)
    refused("claims runs", said)


def test_a_linked_record_of_an_experiment(place: Place, refused: Refused) -> None:
    experiment_record(place)
    place.move_out("experiments")
    refused("claims runs", "leads outside of")


def test_a_report_that_is_a_link(place: Place, refused: Refused) -> None:
    api.report(place.runs, place.home / "real")
    (place.home / "shared").mkdir()
    shutil.move(place.home / "real" / "report.json", place.outside / "report.json")
    (place.home / "shared" / "report.json").symlink_to(place.outside / "report.json")
    refused("export shared --format model-index --out new", "leads outside of shared")
    with pytest.raises(BenchError, match="leads outside of"):
        api.load_report(place.home / "shared")


@pytest.mark.parametrize(
    "change",
    [
        lambda r: {name: r[name] for name in ("schema", "schema_version")},
        lambda r: {**r, "arms": 3},
        lambda r: {**r, "estimates": [1, None, {}]},
        lambda r: {**r, "arms": [{}]},
    ],
    ids=["no arms", "arms that are none", "estimates that are none", "arms without names"],
)
@pytest.mark.parametrize("form", ["model-index", "every-eval-ever --organization me"])
def test_a_report_of_another_form(place: Place, refused: Refused, change: Callable[[Any], Any], form: str) -> None:
    api.report(place.runs, place.home / "shared")
    (place.home / "shared" / LIST).unlink()
    file = place.home / "shared" / "report.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    refused(f"export shared --format {form} --out new", "report.json")
    assert not (place.home / "new").exists()


def test_modules_of_the_current_folder_are_not_those_of_a_child(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python looks for the modules of `python -m` in the current folder first: it may be someone else's."""
    monkeypatch.setenv("PYTHONSAFEPATH", "")  # so that it is as before after the test
    monkeypatch.delenv("PYTHONSAFEPATH")
    monkeypatch.chdir(place.outside)  # `place.home` is on the path
    (place.outside / "json.py").write_text(EVIL)
    tried: list[str] = []

    def command(standalone_mode: bool) -> None:  # noqa: ARG001
        found = vet._fault_of(json.dumps({"templates": ["x"], "pipeline": "", "seconds": 5, "memory": vet.MEMORY}))
        tried.append(found)

    monkeypatch.setattr(main, "bench", command)
    main.main()
    assert tried == [""]
    assert not (place.outside / "sentinel").exists()


def test_the_doctor_looks_at_no_folder(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    of_task("evil:run")(place)
    monkeypatch.setattr(sys, "argv", ["bench", "doctor"])
    with pytest.raises(SystemExit) as stopped:
        main.main()
    assert stopped.value.code == 0
    assert not (place.home / "sentinel").exists()
