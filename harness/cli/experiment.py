"""`bench experiment` and `bench claims`.  Exit codes as in cli/commands.py: 0 fine, 3 something is missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlhf_bench.harness import store
from rlhf_bench.harness.cli.commands import show_plan
from rlhf_bench.harness.cli.consoles import command_line, complain, consoles
from rlhf_bench.harness.cli.report import name_page
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.pipeline.machine import Machine, usable_cores
from rlhf_bench.harness.pipeline.trackers import check_trackers
from rlhf_bench.harness.plan import experiments
from rlhf_bench.harness.presets import parse_assignments, which_policy
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.harness.stages.judge import complaints
from rlhf_bench.reports import build, ledger, terminal
from rlhf_bench.reports import experiments as results


def experiment(
    *,
    name: str,
    seeds: Sequence[int] | None,
    policy: str,
    preset: str,
    out: Path,
    jobs: int | None,
    device: str,
    track: Sequence[str],
    dry_run: bool,
    assignments: tuple[str, ...],
    quiet: bool,
) -> int:
    """bench experiment"""
    trackers = check_trackers(track)
    asked, policy = experiments.find(name), which_policy(policy, preset)
    made = experiments.make(asked, seeds or (), parse_assignments(assignments), policy, preset)
    root = store.Store(out)
    stdout, _ = consoles(quiet)
    if dry_run:
        return show_plan(made.order, root, stdout)
    path = experiments.record_path(out, name)
    failed: BenchError | None = None
    record = experiments.record(asked, made, command_line())
    root.prepare()
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or {**store.read_json(path), "command": ""} != {**record, "command": ""}:
        store.write_json(path, record)
    try:
        _compute(made, root, jobs, device, quiet, trackers)
    except BenchError as error:
        failed = error
    found = _show(store.read_json(path), out, stdout, failed)
    if failed:
        raise failed
    judged = [stage for stage in made.order if stage.kind == "verdicts"]
    undecided = complain(complaints(judged, root), f"To ask again: bench judge {out}, with the same settings.")
    return 3 if undecided or found["missing"] else 0


def _compute(
    made: experiments.Made, root: store.Store, jobs: int | None, device: str, quiet: bool, trackers: Sequence[str]
) -> None:
    """Make what is missing; raises the first failure when everything that could be made is made."""
    if all(stage.done(root) for stage in made.order):
        return
    from rlhf_bench.harness.cli.progress import watching
    from rlhf_bench.harness.models.policies import pick_device
    from rlhf_bench.harness.plan.request import raise_first

    device = pick_device(device)
    jobs = jobs or (usable_cores() if device == "cpu" else 1)
    _, stderr = consoles(quiet)
    with watching(stderr, quiet) as watch:
        outcome = experiments.run(made, root, Machine(jobs, 1, device, watch, trackers))
    raise_first(outcome)


def _show(record: dict[str, Any], out: Path, console: Any, failed: BenchError | None) -> dict[str, Any]:
    """Write the experiment's result beside its record and show its contrasts and verdicts."""
    folder = results.folder_of(record, out)
    try:
        found = results.build_experiment(record, out, Estimator())
    except BenchError as error:
        raise failed or error from None
    folder.mkdir(parents=True, exist_ok=True)
    store.write_json(folder / results.FILE, found)
    (folder / "experiment.md").write_text(
        ledger.experiment_markdown(found), encoding="utf-8", errors="backslashreplace"
    )
    if found["report"]:
        shown = results.page_report(found)
        build.write(shown, folder, results.cells_of(record, out))
        terminal.show_headline(console, shown)
    for table in (
        ledger.contrasts_table(found),
        *ledger.analysis_tables(found),
        ledger.verdicts_table(found["claims"]),
    ):
        if table.rows:
            terminal.show(console, table)
    if found["report"]:
        name_page(console, folder)
    console.print(f"{folder / 'experiment.md'}", markup=False, soft_wrap=True)
    return found


def claims(runs: Sequence[Path], out: Path | None, intro: Path | None, level: float, only: Sequence[str] = ()) -> int:
    """bench claims"""
    for name in only:
        experiments.find(name)
    stdout, _ = consoles(False)
    text = _read(intro) if intro else ""
    built, missing = [], []
    for record, root in results.find_records(runs):
        if only and record["name"] not in only:
            continue
        try:
            built.append(results.build_experiment(record, root, Estimator(level)))
            missing += built[-1]["missing"]
        except BenchError as error:
            missing.append(str(error))
    rows = results.whole_ledger(built, only)
    terminal.show(stdout, ledger.verdicts_table(rows))
    for sentence in missing:
        stdout.print(f"missing: {sentence}", markup=False, soft_wrap=True)
    if out:
        _write(out, ledger.results_markdown(built, rows, text))
        stdout.print(str(out), markup=False, soft_wrap=True)
    return 3 if missing or any(row["verdict"] == "not run" for row in rows) else 0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"Cannot read {path}: {error}.", "Give a text file.") from None


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise BenchError(f"Cannot write {path}: {error.strerror}.", "Give another --out.") from None
