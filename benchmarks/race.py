"""Engines that take turns: each makes one step while the others wait, so that whatever the machine does hits all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent

Command = Sequence[str]


def start(command: Command, threads: int, sources: Path | None = None) -> subprocess.Popen[str]:
    """An engine, ready to step.  `sources`: an earlier state of this repository to import instead of the installed."""
    own = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    path = {"PYTHONPATH": str(sources / ".src")} if sources else {}
    process = subprocess.Popen(
        [*command, f"--threads={threads}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **own, **path},
    )
    answer(process)
    return process


def answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The next line that is an answer: libraries print too."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith('{"'):
            row: dict[str, Any] = json.loads(line)
            return row
    raise RuntimeError(f"An engine ended: {process.args!r}; run it by hand to see why.")


def step(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return answer(process)


def race(
    engines: Mapping[str, Command], threads: int, rounds: int, sources: Mapping[str, Path] | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Rows of every engine, one per round after a round of warming up; the order turns around from round to round."""
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in engines}
    with ExitStack() as stack:
        running = {}
        for name, command in engines.items():
            running[name] = stack.enter_context(start(command, threads, (sources or {}).get(name)))
            stack.callback(running[name].kill)
        for number in range(rounds + 1):
            for name in list(running)[:: 1 if number % 2 else -1]:
                row = step(running[name])
                if number:
                    rows[name].append(row)
    return rows


def ratio(over: Sequence[Mapping[str, Any]], under: Sequence[Mapping[str, Any]], what: str = "wall") -> float:
    """Median over the pairs of rounds of `over`'s figure to `under`'s."""
    return median(a[what] / b[what] for a, b in zip(over, under, strict=True))


def own(*flags: str, folder: Path = HERE) -> list[str]:
    return [sys.executable, str(folder / "engine_own.py"), *flags]


def trl(python: str, *flags: str) -> list[str]:
    return [python, str(HERE / "engine_trl.py"), *flags]


def in_process(threads: int, code: str, timeout: int = 600) -> Any:
    """The JSON that a statement prints last, in a fresh process with its own number of threads."""
    set_up = f"import sys, json; sys.path.insert(0, {str(HERE)!r})\n"
    set_up += "from rlhf_bench.harness.pipeline import machine\n"
    set_up += f"machine.set_threads({threads}); machine.quiet_libraries()\n"
    done = subprocess.run(
        [sys.executable, "-c", set_up + code], capture_output=True, text=True, timeout=timeout, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.strip().splitlines()[-1])
