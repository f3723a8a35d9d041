"""The result of an experiment: its report, contrasts, analyses and the verdicts on its claims, as one dictionary.

A *run* of an experiment is one `bench run` of its plan: tasks x reward models x seeds with one set of settings.  Its
cells are finished runs of one task, reward model and seed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_bench.harness import cache, forms, store
from rlhf_bench.harness.errors import BenchError, DamagedError
from rlhf_bench.harness.nouns import Estimate
from rlhf_bench.harness.pipeline import integrity
from rlhf_bench.harness.plan import own_experiments
from rlhf_bench.harness.results import agreement, claims, contrasts, tuning
from rlhf_bench.harness.results.arms import CellFiles, arms_of
from rlhf_bench.harness.results.averages import judge_average
from rlhf_bench.harness.results.contrasts import Where
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.harness.results.found import find_cells, is_complete
from rlhf_bench.harness.results.one_thread import one_thread
from rlhf_bench.harness.results.sheets import Sheets
from rlhf_bench.harness.results.table import stored
from rlhf_bench.harness.results.uncollected import uncollected
from rlhf_bench.harness.seeds import shown
from rlhf_bench.harness.statistics.cost import overhead_estimates
from rlhf_bench.harness.statistics.credit import credit_estimates
from rlhf_bench.harness.statistics.intervals import Interval, undefined
from rlhf_bench.reports import build, ledger
from rlhf_bench.reports.claim_checks import checks, checks_of_average
from rlhf_bench.reports.schema import report_form

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject, Row

SCHEMA = "rlhf-bench/experiment"
SCHEMA_VERSION = 1
FILE = "experiment.json"
UNFINISHED = re.compile(r" (?:is|are) unfinished(?:: |$)")
"""What a sentence about a missing result says where nothing is damaged."""

INTERVAL: forms.Form = {
    **dict.fromkeys(("value", "low", "high"), forms.KNOWN_OR_NOT),
    "note": str,
    "seeds": [(forms.Count, str)],
}
BUILT: forms.Form = {
    "name": str,
    "question": str,
    "seeds": [(forms.Count, str)],
    "command": str,
    "definition?": dict,
    "left_out": {str: str},
    "missing": [str],
    "runs": {str: [str]},
    "contrasts": [
        {**INTERVAL, **dict.fromkeys(("run", "task", "a", "b", "judge", "statistic", "slice", "decoding"), str)}
        | {"by_seed": [forms.KNOWN_OR_NOT]}
    ],
    "analyses": {str: {"kind": str, "rows": [{**INTERVAL, "reward_model": str, "statistic": str}], "measured": [dict]}},
    "claims": [
        {**INTERVAL, **dict.fromkeys(("id", "text", "source", "reported", "measured", "verdict", "size"), str)}
        | {"figure": [forms.Number], "p": forms.KNOWN_OR_NOT, "detectable": forms.KNOWN_OR_NOT}
        | {"checks": [{**INTERVAL, "note?": str, "check": str, "verdict": str, "measured": str}]}
    ],
}
"""What is read of experiment.json, apart from its report."""

Tables = dict[str, dict[int, list["JsonObject"]]]
"""Rows of an analysis by reward model ("" for overhead, whose rows are of several) and seed."""


def folder_of(record: Row, root: Path) -> Path:
    """Where an experiment's results are written.

    `root` is the results folder; the record lies beside it, in experiments/NAME.json.
    """
    return root / "experiments" / str(record["name"])


@one_thread
@uncollected
def build_experiment(record: Row, root: Path, estimator: Estimator) -> JsonObject:
    """The result of the experiment with this record (experiments/NAME.json), from files alone.

    Unfinished cells are named in `missing`.  A result that is in the folder already is returned if its key is equal.
    Raises BenchError when nothing of the experiment is finished, and for an experiment that this version lacks.
    """
    cells, missing = _cells(record, root)
    every_cell = _distinct(cells)
    analyses = _analysis_rows(record, root, missing)  # adds to `missing`, which enters the key
    if not every_cell and not analyses:
        again = f"bench experiment {record['name']}"
        damaged = [sentence for sentence in missing if not UNFINISHED.search(sentence)]
        if damaged:  # the command alone would end here again
            more = f" (and {len(damaged) - 1} more)" if damaged[1:] else ""
            seen = f"{record['name']}: nothing can be reported: {damaged[0]}{more}."
            raise DamagedError(seen, f"To make it again: {again} --repair")
        raise BenchError(f"{record['name']}: nothing is finished.", f"Run: {again}")
    # claims, contrasts and analyses are computed here, not by `build`: their code and definitions enter the key, too
    code = build.code_hash(__name__, build.NOT_REPORTING)
    definition = [asdict(own_experiments.of_record(record)), [asdict(c) for c in claims.of_record(record)]]
    measured = [analyses[run] for run in sorted(analyses)]
    key = store.content_key([record, build.numbers_key(every_cell, missing, estimator), measured, definition, code])
    try:
        before: object = store.read_json(folder_of(record, root) / FILE)
    except BenchError:  # none yet, or a damaged one
        before = None
    if isinstance(before, dict) and not integrity.seal_problem(before, FILE):
        before = integrity.unsealed(before)
        known = before.get("schema_version") == SCHEMA_VERSION and before.get("key") == key
        if known and not forms.problem(before, {**BUILT, "report": (report_form(), type(None))}):
            return before
    kept = cache.group("experiment", key, record["command"], missing)
    made = kept.get("built", lambda: _built(record, cells, missing, analyses, estimator))
    # the checkout's commit is in no key: of the report that is written now
    if made["report"]:
        report = made["report"]
        made = {**made, "report": {**report, "manifest": {**report["manifest"], "git_commit": build.git_commit()}}}
    return {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, "key": key, **made}


def _built(
    record: Row,
    cells: Mapping[str, Sequence[CellFiles]],
    missing: Sequence[str],
    analyses: Mapping[str, tuple[str, Tables]],
    estimator: Estimator,
) -> JsonObject:
    """The result of an experiment without its key."""
    every_cell = _distinct(cells)
    report = build.build(every_cell, missing, estimator, record["command"]) if every_cell else None
    analysed = {run: _analyse(run, *own, estimator) for run, own in analyses.items()}
    for run in own_experiments.of_record(record).runs:
        if run.kind == "agreement":  # of other runs, whose cells it compares
            # () where a run is unfinished or was left out: there are then no standings, and no analysis
            trained, previewed = (arms_of(cells.get(of, [])) for of in run.of)
            ranked = agreement.standings(trained, previewed, run.n)
            analysed |= {run.name: agreement.agreement(ranked, estimator)} if ranked else {}
        if run.kind == "tuning":
            chosen = tuning.best_of_budgets({of: arms_of(cells.get(of, [])) for of in run.of}, estimator.level)
            analysed |= {run.name: chosen} if chosen else {}
    return {
        **{name: record[name] for name in ("name", "question", "seeds", "command", "left_out")},
        **({"definition": record["definition"]} if "definition" in record else {}),
        "missing": list(missing),
        "runs": {name: [arm.key for arm in arms_of(own)] for name, own in cells.items()},
        "report": report,
        "contrasts": _contrasts(record, cells, estimator),
        "analyses": analysed,
        "claims": claims.adjusted(list(_claims(record, cells, report, analysed, estimator))),
    }


def cells_of(record: Row, root: Path) -> list[CellFiles]:
    """All finished cells of an experiment, each once.

    Those that its report was built from: `build.write` takes them for the responses on the page.
    """
    return _distinct(_cells(record, root)[0])


def _distinct(cells: Mapping[str, Sequence[CellFiles]]) -> list[CellFiles]:
    """Cells that several runs share count once."""
    return list({cell.path: cell for own in cells.values() for cell in own}.values())


def page_report(built: Row) -> JsonObject:
    """The experiment's report with its question, claims, contrasts and analyses, as its page shows them.

    `built` must have a report: an experiment of analyses alone has no page.
    """
    more = [table for table in (ledger.contrasts_table(built), *ledger.analysis_tables(built)) if table.rows]
    left_out = [f"the run {run} was left out: it needs --set {needed}=..." for run, needed in built["left_out"].items()]
    report = built["report"]
    return {
        **report,
        "manifest": {**report["manifest"], "command": ledger.without_folder(report["manifest"]["command"])},
        "experiment": built["name"],
        "question": built["question"],
        "claims": built["claims"],
        "comparisons": [*map(stored, more), *report["comparisons"]],
        "warnings": [*left_out, *report["warnings"]],
    }


# ---- what is finished -----------------------------------------------------------------------------------------------


def _cells(record: Row, root: Path) -> tuple[dict[str, list[CellFiles]], list[str]]:
    """Finished cells by run, and sentences about the others.

    Unfinished cells are counted, not named: an interrupted experiment may lack hundreds.  Damaged ones are named.
    """
    found: dict[str, list[CellFiles]] = {}
    missing: list[str] = []
    for name, cells in record["runs"].items():
        own, lacking = find_cells([root / "cells" / f"{cell}.json" for cell in cells])
        found[name] = own
        named = [sentence for sentence in lacking if not UNFINISHED.search(sentence)]
        unfinished = len(lacking) - len(named)
        missing += [f"{name}: {unfinished} of {len(cells)} cells are unfinished"] if unfinished else []
        # runs share cells, hence their damage and their judges
        missing += [sentence for sentence in named if sentence not in missing]
    return found, missing


def _analysis_rows(record: Row, root: Path, missing: list[str]) -> dict[str, tuple[str, Tables]]:
    """(kind, rows) of the finished analyses by run; sentences about the others are appended to `missing`."""
    found: dict[str, tuple[str, Tables]] = {}
    for run, stages in record["analyses"].items():
        for stage in stages:
            kind, label, key = stage["place"]  # as `Stage.place` stores it: the key is shortened already
            folder = root / kind / f"{label}-{key}"
            if not is_complete(folder):
                missing.append(f"{kind} {label} of {run} is unfinished")
                continue
            try:
                integrity.check_used(folder)
                rows = store.read_rows(folder / f"{kind}.jsonl")
            except BenchError as error:
                missing.append(f"{kind} {label} of {run}: {error.seen}")
                continue
            found.setdefault(run, (kind, {}))[1].setdefault(stage["reward_model"], {})[stage["seed"]] = rows
    return found


# ---- analyses, contrasts and claims ---------------------------------------------------------------------------------


def _analyse(run: str, kind: str, tables: Tables, estimator: Estimator) -> JsonObject:
    """Statistics of an analysis by reward model; for overhead the measured rows too, which are few."""
    rows = []
    for rm, by_seed in tables.items():
        if kind == "overhead":  # planned for one seed (`plan.experiments.make`), so that the first is the only one
            found = overhead_estimates(next(iter(by_seed.values())), estimator.level)
        else:
            found = credit_estimates(by_seed, estimator.level, estimator.generator("credit", run, rm))
        seeds = [] if kind == "overhead" else sorted(by_seed)  # a timing depends on no training
        rows += [
            {"reward_model": rm, "seeds": seeds, "statistic": name, **asdict(interval)}
            for name, interval in found.items()
        ]
    measured = [row for by_seed in tables.values() for row in by_seed[min(by_seed)]] if kind == "overhead" else []
    return {"kind": kind, "rows": rows, "measured": measured}


def _contrasts(record: Row, cells: Mapping[str, Sequence[CellFiles]], estimator: Estimator) -> list[JsonObject]:
    """Every contrast of the experiment, over all seeds and by seed, in every run and task that has both reward models.

    Those whose judge or slice a run does not have are left out.
    """
    rows: list[JsonObject] = []
    sheets = Sheets()  # one for all: each arm's verdicts are read once, though many contrasts need them
    for run, own in cells.items():
        arms = {(arm.task, arm.reward_model): arm for arm in reversed(arms_of(own))}  # the first of several
        for contrast in own_experiments.of_record(record).contrasts:
            for task in sorted({task for task, _ in arms}):
                a, b = arms.get((task, contrast.a)), arms.get((task, contrast.b))
                if not a or not b:
                    continue
                where = Where(contrast.judge, contrast.statistic, contrast.slice, contrast.decoding)
                try:
                    found = contrasts.difference(a, b, where, estimator, sheets)
                    by_seed = contrasts.by_seed(a, b, where, sheets)
                except contrasts.UnlikeVerdictsError as error:
                    found, by_seed = undefined(error.seen), []  # named, not left out: somebody judged one of them again
                except BenchError:  # also where the two arms have no seed or prompt in common
                    continue
                seeds = [shown(seed) for seed in sorted(set(a.seeds) & set(b.seeds))]
                row = {"run": run, "task": task, **asdict(contrast), "seeds": seeds}
                rows.append({**row, "by_seed": by_seed, **asdict(found)})
    return rows


def _claims(
    record: Row,
    cells: Mapping[str, Sequence[CellFiles]],
    report: Row | None,
    analyses: Row,
    estimator: Estimator,
) -> Iterator[JsonObject]:
    # rows of the report that was just built, back as records: a claim picks the interval that the report shows
    estimates = [Estimate(**{**row, "seeds": tuple(row["seeds"])}) for row in report["estimates"]] if report else []
    for claim in claims.of_record(record):
        if claim.runs:
            by_run = {run: arms_of(cells.get(run, [])) for run in claim.runs}
            result = judge_average(claim, by_run, estimator)
            made = [] if result.ruling == "not run" else checks_of_average(claim, by_run, estimator)
            yield {**result.row(), "checks": made}
        elif claim.run in analyses:
            yield {**of_analysis(claim, analyses[claim.run], estimator).row(), "checks": []}
        else:
            arms = arms_of(cells.get(claim.run, []))
            result = claims.judge_claim(claim, arms, estimates, estimator)
            # a claim that was not run has nothing to be checked
            made = [] if result.ruling == "not run" else checks(claim, arms, estimates, estimator)
            yield {**result.row(), "checks": made}


def of_analysis(claim: claims.Claim, analysis: Row, estimator: Estimator) -> claims.Result:
    """The verdict on a claim about an analysis, which trains nothing.

    `analysis` is an entry of `analyses`; the ruling is "not run" where it lacks the claim's statistic or arm.
    """
    for row in analysis["rows"]:
        if (row.get("reward_model"), row.get("statistic")) == (claim.arm, claim.statistic):
            interval = Interval(*(row[key] for key in ("value", "low", "high", "method", "note")))
            return claims.ruled(claim, interval, tuple(row["seeds"]), estimator.level)
    return claims.Result(claim, "not run", note=f"no {claim.statistic} of {claim.arm}")


def find_records(folders: Sequence[Path]) -> list[tuple[JsonObject, Path]]:
    """(record, results folder) of every experiment below the folders, in order of name.

    Raises BenchError for a path that is no folder, and for a record that cannot be read.
    """
    found = []
    for folder in folders:
        if not folder.is_dir():
            raise BenchError(f"{folder} is no folder.", "Give the --out folder of a bench experiment.")
        for path in sorted((folder / "experiments").glob("*.json")):
            store.check_links(path, folder)
            record = store.read_json(path)
            check_record(record, path)
            found.append((integrity.unsealed(record), folder))
    return sorted(found, key=lambda item: item[0]["name"])


def same_record(path: Path, record: Row) -> bool:
    """Whether the record of an experiment is stored at `path`, made by whichever command."""
    try:
        stored = store.read_json(path)
    except BenchError:  # none yet, or a damaged one
        return False
    if not isinstance(stored, dict) or integrity.seal_problem(stored, path.name):
        return False
    return {**integrity.unsealed(stored), "command": ""} == {**integrity.unsealed(record), "command": ""}


def check_record(record: object, path: Path) -> None:
    """Raises BenchError unless the record of an experiment names cells and stages of its own results folder.

    DamagedError where it is not what was written.
    """
    if isinstance(record, dict) and (problem := integrity.seal_problem(record, path.name)):
        raise DamagedError(f"{path} is damaged: {problem}.", "Run the experiment again.")
    try:
        if not isinstance(record, dict):
            raise TypeError
        own_experiments.of_record(record)
        claims.of_record(record)
        names = [cell for cells in record["runs"].values() for cell in cells]
        names += [part for stages in record["analyses"].values() for stage in stages for part in stage["place"]]
    except (AttributeError, KeyError, TypeError):
        raise BenchError(f"{path} is damaged: no record of an experiment.", "Run the experiment again.") from None
    outside = [name for name in names if not store.is_plain_name(name)]
    if outside:
        raise BenchError(f"{path} names {outside[0]!r}, nothing in its results folder.", "Run the experiment again.")
    if problem := forms.problem(record, forms.EXPERIMENT):
        raise BenchError(f"{path} is damaged ({problem}).", "Run the experiment again.")
