"""Pages of results: the ledger of all claims with a table of experiments, and a page for each experiment.

FILE.md           the ledger, from the files below alone (`results_page`)
FILE/NAME.md      an experiment's tables (`experiment_page`), written from its runs
FILE/NAME.json    its claims and their intervals (`result_of`, harness/results/result_files.py)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from rlhf_bench.harness import store
from rlhf_bench.harness.plan import experiments, stamps
from rlhf_bench.harness.printable import printable
from rlhf_bench.harness.results import claims, outputs, result_files
from rlhf_bench.harness.results.result_files import ResultFile
from rlhf_bench.harness.results.table import DASH
from rlhf_bench.harness.seeds import joined
from rlhf_bench.reports import ledger
from rlhf_bench.reports.markdown import escape, table_lines
from rlhf_bench.reports.verdicts import claims_table, summary, texts_table

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject, Row

Stale = Mapping[str, Sequence[str]]
"""Experiments whose results are not of today's code, with the kinds of stages that differ (`stamps.stale`)."""

COLUMNS = ("experiment", "seeds", "finished", "missing", "date", "rlhf-bench", "core minutes", "stale")
NOTE = (
    "Finished: cells and analyses. Missing: sentences about what is not, on the page. Date: of the last stage. Stale: "
    'the stages whose code or settings have changed since; "later code wrote the same": a rerun of these seeds, at '
    "least one of every arm, under that code gave the same responses, rewards and verdicts."
)


# ---- from an experiment's result ------------------------------------------------------------------------------------


def result_of(built: Row, record: Row, root: Path) -> ResultFile:
    """What is kept of a built experiment (`experiments.build_experiment`), whose record and stages lie in `root`.

    Raises BenchError as `stamps.stamped`.
    """
    done = _finished(built)
    seeds = {seed for *_, seed in done}
    stages = _stage_records(record, root)
    versions = {str(own.get("versions", {}).get("rlhf-bench", "")) for own in stages} - {""}
    report = built["report"]
    seconds = report["manifest"]["seconds_total"] if report else sum(own["seconds"] for own in stages)
    data = {
        "schema": result_files.SCHEMA,
        "schema_version": 1,
        "name": built["name"],
        "question": printable(built["question"]),
        "command": printable(ledger.without_folder(built["command"])),
        "seeds": [seed for seed in built["seeds"] if seed in seeds],
        "finished": len(done),
        "missing": list(map(printable, built["missing"])),
        "date": _last_day(record, root),
        "version": ", ".join(sorted(versions)),
        "commit": report["manifest"]["git_commit"] if report else "",
        "minutes": round(seconds / 60, 1),
        "stamp": stamps.stamped(record, root),
        "claims": list(map(_claim_row, built["claims"])),
        "checks": [one for row in built["claims"] for one in row["checks"]],
        "outputs": outputs.outputs(record, root),
    }
    return result_files.made(data, f"The result of {built['name']}")


def _claim_row(row: Row) -> JsonObject:
    asked = next(claim for claim in claims.load() if claim.id == row["id"])
    kept = {name: row[name] for name in claims.Result(asked, "not run").row()}
    return {**kept, "note": printable(row["note"]), "asks": result_files.asks(asked)}


def _finished(built: Row) -> set[tuple[str, str, object]]:
    """(run or arm, reward model, seed) of the cells and the stages of analyses behind a result."""
    arms = built["report"]["arms"] if built["report"] else []
    found: set[tuple[str, str, object]] = {
        (arm["arm"], arm["reward_model"], seed) for arm in arms for seed in arm["seeds"]
    }
    for run, analysis in built["analyses"].items():
        if analysis["kind"] == "overhead":  # a timing, planned for the first seed
            found.add((run, "", built["seeds"][0]))
        elif analysis["kind"] == "credit":  # an agreement is of cells that are counted already
            found |= {(run, row["reward_model"], seed) for row in analysis["rows"] for seed in row["seeds"]}
    return found


def _markers(record: Row, root: Path) -> list[Path]:
    """stage.json of every finished stage, each once."""
    named = {place for place in stamps.places(record, root) if all(map(store.is_plain_name, place))}
    paths = (root / kind / f"{label}-{key}" / store.MARKER for kind, label, key in sorted(named))
    return [path for path in paths if path.is_file()]


def _stage_records(record: Row, root: Path) -> list[JsonObject]:
    return [store.read_json(path) for path in _markers(record, root)]


def _last_day(record: Row, root: Path) -> str:
    """The day, in UTC, on which the last stage was finished; "" where none is."""
    times = [path.stat().st_mtime for path in _markers(record, root)]
    return datetime.fromtimestamp(max(times), UTC).date().isoformat() if times else ""


def experiment_page(built: Row, page: str) -> str:
    """An experiment's page, which links to `page`, the name of the page with the ledger one folder above."""
    heading, _, rest = ledger.experiment_markdown(built).partition("\n")
    return f"{heading}\n\n{pointer(page)}\n{rest}"


def pointer(page: str) -> str:
    """The line that says where the ledger is."""
    return (
        f"One of several experiments: the [ledger](../{quote(page)}) has all claims, and says which results are stale."
    )


# ---- the page of the ledger -----------------------------------------------------------------------------------------


def results_page(
    files: Mapping[str, ResultFile], rows: Sequence[Row], stale: Stale, folder: str, intro: str = "",
    only: Sequence[str] = (),
) -> str:  # fmt: skip
    """The ledger of claims and the table of experiments, `intro` below the heading.

    `rows` are those of `result_files.whole_ledger`.  `folder`: the name of the folder of the experiments' pages.
    `only`: the experiments that the page is about, () for all.
    """
    lines = ["# Results", ""]
    lines += [stale_line(stale), ""] if stale else []
    lines += [intro.strip(), ""] if intro.strip() else []
    lines += ["## The claims, and what the intervals say", "", " ".join(summary(rows)), ""]
    lines += [*table_lines(claims_table(rows), "###"), *table_lines(texts_table(rows), "###")]
    lines += experiments_lines(files, stale, folder, only)
    return "\n".join(lines).rstrip() + "\n"


def stale_line(stale: Stale) -> str:
    """The line on what is stale, by experiment; a test of the repository compares it with the code."""
    return f"- **Stale**: {', '.join(f'`{name}`' for name in sorted(stale))} (of earlier code or settings)."


def experiments_lines(
    files: Mapping[str, ResultFile], stale: Stale, folder: str, only: Sequence[str] = ()
) -> Iterator[str]:
    """The table of experiments, those without results included, and the notes of their files."""
    yield from ("## Experiments", "", "| " + " | ".join(COLUMNS) + " |", "|---|--:|--:|--:|--:|---|--:|---|")
    for name in only or experiments.packaged():
        file = files.get(name)
        cells = [f"[{name}]({quote(folder)}/{name}.md)", *map(escape, _described(file, stale.get(name, ())))]
        yield "| " + " | ".join(cells if file else [name, "not run", *[DASH] * (len(COLUMNS) - 2)]) + " |"
    yield from ("", NOTE, "")
    noted = [file for _, file in sorted(files.items()) if file.note]
    yield from (*(f"- {file.name}: {escape(file.note)}" for file in noted), "") if noted else ()


def _fresh(file: ResultFile) -> str:
    found = file.confirmed
    if not found:
        return "no"
    return f"no: later code wrote the same on seeds {', '.join(found.seeds)}" + (
        f" ({found.note})" if found.note else ""
    )


def _described(file: ResultFile | None, kinds: Sequence[str]) -> list[str]:
    if file is None:
        return []
    made_by = " ".join(filter(None, [file.version, file.commit[:12]]))
    minutes = DASH if file.minutes is None else f"{file.minutes:.1f}"
    missing = str(len(file.missing)) if file.missing else ""
    return [
        joined(file.seeds) or DASH, str(file.finished), missing, file.date or DASH, made_by or DASH, minutes,
        ", ".join(kinds) or _fresh(file),
    ]  # fmt: skip
