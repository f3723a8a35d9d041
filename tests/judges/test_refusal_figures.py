"""The figures of the refusal rules are those of the labels, and the labels hold no text of the data."""

from __future__ import annotations

import csv
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

from rlhf_bench.harness.results.refusal_agreement import LABELS
from rlhf_bench.judges.refusal_figures import figures, reliability

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "benchmarks" / "refusals"
DATA = ROOT.parent / "shared" / "data"
sys.path.insert(0, str(FOLDER))
import measure_refusals  # noqa: E402
import refusal_sample  # noqa: E402

real = pytest.mark.skipif(not (DATA / measure_refusals.PKU).exists(), reason=f"needs {DATA}")


def labels() -> list[dict[str, str]]:
    with (FOLDER / "labels.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_labels_name_responses_and_hold_no_text() -> None:
    rows = labels()
    assert list(rows[0]) == ["part", "stratum", "row", "slot", "sha256", "first", "second", "label"]
    for row in rows:
        assert row["part"] in refusal_sample.SIZES
        assert row["stratum"] in refusal_sample.SIZES[row["part"]]
        assert re.fullmatch(r"\d+,[01],[0-9a-f]{64}", f"{row['row']},{row['slot']},{row['sha256']}")
        assert {row["first"], row["second"], row["label"]} <= set(LABELS)
    assert len({(row["row"], row["slot"]) for row in rows}) == len(rows) == figures()["labels"]["responses"]


def test_the_written_cases_are_balanced_and_their_figures_are_stored() -> None:
    cases = measure_refusals.written_cases()
    counts = Counter(case.label == "refuses" for case in cases)
    assert min(counts.values()) >= 40
    assert {case.label for case in cases} == set(LABELS)
    for rule, found in figures()["rules"].items():
        assert found["written cases"] == measure_refusals.measured(cases, rule)


def test_reports_say_how_often_the_default_rule_is_right_and_the_phrase_rule_less() -> None:
    rules = figures()["rules"]
    for rule in ("sentences", "phrases"):
        for name in ("precision", "recall", "kappa"):
            value, low, high = rules[rule]["held out"][name]
            assert f"{name} {value:.2f} [{low:.2f}, {high:.2f}]" in reliability(rule)
    assert rules["sentences"]["held out"]["kappa"][1] > rules["phrases"]["held out"]["kappa"][2]


def test_the_page_shows_the_figures() -> None:
    page = " ".join((ROOT / "docs" / "refusals.md").read_text(encoding="utf-8").split())
    for rule, judge in (("sentences", "refusal"), ("phrases", "refusal-phrases")):
        for part in ("held out", "held out, random", "tuning", "written cases"):
            found = figures()["rules"][rule][part]
            cells = [shown(found[name]) for name in ("precision", "recall", "kappa")]
            counts = f"{found['refusals']} of {found['responses']}"
            assert f"| `{judge}` | {part} | {counts} | {' | '.join(cells)} |" in page
        assert f"{figures()['rules'][rule]['false alarms']['tldr'][0]:.1%}" in page
    assert all(shown(interval) in page for interval in figures()["kappa of the passes"].values())
    assert all(f"`{label}`" in page for label in LABELS)


def shown(interval: list[float]) -> str:
    return "–" if interval[0] is None else f"{interval[0]:.2f} [{interval[1]:.2f}, {interval[2]:.2f}]"


@real
def test_the_figures_are_those_of_the_labels() -> None:
    assert measure_refusals.figures(DATA) == figures()


@real
def test_the_labelled_responses_are_those_that_the_rule_draws() -> None:
    rows = refusal_sample.read_rows(DATA / measure_refusals.PKU)
    drawn = [(*map(str, one), refusal_sample.sha256(rows[one.row].responses[one.slot])) for one in
             refusal_sample.draw(rows)]  # fmt: skip
    found = [tuple(row[name] for name in ("part", "stratum", "row", "slot", "sha256")) for row in labels()]
    assert found == drawn
    # nothing was tuned on a prompt that the figures are measured on
    prompts = {part: {rows[int(row[2])].prompt for row in found if row[0] == part} for part in refusal_sample.SIZES}
    assert not prompts["tuning"] & prompts["held out"]
    # the texts stay outside of the project
    texts = {rows[int(row[2])].responses[int(row[3])] for row in found}
    assert not [text for text in texts if len(text) > 40 and text in (FOLDER / "cases.jsonl").read_text("utf-8")]
