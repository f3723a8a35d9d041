"""Records of others name registered plugins alone, unless the user trusts them.

Each case builds a hostile folder for one command.  Nothing outside may change, the code that the folder names may not
run, and one line must say why.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hostile_place import ARM, Place, Refused
from hostile_results import JUDGE, RECORDS, SCORE, of_arm, of_task

from rlhf_bench.harness import api, trust
from rlhf_bench.harness.errors import BenchError


@pytest.mark.parametrize(("line", "build", "said"), RECORDS, ids=[f"{i} {r[2]}" for i, r in enumerate(RECORDS)])
def test_a_record_names_registered_plugins_alone(
    place: Place, refused: Refused, line: str, build: Callable[[Place], None], said: str
) -> None:
    build(place)
    refused(line, said)


@pytest.mark.parametrize("prompts", ["../../outside", "/etc", "..", "", None, ["x"]])
def test_the_prompts_of_a_stage_are_in_its_results_folder(place: Place, refused: Refused, prompts: Any) -> None:
    of_arm("scalar")(place)
    place.change(f"scale/{ARM}/stage.json", lambda r: {**r, "inputs": {"prompts": prompts}})
    refused(SCORE, "names the prompts")


def test_trust_lets_a_record_name_what_the_user_names(place: Place, refused: Refused) -> None:
    """With --trust the module is imported: the error is then of the task itself."""
    of_task("evil:run")(place)
    with pytest.raises(BenchError, match="Task seam"):
        api.judge(place.runs, "length", trust="evil:run")
    assert (place.home / "sentinel").exists()
    (place.home / "sentinel").unlink()
    of_task("tldr", data="/etc/nothing")(place)
    refused(f"{JUDGE} --trust /etc/nothing", "there is no such file")


def test_plain_settings_are_no_places() -> None:
    here = Path("record.json")
    trust.check_recorded("task", {"name": "dialogsum", "settings": {"seed": 3, "words": 0.5}}, here)
    trust.check_recorded("task", {"name": "saferlhf", "settings": {"preference": "better", "data": ""}}, here)
    trust.check_recorded("task", {"name": "tldr", "settings": {"data": "hub"}}, here)
    trust.check_recorded("reward-model", {"name": "scalar", "settings": {"spread": "uniform"}}, here)
    trust.check_recorded("task", {"name": "tldr", "settings": {"data": "/mine"}}, here, ["/mine"])
