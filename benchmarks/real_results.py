"""docs/results-real.md from a finished `bench experiment real`.

    python benchmarks/real_results.py RUNS --out docs/results-real.md [--reading FILE.json ...] [--seed 1] [--prompts]

The tables are those of the experiment's own result.  Beside them stand the cost of every kind of stage, twenty samples
side by side that a fixed rule draws, and what a reader said who read pairs blind (benchmarks/blind_reading.py).
Prompts belong to their data set and its licence: they are named by their id, and printed only with --prompts.  Where
PAGE-intro.md lies beside the page, its text comes first: what was said before the reported seeds ran.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import suite

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.pipeline import integrity
from rlhf_bench.harness.plan import experiments
from rlhf_bench.harness.replacing import write_text
from rlhf_bench.harness.results import blind
from rlhf_bench.harness.results.arms import CellFiles
from rlhf_bench.harness.results.table import Cell, Table, restored
from rlhf_bench.reports import experiments as built_experiments
from rlhf_bench.reports import ledger
from rlhf_bench.reports.markdown import escape, fenced, table_lines
from rlhf_bench.reports.setups import setup_lines

NAME = "real"
SAMPLES = 20
PLACES = re.compile(r"([\s=])/(?:[^\s/]+/)+(?=[^\s/])")
"""The folders of an absolute path in the command: where somebody keeps files is nothing for a page."""
LIMITS = """
- Three training seeds show whether a run repeats, not how often it fails: a failure in one run of five is missed by
  three in half of all cases.
- The gold model is small, learned from a few hundred pairs, and has the policy's own pretraining. What it prefers is
  an opinion that was held out, no truth. How far a reader who follows a rubric agrees with it stands above: where that
  is no more than chance, a change of gold is no change of quality.
- Eight iterations of PPO are its beginning: an arm that gains nothing here may gain later, and one that gains may
  overoptimise later. Best-of-n stops at eight.
- Arms differ from the SFT policy by one recipe each, with rates from short runs on one development seed. Another rate
  may change their order.
- A policy of 135M parameters writes text that breaks apart by itself. Nothing here says what happens at 2B or 7B.
- Refusals are counted by rules over sentences that were calibrated on other models' responses.
"""


def page(
    record: Mapping[str, Any],
    built: Mapping[str, Any],
    root: Path,
    readings: Sequence[Any],
    seed: int,
    prompts: bool = False,
    intro: str = "",
) -> str:
    """The Markdown page; `prompts`: with the samples' prompts; `intro`: Markdown that comes first.

    Raises BenchError where no cell is finished.
    """
    if not built["report"]:
        raise BenchError(f"No cell of {record['name']} in {root} is finished.", "Run it: bench experiment real.")
    lines = [*_head(built, intro), *ledger.experiment_lines(built)]
    # its own first line is the experiment's name, which the page's title has
    lines.remove(f"# {escape(built['name'])}")
    lines = [PLACES.sub(r"\1", line) for line in lines]
    cells = built_experiments.cells_of(record, root)
    lines += [*_read(readings), *_cost(root, record["name"]), *_samples(cells, seed, prompts)]
    return "\n".join([*lines, "## What cannot be concluded at this size", LIMITS]).rstrip() + "\n"


def _head(built: Mapping[str, Any], intro: str) -> Iterator[str]:
    yield from ("# A pretrained model on real data", "")
    yield "Written by `benchmarks/real_results.py`,"
    yield f"{datetime.now(UTC).date().isoformat()}. Do not edit; run it again. [How pairs are read](reading-rubric.md)."
    yield from ("", intro.strip(), "") if intro.strip() else ("",)
    yield from ("## Settings", "")
    yield from map(escape, setup_lines(built["report"]["arms"]))
    yield ""


def _read(readings: Sequence[Any]) -> Iterator[str]:
    yield from ("## Pairs read blind", "")
    if not readings:
        yield from ("No pair was read: `benchmarks/blind_reading.py` writes them.", "")
    for one in readings:
        reader = escape(str(one.get("reader") or "not stated"))
        yield from (f"Task {escape(str(one['task']))}, against {escape(str(one['against']))}.  Reader: {reader}.", "")
        for table in one["tables"]:
            yield from table_lines(restored(table), "###")


def _cost(root: Path, name: str) -> Iterator[str]:
    found = suite.summary(root, name)
    rows = [
        (kind, Cell(own["jobs"], format="count"), Cell(own["core_minutes"]), Cell(own["wall_minutes"]))
        for kind, own in found["stages"].items()
    ]
    total = {key: sum(own[key] for own in found["stages"].values()) for key in ("jobs", "core_minutes", "wall_minutes")}
    whole = ("all", Cell(total["jobs"], format="count"), Cell(total["core_minutes"]), Cell(total["wall_minutes"]))
    note = "Each stage counts once, also where arms share it; wall minutes of stages that ran side by side are added."
    columns = ("stage", "of them", "core minutes", "wall minutes")
    yield from table_lines(Table("What it took", columns, [*rows, whole], note))


def _samples(cells: Sequence[CellFiles], seed: int, prompts: bool) -> Iterator[str]:
    tasks = sorted({cell.record["task"] for cell in cells})
    each = -(-SAMPLES // len(tasks))
    rule = f"{each} of each task, arms in turns, by `blind.draw` with seed {seed}: nobody chose them."
    rule += " Responses to unsafe prompts may offend."
    yield from ("## Samples", "", f"{rule} Pairs with equal texts are left out.", "")
    if not prompts:
        yield from (
            "Prompts are named by their id in the run; whether their text may be printed is for the data's licence.",
            "",
        )
    for task in tasks:
        try:
            drawn = blind.draw(blind.pairs_of(cells, task), each, seed)
        except BenchError as error:  # every arm may have written what the SFT policy did
            yield from (f"{escape(task)}: {escape(error.seen)}", "")
            continue
        for one in drawn:
            pair = one.pair
            title = f"{task} {one.number}: {pair.arms[0]}, seed {pair.seed}, prompt {pair.prompt_id}"
            yield from (f"### {escape(title)}", "")
            golds = (f", gold {gold:.2f}" if gold is not None else "" for gold in pair.gold)
            if prompts:
                yield from ("Prompt:", "", *fenced(pair.prompt))
            for name, gold, text in zip(pair.arms, golds, pair.responses, strict=True):
                yield from (f"{escape(name)}{gold}:", "", *fenced(text))


def written(
    root: Path, out: Path, readings: Sequence[Path], seed: int, prompts: bool = False, name: str = NAME
) -> None:
    """Read the experiment in `root` and write the page; `prompts`: with the samples' prompts.

    Raises BenchError where it is not there, unfinished or damaged.
    """
    path = experiments.record_path(root, name)
    if not path.is_file():
        raise BenchError(f"{root} holds no experiment {name!r}.", f"Run: bench experiment {name} --out {root}")
    record = store.read_json(path)
    built_experiments.check_record(record, path)
    record = integrity.unsealed(record)
    file = built_experiments.folder_of(record, root) / built_experiments.FILE
    built = store.read_json(file)
    if problem := integrity.seal_problem(built, file.name):
        raise BenchError(f"{file} is damaged: {problem}.", f"Write it again: bench experiment {name} --out {root}")
    built = integrity.unsealed(built)
    beside = out.with_name(f"{out.stem}-intro.md")
    intro = store.read_text(beside) if beside.is_file() else ""
    write_text(out, page(record, built, root, [store.read_json(one) for one in readings], seed, prompts, intro))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--reading", type=Path, action="append", default=[], help="JSON of blind_reading.py --out")
    parser.add_argument("--seed", type=int, default=1, help="of the samples that are shown")
    parser.add_argument(
        "--prompts", action="store_true", help="print the samples' prompts, where their licence allows it"
    )
    parser.add_argument("--name", default=NAME)
    given = parser.parse_args(arguments)
    try:
        written(given.runs, given.out, given.reading, given.seed, given.prompts, given.name)
    except BenchError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
