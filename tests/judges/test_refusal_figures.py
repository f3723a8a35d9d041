"""The figures of the refusal rules are those of the labels, and the labels hold no text of the data."""

from __future__ import annotations

import csv
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

from rlhf_bench.harness.results.calibration import kappa
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
    assert list(rows[0]) == ["part", "stratum", "row", "slot", "sha256", "first", "second", "label", "independent"]
    for row in rows:
        assert row["part"] in refusal_sample.SIZES
        assert row["stratum"] in refusal_sample.SIZES[row["part"]]
        assert re.fullmatch(r"\d+,[01],[0-9a-f]{64}", f"{row['row']},{row['slot']},{row['sha256']}")
        assert {row["first"], row["second"], row["label"], row["independent"]} <= set(LABELS)
    assert len({(row["row"], row["slot"]) for row in rows}) == len(rows) == figures()["labels"]["responses"]


def test_the_written_cases_are_balanced_and_their_figures_are_stored() -> None:
    cases = measure_refusals.written_cases()
    counts = Counter(case.label == "refuses" for case in cases)
    assert min(counts.values()) >= 40
    assert {case.label for case in cases} == set(LABELS)
    for rule, found in figures()["rules"].items():
        assert found["written cases"] == measure_refusals.measured(cases, rule)


def test_kappa_of_the_annotators_is_that_of_the_label_file() -> None:
    """The values alone: the intervals need the prompts."""
    for part, found in figures()["kappa of the annotators"].items():
        pairs = [(row["label"], row["independent"]) for row in labels() if part in ("all", row["part"])]
        for name, values in (("five labels", LABELS), ("refusal or not", (True, False))):
            counted = Counter(pairs if name == "five labels" else [(a == "refuses", b == "refuses") for a, b in pairs])
            value = float(kappa([[counted[a, b] for b in values] for a in values]))
            assert found[name][0] == round(value, 4)
            assert found[name][1] < value < found[name][2]
    assert set(figures()["kappa of the annotators"]) == {"all", *refusal_sample.SIZES}


def test_the_independent_labels_are_no_copy_of_the_others() -> None:
    rows = labels()
    assert 0 < sum(row["independent"] != row["label"] for row in rows) < len(rows) / 2
    # the refusals of the rules' agreement with them are theirs
    held = [row for row in rows if row["part"] == "held out"]
    for rule, found in figures()["rules"].items():
        counts = {part: found[part] for part in ("held out", "held out, second annotator")}
        for part, column in zip(counts, ("label", "independent"), strict=True):
            assert counts[part]["responses"] == len(held)
            assert counts[part]["refusals"] == sum(row[column] == "refuses" for row in held)
        # the rule calls the same responses, whatever their labels
        assert len({one["called"] for one in counts.values()}) == 1, rule


def test_whoever_reads_the_figures_learns_who_labelled() -> None:
    said = figures()["labels"]["annotators"]
    assert said.startswith("two, language models, the second independent and blind")
    assert "no person" in said


def test_reports_say_on_what_text_a_rule_was_measured_and_by_whom() -> None:
    """A summarisation task prints the same words: they must not read as if they held for summaries."""
    value = figures()["kappa of the annotators"]["held out"]["refusal or not"][0]
    for rule in ("sentences", "phrases"):
        said = reliability(rule)
        assert "responses to short requests (PKU-SafeRLHF)" in said
        assert "labelled by a language model" in said
        assert f"kappa {value:.2f} with a second one" in said
        share = figures()["rules"][rule]["false alarms"]["tldr"][0]
        assert f"{share:.1%} of people's TL;DR summaries" in said
        assert len(said) < 360


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
        for part in ("held out", "held out, second annotator", "held out, random", "tuning", "written cases"):
            found = figures()["rules"][rule][part]
            cells = [shown(found[name]) for name in ("precision", "recall", "kappa")]
            counts = f"{found['refusals']} of {found['responses']}"
            assert f"| `{judge}` | {part} | {counts} | {' | '.join(cells)} |" in page
        assert f"{figures()['rules'][rule]['false alarms']['tldr'][0]:.1%}" in page
    assert all(shown(interval) in page for interval in figures()["kappa of the passes"].values())
    for part, found in figures()["kappa of the annotators"].items():
        assert f"| {part} | {shown(found['five labels'])} | {shown(found['refusal or not'])} |" in page
    rows = labels()
    differ = Counter((row["label"], row["independent"]) for row in rows if row["label"] != row["independent"])
    assert f"{differ.total()} of {len(rows)}" in page
    frequent = [f"`{a}`/`{b}` {count}" for (a, b), count in differ.most_common() if count > 1]
    assert all(one in page for one in frequent)
    deflect = [sum(row[column] == "deflects" for row in rows) for column in ("label", "independent")]
    assert f"{deflect[0]} of the {len(rows)} responses deflect by the first annotator's labels, {deflect[1]} by" in page
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
