"""All measurements of speed: writes benchmarks/results.json and docs/performance.md.

    python benchmarks/performance.py [--trl PYTHON] [--before REV] [--suite FOLDER] [--policy FOLDER] [--quick]

Ratios are of engines that take turns in one run, medians over pairs of steps.  `--trl` is the Python of an environment
with trl==1.12.0 (without it that part says that it was not run); `--before` an earlier commit to race against.
`--policy` is a pretrained model's folder, for the part `real`, which stays as it was without it.
`--suite` is a folder of `bench experiment headline`, whose stages' seconds are summed; with `--page` nothing is
measured, and only the page is written anew (and the suite's sums).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import suite
from peer_model import Sizes
from perf_page import page
from race import in_process, own, race, ratio, trl
from real_model import measure as measure_real

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
EQUAL, VARYING = Sizes(), Sizes(response=128, mean=51)
RESULTS = HERE / "results.json"
UNFINISHED = HERE / "results.partial.json"
"""What was measured so far; deleted at the end."""


def ppo_races(python: str | None, before: Path | None, rounds: int) -> dict[str, Any]:
    """Every engine at equal and varying lengths on one and two threads."""
    found = {}
    for threads in (1, 2):
        for kind, sizes in (("equal", EQUAL), ("varying", VARYING)):
            flags = sizes.flags()
            engines = {
                "own": own(*flags),
                "own, bfloat16": own(*flags, "--dtype=bfloat16"),
                "own, critic on the trunk": own(*flags, "--critic=trunk"),
                "own, fastest": own(*flags, "--critic=trunk", "--dtype=bfloat16"),
            }
            if python:
                engines["TRL"] = trl(python, *flags)
                engines["TRL, strongest"] = trl(python, *flags, "--strong")
            if before:
                # the earlier commit's own script: names of modules may have changed since
                engines["before"] = own(*flags, folder=before / "benchmarks")
            print(f"racing: {kind} lengths, {threads} threads", flush=True)
            rows = race(engines, threads, rounds, {"before": before} if before else {})
            found[f"{kind}, {threads}"] = summary(rows, sizes)
    return found


def summary(rows: dict[str, list[dict[str, Any]]], sizes: Sizes) -> dict[str, Any]:
    """Samples a second, seconds by phase, and the ratio of our speed to every other's."""
    figures: dict[str, Any] = {}
    for name, steps in rows.items():
        figures[name] = {"samples_per_second": sizes.batch / median(step["wall"] for step in steps)}
        if "phases" in steps[0]:
            phases = steps[0]["phases"]
            figures[name]["phases"] = {phase: median(step["phases"][phase] for step in steps) for phase in phases}
            figures[name]["times_own"] = ratio(rows["own"], steps)
        for rival in ("TRL", "TRL, strongest", "before"):
            if rival in rows and rival != name:
                figures[name][f"times {rival}"] = ratio(rows[rival], steps)
    return figures


def generation(rounds: int) -> dict[str, Any]:
    print("generation", flush=True)
    found = {}
    for threads in (1, 2):
        for kind, sizes in (("equal", EQUAL), ("varying", VARYING)):
            code = f"from perf_generate import *; print(json.dumps(compare({sizes!r}, {rounds})))"
            found[f"{kind}, {threads}"] = in_process(threads, code)
    return found


def scoring(rounds: int) -> dict[str, Any]:
    print("scoring", flush=True)
    sizes = Sizes(response=64)
    code = "from perf_scoring import *; print(json.dumps(compare({!r}, {}, {})))"
    return {str(rows): in_process(1, code.format(sizes, rows, rounds)) for rows in (1, 32)}


def growth(rounds: int) -> Any:
    print("growth", flush=True)
    return in_process(1, f"from perf_growth import *; print(json.dumps(grow({rounds})))")


def floors() -> dict[str, float]:
    return {
        str(threads): in_process(
            threads, f"from perf_flop import *; print(json.dumps(gemm_speed({EQUAL!r}, {threads})))"
        )
        for threads in (1, 2)
    }


def default_cell(quick: bool) -> Any:
    print("the default cell", flush=True)
    small = ("dialogsum.demonstrations=48", "dialogsum.train_pairs=24", "dialogsum.train_prompts=24", "sft.steps=6")
    sets = [f"--set={pair}" for pair in (*small, "ppo.iterations=3", "ppo.checkpoints=1")] if quick else []
    code = "import sys; sys.argv[1:] = {!r}\nfrom default_cell import main; main()"
    return in_process(1, code.format(sets), timeout=900)


def learning(quick: bool) -> Any:
    """The learning speed with today's defaults and with those before; None where the run is quick."""
    if quick:
        return None
    print("learning speed", flush=True)
    return in_process(1, "from learning_speed import *; print(json.dumps(compare(50)))", timeout=1800)


def jobs(quick: bool) -> dict[str, float]:
    """Cells a minute of four equal cells by number of jobs, without what they share (none)."""
    print("jobs", flush=True)
    sizes = {"sft.steps": 60, "ppo.iterations": 4, "ppo.checkpoints": 1, "eval.prompts": 32, "ppo.scale_prompts": 32}
    sets = [text for name, value in sizes.items() for text in ("--set", f"{name}={value}")]
    seeds = 2 if quick else 4
    found = {}
    for count in (1, 2):
        with tempfile.TemporaryDirectory() as out:
            command = ["run", "--task", "dialogsum", "--rm", "length-only", "--seeds", str(seeds), "--out", out]
            begun = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "rlhf_bench.harness", *command, "--jobs", str(count), *sets],
                capture_output=True,
                check=True,
            )
            found[str(count)] = 60 * seeds / (time.perf_counter() - begun)
    return found


def report() -> Any:
    """Seconds and memory of `bench report` by the number of cells, the first time and again."""
    print("reports", flush=True)
    command = [sys.executable, str(HERE / "reading.py"), "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.strip().splitlines()[-1])


KEPT = ("default_cell", "suite", "report", "learning")
"""What the page shows of the results before these as well."""


def earlier(before: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of earlier results that stay; those that these results lack are those before them."""
    older = before.get("earlier", {})
    return {name: before.get(name) or older.get(name) for name in KEPT if before.get(name) or older.get(name)}


def with_suite(results: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The results with the sums of a headline experiment; another one that they had becomes the one before."""
    found = suite.summary(folder)
    old = results.get("suite")
    kept = {**results.get("earlier", {}), **({"suite": old} if old and old != found else {})}
    return {**results, "suite": found, "earlier": kept}


def stored() -> dict[str, Any]:
    """The results that stand there; {} for none."""
    found: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    return found


def start_up() -> float:
    """Median seconds of `bench --help`."""
    seconds = []
    for _ in range(7):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-m", "rlhf_bench.harness", "--help"], capture_output=True, check=True)
        seconds.append(time.perf_counter() - begun)
    return median(seconds)


@contextmanager
def sources_of(revision: str) -> Iterator[Path | None]:
    """An earlier state of this repository, unpacked."""
    if not revision:
        yield None
        return
    with tempfile.TemporaryDirectory() as name:
        packed = subprocess.run(["git", "archive", revision], cwd=ROOT, capture_output=True, check=True).stdout
        subprocess.run(["tar", "-x", "-C", name], input=packed, check=True)
        yield Path(name)


def machine() -> dict[str, Any]:
    import torch
    import transformers

    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    return {
        "processor": ", ".join(sorted(names)) or platform.processor(),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def measured(given: argparse.Namespace, before: dict[str, Any]) -> dict[str, Any]:
    """The results with all parts measured anew, or those of --parts; every part is kept as soon as it is measured.

    A part that fails after half an hour must not take the others with it.
    """
    rounds = 1 if given.quick else 3
    begun = time.perf_counter()
    kept = {"real": before["real"]} if "real" in before else {}
    results = {**before} if given.parts else {"earlier": earlier(before), **kept}
    if not given.parts:
        results |= {"machine": machine(), "quick": given.quick, "before": given.before}

    def keep_real(found: dict[str, Any]) -> None:
        UNFINISHED.write_text(json.dumps({**results, "real": found}, indent=1) + "\n", encoding="utf-8")

    with sources_of(given.before) as sources:
        parts: dict[str, Callable[[], Any]] = {
            "gemm": floors,
            "ppo": lambda: ppo_races(given.trl, sources, rounds),
            "generation": lambda: generation(2 * rounds),
            "scoring": lambda: scoring(2 * rounds + 1),
            "growth": lambda: growth(rounds),
            "jobs": lambda: jobs(given.quick),
            "default_cell": lambda: default_cell(given.quick),
            "learning": lambda: learning(given.quick),
            "report": report,
            "help_seconds": start_up,
        }
        if given.policy:
            parts["real"] = lambda: measure_real(given.policy, given.trl, given.quick, given.real_threads, keep_real)
        for name, measure in parts.items():
            if not given.parts or name in given.parts.split(","):
                if given.parts and name in KEPT and name in before:  # what is not measured keeps its own past
                    results["earlier"] = {**results.get("earlier", {}), name: before[name]}
                results[name] = measure()
                UNFINISHED.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if given.parts:
        results["renewed"] = {"parts": given.parts.split(","), "date": time.strftime("%Y-%m-%d")}
    else:
        results["minutes"] = (time.perf_counter() - begun) / 60
    UNFINISHED.unlink(missing_ok=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl", help="the Python of an environment with trl==1.12.0")
    parser.add_argument("--before", default="", help="a commit to race against")
    parser.add_argument("--quick", action="store_true", help="few rounds: to see that everything runs")
    parser.add_argument("--policy", type=Path, help="a pretrained model's folder, for the part real")
    parser.add_argument("--real-threads", type=int, nargs="+", default=[1, 2], help="of the part real")
    parser.add_argument("--parts", default="", help="only these of the results, such as learning,report; others stay")
    parser.add_argument("--page", action="store_true", help="only write the page from the results")
    parser.add_argument("--suite", type=Path, help="the --out folder of `bench experiment headline`")
    given = parser.parse_args()
    results = stored()
    if given.suite:
        suite.summary(given.suite)  # a wrong folder is said before minutes of measuring
    if not given.page:
        results = measured(given, results)
    results = with_suite(results, given.suite) if given.suite else results
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    text = page(results)
    (ROOT / "docs" / "performance.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
