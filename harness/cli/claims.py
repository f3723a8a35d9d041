"""`bench claims`: the ledger of claims on the terminal and as pages.  Exit code 3: something is missing or not run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rlhf_bench.harness import store
from rlhf_bench.harness.cli.consoles import complain, consoles
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.plan import experiments, stamps
from rlhf_bench.harness.replacing import write_text
from rlhf_bench.harness.results import outputs, result_files
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.harness.results.result_files import ResultFile
from rlhf_bench.reports import experiments as built_experiments
from rlhf_bench.reports import result_pages, terminal, verdicts
from rlhf_bench.reports.build import git_commit

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject


class Found(NamedTuple):
    """An experiment that was found in RUNS: its whole result, and what is kept of it."""

    built: JsonObject
    file: ResultFile


def claims(
    runs: Sequence[Path],
    out: Path | None = None,
    intro: Path | None = None,
    level: float = 0.95,
    only: tuple[str, ...] = (),
    replace: bool = False,
) -> int:
    """bench claims

    With `out` the experiments in `runs` are added to those whose results lie beside it, and the ledger is over both.
    Returns 3 where something is missing or a claim is not run.  Raises BenchError for an unknown experiment in `only`,
    an `intro` that cannot be read, a path that is no folder, damaged results beside `out`, results of more seeds that
    would be replaced without `replace`, and an `out` that cannot be written.
    """
    for name in only:
        experiments.find(name)  # raises for an unknown name, which would otherwise select nothing
    # before anything is computed: a misspelt path costs no minutes
    text = _intro(out, intro)
    stored = _stored(out, only, needed=not runs) if out else {}
    found, missing = _found(runs if runs or out else [Path("runs")], level, only)
    new = {name: one.file for name, one in found.items()}
    if not replace:
        result_files.check_replaced(stored, new)
    files = {**stored, **new}
    result_files.check_levels(files)
    rows = result_files.whole_ledger(files, only)
    missing += [f"{name}: {sentence}" for name, file in sorted(files.items()) for sentence in file.missing]
    _show(rows, missing)
    if out:
        page = result_pages.results_page(files, rows, _stale(files), folder_of(out).name, text, only)
        _write(out, page, found)
    return 3 if missing or any(row["verdict"] == "not run" for row in rows) else 0


def confirm(runs: Sequence[Path], out: Path | None, intro: Path | None = None, only: tuple[str, ...] = ()) -> int:
    """bench claims --confirm

    Compares reruns of some seeds, made by today's code, with the digests of the results beside `out`; where nothing
    differs, these results are no longer stale.  Returns 3 where something differs or was not run again, with the
    reasons on stderr; its results stay as they are.  Raises BenchError as `claims`, and without `out`.
    """
    if out is None:
        raise BenchError("--confirm without --out.", "Name the page of the stored results: --out docs/results.md")
    text, stored, problems = _intro(out, intro), _stored(out, only, needed=True), []
    confirmed = {}
    for record, root in built_experiments.find_records(runs):
        name = record["name"]
        if only and name not in only:
            continue
        found = _confirmed(stored[name], record, root) if name in stored else [f"{name}: no stored results"]
        if isinstance(found, ResultFile):
            confirmed[name] = found
        else:
            problems += found
    files = {**stored, **confirmed}
    rows = result_files.whole_ledger(files, only)
    stale = _stale(files)
    with _writing(out):
        for name, file in confirmed.items():
            write_text(folder_of(out) / f"{name}.json", result_files.text(file))
        write_text(out, result_pages.results_page(files, rows, stale, folder_of(out).name, text, only))
    stdout, _ = consoles(False)
    said = ", ".join(sorted(confirmed)) or "nothing"
    stdout.print(f"Confirmed: {said}. Stale: {', '.join(sorted(stale)) or 'nothing'}.", markup=False, soft_wrap=True)
    return 3 if complain([problem.rstrip(".") for problem in problems], "") or not confirmed else 0


def _confirmed(file: ResultFile, record: JsonObject, root: Path) -> ResultFile | list[str]:
    """The stored results with what confirms them, or the reasons why nothing does."""
    name = file.name
    if stamps.stale({name: stamps.stamped(record, root)}):
        return [f"{name}: the rerun is unfinished, or not of today's code and settings"]
    again = outputs.outputs(record, root)
    problems = outputs.unlike(file.outputs, again)
    if problems:
        return [f"{name}: {problem}" for problem in problems]
    compared = {arm: sorted({*seeds} & {*file.outputs[arm]}) for arm, seeds in again.items() if arm in file.outputs}
    return result_files.confirmed(file, compared, git_commit())


def _stale(files: Mapping[str, ResultFile]) -> dict[str, list[str]]:
    """The experiments whose results are not of today's code, as `stamps.stale`."""
    return stamps.stale({name: result_files.stamp_of(file) for name, file in files.items()})


def folder_of(page: Path) -> Path:
    """Where the experiments' pages and results lie: results.md has results/.

    Raises BenchError for a page whose name has no ending.
    """
    if not page.suffix:
        raise BenchError(f"--out {page} has no ending.", "Give the name of a page, such as results.md.")
    return page.with_suffix("")


def _intro(out: Path | None, intro: Path | None) -> str:
    """The text that the page begins with: of --intro, or of results-intro.md beside results.md where there is one."""
    if intro is None and out is not None:
        beside = out.with_name(f"{out.stem}-intro.md")
        intro = beside if store.exists(beside) else None
    return store.read_text(intro) if intro else ""


def _stored(out: Path, only: Sequence[str], needed: bool) -> dict[str, ResultFile]:
    """The results beside the page by experiment; raises BenchError where there are none and they are `needed`."""
    folder = folder_of(out)
    found = result_files.read_folder(folder)
    if needed and not found:
        raise BenchError(
            f"{folder} holds no results of an experiment.", "Give the folders of the runs: bench claims RUNS."
        )
    return {name: file for name, file in found.items() if not only or name in only}


def _found(runs: Sequence[Path], level: float, only: Sequence[str]) -> tuple[dict[str, Found], list[str]]:
    """The experiments in RUNS by name, and sentences about those that cannot be read.

    Of an experiment in several folders the one with most seeds counts, then that with most cells, then the last.
    """
    found: dict[str, Found] = {}
    missing = []
    for record, root in built_experiments.find_records(runs):
        if only and record["name"] not in only:
            continue
        if record["name"] not in experiments.packaged():
            why = (
                "a file of its own: its verdicts stand in its experiment.md"
                if "definition" in record
                else ("a policy from elsewhere: it has no claims and no page here")
            )
            complain([f"{record['name']} is of {why}"], "")
            continue
        # an experiment that cannot be read is named as missing: the ledger still has all others
        try:
            built = built_experiments.build_experiment(record, root, Estimator(level))
            file = result_pages.result_of(built, record, root)
        except BenchError as error:
            missing.append(str(error))
            continue
        before = found.get(file.name)
        if before:
            complain([f"{file.name} is in several folders: the one with most seeds counts, not all together"], "")
        if before is None or result_files.size(file) >= result_files.size(before.file):
            found[file.name] = Found(built, file)
    return found, missing


def _show(rows: Sequence[JsonObject], missing: Sequence[str]) -> None:
    stdout, _ = consoles(False)
    terminal.show(stdout, verdicts.verdicts_table(rows))
    for sentence in verdicts.summary(rows):
        stdout.print(sentence, markup=False, soft_wrap=True)
    for sentence in missing:
        stdout.print(f"missing: {sentence}", markup=False, soft_wrap=True)


def _write(out: Path, page: str, found: Mapping[str, Found]) -> None:
    """Write the page and the experiments' pages and results, which `read_folder` then reads."""
    folder = folder_of(out)
    with _writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        if found:
            folder.mkdir(exist_ok=True)
        for name, one in found.items():
            write_text(folder / f"{name}.md", result_pages.experiment_page(one.built, out.name))
            write_text(folder / f"{name}.json", result_files.text(one.file))
        write_text(out, page)  # last: until then it does not say more than its files
    consoles(False)[0].print(str(out), markup=False, soft_wrap=True)


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Raises BenchError where the page or a file beside it cannot be written."""
    try:
        yield
    except OSError as error:
        raise BenchError(f"Cannot write {out}: {error.strerror}.", "Give another --out.") from None
