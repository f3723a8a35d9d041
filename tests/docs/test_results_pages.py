"""The pages of results are of today's code, or say of which experiments they are not."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from rlhf_bench.harness.plan import experiments, stamps

DOCS = Path(__file__).resolve().parents[2] / "docs"
STALE = re.compile(r"^- \*\*Stale\*\*: (.+?)\.$", re.MULTILINE | re.DOTALL)


def said_to_be_stale(page: str) -> set[str]:
    """The experiments that a page's own line names: "- **Stale**: `ood`, `credit`."."""
    found = STALE.search(page)
    return set(re.findall(r"`([a-z-]+)`", found[1])) if found else set()


@pytest.mark.parametrize("name", ["results.md", "results-whitebox.md"])
def test_what_is_not_of_todays_code_is_said_to_be_stale(name: str) -> None:
    """Where it fails: run `bench experiment NAME` again, or name it in the page's line on what is stale."""
    page = (DOCS / name).read_text(encoding="utf-8")
    path = stamps.path_beside(DOCS / name)
    # a page that was written before pages had a stamp says of all of it that it is stale
    if not path.is_file():
        assert "of the code before the changes" in page
        return
    found = stamps.stale(json.loads(path.read_text(encoding="utf-8")))
    assert set(found) == said_to_be_stale(page), f"stale, by kind of stage: {found}"


def test_a_change_of_code_or_settings_is_stale() -> None:
    now = stamps.of_today("overhead")
    assert now
    for changed, kinds in (({}, None), ({"overhead": "another"}, ["overhead"]), ({"ppo": "of before"}, ["ppo"])):
        row = {"seeds": [], "stages": {**now, **changed}}
        assert stamps.stale({"overhead": row}) == ({"overhead": kinds} if kinds else {})


def test_a_stamp_is_of_the_cells_that_were_run(tmp_path: Path) -> None:
    """From the records of a plan that is run to its end it is that of the plan; a cell without a record is missed."""
    experiment = experiments.find("carelessness")
    made = experiments.make(experiment, (7,), {})
    record: dict[str, Any] = experiments.record(experiment, made, "bench")
    (tmp_path / "cells").mkdir()
    for plan in made.plans.values():
        for cell in plan.cells:
            judges = {judge: stage.place for judge, stage in plan.judged[cell.name].items()}
            found = {**cell.record(), "judges": judges}
            (tmp_path / "cells" / f"{cell.name}.json").write_text(json.dumps(found))
    whole = stamps.of_results(record, tmp_path)
    assert set(whole) >= {"sft", "ppo", "verdicts"}
    assert whole == stamps.of_plan(made)
    assert stamps.stamped([(record, tmp_path)]) == {"carelessness": {"seeds": [7], "stages": whole}}
    next((tmp_path / "cells").glob("*.json")).unlink()
    assert stamps.of_results(record, tmp_path)["ppo"] != whole["ppo"]


def test_a_page_names_what_is_stale() -> None:
    assert said_to_be_stale("- **Stale**: `ood` and\n  `credit`.\n- more `x`.") == {"ood", "credit"}
    assert said_to_be_stale("nothing") == set()
