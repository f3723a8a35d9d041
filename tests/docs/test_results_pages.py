"""The pages of results are of today's code, or say of which experiments they are not."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from rlhf_bench.harness.plan import experiments, stamps
from rlhf_bench.harness.results import result_files
from rlhf_bench.reports import result_pages

DOCS = Path(__file__).resolve().parents[2] / "docs"
STALE = re.compile(r"^- \*\*Stale\*\*: (.+?)\.$", re.MULTILINE | re.DOTALL)


def said_to_be_stale(page: str) -> set[str]:
    """The experiments that a page's own line names: "- **Stale**: `ood`, `credit`."."""
    found = STALE.search(page)
    return set(re.findall(r"`([a-z-]+)`", found[1])) if found else set()


def test_what_is_not_of_todays_code_is_said_to_be_stale() -> None:
    """Where it fails: `bench claims --out docs/results.md` writes the page again, from its files alone."""
    files = result_files.read_folder(DOCS / "results")
    assert files
    found = stamps.stale({name: result_files.stamp_of(file) for name, file in files.items()})
    page = (DOCS / "results.md").read_text(encoding="utf-8")
    assert set(found) == said_to_be_stale(page), f"stale, by kind of stage: {found}"
    # beside the stale line the ledger: of today's claims, and adjusted over all of them
    rows = result_files.whole_ledger(files)
    intro = (DOCS / "results-intro.md").read_text(encoding="utf-8")
    assert page == result_pages.results_page(files, rows, found, "results", intro)


def test_every_file_of_results_has_its_page() -> None:
    found = {end: {path.stem for path in (DOCS / "results").glob(f"*.{end}")} for end in ("md", "json")}
    assert found["md"] == found["json"] != set()
    for name in found["md"]:
        assert (DOCS / "results" / f"{name}.md").read_text(encoding="utf-8").startswith(f"# {name}\n")


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
    assert stamps.stamped(record, tmp_path) == {"seeds": [7], "stages": whole}
    # another experiment that shares the cell has a judge more
    shared = next((tmp_path / "cells").glob("*.json"))
    cell = json.loads(shared.read_text())
    shared.write_text(json.dumps({**cell, "judges": {**cell["judges"], "other": ["verdicts", "other-x", "0" * 12]}}))
    assert stamps.of_results(record, tmp_path)["verdicts"] != whole["verdicts"]
    assert stamps.stamped(record, tmp_path) == {"seeds": [7], "stages": whole}
    next((tmp_path / "cells").glob("*.json")).unlink()
    assert stamps.of_results(record, tmp_path)["ppo"] != whole["ppo"]


def test_a_page_names_what_is_stale() -> None:
    assert said_to_be_stale("- **Stale**: `ood` and\n  `credit`.\n- more `x`.") == {"ood", "credit"}
    assert said_to_be_stale("nothing") == set()
    assert said_to_be_stale(result_pages.stale_line({"ood": ["ppo"], "credit": ["sft"]})) == {"ood", "credit"}
