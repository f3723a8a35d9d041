"""Every arm against the SFT policy at the temperature that has the arm's entropy, from stored rows.

A gain of sampled responses may only be less sampling noise.  The arm `sft-tempered` (harness/stages/tempered.py) is the
SFT policy at lower temperatures; what an arm has above it at equal entropy per token is not explained by being surer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from rlhf_bench.harness import store
from rlhf_bench.harness.nouns import Estimate
from rlhf_bench.harness.results import columns
from rlhf_bench.harness.results.arms import Arm, CellFiles
from rlhf_bench.harness.results.columns import Group
from rlhf_bench.harness.results.estimates import ALL, Estimator
from rlhf_bench.harness.results.sheets import NO_PROMPT, Sheets
from rlhf_bench.harness.seeds import Seed, layers_of, run_name, shown
from rlhf_bench.harness.statistics.entropy_matched import (
    CONTROL,
    MISSING,
    OUTSIDE,
    Matched,
    Sampled,
    at_equal_entropy,
    entropies,
)
from rlhf_bench.harness.statistics.frontier import METHOD
from rlhf_bench.harness.statistics.intervals import Interval, undefined

MEASURED = (("utility", "gold"), ("utility", "score"), ("winrate", "win_rate"))
"""Judge and measure of what is compared; those that were not measured are left out."""
TEMPERATURE = "temperature"
"""The statistic that is the SFT policy's temperature at the arm's entropy."""


def is_control(arm: Arm) -> bool:
    """Whether the arm is the SFT policy at lower temperatures."""
    return arm.cells[0].record.get("optimizer") == CONTROL


def control_of(arm: Arm, arms: Sequence[Arm]) -> Arm | None:
    """The first arm `sft-tempered` that begins with the same SFT baseline under some seed; None without one.

    Equal baselines: the same SFT policy, held-out prompts, temperature and evaluation.
    """
    own = baselines(arm)
    controls = (other for other in arms if is_control(other) and other.task == arm.task)
    return next((other for other in controls if own.items() & baselines(other).items()), None)


def baselines(arm: Arm) -> dict[Seed, str]:
    """The place of the baseline's stage by seed: its key names everything that it depends on."""
    return {cell.seed: "/".join(cell.record["stages"]["baseline"]) for cell in arm.cells}


def temperatures_of(cell: CellFiles) -> list[float]:
    """The sampling temperatures of a cell of the control, falling: that of iteration 1 first."""
    params = store.read_json(cell.folder("generations") / store.MARKER)["params"]
    # results of versions before `eval.temperature` have none
    whole = params.get("eval", {}).get("temperature") or params["temperature"]
    return [float(share) * float(whole) for share in params["temperatures"]]


def entropy_matched_estimates(arms: Sequence[Arm], estimator: Estimator) -> Iterator[Estimate]:
    """Each arm at its last checkpoint, sampled, over all prompts, against the SFT policy at the arm's entropy.

    For every measure of MEASURED, under the judge `sft-tempered`: "sft NAME", the SFT policy's value there, and
    "NAME_difference", the arm's minus it; and "temperature".  None for an arm without a control, for the control
    itself, and for best-of-n, which has no log-probabilities.
    """
    sheets = Sheets()
    for arm in arms:
        control = None if is_control(arm) else control_of(arm, arms)
        if control is None:
            continue
        measured: list[Cells] = []
        for judge, statistic in MEASURED:
            if all(judge in cell.judged() for one in (arm, control) for cell in one.cells):
                found = read_cells(arm, control, judge, statistic)
                if found is not None:
                    measured.append(found)
                    unlike = sheets.unlike((arm, control), judge)
                    yield from _differences(arm, found, (judge, statistic), unlike, estimator)
        for cells in measured[:1]:  # of the responses, which every judge has measured
            known = np.array(cells.temperatures)[None, :, None]
            tempered = cells.tempered._replace(value=np.broadcast_to(known, cells.tempered.value.shape))
            at = _matched(arm, cells._replace(tempered=tempered), TEMPERATURE, "", estimator).sft
            yield _estimate(arm, cells, TEMPERATURE, at, estimator)


class Cells(NamedTuple):
    """Responses of both arms on the seeds and prompts that they share, and what names them.

    temperatures [C] of the control; clusters [P]; `iteration` is the arm's checkpoint.  absent: the number of the arm's
    cells whose prompt is of other data (`columns.Aligned`): they have no value, no tokens and the logarithm 0.
    """

    policy: Sampled
    tempered: Sampled
    temperatures: Sequence[float]
    clusters: Sequence[str]
    seeds: tuple[Seed, ...]
    iteration: int
    absent: int = 0


def read_cells(arm: Arm, control: Arm, judge: str, statistic: str) -> Cells | None:
    """The cells of one measure; None where the arm has no log-probabilities, or one of the two no value.

    Raises BenchError as `columns.read`.
    """
    own, others = baselines(arm), baselines(control)
    seeds = tuple(seed for seed in arm.seeds if own[seed] == others.get(seed))
    pairs = [
        {cell.seed: (columns.read(cell.folder("generations") / "generations.jsonl"),
                               columns.read(cell.judged()[judge] / "verdicts.jsonl")) for cell in one.cells}
        for one in (arm, control)
    ]  # fmt: skip
    used = [[both[seed] for seed in seeds] for both in pairs]
    # [2] the sampled checkpoints that every seed has, written and judged, as for all other estimates of an arm
    places = [
        sorted(set.intersection(*({i for d, i in t.groups if d == "sample"} for both in one.values() for t in both)))
        for one in pairs
    ]
    if not all(places):
        return None
    places[0] = places[0][-1:]
    # verdicts first: they have the prompts' sources, which generations do not
    groups: list[Group] = [
        both[k].groups["sample", i] for k in (1, 0) for one, at in zip(used, places, strict=True)
        for both in one for i in at
    ]  # fmt: skip
    drawn = dict(zip(arm.seeds, arm.drawn, strict=True))  # the control's is the same under each of these seeds
    blocks = [drawn[seed] for at in places for seed in seeds for _ in at] * 2
    part = columns.align(groups, blocks=blocks)
    half, first = len(groups) // 2, len(seeds)
    logprob, tokens = (part.matrix(name, elsewhere=0.0)[half:] for name in ("logprob", "drawn"))
    value = part.matrix(statistic)[:half]
    known = ~np.isnan(part.matrix("logprob")[half:][:first])
    shape = (first, len(places[1]), len(part.ids))
    policy, tempered = (
        Sampled(*(rows[which].reshape(size) for rows in (logprob, tokens, value)))
        for which, size in ((slice(first), (first, 1, shape[2])), (slice(first, None), shape))
    )
    if part.ids and (not known.any() or any(np.isnan(one.value).all() for one in (policy, tempered))):
        return None
    temperatures = temperatures_of(control.cells[0])
    absent = part.absent * first // len(groups)
    return Cells(
        policy, tempered, [temperatures[i - 1] for i in places[1]], part.sources(), seeds, places[0][0], absent
    )


def _differences(arm: Arm, cells: Cells, key: tuple[str, str], unlike: str, estimator: Estimator) -> Iterator[Estimate]:
    name, top = key[1], 1.0 if key[1] == "win_rate" else np.inf
    found = _matched(arm, cells, "/".join(key), unlike, estimator)
    yield _estimate(arm, cells, f"sft {name}", found.sft.clipped(0.0 if top == 1 else -top, top), estimator)
    yield _estimate(arm, cells, f"{name}_difference", found.difference.clipped(-top, top), estimator)


def _matched(arm: Arm, cells: Cells, name: str, unlike: str, estimator: Estimator) -> Matched:
    """Undefined with a reason: `unlike`, responses without log-probabilities, or an entropy that lies outside."""
    why = unlike or ("" if cells.policy.value.shape[2] else NO_PROMPT)
    if not why and any(np.isnan(one.logprob + one.tokens).any() for one in (cells.policy, cells.tempered)):
        why = MISSING
    if why:
        return Matched(undefined(why, METHOD), undefined(why, METHOD))
    rng = estimator.generator(CONTROL, arm.task, arm.key, name)
    layers = layers_of(cells.seeds)
    found = at_equal_entropy(cells.policy, cells.tempered, estimator.level, rng, cells.clusters, layers=layers)
    return Matched(*(one.noted(outside(cells)) if one.note == OUTSIDE else one for one in found))


def _estimate(arm: Arm, cells: Cells, name: str, interval: Interval, estimator: Estimator) -> Estimate:
    place = (CONTROL, name, ALL, "sample", cells.iteration)
    found = estimator.estimate(arm, *place, interval, cells.policy.value[:, 0], cells.absent)
    return replace(found, seeds=tuple(map(shown, cells.seeds)))  # type: ignore[arg-type]  # as in `Estimator.estimate`


def outside(cells: Cells) -> str:
    """The entropies, in nats per token, of the seeds whose policy lies outside of the control's."""
    own, others = entropies(cells.policy)[:, 0], entropies(cells.tempered)
    low, high = others.min(axis=1), others.max(axis=1)
    return ", ".join(
        f"{run_name(seed)}: {own[s]:.3f}, SFT's from {low[s]:.3f} to {high[s]:.3f}"
        for s, seed in enumerate(cells.seeds)
        if not low[s] <= own[s] <= high[s]
    )
