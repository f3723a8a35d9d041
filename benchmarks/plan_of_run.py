"""The plan of memory and time against what the stages of a finished experiment took.

    python benchmarks/plan_of_run.py NAME RUNS --policy FOLDER [--seeds SEEDS] [--set GROUP.KEY=VALUE ...]

Plans the experiment again, with the same policy and settings, and reads from RUNS what its stages took: the most memory
of the process, which on a CPU is a worker that has run other stages before, and processor seconds.  Nothing is
computed, except that the policy's speed is measured where this machine does not know it yet.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlhf_bench.harness import store
from rlhf_bench.harness.api import experiments as api
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.models.policies import pick_device
from rlhf_bench.harness.plan.run_costs import Planner, seconds_of
from rlhf_bench.harness.presets import parse_seeds
from rlhf_bench.harness.results.table import Cell, Entry, Table
from rlhf_bench.reports.markdown import table_lines

COLUMNS = ("stage", "of them", "memory planned, MiB", "measured", "ratio", "time planned, s", "measured", "ratio")
NOTE = "Memory: the largest of the stages of a kind. Time: their mean, of one thread. Ratio: planned over measured."


@dataclass
class Kind:
    """Stages of one kind: bytes and seconds of each, planned and measured."""

    planned: list[float] = field(default_factory=list)
    measured: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    took: list[float] = field(default_factory=list)


def kinds(planned: api.ExperimentPlan, jobs: int) -> dict[str, Kind]:
    """The finished stages that compute with a model, by name; a stage that runs share counts once."""
    root, found, seen = store.Store(planned.out), dict[str, Kind](), set[str]()
    speeds = None
    for made in planned.made.plans.values():
        policy = made.cells[0].stages["sft"].params["policy"]["source"]
        # experiments give each job one thread
        planner = Planner.of(made, policy, pick_device(""), 1, jobs=jobs, speeds=speeds)
        speeds = planner.speeds
        for stage in made.order:
            if stage.key in seen or not stage.done(root):
                continue
            seen.add(stage.key)
            record = json.loads((stage.folder(root) / store.MARKER).read_text(encoding="utf-8"))
            cost = planner.plan(stage)
            if not cost.work.loaded or record["peak_memory_mb"] is None:
                continue
            task = str(stage.params["task"]["name"]) if "task" in stage.params else made.cells[0].task
            own = found.setdefault(f"{task} {cost.kind} {cost.detail}".strip(), Kind())
            own.planned.append(cost.peak.bytes / 2**20)
            own.measured.append(record["peak_memory_mb"])
            own.seconds.append(seconds_of(cost, planner.speeds))
            own.took.append(record["cpu_seconds"])
    return found


def rows(found: dict[str, Kind]) -> Iterator[tuple[Entry, ...]]:
    """One row a kind: the largest memory, the mean time."""
    for name, own in found.items():
        memory, took = max(own.measured), sum(own.took) / len(own.took)
        planned, seconds = max(own.planned), sum(own.seconds) / len(own.seconds)
        yield (
            name,
            Cell(len(own.took), format="count"),
            Cell(round(planned), format="count"),
            Cell(round(memory), format="count"),
            Cell(planned / max(1.0, memory)),
            Cell(round(seconds), format="count"),
            Cell(round(took), format="count"),
            Cell(seconds / took) if took >= 1 else "–",
        )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the experiment")
    parser.add_argument("runs", type=Path, help="its results folder")
    parser.add_argument("--policy", default="")
    parser.add_argument("--preset", default="")
    parser.add_argument("--seeds", default="", help="default: the experiment's")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="as in the run; default: one per core")
    parser.add_argument("--set", action="append", default=[], metavar="GROUP.KEY=VALUE")
    given = parser.parse_args(arguments)
    assigned: dict[str, dict[str, str]] = defaultdict(dict)
    try:
        for text in given.set:
            group, dot, rest = text.partition(".")
            key, equals, value = rest.partition("=")
            if not (dot and equals):
                raise BenchError(f"--set {text!r} is not GROUP.KEY=VALUE.")
            assigned[group][key] = value
        seeds = parse_seeds(given.seeds) if given.seeds else ()
        planned = api.plan_experiment(given.name, seeds, assigned, given.policy, given.preset, given.runs)
        found = kinds(planned, given.jobs)
        if not found:
            raise BenchError(f"{given.runs} has no finished stage of this plan.", "Give the settings of the run.")
    except BenchError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
    print("\n".join(table_lines(Table("The plan against a run", COLUMNS, list(rows(found)), NOTE))))


if __name__ == "__main__":
    main()
