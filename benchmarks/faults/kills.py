"""Interrupt small runs at random moments, let each finish, and compare its records with those of an undisturbed run.

    python benchmarks/faults/kills.py [--kills 200] [--seed 0] [--each 4] [--jobs 1] [--json FILE]

SIGKILL, SIGTERM and SIGINT in turn hit the process of `bench run` (tests/small.py: every stage is real) at a random
moment of what is left of it.  After every --each interruptions the same command runs to its end, and every file outside
of the report must equal that of the undisturbed run to the byte; of a stage's record all but its times, its memory and
the hash of itself; of the report all but its manifest and key.  Temporary files that a killed process left (their names
begin with a dot) are counted.  Every process is a fork of one that has imported torch: a start takes no seconds.

Exit code 1 where anything differs, or a run ends with another code than it must.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from common import command, outcome, save, table

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
RM = ("seq2seq-token",)
SAVES = {"sft.save_every": 1, "ppo.save_every": 1}
"""Checkpoints after every step: most interruptions then continue from one."""
TIMES = ("seconds", "cpu_seconds", "peak_memory_mb", "record_sha256")
COLUMNS = ("sent", "interrupted", "after its end", "wrong code")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="interruptions in all; signals that came late are more")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--each", type=int, default=4, help="signals to one run before it may finish")
    parser.add_argument("--jobs", type=int, default=1, help="of the runs that are interrupted")
    parser.add_argument("--json", type=Path, help="write counts and differences to this file")
    options = parser.parse_args()
    import torch  # noqa: F401 - before the first fork
    import trl  # noqa: F401

    rng, begun = random.Random(options.seed), time.monotonic()
    counts: dict[str, Counter[str]] = {number.name: Counter() for number in SIGNALS}
    differences, runs, kills, left_over = list[str](), 0, 0, 0
    with tempfile.TemporaryDirectory() as name:
        calm = Path(name) / "calm"
        start = time.monotonic()
        if finish(calm, 1):
            sys.exit("The undisturbed run failed.")
        whole = time.monotonic() - start
        wanted = records(calm)
        print(f"undisturbed: {whole:.1f} s", flush=True)
        while kills < options.kills:
            out, left = Path(name) / f"run{runs}", whole
            for at in range(options.each):
                number = SIGNALS[(runs * options.each + at) % len(SIGNALS)]
                seconds = rng.uniform(0, left)
                ended = interrupt(out, options.jobs, number, seconds)
                own = counts[number.name]
                own["sent"] += 1
                # a process that ends while the signal is on its way ends with 0
                own["interrupted" if ended in expected(number) else "after its end" if not ended else "wrong code"] += 1
                if ended and ended not in expected(number):
                    differences.append(f"run {runs}: {number.name} after {seconds:.2f} s ended it with {ended}")
                left = max(0.2, left - seconds)
                kills += ended in expected(number)
                if not ended:
                    break  # it ran to its end before the signal: nothing is left to interrupt
            code = finish(out, options.jobs)
            found = [f"run {runs}: {line}" for line in different(wanted, records(out))] if not code else []
            differences += found + ([f"run {runs} ended with {code}"] if code else [])
            left_over += temporary(out)
            runs += 1
            print(f"{kills} interruptions, {runs} runs, {len(differences)} differences", flush=True)
    total = sum(own["interrupted"] for own in counts.values())
    print(f"{total} interruptions of {runs} runs, {time.monotonic() - begun:.0f} s\n")
    print(table("signal", counts, COLUMNS))
    print(f"\n{left_over} temporary files were left")
    print("\n".join(differences[:50]) or "\nevery run equals the undisturbed one")
    # a difference is one of a run, after several signals: it counts for none of them
    kinds = {
        name: {"tried": own["sent"] - own["after its end"], "failed": own["wrong code"]} for name, own in counts.items()
    }
    kinds["finished runs"] = {"tried": runs, "failed": len({line.partition(":")[0] for line in differences})}
    details = {"counts": counts, "runs": runs, "temporary": left_over, "differences": differences}
    save(options.json, outcome("kills", kinds, **details))
    return 1 if differences else 0


def expected(number: signal.Signals) -> tuple[int, ...]:
    """Exit codes of an interrupted run: 130 for SIGINT, as a shell reports it; the signal where nothing caught it."""
    return (130, -number) if number == signal.SIGINT else (-number,)


def start(out: Path, jobs: int) -> int:
    """Fork a process that is `bench run`; returns its id.  It leads a group, as a command in a shell does."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.setsid()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        # what it says goes to a file beside the results, for a look at failures
        os.dup2(os.open(f"{out}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        sys.argv = ["bench", *command(out, "-q", "--jobs", str(jobs), rms=RM, **SAVES)]
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from rlhf_bench.harness.cli.main import main as bench

        bench()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except KeyboardInterrupt:
        code = 130  # before `main` could catch it
    finally:
        os._exit(code)


def interrupt(out: Path, jobs: int, number: signal.Signals, seconds: float) -> int:
    """Start the run and send a signal after so many seconds; its exit code, or minus the signal that ended it."""
    process = start(out, jobs)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(process, number)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def finish(out: Path, jobs: int) -> int:
    """Run to the end; the exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(start(out, jobs), 0)[1])


def records(out: Path) -> dict[str, object]:
    """What a finished store holds, by file: bytes, and of records what does not depend on time."""
    found: dict[str, object] = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        name = path.relative_to(out).as_posix()
        if path.name.startswith((".", "driver-")) or name.endswith(".lock"):
            continue  # `temporary` counts the first; a journal says when and by whom; a lock is empty
        if name == "report/report.json":
            whole = json.loads(path.read_bytes())
            found[name] = {key: value for key, value in whole.items() if key not in ("key", "manifest")}
        elif name.startswith("report/tables/") or not name.startswith("report/"):
            data = path.read_bytes()
            if path.name == "stage.json":
                found[name] = {key: value for key, value in json.loads(data).items() if key not in TIMES}
            else:
                found[name] = data
    return found


def temporary(out: Path) -> int:
    """The number of files that were being written when their process was killed."""
    known = {".files.json"}
    return sum(path.is_file() and path.name.startswith(".") and path.name not in known for path in out.rglob("*"))


def different(wanted: dict[str, object], found: dict[str, object]) -> list[str]:
    names = sorted({*wanted, *found})
    return [
        f"{name} {'is missing' if name not in found else 'is new' if name not in wanted else 'differs'}"
        for name in names
        if wanted.get(name) != found.get(name)
    ]


if __name__ == "__main__":
    sys.exit(main())
