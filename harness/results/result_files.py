"""What a repository keeps of an experiment without its runs: NAME.json beside the pages, one claim or check a line.

The ledger of all claims is computed from these files, so experiments may be run on different days and machines.  A file
holds intervals and verdicts; what a claim says and how it is ruled is read from claims.toml at every time.  The files
may come from someone else: `read` checks them, and what it returns names nothing outside of their folder.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.plan import experiments, stamps
from rlhf_bench.harness.results import claims
from rlhf_bench.harness.results.claims import Claim, Ruling
from rlhf_bench.harness.seeds import Seed
from rlhf_bench.harness.statistics.intervals import Interval

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject, Row

SCHEMA = "rlhf-bench/results"
CONFIG = ConfigDict(strict=True, allow_inf_nan=False, extra="forbid")
ASKS = (
    "experiment", "run", "task", "arm", "versus", "comparison", "judge", "statistic", "slice", "decoding", "side",
    "threshold",
)  # fmt: skip
"""The fields of a claim that decide its verdict: where one of them has changed, a stored verdict no longer holds."""


def _one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("a control character or a line break")
    return text


Line = Annotated[str, Field(max_length=10_000), AfterValidator(_one_line)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
PlainSeed = Annotated[int, Field(ge=0, lt=2**31)]
Number = float | None


@dataclass(frozen=True, config=CONFIG)
class CheckRow:
    """A row of `claim_checks.checks`: a claim's rule, applied to another interval."""

    id: Line
    check: Literal["other decoding", "other arm", "equal KL"]
    measured: Line
    verdict: Ruling
    value: Number
    low: Number
    high: Number
    method: Line
    level: Annotated[float, Field(gt=0, lt=1)]
    seeds: list[PlainSeed | Line]
    note: Line


@dataclass(frozen=True, config=CONFIG)
class ClaimRow:
    """A row of `claims.Result.row`, before Holm's adjustment, and `asks`: what its claim asked when it was ruled."""

    id: Line
    text: Line
    source: Line
    reported: Line
    experiment: Line
    measured: Line
    rule: Line
    verdict: Ruling
    figure: Annotated[list[float], Field(max_length=2)]
    size: Line
    p: Annotated[float, Field(ge=0, le=1)] | None
    level: Annotated[float, Field(gt=0, lt=1)]
    value: Number
    low: Number
    high: Number
    method: Line
    seeds: list[PlainSeed | Line]
    detectable: Annotated[float, Field(ge=0)] | None
    note: Line
    asks: dict[str, Line | float]


@dataclass(frozen=True, config=CONFIG)
class Stamp:
    """Digests of the keys of the stages behind an experiment (`plan.stamps`); no seeds mean its own."""

    seeds: Annotated[list[PlainSeed], Field(max_length=10_000)]
    stages: dict[Line, Digest]


@dataclass(frozen=True, config=CONFIG)
class Confirmed:
    """A rerun of some seeds under later code that wrote the same as the stored runs (`outputs.unlike`).

    `stages`: the digests of the keys of the whole experiment under that code, as in `Stamp`.  `cells` counts the cells
    and analyses that were compared.  `note` says at which size, where it was not that of the stored runs.
    """

    stages: dict[Line, Digest]
    seeds: list[Line]
    cells: Annotated[int, Field(ge=1)]
    date: Annotated[str, Field(pattern=r"^(\d{4}-\d\d-\d\d)?$")]
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{0,40}$")]
    note: Line = ""


@dataclass(frozen=True, config=CONFIG)
class ResultFile:
    """The content of NAME.json.

    `seeds` are those with a finished cell, `finished` counts cells and stages of analyses, `missing` says what is not
    finished.  `date` is that of the last stage, in UTC; `minutes` are of one core.  `version` and `commit` of
    rlhf-bench are "" where they are not known.  `note`: what a reader of the numbers should know.  `outputs`: digests
    of what the runs wrote (outputs.py), {} in files of versions without them.
    """

    schema: Literal["rlhf-bench/results"]
    schema_version: Literal[1]
    name: Line
    question: Line
    command: Line
    seeds: list[PlainSeed | Line]
    finished: Annotated[int, Field(ge=0)]
    missing: list[Line]
    date: Annotated[str, Field(pattern=r"^(\d{4}-\d\d-\d\d)?$")]
    version: Line
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{0,40}$")]
    minutes: Annotated[float, Field(ge=0)] | None
    stamp: Stamp
    claims: list[ClaimRow]
    checks: list[CheckRow] = field(default_factory=list)
    note: Line = ""
    outputs: dict[Line, dict[Line, dict[Line, Digest]]] = field(default_factory=dict)
    confirmed: Confirmed | None = None


def asks(claim: Claim) -> JsonObject:
    """What decides the verdict on a claim, by field."""
    return {name: getattr(claim, name) for name in ASKS}


def stamp_of(file: ResultFile) -> JsonObject:
    """What `stamps.stale` asks of a file: seeds, digests of the keys, and those of later code that writes the same."""
    return {**plain(file.stamp), "confirmed": dict(file.confirmed.stages) if file.confirmed else {}}


def confirmed(file: ResultFile, same: Mapping[str, Collection[str]], commit: str, note: str = "") -> ResultFile:
    """The stored results, which today's code, of this commit, computes as well.

    `same`: the seeds of every arm and analysis that were compared; `note` as in `Confirmed`.
    """
    made = Confirmed(
        stages=dict(stamps.of_today(file.name, file.stamp.seeds)),
        seeds=sorted({seed for seeds in same.values() for seed in seeds}),
        cells=sum(map(len, same.values())),
        date=datetime.now(UTC).date().isoformat(),
        commit=commit,
        note=note,
    )
    return replace(file, confirmed=made)


def plain(record: ResultFile | ClaimRow | CheckRow | Stamp) -> JsonObject:
    """A record as JSON holds it."""
    return asdict(cast(Any, record))  # mypy takes no pydantic dataclass for a dataclass


# ---- files ----------------------------------------------------------------------------------------------------------


def made(data: Row, where: str) -> ResultFile:
    """The checked record of an experiment's results.

    Raises BenchError, which begins with `where`, for another form, NaN, a number out of range, text of several lines,
    a claim that is there twice, and a verdict that does not follow from its interval.
    """
    fix = "Write it again: bench claims RUNS --out FILE."
    try:
        # as JSON: of Python's objects a strict check takes no dictionary for a dataclass
        found = TypeAdapter(ResultFile).validate_json(json.dumps(data))
    except RecursionError:
        raise BenchError(f"{where} is damaged: nested too deeply.", fix) from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))[:100]
        raise BenchError(f"{where} is damaged: {place}: {first['msg']}.", fix) from None
    problem = next(_problems(found), "")
    if problem:
        raise BenchError(f"{where} is damaged: {problem}.", fix)
    return found


def _problems(file: ResultFile) -> Iterator[str]:
    known = {claim.id: claim for claim in claims.load()}
    seen: set[str] = set()
    for row in file.claims:
        if row.id in seen:
            yield f"the claim {row.id!r} is there twice"
        seen.add(row.id)
        if row.id in known and row.asks == asks(known[row.id]) and not _follows(known[row.id], row):
            yield f"the verdict on {row.id} does not follow from its interval"
    every: list[ClaimRow | CheckRow] = [*file.claims, *file.checks]
    for one in every:
        if (one.low is None) != (one.high is None) or (one.low is not None and one.low > cast(float, one.high)):
            yield f"{one.id} has no interval from low to high"


def _follows(claim: Claim, row: ClaimRow) -> bool:
    """Whether a verdict is that of `claims.ruled`; a bound that was rounded onto the threshold fits every verdict."""
    if row.low is None or row.high is None or row.value is None or len(row.seeds) == 1:
        return row.verdict in ("inconclusive", "not run")
    if claim.threshold in (row.low, row.high):
        return row.verdict != "not run"
    return row.verdict == claims.rule(claim, Interval(row.value, row.low, row.high, row.method))


def read(path: Path) -> ResultFile:
    """The results in NAME.json.  Raises BenchError where it is damaged, of another experiment, or of an unknown one."""
    try:
        data = store.read_json(path)
    except BenchError as error:
        raise BenchError(error.seen, "Write it again: bench claims RUNS --out FILE.") from None
    found = made(data, str(path))
    if found.name != path.stem:
        raise BenchError(f"{path} is damaged: it is of {found.name!r}.", "Give it the name of its experiment.")
    if found.name not in experiments.load():
        raise BenchError(f"{path} is of an experiment that this version lacks.", "Delete it.")
    return found


def read_folder(folder: Path) -> dict[str, ResultFile]:
    """The results in a folder by experiment, in order of name; {} where there is no such folder.  Raises as `read`.

    Also raises BenchError for a file that leads outside of the folder.
    """
    found = {}
    for path in sorted(folder.glob("*.json")) if store.is_folder(folder) else ():
        store.check_links(path, folder)
        found[path.stem] = read(path)
    return found


def text(file: ResultFile) -> str:
    """The content of NAME.json: a field, a claim or a check a line, so that a diff shows what changed."""
    return _pretty(plain(file)) + "\n"


DEEP = 4
"""Below this depth, with the line break, a dictionary stands on one line."""


def _pretty(value: object, end: str = "\n") -> str:
    inner = end + " "
    if isinstance(value, dict) and value and len(end) < DEEP:
        parts = [f"{_line(name)}: {_pretty(own, inner)}" for name, own in value.items()]
        return "{" + inner + f",{inner}".join(parts) + end + "}"
    if isinstance(value, list) and value and not isinstance(value[0], int | float):
        return "[" + inner + f",{inner}".join(map(_line, value)) + end + "]"
    return _line(value)


def _line(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


# ---- several files --------------------------------------------------------------------------------------------------


def size(file: ResultFile) -> tuple[int, int]:
    """How much of an experiment is finished: seeds, then cells."""
    return len(file.seeds), file.finished


def check_replaced(before: Mapping[str, ResultFile], after: Mapping[str, ResultFile]) -> None:
    """Raises BenchError where results would be replaced by those of fewer seeds, or of fewer cells."""
    for name in sorted({*before} & {*after}):
        (seeds, cells), (now, left) = size(before[name]), size(after[name])
        if now < seeds or left < cells:
            raise BenchError(
                f"{name}.json has {seeds} seeds and {cells} finished cells, RUNS have {now} seeds and {left}.",
                "Finish the experiment, or add --replace.",
            )


def check_levels(files: Mapping[str, ResultFile]) -> None:
    """Raises BenchError where the intervals of the ledger are not all of one level."""
    levels = {row.level: file.name for file in files.values() for row in file.claims if row.value is not None}
    if len(levels) > 1:
        said = ", ".join(f"{level:g} ({name})" for level, name in sorted(levels.items()))
        raise BenchError(f"Intervals of several levels in one ledger: {said}.", "Give the --level of the stored ones.")


def whole_ledger(files: Mapping[str, ResultFile], only: tuple[str, ...] = ()) -> list[JsonObject]:
    """The rows of every claim, or of the experiments in `only`, in the order of the ledger, adjusted over all of them.

    `files` are results by experiment.  A claim without results is `not run`, and so is one that asked something else
    when its experiment was run; its note says which.
    """
    asked = [claim for claim in claims.load() if not only or claim.experiment in only]
    return claims.adjusted([_ledger_row(claim, files.get(claim.experiment)) for claim in asked])


def _ledger_row(claim: Claim, file: ResultFile | None) -> JsonObject:
    row = next((row for row in file.claims if row.id == claim.id), None) if file else None
    if file is None or row is None:
        return claims.Result(claim, "not run", note=f"bench experiment {claim.experiment}").row()
    if row.asks != asks(claim):
        was = f"stored for another rule ({row.measured}; {row.rule}): bench experiment {claim.experiment}"
        return claims.Result(claim, "not run", note=was).row()
    found = Interval(row.value, row.low, row.high, row.method)
    # as `shown` writes them: layers are texts already, and stay as they are
    seeds = cast(tuple[Seed, ...], tuple(row.seeds))
    result = claims.Result(claim, row.verdict, found, seeds, row.detectable, row.note, row.p, row.level)
    return {**result.row(), "checks": [plain(one) for one in file.checks if one.id == claim.id]}
