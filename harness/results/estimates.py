"""Estimates of one arm from its stored rows.

Every reported number is recomputed from files: nothing that a stage summarised is copied into a report.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rlhf_bench.harness import cache, store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Estimate, Measure
from rlhf_bench.harness.results import columns
from rlhf_bench.harness.results.arms import Arm
from rlhf_bench.harness.results.columns import Aligned, Columns, align, checkpoints
from rlhf_bench.harness.results.stored import stored_rows
from rlhf_bench.harness.seeds import Seed, layers_of, run_name
from rlhf_bench.harness.slices import length_slices
from rlhf_bench.harness.statistics import collapse, entropy_matched, runs
from rlhf_bench.harness.statistics import layers as layered
from rlhf_bench.harness.statistics.intervals import Interval
from rlhf_bench.harness.statistics.runs import Runs

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject, Row

ALL = "all"
"""The name of the slice of all prompts."""
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimator:
    """Makes estimates with intervals of one nominal level; `seed` starts the generators of bootstraps.

    Equal files, level and seed give equal numbers, in any order of the calls.
    """

    level: float = 0.95
    seed: int = 0

    def arm(self, arm: Arm) -> list[Estimate]:
        """All estimates of one arm: of the run itself, of its proxy curve, and of every judge that measured all seeds.

        Raises BenchError for files that cannot be read, and for a judge whose settings differ between seeds.
        """
        # imported here, because that module builds its results with this class
        from rlhf_bench.harness.results.proxy_estimates import proxy_estimates

        judges = sorted(set.intersection(*(set(cell.judged()) for cell in arm.cells)))
        found = self._kept(arm, (), "run", partial(self._run_statistics, arm))
        # gold is read from verdicts
        found += self._kept(arm, judges, "proxy", partial(proxy_estimates, arm, self))
        # from the stored prompts, because a judge's rows hold no texts; read once where all seeds have the same ones
        thirds: dict[str, dict[str, str]] = {}
        # an estimate is over all seeds of its arm: a judge that lacks one of them is left out
        for judge in judges:
            found += self._kept(arm, (judge,), "judge", partial(self._judged, arm, judge, thirds))
        return found

    def depends(self) -> list[object]:
        """What of an estimator its numbers depend on, as JSON."""
        return [type(self).__module__, type(self).__qualname__, self.level, self.seed]

    def _kept(
        self, arm: Arm, judges: Sequence[str], name: str, make: Callable[[], Iterable[Estimate]]
    ) -> list[Estimate]:
        """Estimates of an arm and of some judges, which are made unless an earlier report kept them (cache.py)."""
        kept = cache.group("estimates", self.depends(), arm.depends(*judges))
        if kept is cache.NONE:
            return list(make())
        rows = kept.get(name, lambda: list(map(row_of, make())))
        # seeds as the arm has them: JSON holds a list
        return [Estimate(**{**row, "seeds": arm.shown}) for row in rows]

    def _judged(self, arm: Arm, judge: str, thirds: dict[str, dict[str, str]]) -> Iterator[Estimate]:
        """The estimates of one judge; `thirds`: the slices by length of each data set, filled here."""
        for cell in arm.cells:
            if cell.drawn not in thirds:
                thirds[cell.drawn] = length_slices(stored_rows(cell.folder("prompts") / "examples.test.jsonl"))
        folders = [cell.judged()[judge] for cell in arm.cells]
        same_judge(judge, folders)
        measures = [Measure(**row) for row in store.read_json(folders[0] / "measures.json")]
        tables = [columns.read(folder / "verdicts.jsonl") for folder in folders]
        yield from self._judge(arm, judge, measures, tables, [thirds[name] for name in arm.drawn])

    def _judge(
        self,
        arm: Arm,
        judge: str,
        measures: Sequence[Measure],
        tables: Sequence[Columns],
        thirds: Sequence[Mapping[str, str]],
    ) -> Iterator[Estimate]:
        """Every measure at every checkpoint, at the last one also by slice.

        `thirds` [S] name one more slice by example: the third of the prompts by length (slices.length_slices).
        """
        layers = layers_of(arm.seeds)
        found = checkpoints(tables)
        levels = {f"{m.name}_change": m for m in measures if m.before}  # a change of these can be a collapse
        for decoding, iteration in found:
            final = iteration == max(i for _, i in found)
            groups = [table.groups[decoding, iteration] for table in tables]
            slices: set[str] = set()
            if final:
                slices = {name for group in groups for own in set(group.slices) for name in own}
                slices |= {
                    third[i] for group, third in zip(groups, thirds, strict=True) for i in group.ids if i in third
                }
            for slice_name in [ALL, *sorted(slices)]:
                part = align(groups, "" if slice_name == ALL else slice_name, thirds, arm.drawn)
                where = (slice_name, decoding, iteration)
                for m in measures:
                    if (judge, m.name, decoding) == ("run", "kl", "greedy"):
                        continue  # log-ratios of greedy responses do not estimate the KL (nouns.Generation)
                    cells = part.matrix(m.name)  # [S, P]
                    # the number's name, which seeds its generator
                    place = (arm.task, arm.reward_model, arm.key, judge, m.name, slice_name, decoding, str(iteration))
                    rng = self.generator(*place)
                    interval = layered.interval(m.kind, cells, self.level, rng, part.sources(), layers)
                    if m.kind == "change" and m.name in levels and len(arm.seeds) > 1:
                        level = levels[m.name]
                        before, after = part.matrix(level.before), part.matrix(level.name)
                        own = runs.of_runs(before, after, self.level, part.sources(), level.better != "lower", layers)
                        interval = over_modes(interval, own, arm.seeds)
                        for name, one in run_statistics(level.name, own, arm.seeds).items():
                            yield self.estimate(arm, judge, name, *where, one, cells, part.absent)
                    interval = within(interval, m.limit).noted(undecided(part, m, cells), left_out(part))
                    yield self.estimate(arm, judge, m.name, *where, interval, cells, part.absent)
                    if m.before and final and decoding == "sample":
                        yield from self._collapse(arm, judge, m, slice_name, iteration, part)

    def _collapse(
        self, arm: Arm, judge: str, m: Measure, slice_name: str, iteration: int, part: Aligned
    ) -> Iterator[Estimate]:
        """Each seed's distribution statistics; over several seeds the variance ratio's mean logarithm, by t."""
        after, before, clusters = part.matrix(m.name), part.matrix(m.before), part.sources()
        place = (arm.task, arm.reward_model, arm.key, judge, m.name, slice_name, "collapse")
        found = [
            collapse.collapse(b, a, self.generator(*place, str(seed)), self.level, clusters=clusters)
            for b, a, seed in zip(before, after, arm.seeds, strict=True)
        ]
        for name in found[0]:  # every seed has the same statistics (collapse.KEYS), undefined ones among them
            interval = collapse.over_seeds(name, [one[name] for one in found], self.level, layers_of(arm.seeds))
            named = f"{m.name} {name}"
            yield self.estimate(arm, judge, named, slice_name, "sample", iteration, interval, after, part.absent)

    def _run_statistics(self, arm: Arm) -> Iterator[Estimate]:
        """At every checkpoint: KL to the SFT policy, the reward model's own (unscaled) reward, entropy per token, and
        repeated responses."""
        tables = []
        for cell in arm.cells:
            # generations.jsonl has no sources, and they are needed: prompts of one source are one cluster
            rows = stored_rows(cell.folder("prompts") / "examples.test.jsonl")
            source = {row["id"]: row.get("source", "") for row in rows}
            table = columns.read(cell.folder("generations") / "generations.jsonl", texts=True)
            groups = {}
            for place, group in table.groups.items():  # slices are emptied: these statistics are not shown by slice
                sources = tuple(source[i] for i in group.ids)
                groups[place] = replace(group, slices=((),) * len(group.ids), sources=sources)
            tables.append(replace(table, groups=groups))
        groups_of_all = [group for table in tables for group in table.groups.values()]
        # an arm without a reward model has no rewards, which is no undecided case
        known = [n for n in ("kl", "reward") if any(np.isfinite(group.column(n)).any() for group in groups_of_all)]
        none: list[dict[str, str]] = [{}] * len(tables)
        yield from self._judge(arm, "run", [Measure(name, "level") for name in known], tables, none)
        for decoding, iteration in checkpoints(tables):
            part = align([table.groups[decoding, iteration] for table in tables], blocks=arm.drawn)
            logprob = part.matrix("logprob")
            if np.isfinite(logprob).any():  # sampled by this policy, and by a version that stores it
                rng = self.generator(arm.task, arm.reward_model, arm.key, "run", "entropy", decoding, str(iteration))
                of, tokens = (part.matrix(name, elsewhere=0.0) for name in ("logprob", "drawn"))
                layers = layers_of(arm.seeds)
                one = entropy_matched.entropy(of, tokens, self.level, rng, part.sources(), layers)
                yield self.estimate(arm, "run", "entropy", ALL, decoding, iteration, one, logprob, part.absent)
            texts = list(part.texts())
            found = [collapse.repetition(responses) for responses in texts]
            for name in found[0]:
                interval = collapse.over_seeds(name, [one[name] for one in found], self.level, layers_of(arm.seeds))
                cells = np.zeros((len(texts), len(texts[0])))  # [S, P] for counts alone: no response is undecided
                yield self.estimate(arm, "run", name, ALL, decoding, iteration, interval, cells)

    def generator(self, *place: str) -> np.random.Generator:
        """The generator of one number, seeded by the estimator's seed and the number's name.

        A number therefore does not change when other numbers are added to a report or left out.
        """
        # a separator, so that ("a", "b") and ("ab",) differ
        digest = hashlib.sha256("\x1f".join((str(self.seed), *place)).encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "big"))

    def estimate(
        self,
        arm: Arm,
        judge: str,
        statistic: str,
        slice_name: str,
        decoding: str,
        iteration: int,
        interval: Interval,
        cells: Array,
        absent: int = 0,
    ) -> Estimate:
        """The record of a number that was computed from `cells` [S, P], for estimates.csv and report.json.

        `n` is the mean number of decided prompts per seed, rounded, `n_invalid` the undecided cells of all seeds (NaN),
        of which `absent` are none: their prompts are of other data.
        """
        decided = ~np.isnan(cells)
        return Estimate(
            task=arm.task,
            reward_model=arm.reward_model,
            arm=arm.key,
            judge=judge,
            statistic=statistic,
            slice=slice_name,
            decoding=decoding,  # type: ignore[arg-type]  # stored rows hold one of its two values
            iteration=iteration,
            value=interval.value,
            low=interval.low,
            high=interval.high,
            level=self.level,
            n=round(float(decided.sum(1).mean())) if cells.size else 0,
            n_invalid=int((~decided).sum()) - absent,
            # the annotation in nouns.py, which is part of every stage's key, knows plain seeds alone
            seeds=arm.shown,  # type: ignore[arg-type]
            method=interval.method,
            note=interval.note,
        )


FIELDS = tuple(field.name for field in fields(Estimate))


def row_of(one: Estimate) -> JsonObject:
    """The estimate as JSON: what `asdict` gives in a tenth of its time, since no member holds another record."""
    return {name: getattr(one, name) for name in FIELDS}


def over_modes(found: Interval, own: Runs, seeds: Sequence[Seed]) -> Interval:
    """The interval of a mean over runs: where some of them collapsed and others did not, the one that allows for it."""
    if not own.two_modes:
        return found
    return own.mixture.noted(f"{runs.TWO_MODES}: {collapsed_runs(own, seeds)}", found.note)


def run_statistics(name: str, own: Runs, seeds: Sequence[Seed]) -> dict[str, Interval]:
    """What the collapse of runs makes of the change of `name` ("gold"), by the statistic's name."""
    said = collapsed_runs(own, seeds)
    apart = ", ".join(f"{run_name(seeds[place])} ({own.changes[place]:+.2f})" for place in own.outlying)
    return {
        f"{name} runs collapsed": own.share.noted(
            said, f"outlying: {apart}" if apart else "", runs.SHARED if layers_of(seeds) else ""
        ),
        f"{name} change of other runs": own.others,
        f"{name} change over all runs": own.mixture.noted(said if own.two_modes else ""),
    }


def collapsed_runs(own: Runs, seeds: Sequence[Seed]) -> str:
    """How many of the runs collapsed, and which seeds, with their mean changes."""
    named = [
        f"{run_name(seed)} ({change:+.2f})"
        for seed, change, flag in zip(seeds, own.changes, own.collapsed, strict=True)
        if flag
    ]
    ruled = sum(flag is not None for flag in own.collapsed)
    unknown = len(own.collapsed) - ruled
    text = f"{len(named)} of {ruled} runs collapsed" + (f": {', '.join(named)}" if named else "")
    return f"{text}; {unknown} runs without a rule, since the baseline's values do not vary" if unknown else text


def within(found: Interval, limit: float | None) -> Interval:
    """The interval cut off at -limit and limit (None: unlimited), with a note where that changed it.

    A t interval may pass the range of its measure; `limit` is the largest size of a change (`nouns.Measure`).
    """
    cut = found if limit is None else found.clipped(-limit, limit)
    return cut if cut == found else cut.noted(f"cut off at {limit:g}, the largest there can be")


def difference_limit(limit: float | None) -> float | None:
    """The largest difference of two values within [-limit, limit]; None without a limit."""
    return None if limit is None else 2 * limit


def same_judge(judge: str, folders: Sequence[Path]) -> None:
    """Raises BenchError when a judge's settings differ between the seeds of an arm: such rows must not be mixed."""
    found = {store.canonical(store.read_json(folder / store.MARKER)["params"]["judge"]) for folder in folders}
    if len(found) > 1:
        raise BenchError(
            f"The judge {judge!r} measured the seeds of one arm with different settings: {'; '.join(sorted(found))}.",
            f"Judge them all alike: bench judge RUNS --judge {judge}",
        )


def left_out(part: Aligned) -> str:
    """A note on the number of prompts that only some seeds have; "" for none."""
    return f"{part.left_out} prompts that only some seeds have are left out" if part.left_out else ""


def undecided(part: Aligned, m: Measure, cells: Array) -> str:
    """A note on the undecided cases among `cells` [S, P]: their number and reasons; "" for none.

    Wins and rates lie in [0, 1], so the note also bounds the value that they would have if all cases were decided
    (worst-case bounds, Manski 1989).
    """
    holes = np.isnan(cells)
    count = int(holes.sum()) - part.absent
    if not count:
        return ""
    note = f"{count} undecided: {counted(part.reasons(holes))}"
    if m.kind not in ("win", "rate"):
        return note
    # every undecided case at one end of the range: no mean of the decided ones can lie outside these two
    known, cases = float(np.nansum(cells)), cells.size - part.absent
    low, high = known / cases, (known + count) / cases
    return f"{note}; if all were 0 or all 1, the value would be {low:.3f} or {high:.3f}"


def reasons(part: Sequence[Sequence[Row]], name: str) -> str:
    """Reasons why the measure `name` is undecided in tables of rows of verdicts, the most frequent first, with counts.

    "" where it is decided in all rows.
    """
    return counted(
        row.get("reason", "not measured") for rows in part for row in rows if row["values"].get(name) is None
    )


def counted(found: Iterable[str]) -> str:
    """Reasons with their counts, the most frequent first, then by name."""
    ordered = sorted(Counter(found).items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{reason} ({count})" for reason, count in ordered)
