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
from collections.abc import Callable, Iterator
from pathlib import Path

from common import save, small
from coverage_lines import Lines
from mutations import AS_IS, Change, Input, Mutator, loses_its_hash
from stored_readers import Fault, Place, Reader, Seen, record_readers, report_readers

import rlhf_bench
from rlhf_bench.harness.errors import BenchError

PACKAGE = Path(next(iter(rlhf_bench.__path__)))
SECONDS = 5.0
"""Of the processor, for one input."""
MEMORY = 8 * 2**30
"""Bytes of addresses of this process: a number of a file must not make a reader take more."""


class TooLongError(Exception):
    """More than SECONDS of the processor."""


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
                # `shutil.rmtree` opens what is in a folder by its name alone
                inner = isinstance(path, str) and os.sep not in path and not os.path.lexists(path)
                if isinstance(path, str | os.PathLike) and not inner:
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

    def tried_with(self, name: str, one: Input, traced: bool = True) -> dict[str, str]:
        """What is wrong with a reader over the changed files, by the place in the code."""
        reader, found = self.readers[name], dict[str, str]()
        contents = self.at.folder.contents(one, str(self.at.home))
        if all(content == self.at.files.get(file) for file, content in contents.items()):
            return found
        self.at.folder.apply(contents)
        self.watch.seen.clear()
        slow = False
        try:
            with self.lines.traced() if traced else contextlib.nullcontext(), limited():
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
        except BaseException as error:  # what comes out of a reader is what is looked for
            text = traceback.format_exc()
            found[where(text, name)] = text
            slow = traced and isinstance(error, TooLongError)
        finally:
            self.watch.on = False
            self.at.folder.restore()
            self.clean(reader)
        if slow:  # tracing takes time, too
            return self.tried_with(name, one, traced=False)
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
    import torch  # noqa: F401 - takes seconds, which must not count for the first input that needs it

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
