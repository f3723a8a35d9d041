"""Whether today's code computes the stored results as well: both codes run every arm, small, on one machine.

    python benchmarks/same_outputs.py --before COMMIT --work FOLDER [--experiment NAME ...] [--jobs 2]

A change of code makes the results of every stage that it touches stale, also a change that alters no number.  A rerun
of one seed at full size shows which of the two it is (`bench claims --confirm`), but it takes hours, and floating-point
results of another kind of processor differ.  This script runs one seed of every arm of an experiment twice on this
machine, under COMMIT, of which the stored results must be, and under the checkout that it lies in, with the settings
SIZE: fewer steps, iterations and examples.  Where responses, rewards and verdicts are the same to the last bit, the
experiment's file says so, and its results are no longer stale.

What it cannot show: a difference that begins after the first iterations or beyond the first examples.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.plan import experiments
from rlhf_bench.harness.replacing import write_text
from rlhf_bench.harness.results import outputs, result_files
from rlhf_bench.reports.build import git_commit

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "results"
SIZE = {"sft": {"steps": "60"}, "ppo": {"iterations": "3"}, "data": {"limit": "96"}}
"""Settings by hand of both runs."""
NOTE = (
    "one seed of every arm under both codes on one machine, with 60 SFT steps, 3 iterations and 96 examples of a split"
)

RUN = """
import json, sys
from pathlib import Path
from rlhf_bench.harness import store
from rlhf_bench.harness.api import experiments as api
from rlhf_bench.harness.api.runs import make_machine
from rlhf_bench.harness.pipeline import integrity
from rlhf_bench.harness.plan import experiments
from rlhf_bench.harness.results import outputs
name, seeds, settings, out, jobs = json.loads(sys.argv[1])
planned = api.plan_experiment(name, seeds, settings, "tiny", "", Path(out))
failure = api.compute_experiment(planned, make_machine(True, jobs, 1, "cpu"), "")
if failure:
    sys.exit(str(failure))
record = integrity.unsealed(store.read_json(experiments.record_path(Path(out), name)))
print(json.dumps(outputs.outputs(record, Path(out))))
"""
STAMP = """
import json, sys
from pathlib import Path
from rlhf_bench.harness.plan import stamps
from rlhf_bench.harness.results import result_files
file = result_files.read(Path(sys.argv[1]))
found = stamps.stale({file.name: result_files.stamp_of(file)})
print(json.dumps([result_files.plain(file.stamp), found]))
"""


def under(checkout: Path, code: str, *arguments: str) -> Any:
    """What `code` prints as JSON, run with the package of a checkout.  Raises BenchError where it fails."""
    environment = {**os.environ, "PYTHONPATH": str(checkout / ".src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise BenchError(f"{checkout} failed with exit code {done.returncode}.", "See the lines above.")
    return json.loads(done.stdout)


def worktree(commit: str, work: Path) -> Path:
    """A checkout of the commit below `work`."""
    folder = work / "before"
    if not folder.exists():
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", folder, commit], cwd=ROOT, check=True)
    return folder


def compared(name: str, before: Path, work: Path, jobs: int) -> outputs.Outputs | list[str]:
    """What both codes wrote, or why the stored results are not confirmed."""
    file = result_files.read(PAGES / f"{name}.json")
    stamp, stale = under(before, STAMP, str(before / "docs" / "results" / f"{name}.json"))
    if stale or stamp != result_files.plain(file.stamp):
        return [f"{name}: the stored results are not of the commit before"]
    seeds = [int(str(file.seeds[0]).split()[0])]
    found = []
    for label, checkout in (("old", before), ("new", ROOT)):
        print(f"{name}: {label} {datetime.now(UTC):%H:%M:%S}", file=sys.stderr, flush=True)
        found.append(under(checkout, RUN, json.dumps([name, seeds, SIZE, str((work / label).resolve()), jobs])))
    problems = outputs.unlike(*found)
    return [f"{name}: {problem}" for problem in problems] or found[0]


def confirm(name: str, both: outputs.Outputs) -> None:
    """Write into NAME.json that today's code wrote the same."""
    file = result_files.read(PAGES / f"{name}.json")
    made = result_files.confirmed(file, both, git_commit(), NOTE)
    write_text(PAGES / f"{name}.json", result_files.text(made))


def main() -> int:
    """Compare, confirm, and say what differs; exit code 1 where anything does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", required=True, help="the commit of the stored results")
    parser.add_argument("--work", required=True, type=Path, help="a folder for the runs, which continue there")
    parser.add_argument(
        "--experiment", action="append", choices=list(experiments.packaged()), help="repeat; default: all"
    )
    parser.add_argument("--jobs", type=int, default=2)
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    before, problems = worktree(asked.before, asked.work), []
    for name in asked.experiment or sorted(result_files.read_folder(PAGES)):
        try:
            found = compared(name, before, asked.work, asked.jobs)
        except BenchError as error:
            found = [f"{name}: {error}"]
        if isinstance(found, list):
            problems += found
            print(*found, sep="\n", flush=True)
        else:
            confirm(name, found)
            print(f"{name}: {sum(map(len, found.values()))} cells and analyses are the same", flush=True)
    print("Now write the page again: bench claims --out docs/results.md")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
