"""Reward models at equal KL to the SFT policy: paired differences at fixed values of KL, and the frontiers drawn.

Plain rows for the report's JSON, computed from stored rows; kl_tables.py and charts.py show them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache, partial
from itertools import chain
from typing import TYPE_CHECKING, Literal

import numpy as np

from rlhf_bench.harness import cache
from rlhf_bench.harness.cache import Group
from rlhf_bench.harness.results.arms import Arm
from rlhf_bench.harness.results.estimates import Estimator, difference_limit, within
from rlhf_bench.harness.results.frontiers import (
    ALONG,
    Frontier,
    Points,
    Reader,
    Shared,
    What,
    fixed_settings,
    frontiers_of,
    matched,
    rungs,
    shared,
)
from rlhf_bench.harness.results.sheets import Sheets
from rlhf_bench.harness.statistics.intervals import Interval
from rlhf_bench.reports.measures import RUN, Column, described

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject

DECODINGS: tuple[Literal["sample", "greedy"], ...] = ("sample", "greedy")
GRID = 12
"""Places at which a frontier is drawn, evenly spaced in the square root of KL."""
RANGE: Mapping[str, tuple[float, float]] = {"win": (0.0, 1.0), "rate": (0.0, 1.0)}
"""The range of a level, by kind of measure; that of a difference reaches from minus its upper end to it."""
ONE_SEED = "one seed: these training runs are compared, not the reward models"


def kl_matched(arms: Sequence[Arm], labels: Mapping[str, str], estimator: Estimator) -> dict[str, list[JsonObject]]:
    """{"contrasts", "frontiers"}: JSON-able rows, tasks in order; no rows where no two arms have enough checkpoints.

    `contrasts`: a row for two frontiers, a measure and a decoding, with the interval `at` each KL.  `frontiers`: a row
    for each frontier, quality and decoding, with the interval at each of its `points`.
    """
    found: dict[str, list[JsonObject]] = {"contrasts": [], "frontiers": []}
    reader, sheets = Reader(), Sheets()
    for task in sorted({arm.task for arm in arms}):
        own = frontiers_of([arm for arm in arms if arm.task == task])
        names = frontier_labels(own, labels)
        for column, decoding in itertools.product(compared(described([a for one in own for a in one.arms])), DECODINGS):
            what = What(column.judge, column.statistic, column.kind, column.before, decoding)
            judged = [one for one in own if all(column.judge in c.judged() for arm in one.arms for c in arm.cells)]
            # read when a number has to be computed: an earlier report may have kept them all (cache.py)
            points = {one.key: lru_cache(partial(reader.points, one, what)) for one in judged}
            name = [asdict(column), decoding]
            kept = partial(_kept, estimator, column.judge)
            having = [one for one in judged if kept(one).get([*name, "has"], partial(_has_points, points[one.key]))]
            for a, b in itertools.combinations(having, 2):
                both = (points[a.key], points[b.key])
                unlike = sheets.unlike((*a.arms, *b.arms), column.judge)
                make = partial(_contrast, both, column, decoding, estimator, unlike)
                row = kept(a, b).get(name, make)
                place = {"a": [arm.key for arm in a.arms], "b": [arm.key for arm in b.arms]}
                where = {"task": task, "a_label": names[a.key], "b_label": names[b.key], **place}
                found["contrasts"].append({**where, **row})
            if quality(column):
                for one in having:
                    row = kept(one).get(name, partial(_frontier, points[one.key], column, decoding, estimator))
                    where = {"task": task, "label": names[one.key], "arms": [arm.key for arm in one.arms]}
                    found["frontiers"].append({**where, **row})
    return found


def _kept(estimator: Estimator, judge: str, *frontiers: Frontier) -> Group:
    """Where rows about these frontiers are kept for the next report."""
    parts = [[arm.depends(judge) for arm in one.arms] for one in frontiers]
    if "" in chain.from_iterable(parts):
        return cache.NONE
    return cache.group("frontiers", estimator.depends(), *parts)


def _has_points(points: Callable[[], Points]) -> bool:
    return bool(points().by_seed)


def quality(column: Column) -> bool:
    """Whether a measure says how good the policy is at a distance: the same ones as the figures against KL show."""
    return column.kind == "win" or (column.kind == "level" and bool(column.better))


def compared(columns: Sequence[Column]) -> list[Column]:
    """The measures of the comparison of every two arms.

    Without the changes of a level that is compared itself: both differ by the same, the SFT policy's value.
    """
    found = [c for c in columns if c.judge != RUN and ("pairs" in c.shown or quality(c))]
    levels = {(c.judge, f"{c.statistic}_change") for c in found if c.kind == "level"}
    return [c for c in found if c.key not in levels]


def frontier_labels(found: Sequence[Frontier], labels: Mapping[str, str]) -> dict[str, str]:
    """The label of each frontier by its key: its arm's, or the reward model's with the settings that are pooled."""
    made = {}
    for one in found:
        made[one.key] = labels[one.arms[0].key]
        if len(one.arms) > 1:
            own = [fixed_settings(arm, set(arm.cells[0].record["differing"]) - ALONG) for arm in one.arms]
            names = [name for name in sorted(ALONG) if len({settings.get(name) for settings in own}) > 1]
            values = [f"{name}={', '.join(settings.get(name, 'default') for settings in own)}" for name in names]
            made[one.key] = f"{one.arms[0].reward_model} ({len(one.arms)} arms pooled: {'; '.join(values)})"
    for one in found:
        if list(made.values()).count(made[one.key]) > 1:  # other settings tell them apart, which no label names
            made[one.key] += f" #{one.arms[0].key[:6]}"
    return made


def _contrast(
    points: Sequence[Callable[[], Points]],
    column: Column,
    decoding: str,
    estimator: Estimator,
    unlike: str,
) -> JsonObject:
    common = Shared(why=unlike) if unlike else shared([read() for read in points])
    at: list[JsonObject] = []
    if not common.why:
        kl = rungs(common.reach)
        top = RANGE.get(column.kind, (0.0, float("inf")))[1]
        for value, one in zip(kl, matched(common, kl, estimator), strict=True):
            cut = within(one.clipped(-top, top), difference_limit(column.limit))
            at.append({"kl": value, **_numbers(cut.noted(ONE_SEED if len(common.seeds) == 1 else ""))})
    return {**_of(column, decoding, common, estimator), "at": at}


def _frontier(points: Callable[[], Points], column: Column, decoding: str, estimator: Estimator) -> JsonObject:
    common = shared([points()])
    at: list[JsonObject] = []
    if not common.why:
        kl = [float(d) ** 2 for d in np.linspace(0.0, common.reach**0.5, GRID)]
        for value, one in zip(kl, matched(common, kl, estimator), strict=True):
            cut = within(one.clipped(*RANGE[column.kind]) if column.kind in RANGE else one, column.limit)
            if cut.value is not None:
                at.append({"kl": value, **_numbers(cut)})
    return {**_of(column, decoding, common, estimator), "points": at}


def _of(column: Column, decoding: str, common: Shared, estimator: Estimator) -> JsonObject:
    return {
        "judge": column.judge,
        "statistic": column.statistic,
        "title": column.title,
        "format": column.format,
        "decoding": decoding,
        "level": estimator.level,
        "seeds": len(common.seeds),
        "prompts": len(common.clusters),
        "reach": common.reach,
        "note": common.why or common.note,
    }


def _numbers(one: Interval) -> JsonObject:
    return {"value": one.value, "low": one.low, "high": one.high, "method": one.method, "note": one.note}
