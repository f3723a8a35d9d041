"""Damage the files of a finished results folder, one at a time, and see whether each damage is named or has no effect.

    python benchmarks/faults/damage.py [--number 240] [--seed 0] [--repairs 10] [--store RUNS] [--json FILE]

The store is that of tests/small.py (every stage is real) with two reward models, about a hundred files.  Each is
damaged in one of six ways, then in a second, and so on.  Each time four commands run over a copy: `bench check store
--full`, `bench report`, `bench run` over finished results, and `bench run` where a proxy and a verdict stage have to be
computed again.  A damage is

- clean where each command ends with code 2 or 3 and names the stage, cell or file, or ends with 0 and the same numbers
  as without the damage (the file was not read, or was written again); `check store --full` must name it, but for files
  that hold nothing (locks) and changes of JSON's white space;
- failed otherwise: a traceback, another code, other numbers, or nothing named.

With --repairs, `bench run --repair` follows for some of them and must give the numbers of the undamaged run.
Exit code 1 where anything failed.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from common import Ended, bench, command, outcome, save, table

RMS = ("seq2seq-token", "scalar")
COLUMNS = ("tried", "clean", "named", "without effect", "failed")
REMADE = ("proxy/*scalar*", "verdicts/length-*scalar*")
"""Folders that the second run computes again: together they read most other stages."""


class Trial(NamedTuple):
    """A file below the store, and the damage done to it."""

    file: str
    way: str


def cut(path: Path, rng: random.Random, other: Path) -> None:  # noqa: ARG001
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(len(data))])


def flipped(path: Path, rng: random.Random, other: Path) -> None:  # noqa: ARG001
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def emptied(path: Path, rng: random.Random, other: Path) -> None:  # noqa: ARG001
    path.write_bytes(b"")


def deleted(path: Path, rng: random.Random, other: Path) -> None:  # noqa: ARG001
    path.unlink()


def replaced(path: Path, rng: random.Random, other: Path) -> None:  # noqa: ARG001
    shutil.copyfile(other, path)


def appended(path: Path, rng: random.Random, other: Path) -> None:
    data = other.read_bytes() or b"x"
    with path.open("ab") as file:
        file.write(data[: rng.randrange(1, len(data) + 1)])


WAYS: dict[str, Callable[[Path, random.Random, Path], None]] = {
    way.__name__: way for way in (cut, flipped, emptied, deleted, replaced, appended)
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=240, help="of damages")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repairs", type=int, default=10, help="how many of them are repaired, too")
    parser.add_argument("--store", type=Path, help="a finished store of this campaign, instead of making one")
    parser.add_argument("--json", type=Path, help="write counts and failures to this file")
    options = parser.parse_args()
    begun, rng = time.monotonic(), random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        # one path for all trials: it is in the command, and the command in the report
        runs, whole = Path(name) / "runs", Path(name) / "whole"
        if options.store:
            shutil.copytree(options.store, runs)
        made = bench(*command(runs, rms=RMS))
        if made.code:
            sys.exit(f"The run without damage ended with {made.code}: {made.text}")
        runs.rename(whole)
        campaign = Campaign(whole, runs)
        trials = list(planned(whole, options.number, rng))
        repaired = set(rng.sample(range(len(trials)), min(options.repairs, len(trials))))
        counts: dict[str, Counter[str]] = {way: Counter() for way in WAYS}
        failures, repairs = [], Counter[str]()
        for number, trial in enumerate(trials):
            seen = campaign.run(trial, rng, number in repaired)
            problems = [problem for problem in seen.values() if problem not in ("named", "without effect")]
            counts[trial.way]["tried"] += 1
            counts[trial.way]["failed" if problems else "clean"] += 1
            if not problems:
                counts[trial.way]["named" if "named" in seen.values() else "without effect"] += 1
            if number in repaired:
                repairs["failed" if seen["run --repair"] not in ("named", "without effect") else "clean"] += 1
            if problems:
                failures.append({**trial._asdict(), **seen})
                print(f"FAILED {trial.way} {trial.file}: {'; '.join(problems)}", flush=True)
    kinds = sorted({trial.file.partition("/")[0] for trial in trials})
    print(f"{len(trials)} damages of files in {', '.join(kinds)}; {time.monotonic() - begun:.0f} s\n")
    print(table("damage", counts, COLUMNS))
    print(f"\nrepaired: {repairs['clean'] + repairs['failed']} tried, {repairs['failed']} failed")
    details = {"ways": counts, "repairs": repairs, "files_in": kinds, "failures": failures}
    save(options.json, outcome("damage", counts, **details))
    return 1 if failures else 0


def planned(whole: Path, number: int, rng: random.Random) -> Iterator[Trial]:
    """`number` trials: every file in one way, then in a second, until there are enough."""
    files = sorted(path.relative_to(whole).as_posix() for path in whole.rglob("*") if path.is_file())
    files = [file for file in files if not file.startswith(".partial/driver-")]  # journals: no result depends on them
    order = {file: rng.sample(list(WAYS), len(WAYS)) for file in files}
    found = 0
    for turn in range(len(WAYS)):
        for file in rng.sample(files, len(files)):
            if found >= number:
                return
            # of an empty file nothing can be cut or changed
            way = order[file][turn]
            if way in ("cut", "flipped", "emptied") and not (whole / file).stat().st_size:
                continue
            found += 1
            yield Trial(file, way)


class Campaign:
    """Trials over copies of a finished store at `whole`; every copy lies at `runs`."""

    def __init__(self, whole: Path, runs: Path) -> None:
        self.whole, self.runs = whole, runs
        self.report = runs.with_name("report")
        self.files = [path for path in whole.rglob("*") if path.is_file()]
        shutil.copytree(whole, runs)
        self.reported()
        self.numbers = numbers(self.report / "report.json")

    def reported(self) -> Ended:
        shutil.rmtree(self.report, ignore_errors=True)
        return bench("report", str(self.runs), "--out", str(self.report), "-q")

    def run(self, trial: Trial, rng: random.Random, repair: bool) -> dict[str, str]:
        """What was seen of each command: "named", "without effect", or what is wrong."""
        self.damage(trial, rng)
        seen = {"check": self.checked(trial, bench("check", "store", str(self.runs), "--full"))}
        seen["report"] = self.judged(trial, self.reported(), self.report)
        damaged = self.runs.with_name("damaged")
        shutil.rmtree(damaged, ignore_errors=True)
        shutil.copytree(self.runs, damaged)
        arguments = command(self.runs, "-q", rms=RMS)
        seen["run"] = self.judged(trial, bench(*arguments), self.runs / "report")
        self.restore(damaged)
        for pattern in REMADE:
            for folder in self.runs.glob(pattern):
                shutil.rmtree(folder)
        seen["run with gaps"] = self.judged(trial, bench(*arguments), self.runs / "report")
        if repair:
            self.restore(damaged)
            ended = bench(*arguments, "--repair")
            same = ended.code == 0 and numbers(self.runs / "report" / "report.json") == self.numbers
            left = bench("check", "store", str(self.runs), "--full").code if same else 0
            problem = f"run --repair ended with {ended.code}, other numbers: {ended.text[-300:]}"
            seen["run --repair"] = "named" if same and not left else problem
        return seen

    def restore(self, source: Path) -> None:
        shutil.rmtree(self.runs, ignore_errors=True)
        shutil.copytree(source, self.runs)

    def damage(self, trial: Trial, rng: random.Random) -> None:
        """A fresh copy of the store with one damaged file, whose content differs from before."""
        self.restore(self.whole)
        path = self.runs / trial.file
        before = path.read_bytes()
        others = [other for other in self.files if other.read_bytes() not in (before, b"")]
        # of another stage, with the same name where there is one
        alike = [other for other in others if other.name == path.name]
        other = rng.choice(alike or others)
        WAYS[trial.way](path, rng, other)

    def checked(self, trial: Trial, ended: Ended) -> str:
        found = named(trial, ended)
        if found:
            return found
        # without its list of files a report is taken for one of an older version, and written again
        if trial.file.endswith((".lock", ".files.json")) or self.same_json(trial.file):
            return "without effect"
        return f"check store --full says nothing (code {ended.code})"

    def same_json(self, file: str) -> bool:
        try:
            return bool(
                file.endswith(".json")
                and json.loads((self.runs / file).read_bytes()) == json.loads((self.whole / file).read_bytes())
            )
        except (OSError, ValueError):
            return False

    def judged(self, trial: Trial, ended: Ended, report: Path) -> str:
        found = named(trial, ended)
        if found:
            return found
        if ended.code == 0:
            return "without effect" if numbers(report / "report.json") == self.numbers else "other numbers, code 0"
        return f"code {ended.code} without a name: {ended.text[-200:]}"


def named(trial: Trial, ended: Ended) -> str:
    """ "named" where the command says what is damaged; what is wrong for a traceback; else ""."""
    if ended.code == -1 or "Traceback" in ended.text:
        return f"traceback: {ended.text.strip()[-400:]}"
    parts = Path(trial.file)
    names = {trial.file, parts.parts[1] if len(parts.parts) > 2 else parts.stem}
    return "named" if ended.code in (2, 3) and any(name in ended.text for name in names) else ""


def numbers(path: Path) -> object:
    """What a report says, apart from its command and times."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return {name: value for name, value in found.items() if name not in ("key", "manifest")}


if __name__ == "__main__":
    sys.exit(main())
