"""Folders of someone else that attack whoever opens them: what their files name is not run, and nothing leaves.

    python benchmarks/faults/hostile.py [--only TEXT] [--every 1] [--seconds 60] [--json FILE]

Files of the name hostile_*.py list the folders.  Every folder is built beside a module that leaves a file
when it is imported, a secret (a file outside of the folder, and an environment variable), and a finished run.  Commands
then open it, each in a process of its own with a limit of time and of memory.  A folder is

- clean where each command ends with code 0, or with 2 or 3 and one line that says why (`bench check`: 1), and no canary
  was touched;
- failed otherwise: code of the folder ran, a program was started, a connection was opened, the secret stands in what
  was printed or written, something outside was changed, a page of a report has an element or a handler that is not its
  own, what was printed holds control characters, a traceback, another code, or a limit was passed.

Exit code 1 where anything failed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

from common import bench, outcome, save, table
from hostile_folders import SECRET, Folder, folders, stock_of
from hostile_place import EVIL, Place

from rlhf_bench.harness import api
from rlhf_bench.harness.plan import patterns

MEMORY = 6 * 2**30
"""Bytes that a command may take on top of what this process has."""
VET = "rlhf_bench.harness.text.vet"
"""A program that a command may start: it tries templates and tokenizers within bounds."""
PATTERNS = patterns.CHILD
"""Another: it tries an adapter's regular expressions."""
STRANGERS = ("img", "iframe", "object", "embed", "video", "audio", "link", "base", "math", "template", "form")
"""Elements that no page of a report has, but for one form, of its controls (reports/page.html)."""
OWN_SCRIPTS = 2


class Ended(NamedTuple):
    """Exit code (None: ended from outside, at a limit), what was printed, seconds."""

    code: int | None
    text: str
    seconds: float


def watched(place: Place) -> None:
    """From here on this process leaves a canary when it starts a program, connects, or unpickles a callable."""

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        said = ""
        if event == "subprocess.Popen":
            command = [str(part) for part in arguments[1]]
            own = VET in command or PATTERNS in command or command[0] == "git"
            said = "" if own else f"started {command}"
        elif event in ("os.system", "os.exec", "os.posix_spawn"):
            said = f"{event} {arguments}"
        elif event == "socket.connect" and isinstance(arguments[1], tuple):
            said = f"connected to {arguments[1]}"
        elif event == "pickle.find_class" and str(arguments[0]) in ("os", "posix", "builtins", "subprocess", "evil"):
            said = f"unpickled {arguments}"
        if said:
            with (place.home / "sentinel").open("a") as file:
                file.write(f"{said[:300]}\n")

    sys.addaudithook(look)


def child(place: Place, folder: Folder, line: str, log: Path) -> int:
    """What a forked process does; its exit code."""
    os.setsid()
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT), 1)
    os.dup2(1, 2)
    os.environ.update(HF_HUB_OFFLINE="1", HF_HOME=str(place.home / "cache"), HF_TOKEN=SECRET)
    where = place.home / folder.cwd
    os.chdir(where)
    arguments = shlex.split(line)
    if folder.fresh:  # as `bench` starts: the current folder is not on the path
        own = [sys.executable, "-P", "-m", "rlhf_bench.harness", *arguments]
        path = Path(api.__file__).parents[3]
        more = {"PYTHONPATH": str(path)} if (path / "rlhf_bench").exists() else {}
        return subprocess.run(own, check=False, env={**os.environ, **more}).returncode
    sys.path.insert(0, str(place.home))
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    watched(place)
    if line.startswith("api."):
        from rlhf_bench.harness.errors import BenchError

        try:
            print(ascii(getattr(api, arguments[0].removeprefix("api."))(*arguments[1:])))
        except BenchError as error:
            print(f"Error: {error}")
            return 2
        return 0
    code, text = bench(*arguments)
    print(text, flush=True)
    return code


def run(place: Place, folder: Folder, line: str, limit: float) -> Ended:
    """Run a command over a folder in a fork of this process, which has imported torch."""
    log, began = place.home / "log", time.monotonic()
    log.unlink(missing_ok=True)
    process = os.fork()
    if not process:
        code = 99
        try:
            code = child(place, folder, line, log) % 256
            sys.stdout.flush()
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)
    ended: int | None = None
    used, changed = 0.0, began
    while ended is None and used < limit and time.monotonic() - changed < limit:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            ended = os.waitstatus_to_exitcode(status)
            break
        time.sleep(0.02)
        now = processor_seconds(process)
        if now > used:
            used, changed = now, time.monotonic()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)  # what it started, too
    if ended is None:
        os.waitpid(process, 0)
    text = log.read_bytes().decode("utf-8", "replace") if log.exists() else ""
    log.unlink(missing_ok=True)
    return Ended(ended, text, time.monotonic() - began)


def processor_seconds(group: int) -> float:
    """Seconds of the processor that the processes of a group have used so far; of those that ended, their parent's."""
    found = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        if int(fields[2]) == group:
            found += sum(map(int, fields[11:15]))
    return found / os.sysconf("SC_CLK_TCK")


class Page(HTMLParser):
    """Counts what a report's page has none of; the text of an escaped payload is neither tag nor attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts, self.strange = 0, list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        handlers = [name for name, _ in attrs if name.startswith("on")]
        own_form = tag == "form" and attrs == [("class", "controls"), ("hidden", None)]
        if (tag in STRANGERS and not own_form) or handlers or (tag == "script" and dict(attrs).get("src")):
            self.strange.append(f"<{tag} {' '.join(handlers)}>")


def wrong(place: Place, line: str, ended: Ended, before: dict[Path, tuple[int, int]], outside: object) -> str:
    """What is wrong with how a command ended; "" where it is clean."""
    if ran := next(place.home.rglob("sentinel"), None):
        return f"a canary was touched: {ran.read_text() or ran.parent.name}"
    if ended.code is None:
        return f"ended at a limit after {ended.seconds:.0f} s"
    if SECRET in ended.text:
        return "the secret was printed"
    if place.state() != outside:
        return "something outside was changed"
    for path, stamp in files(place.home).items():
        if stamp != before.get(path):
            content = path.read_bytes()
            if SECRET.encode() in content:
                return f"the secret stands in {path.relative_to(place.home)}"
            if path.suffix == ".html" and (fault := page_fault(content.decode())):
                return f"{path.name} has {fault}"
    if "Traceback" in ended.text or ended.code not in (0, 2, 3, *([1] if line.startswith("check ") else [])):
        return f"code {ended.code}: {ended.text.strip()[-300:]}"
    if odd := {one for one in ended.text if not one.isprintable() and one not in "\n\t"}:
        return f"printed {sorted(odd)!a}"
    errors = [said for said in ended.text.splitlines() if said.startswith("Error: ")]
    return f"{len(errors)} lines of errors" if ended.code == 2 and len(errors) != 1 else ""


def files(home: Path) -> dict[Path, tuple[int, int]]:
    """Time and size of the regular files below a folder but those outside of the hostile one; no link is followed."""
    found = {}
    for top, names, here in os.walk(home):
        if Path(top) == home:
            names[:] = [name for name in names if name != "outside"]
        for path in (Path(top, name) for name in here):
            if path.is_file() and not path.is_symlink():
                found[path] = (path.stat().st_mtime_ns, path.stat().st_size)
    return found


def page_fault(text: str) -> str:
    page = Page()
    page.feed(text)
    return "; ".join([*page.strange[:3], *([f"{page.scripts} scripts"] if page.scripts != OWN_SCRIPTS else [])])


def tried(folder: Folder, stock: Path, limit: float) -> dict[str, str]:
    """What came of each command over a folder: "" for clean, else what is wrong."""
    found = {}
    for line in folder.lines:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
            place = Place(Path(name).resolve())
            place.outside.mkdir()
            (place.outside / "secret").write_text(SECRET)
            (place.home / "evil.py").write_text(EVIL)
            folder.build(place, stock)
            before, outside = files(place.home), place.state()
            found[line] = wrong(place, line, run(place, folder, line, limit), before, outside)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="folders whose kind or name holds this text")
    parser.add_argument("--every", type=int, default=1, help="of each kind the first, and every so many after it")
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="limit of one command: of the processor, or of waiting"
    )
    parser.add_argument("--json", type=Path, help="write counts and failures to this file")
    options = parser.parse_args()
    import peft  # noqa: F401 - before the first fork
    import torch
    import trl  # noqa: F401

    torch.set_num_threads(1)
    begun, counts, failures, commands = time.monotonic(), dict[str, Counter[str]](), [], 0
    with tempfile.TemporaryDirectory() as name:
        stock = stock_of(Path(name))
        number = Counter[str]()
        for folder in folders():
            number[folder.kind] += 1
            if options.only not in f"{folder.kind}: {folder.name}" or (number[folder.kind] - 1) % options.every:
                continue
            seen = tried(folder, stock, options.seconds)
            commands += len(seen)
            faults = {line: fault for line, fault in seen.items() if fault}
            own = counts.setdefault(folder.kind, Counter())
            own["tried"] += 1
            own["failed" if faults else "clean"] += 1
            for line, fault in faults.items():
                failures.append({"kind": folder.kind, "name": folder.name, "line": line[:120], "fault": fault})
                print(f"FAILED {folder.kind}: {folder.name}: {line[:80]}: {fault}", flush=True)
    print(f"{commands} commands over hostile folders; {time.monotonic() - begun:.0f} s\n")
    columns = ("tried", "clean", "failed")
    print(table("hostile folders", counts, columns))
    save(options.json, outcome("hostile", counts, commands=commands, every=options.every, failures=failures))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
