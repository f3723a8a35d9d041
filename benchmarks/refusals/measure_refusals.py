"""Measures the refusal rules against labels.csv and writes judges/refusal_figures.json.

python benchmarks/refusals/measure_refusals.py DATA [ROWS.jsonl]

DATA is a folder with pku_saferlhf/, tldr/ and dialogsum/ as benchmarks/real_data.sh takes it.  ROWS.jsonl, to be kept
outside the project, gets the first annotator's held-out labels with their texts, for
`bench judge --calibrate ROWS.jsonl --judge refusal --judge refusal-phrases`.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, cast

import numpy as np
from refusal_sample import Answered, read_rows, sha256

from rlhf_bench.harness import store
from rlhf_bench.harness.results.refusal_agreement import (
    LABELS,
    LabelledResponse,
    detect,
    kappa_by,
    resampled,
    tables_by,
)
from rlhf_bench.harness.seams import Judge
from rlhf_bench.harness.statistics.intervals import Interval, wilson
from rlhf_bench.judges.refusal import Label, Refusal
from rlhf_bench.judges.refusal_phrases import RefusalPhrases
from rlhf_bench.judges.refusal_sentences import refusal

HERE = Path(__file__).resolve().parent
FIGURES = HERE.parents[1] / "judges" / "refusal_figures.json"
PKU = "pku_saferlhf/pku_seferlhf_realign_dpo_5k.json.gz"
DATA = "PKU-SafeRLHF (test), rows with one safe and one unsafe response; CC BY-NC 4.0"
ANNOTATION = {
    "annotators": "two, language models, the second independent and blind; no person has checked the labels",
    "labels of the rules' figures": "the first annotator's, where no other is named",
    "passes of the first annotator": 2,
    "second pass blind to the first": False,
    "longest text that the first annotator read whole, in characters": 620,
}
LEVEL = 0.95


class Labelled(NamedTuple):
    """A row of labels.csv with the texts that it names.

    first, second: the labels of the first annotator's two passes; label: the one that was kept.  independent: the
    second annotator's, who knew neither those labels nor the rules.
    """

    part: str
    stratum: str
    prompt: str
    response: str
    first: Label
    second: Label
    label: Label
    independent: Label

    def row(self, by: Literal["label", "independent"] = "label") -> LabelledResponse:
        """What `detect` takes, with one annotator's label."""
        return LabelledResponse(self.prompt, self.response, getattr(self, by))


def read_labels(rows: Sequence[Answered]) -> list[Labelled]:
    """The labels with their texts; raises ValueError where a text is not the one that was labelled."""
    found = []
    with (HERE / "labels.csv").open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            answered = rows[int(line["row"])]
            response = answered.responses[int(line["slot"])]
            if sha256(response) != line["sha256"]:
                raise ValueError(f"Row {line['row']}, slot {line['slot']} is another text than the labelled one.")
            given = (cast("Label", line[name]) for name in ("first", "second", "label", "independent"))
            found.append(Labelled(line["part"], line["stratum"], answered.prompt, response, *given))
    return found


def written_cases() -> list[LabelledResponse]:
    """The written cases, which are part of what the rules were tuned on."""
    return [LabelledResponse(**row) for row in store.read_rows(HERE / "cases.jsonl")]


def measured(rows: Sequence[LabelledResponse], rule: Literal["sentences", "phrases"]) -> dict[str, object]:
    """Agreement of a rule with labels: counts, and [value, low, high] of each share."""
    judge: Judge = Refusal() if rule == "sentences" else RefusalPhrases()
    found = detect(judge, rows, None, np.random.default_rng(0), LEVEL)["refusal_rate"]
    counts = {"responses": found.n, "prompts": found.prompts, "refusals": found.refusals, "called": found.called}
    return {**counts, **{name: _ends(getattr(found, name)) for name in ("precision", "recall", "kappa")}}


def kappas(labels: Sequence[Labelled], one: str, other: str) -> dict[str, list[float | None]]:
    """Kappa of two columns of labels, over five labels and over refusal and other; [value, low, high].

    Of `first` and `second` it is consistency and no measure of reliability: one annotator gave both, and had the first
    labels at hand in the second pass.
    """
    found = {}
    for name, size in (("five labels", len(LABELS)), ("refusal or not", 2)):
        codes = [
            [LABELS.index(given) if size > 2 else int(given == "refuses") for given in column]
            for column in ([getattr(row, by) for row in labels] for by in (one, other))
        ]
        tables = tables_by(codes[0], codes[1], size, [row.prompt for row in labels])
        found[name] = _ends(kappa_by(tables, resampled(tables, np.random.default_rng(0)), LEVEL))
    return found


def summaries(data: Path) -> dict[str, list[tuple[str, str]]]:
    """(prompt, summary) by people, none of which refuses."""
    with (data / "tldr" / "oai1b.csv_judged.csv").open(encoding="utf-8", newline="") as file:
        tldr = [(row["query"], row["reference_responses"]) for row in csv.DictReader(file)]
    dialogues = store.read_rows(data / "dialogsum" / "dialogsum.test.jsonl")
    return {"tldr": tldr, "dialogsum": [(f"Summarize:\n{row['dialogue']}", row["summary1"]) for row in dialogues]}


def figures(data: Path) -> dict[str, object]:
    """The content of refusal_figures.json."""
    labels = read_labels(read_rows(data / PKU))
    held, tuning = ([one for one in labels if one.part == part] for part in ("held out", "tuning"))
    parts = {
        "held out": [one.row() for one in held],
        "held out, second annotator": [one.row("independent") for one in held],
        "held out, random": [one.row() for one in held if one.stratum == "random"],
        "tuning": [one.row() for one in tuning],
        "written cases": written_cases(),
    }
    rules: dict[str, object] = {}
    opens = RefusalPhrases().opens
    for rule in ("sentences", "phrases"):
        false = {
            name: _ends(
                wilson([float(bool(refusal(*p) if rule == "sentences" else opens(p[1]))) for p in pairs], LEVEL)
            )
            for name, pairs in summaries(data).items()
        }
        rules[rule] = {**{part: measured(rows, rule) for part, rows in parts.items()}, "false alarms": false}
    return {
        "labels": {"data": DATA, "rubric": "docs/refusals.md", "responses": len(labels), **ANNOTATION},
        "kappa of the passes": kappas(labels, "first", "second"),
        "kappa of the annotators": {
            part: kappas(rows, "label", "independent")
            for part, rows in (("all", labels), ("tuning", tuning), ("held out", held))
        },
        "rules": rules,
    }


def _ends(found: Interval) -> list[float | None]:
    return [None if one is None else round(one, 4) for one in (found.value, found.low, found.high)]


def main(data: Path, out: Path | None) -> None:
    FIGURES.write_text(json.dumps(figures(data), indent=1) + "\n", encoding="utf-8")
    if out:
        rows = [one.row()._asdict() for one in read_labels(read_rows(data / PKU)) if one.part == "held out"]
        store.write_rows(out, rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
