"""The figures and texts of a reward before anything is optimised, by hand; and how a report shows them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from stored import Stored, make, report_of

from rlhf_bench.harness import forms, store
from rlhf_bench.harness.nouns import Example
from rlhf_bench.harness.results.found import find_cells
from rlhf_bench.harness.results.table import Cell
from rlhf_bench.harness.stages.sanity import FAVOURITES, LONGEST, sanity, training_elsewhere, within_prompt
from rlhf_bench.harness.training.record import write_record
from rlhf_bench.reports import tables
from rlhf_bench.reports.files import texts
from rlhf_bench.reports.markdown import markdown
from rlhf_bench.reports.schema import report_form

ODD = '<script>alert(1)</script> | `x` \x1b[2J \u202e "q" \ud800 $y$'


def test_the_figures_by_hand() -> None:
    rewards, lengths = torch.tensor([[1.0, 3.0], [10.0, 10.0]]), torch.tensor([[4.0, 8.0], [2.0, 6.0]])
    found = within_prompt(rewards, lengths)
    # variances 2 and 0 within prompts; centred: (-1, 1, 0, 0) and (-2, 2, -2, 2)
    assert found["within_prompt_sd"] == pytest.approx(1.0)
    assert found["within_prompt_correlation_with_length"] == pytest.approx(4 / (2 * 16) ** 0.5)
    # what differs between prompts alone is not seen
    shifted = within_prompt(rewards + torch.tensor([[5.0], [-7.0]]), lengths + torch.tensor([[1.0], [9.0]]))
    assert shifted == pytest.approx(found)


def test_what_cannot_be_told_is_not_said() -> None:
    one = within_prompt(torch.ones(3, 1), torch.ones(3, 1))
    assert set(one.values()) == {None}
    constant = within_prompt(torch.full((3, 4), 0.1), torch.arange(12.0).reshape(3, 4))
    assert constant["within_prompt_sd"] == pytest.approx(0, abs=1e-7)
    assert constant["within_prompt_correlation_with_length"] is None
    assert (
        within_prompt(torch.arange(4.0).reshape(2, 2), torch.ones(2, 2))["within_prompt_correlation_with_length"]
        is None
    )


def test_the_most_rewarded_are_different_texts_in_falling_order() -> None:
    examples = [Example("a", "A?"), Example("b", "B?")]
    written = [("x", "same"), ("y", "same"), ("x", "z"), ("long" * LONGEST, "")]
    grid = torch.tensor([[1.0, 5.0, 1.0, 0.0], [4.0, 4.0, 5.0, -1.0]])
    found = sanity(examples, written, grid, torch.full((2, 4), 3.0))
    assert (found["prompts"], found["samples"]) == (2, 4)
    order = [(row["example_id"], row["response"], row["reward"]) for row in found["most_rewarded"]]
    # of equal rewards the first prompt leads; what repeats stands once
    assert order[:4] == [("a", "y", 5.0), ("b", "z", 5.0), ("b", "same", 4.0), ("a", "x", 1.0)]
    assert len(order) == FAVOURITES
    assert order[4][1] == ("long" * LONGEST)[:LONGEST]
    assert not forms.problem(found, forms.SANITY)


def test_a_model_of_another_run_says_what_it_was_trained_with(tmp_path: Path) -> None:
    write_record(tmp_path, "scalar", {}, {"seed": 3})
    assert training_elsewhere({"source": str(tmp_path), "arm": ""}) == {"seed": 3}
    for other in ({}, {"source": ""}, {"source": 3}, {"source": str(tmp_path / "none")}, {"source": "org/name"}):
        assert training_elsewhere(other) == {}


def stored(root: Path, response: str) -> Any:
    """A report of one cell whose reward model's favourites are odd."""
    make(root, Stored(rms=("scalar",), seeds=(1,), prompts=4))
    row = {"example_id": "t", "prompt": "Why?", "response": response, "reward": 1.5, "tokens": 3}
    (scale,) = (root / "scale").iterdir()
    figures = {"within_prompt_sd": 0.25, "within_prompt_correlation_with_length": -0.5}
    store.write_json(scale / "sanity.json", {"prompts": 4, "samples": 2, **figures, "most_rewarded": [row]})
    return scale


@pytest.mark.parametrize("response", [ODD, "", " \n", "word " * 400])
def test_a_report_shows_them_in_every_form_and_escaped(tmp_path: Path, response: str) -> None:
    stored(tmp_path, response)
    report, cells = report_of(tmp_path)
    (before,) = report["arms"][0]["before"]
    assert before["sanity"]["within_prompt_sd"] == 0.25
    made = {str(path): text for path, text in texts(report, cells)}
    page, lines = made["report.html"], markdown(report)
    for shown in (page, lines):
        assert "Rewards before optimisation, within prompts" in shown
        assert "Samples of the SFT policy with the highest reward" in shown
        assert "0.25" in shown
        assert re.search(r"[-−]0\.50", shown)
        assert "<script>alert" not in shown
        assert "\x1b" not in shown
    if response == ODD:
        assert "&lt;script&gt;" in page
        assert "\\|" in lines
    elif not response.strip():
        assert "(empty)" in page
        assert "(empty)" in lines
    again = json.loads(json.dumps(report))
    assert not forms.problem(again, report_form())


@pytest.mark.parametrize("name", ["log_perplexity", "log_perplexity_sft"])
def test_the_log_perplexity_of_sft_is_its_level_less_its_change(tmp_path: Path, name: str) -> None:
    stored(tmp_path, "x")
    report, _ = report_of(tmp_path)
    (column,) = [at for at, title in enumerate(tables.sanity(report).columns) if title == "log-perplexity of SFT"]
    assert tables.sanity(report).rows[0][column] == Cell(None)
    one = next(e for e in report["estimates"] if e["slice"] == "all" and e["iteration"] == 20)
    made = [{**one, "judge": "fluency", "statistic": k, "value": v} for k, v in ((name, 5.0), (f"{name}_change", 1.5))]
    assert tables.sanity({**report, "estimates": made}).rows[0][column] == Cell(3.5)


def test_results_of_before_these_figures_are_reported_without_them(tmp_path: Path) -> None:
    make(tmp_path, Stored(rms=("scalar",), seeds=(1,), prompts=4))
    report, _ = report_of(tmp_path)
    assert "Samples of the SFT policy with the highest reward" not in markdown(report)


def test_damaged_figures_are_named(tmp_path: Path) -> None:
    scale = stored(tmp_path, "x")
    for text in ('{"prompts": 3}', "{", "[]"):
        (scale / "sanity.json").write_text(text)
        _, missing = find_cells([tmp_path])
        assert any("sanity.json" in line for line in missing)
