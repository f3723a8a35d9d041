"""Fuzzing of the readers of stored records and of reports, by changes of the real files of one small run.

    python benchmarks/faults/fuzz_records.py --minutes 3 [--only records|report] [--seed N] [--json FILE]

The run (tests/small.py, with PPO, best-of-n and tempered SFT) is made once.  An input is a few changes of its files
(`mutations.py`); an input that reaches lines of the package that none reached before is kept and changed further.

Properties: a reader returns, or raises one BenchError of one line, in less than 5 seconds of processor time; a command
ends with 0, 2 or 3 and without a traceback; no file outside of the folder is opened, listed or removed; what a hash of
a record covers and was changed is named, or has no effect.  Faults are counted once for each place in the code.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from common import bench, save, small
from coverage_lines import Lines
from mutations import AS_IS, Change, Folder, Input, Mutator, json_files, loses_its_hash

import rlhf_bench
from rlhf_bench.harness import store
from rlhf_bench.harness.api.reports import load_report, make_report
from rlhf_bench.harness.api.runs import plan, planned_stages
from rlhf_bench.harness.checks.results import check_results
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.models.placement import read_placement
from rlhf_bench.harness.pipeline import integrity
from rlhf_bench.harness.plan import experiments, request, stamps
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

PACKAGE = Path(next(iter(rlhf_bench.__path__)))
SECONDS = 5.0
"""Of the processor, for one input."""
MEMORY = 8 * 2**30
"""Bytes of addresses of this process: a number of a file must not make a reader take more."""
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


class TooLongError(Exception):
    """More than SECONDS of the processor."""


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


# -- readers -----------------------------------------------------------------------------------------------------------


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
        for path in at.runs.glob("*/*/*"):
            folder, name = path.parent, path.name
            part = path.stem.partition(".")[2]  # examples.test.jsonl
            if name.startswith("examples."):
                read.append(lambda folder=folder, part=part: read_examples(folder, part))
            elif name.startswith("pairs."):
                read.append(lambda folder=folder, part=part: read_pairs(folder, part))
            elif name == "generations.jsonl":
                read.append(lambda path=path: read_generations(path))
            elif name == "reward_model.json":
                read.append(lambda folder=folder: read_record(folder))
            elif name == "holding.json":
                read.append(lambda folder=folder: read_placement(folder))
        return each(read)

    def planned() -> Seen:
        request.finished(cells_of_plan, root)
        planned_stages(cells_of_plan.order, at.runs)
        return Seen(request.rough_seconds(cells_of_plan.order, root))

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
        rows = results.whole_ledger(found)
        for one in found:
            missing += one["missing"]
            results.page_report(one) if one["report"] else None
        return Seen(ledger.results_markdown(found, rows), missing)

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


# -- the search --------------------------------------------------------------------------------------------------------


class Watch:
    """What is opened, listed, removed or renamed outside of the folders that a reader may use."""

    EVENTS = frozenset({"open", "os.listdir", "os.scandir", "os.rename", "os.remove", "os.rmdir", "os.mkdir"})

    def __init__(self, at: Place) -> None:
        prefixes = {sys.prefix, sys.base_prefix, str(PACKAGE), str(Path(small.__file__).parents[1])}
        prefixes |= {os.path.realpath(one) for one in (*prefixes, sys.executable)}
        self.allowed = (*prefixes, str(at.runs), str(at.out), "/proc/", "/dev/", "/sys/")
        self.home, self.on, self.seen = str(at.home), False, list[str]()
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.on and event in self.EVENTS:
            for path in arguments[:2] if event == "os.rename" else arguments[:1]:
                if isinstance(path, str | os.PathLike):
                    # the real path, since a link or ".." may lead out
                    real = os.path.realpath(path)
                    if not real.startswith(self.allowed):
                        self.seen.append(f"{event} {real}")


class Search:
    """Readers, the inputs that reached something new for each, and what was found."""

    def __init__(self, at: Place, readers: dict[str, Reader], rng: random.Random) -> None:
        self.at, self.readers, self.rng = at, readers, rng
        self.mutator, self.lines, self.watch = Mutator(at.files, rng), Lines(PACKAGE), Watch(at)
        self.corpus: dict[str, list[Input]] = {name: [] for name in readers}
        self.tried, self.spent = Counter[str](), Counter[str]()
        self.faults: dict[str, str] = {}
        self.whole: dict[str, Seen] = {}
        for name, reader in readers.items():
            if not reader.copies:  # of a command nothing is compared
                self.whole[name] = reader.call()  # not traced: the first call hashes all code, which is cached then
                with self.lines.traced():
                    reader.call()
                self.clean(reader)
        self.kinds = {
            name: [kind for kind in self.mutator.names if kind.split("/")[0] in reader.kinds]
            for name, reader in readers.items()
        }
        self.start = self.lines.found

    def turn(self) -> None:
        """One input for the reader that had the least time so far."""
        name = min(self.readers, key=lambda name: self.spent[name])
        one = self.mutator.input(self.kinds[name], self.corpus[name])
        began, before = time.process_time(), self.lines.found
        found = self.tried_with(name, one)
        self.tried[name] += 1
        if self.lines.found > before:
            self.corpus[name].append(one)
        for place, text in found.items():
            if place not in self.faults:
                one = self.smaller(name, one, place)
                self.faults[place] = f"{name}\n{one.text()}\n{text[-2500:]}"
                print(f"FAULT {place}\n{self.faults[place]}\n", flush=True)
        self.spent[name] += max(time.process_time() - began, 0.0005)  # type: ignore[assignment]

    def smaller(self, name: str, one: Input, place: str) -> Input:
        """The input without the changes that the fault does not need."""
        for change in one.changes:
            less = one._replace(changes=tuple(other for other in one.changes if other is not change))
            if less.changes and place in self.tried_with(name, less):
                one = less
        return one

    def tried_with(self, name: str, one: Input) -> dict[str, str]:
        """What is wrong with a reader over the changed files, by the place in the code."""
        reader, found = self.readers[name], dict[str, str]()
        contents = self.at.folder.contents(one, str(self.at.home))
        if all(content == self.at.files.get(file) for file, content in contents.items()):
            return found
        self.at.folder.apply(contents)
        self.watch.seen.clear()
        try:
            with self.lines.traced(), limited():
                self.watch.on = True
                seen = reader.call()
                self.watch.on = False
            self.judge(name, one, contents, seen)
        except BenchError as error:
            if "\n" in str(error):
                found[f"{name}: an error of several lines"] = str(error)
        except Fault as fault:
            found[where(str(fault), name)] = str(fault)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # what comes out of a reader is what is looked for
            text = traceback.format_exc()
            found[where(text, name)] = text
        finally:
            self.watch.on = False
            self.at.folder.restore()
            self.clean(reader)
        return found | {f"{name}: {event.split()[0]} outside": event for event in self.watch.seen}

    def judge(self, name: str, one: Input, contents: dict[str, bytes | Change | None], seen: Seen) -> None:
        """Raises Fault for a sentence of several lines, and where what a hash covers was used silently."""
        reader = self.readers[name]
        if not reader.copies and any("\n" in sentence for sentence in seen.said):
            raise Fault(f"a sentence of several lines: {next(s for s in seen.said if chr(10) in s)!r}")
        if not reader.hashed or one.hashes != AS_IS or loses_its_hash(contents):
            return
        whole = self.whole[name]
        if set(seen.said) <= set(whole.said) and seen.value != whole.value:
            raise Fault(f"{name}: a changed value was used silently")
        if name == "check_results" and set(seen.said) <= set(whole.said) and not self.same(contents):
            raise Fault(f"{name}: a change was not named")

    def same(self, contents: dict[str, bytes | Change | None]) -> bool:
        """Whether the changes are of white space alone, in records whose content is hashed, or in no stage's file."""
        for file, content in contents.items():
            try:
                equal = isinstance(content, bytes) and json.loads(content) == json.loads(self.at.files[file])
            except (ValueError, RecursionError):
                equal = False
            record = file.endswith("/stage.json") or file.startswith("cells/")
            if not (equal and record) and file != "report/.files.json":
                return False
        return True

    def clean(self, reader: Reader) -> None:
        """Give back the folders that a reader may have written to."""
        if self.at.out.is_dir():
            shutil.rmtree(self.at.out)
        if reader.copies:
            shutil.rmtree(self.at.runs)
            shutil.copytree(self.at.whole, self.at.runs)


def where(text: str, name: str) -> str:
    """The innermost line of the package in a traceback, with the exception; without one the reader and the text."""
    lines = text.strip().split("\n")
    own = [line for line in lines if line.strip().startswith(f'File "{PACKAGE}') and "/benchmarks/" not in line]
    if not own:
        return f"{name}: {lines[0][:150]}"
    path, number = own[-1].split('"')[1], own[-1].split("line ")[1].split(",")[0]
    return f"{Path(path).relative_to(PACKAGE)}:{number} {lines[-1].split(':')[0][:60]}"


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Raise TooLongError after SECONDS of the processor, or 12 times that of the clock."""

    def end(number: int, frame: object) -> None:  # noqa: ARG001
        raise TooLongError(f"more than {SECONDS:.0f} s")

    timers = ((signal.ITIMER_PROF, signal.SIGPROF, SECONDS), (signal.ITIMER_REAL, signal.SIGALRM, 12 * SECONDS))
    for timer, number, seconds in timers:
        signal.signal(number, end)
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for timer, _, _ in timers:
            signal.setitimer(timer, 0)


GROUPS: dict[str, Callable[[Place], dict[str, Reader]]] = {"records": record_readers, "report": report_readers}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=3.0, help="how long to look for faults")
    parser.add_argument("--only", choices=list(GROUPS), help="one group of readers")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--store", type=Path, help="a finished run of this program, instead of making one")
    parser.add_argument("--json", type=Path, help="write the counts and the faults here")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.RLIM_INFINITY))
    with tempfile.TemporaryDirectory() as name:
        at = Place(Path(os.path.realpath(name)), options.store)
        os.chdir(at.home)
        readers = {}
        for group, make in GROUPS.items():
            readers |= make(at) if options.only in (None, group) else {}
        with contextlib.redirect_stderr(io.StringIO()):
            search = Search(at, readers, random.Random(options.seed))
        began, end = time.process_time(), time.monotonic() + 60 * options.minutes
        while time.monotonic() < end:
            search.turn()
        spent = round(time.process_time() - began)
        os.chdir("/")
    for reader, count in search.tried.items():
        print(f"{reader}: {count:,} inputs, {len(search.corpus[reader])} reached new lines")
    print(f"{search.lines.found - search.start} lines more than without changes; {len(search.faults)} faults")
    found = {"minutes": options.minutes, "seed": options.seed, "processor_seconds": spent}
    save(options.json, {**found, "tried": search.tried, "faults": search.faults})
    return 1 if search.faults else 0


if __name__ == "__main__":
    sys.exit(main())
