"""One small run with its files, and all that reads them: stages, cells, verdicts, reports, experiments, exports."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from common import bench, small
from mutations import Folder, json_files

from rlhf_bench.harness import store
from rlhf_bench.harness.api.reports import load_report, make_report
from rlhf_bench.harness.api.runs import plan, planned_stages
from rlhf_bench.harness.checks.results import check_results
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.models.placement import read_placement
from rlhf_bench.harness.pipeline import integrity
from rlhf_bench.harness.plan import costs, experiments, request, stamps
from rlhf_bench.harness.plan.judges import judge_spec
from rlhf_bench.harness.results import rejudge
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.harness.results.found import find_cells
from rlhf_bench.harness.results.undecided import complaints
from rlhf_bench.harness.stages.evaluation import read_generations
from rlhf_bench.harness.stages.pairs import read_pairs
from rlhf_bench.harness.stages.prompts import read_examples
from rlhf_bench.harness.training.record import read_record
from rlhf_bench.reports import experiments as results
from rlhf_bench.reports import exports, ledger
from rlhf_bench.reports.files import write_files

RMS = ("seq2seq-token", "scalar")
OPTIMIZERS = ("ppo", "best-of-n", "sft-tempered")
MORE = [text for name in OPTIMIZERS for text in ("--optimizer", name)]
RUNS = {"summaries": "ppo", "summaries, best-of-n": "best-of-n", "summaries, tempered SFT": "sft-tempered"}
"""Runs of the experiment `headline` that the small run stands for."""


def small_run(out: Path) -> list[str]:
    return small.command(out, *MORE, rms=RMS, **{"best_of_n.n": "1,2"})


class Seen(NamedTuple):
    """What a reader returned, and its sentences about what is wrong."""

    value: object
    said: Sequence[str] = ()


class Reader(NamedTuple):
    """`call` reads what lies in the folder; `kinds` are beginnings of the files that it is tried with.

    `hashed`: what a changed hash covers must be named or must not change the value.  `copies`: it writes, so that it
    needs a folder of its own.
    """

    call: Callable[[], Seen]
    kinds: tuple[str, ...]
    hashed: bool = True
    copies: bool = False


class Fault(Exception):  # noqa: N818 - of the program, not of this one
    """A property that does not hold."""


class Place:
    """The folders of this process: `runs` with the files of the run, `out` for what is written, `outside`."""

    def __init__(self, home: Path, made_before: Path | None) -> None:
        self.home, self.runs, self.out = home, home / "runs", home / "out"
        (home / "outside").mkdir()
        (home / "outside" / "secret").write_text("{}")
        if made_before:
            shutil.copytree(made_before, self.runs)
        else:
            made = small.bench(*small_run(self.runs))
            if made.returncode:
                sys.exit(f"The run ended with {made.returncode}: {made.stderr}")
        self.record_experiment()
        names = list(json_files(self.runs))
        if (self.runs / "report" / ".files.json").is_file():
            names.append("report/.files.json")
        self.files = {name: (self.runs / name).read_bytes() for name in dict.fromkeys(names)}
        self.folder = Folder(self.runs, self.files)
        self.whole = home / "whole"
        shutil.copytree(self.runs, self.whole)

    def record_experiment(self) -> None:
        """The record and the result of an experiment that consists of the run's cells."""
        cells: dict[str, list[str]] = {name: [] for name in RUNS}
        for path in sorted((self.runs / "cells").glob("*.json")):
            optimizer = store.read_json(path)["optimizer"]
            cells[next(name for name, own in RUNS.items() if own == optimizer)].append(path.stem)
        found = experiments.find("headline")
        record = {"name": found.name, "question": found.question, "seeds": [0], "command": "bench experiment headline",
                  "runs": cells, "analyses": {}, "left_out": {"safety": "saferlhf.data"}}  # fmt: skip
        path = experiments.record_path(self.runs, found.name)
        path.parent.mkdir()
        store.write_json(path, integrity.sealed(record, path.name))
        folder = results.folder_of(record, self.runs)
        folder.mkdir()
        built = results.build_experiment(record, self.runs, Estimator())
        store.write_json(folder / results.FILE, integrity.sealed(built, results.FILE))


def record_readers(at: Place) -> dict[str, Reader]:
    """Readers of stages, cells, verdicts and experiments' records."""
    given = small_run(at.runs)
    sizes = dict(text.split("=", 1) for text in given if "=" in text)
    made = plan("dialogsum", RMS, settings=sizes, optimizers=OPTIMIZERS, out=at.runs)
    cells_of_plan, root = made.cells, store.Store(at.runs)
    judged = [stage for stage in cells_of_plan.order if stage.kind == "verdicts"]
    spec = judge_spec("length", {})

    def cells() -> Seen:
        found, missing = find_cells([at.runs])
        return Seen([cell.record for cell in found], missing)

    def checked() -> Seen:
        found = check_results(at.runs, True)
        return Seen((found.stages, found.files, found.cells), found.problems)

    def stages() -> Seen:
        read: list[Callable[[], object]] = []

        def add(folder: Path, reader: Callable[[], object]) -> None:
            # as `execute` does before a stage reads its inputs: forms are checked there, and not by the readers
            read.append(lambda: (integrity.check_used(folder), reader()))

        for path in at.runs.glob("*/*/*"):
            folder, name = path.parent, path.name
            part = path.stem.partition(".")[2]  # examples.test.jsonl
            if name.startswith("examples."):
                add(folder, partial(read_examples, folder, part))
            elif name.startswith("pairs."):
                add(folder, partial(read_pairs, folder, part))
            elif name == "generations.jsonl":
                add(folder, partial(read_generations, path))
            elif name == "reward_model.json":
                add(folder, partial(read_record, folder))
            elif name == "holding.json":
                add(folder, partial(read_placement, folder))
        return each(read)

    def planned() -> Seen:
        request.finished(cells_of_plan, root)
        planned_stages(cells_of_plan.order, at.runs)
        return Seen(costs.rough_seconds(cells_of_plan.order, root))

    def verdicts() -> Seen:
        return Seen("", complaints(judged, root))

    def judged_again() -> Seen:
        found, missing = find_cells([at.runs])
        return each([lambda cell=cell: rejudge._verdict_stage(cell, spec).key for cell in found], missing)

    def recorded() -> Seen:
        # not `stamps.stamped`, which plans the whole experiment, for seconds
        return Seen([dict(stamps.of_results(record, root)) for record, root in results.find_records([at.runs])])

    stored = ("sft", "prompts", "pairs", "reward", "baseline", "scale", "ppo", "pool", "best_of_n", "tempered",
              "proxy", "verdicts")  # fmt: skip
    return {
        "find_cells": Reader(cells, (*stored, "cells")),
        "check_results": Reader(checked, (*stored, "cells", "report")),
        "stages": Reader(stages, stored, hashed=False),
        "planned": Reader(planned, stored, hashed=False),  # an estimate leaves damaged stages out
        "complaints": Reader(verdicts, ("verdicts",)),
        "judged again": Reader(judged_again, (*stored, "cells"), hashed=False),
        "experiments": Reader(recorded, ("experiments", "cells"), hashed=False),
        **commands(at, {
            "bench check store": (["check", "store", "@", "--full"], (*stored, "cells", "report")),
            "bench run": ([*given, "-q"], (*stored, "cells", "report")),
            "bench judge": (["judge", "@", "--judge", "length", "-q"], (*stored, "cells")),
            "bench run --dry-run": ([*given, "--dry-run"], (*stored, "cells")),
        }),
    }  # fmt: skip


def report_readers(at: Place) -> dict[str, Reader]:
    """What reports, claims, exports and their commands read."""
    read = ("cells", "prompts", "pairs", "sft", "baseline", "scale", "ppo", "best_of_n", "tempered", "proxy",
            "verdicts", "pool")  # fmt: skip

    def built() -> Seen:
        made, missing = make_report([at.runs], None, Estimator(), "bench report")
        return Seen(_plain(made.data) if made else None, missing)

    def wrote() -> Seen:
        made, missing = make_report([at.runs], at.out, Estimator(), "bench report")
        return Seen(_plain(made.data) if made else None, missing)

    def loaded() -> Seen:
        found = load_report(at.runs / "report")
        readers: list[Callable[[], object]] = [
            found.to_pandas,
            lambda: found.warnings,
            lambda: exports.every_eval_ever(found.data, "1", "me"),
            lambda: [exports.model_index(found.data, arm) for arm in found.data["arms"]],
        ]
        each(readers)
        return Seen(found.data)

    def replaced() -> Seen:
        shutil.copytree(at.runs / "report", at.out, dirs_exist_ok=True)
        write_files(json.loads(at.files["report/report.json"]), at.out)
        return Seen("")

    def told() -> Seen:
        found, missing = [], []
        for record, root in results.find_records([at.runs]):
            try:
                found.append(results.build_experiment(record, root, Estimator()))
            except BenchError as error:
                one_line(error)
                missing.append(str(error))
        for one in found:
            missing += one["missing"]
            results.page_report(one) if one["report"] else None
        return Seen([ledger.experiment_markdown(one) for one in found], missing)

    return {
        "make_report": Reader(built, read),
        "make_report, written": Reader(wrote, read),
        "load_report": Reader(loaded, ("report",)),
        "report written over": Reader(replaced, ("report",), hashed=False),
        "claims": Reader(told, ("experiments",)),
        "claims of cells": Reader(told, ("experiments", *read)),
        **commands(at, {
            "bench report": (["report", "@", "--out", "#", "-q"], read),
            "bench report --terminal": (["report", "@", "--terminal"], read),
            "bench claims": (["claims", "@"], ("experiments", *read)),
            "bench export": (["export", "@/report", "--format", "model-index", "--out", "#"], ("report",)),
            "bench export eee": (["export", "@/report", "--format", "every-eval-ever", "--organization", "me",
                                  "--out", "#"], ("report",)),
            "bench power": (["power", "@", "--difference", "0.1"], read),
        }),
    }  # fmt: skip


def _plain(report: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in report.items() if name not in ("key", "manifest")}


def each(calls: Sequence[Callable[[], object]], said: Sequence[str] = ()) -> Seen:
    """All the calls, a BenchError of one not keeping the others from being made."""
    found: list[object] = []
    errors = list(said)
    for call in calls:
        try:
            found.append(call())
        except BenchError as error:
            one_line(error)
            errors.append(str(error))
    return Seen(found, errors)


def one_line(error: BenchError) -> None:
    if "\n" in str(error):
        raise Fault(f"an error of several lines: {error}")


def commands(at: Place, given: dict[str, tuple[Sequence[str], tuple[str, ...]]]) -> dict[str, Reader]:
    """Whole commands in this process; @ stands for the results folder, # for a folder to write to."""

    def reader(arguments: Sequence[str]) -> Callable[[], Seen]:
        words = [word.replace("@", str(at.runs)).replace("#", str(at.out)) for word in arguments]

        def call() -> Seen:
            ended = bench(*words)
            if ended.code not in (0, 2, 3):
                raise Fault(f"code {ended.code}: {ended.text[-2500:]}")
            if "\x1b" in ended.text:
                raise Fault(f"an escape sequence on the terminal: {ended.text[-300:]!r}")
            return Seen("", [ended.text] if ended.code else [])

        return call

    return {name: Reader(reader(words), kinds, False, True) for name, (words, kinds) in given.items()}
