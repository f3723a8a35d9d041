"""What a reader must know before believing a report's numbers: its warnings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rlhf_bench.harness import cache, store
from rlhf_bench.harness.nouns import Estimate
from rlhf_bench.harness.results.alarms import alarms, arm_alarms, response_alarms, untrained_alarm
from rlhf_bench.harness.results.arms import Arm, CellFiles
from rlhf_bench.harness.results.columns import read
from rlhf_bench.harness.results.monitors import warned
from rlhf_bench.harness.results.shared_training import shared
from rlhf_bench.harness.results.stored import stored_rows
from rlhf_bench.harness.seeds import Seed, run_name
from rlhf_bench.harness.statistics.entropy_matched import CONTROL
from rlhf_bench.harness.statistics.runs import TWO_MODES
from rlhf_bench.reports.cell_records import (
    gold_trainings,
    has_members,
    has_rewards,
    proxy_trainings,
    stage_record,
    trained_parts,
)
from rlhf_bench.reports.measures import COLLAPSED

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import Row

NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?")
"""A number in a sentence of an alarm."""


def warnings(arm: Arm, label: str) -> list[str]:
    """What a reader must know before believing the arm's numbers, as sentences that begin with `label`.

    One seed, odd training (`results.alarms`), a gold scorer that shares what the proxy has, undecided cases, prompts
    left out, and differing versions of the software within the arm.
    """
    found = []
    if len(arm.seeds) == 1:
        found.append(f"{label}: one training seed; intervals are conditional on this training run")
    if arm.cells[0].record["differing"].get("ppo.critic") == "trunk":
        found.append(f"{label}: the critic shares the policy's trunk: another algorithm than with a trunk of its own")
    runs: dict[Seed, Sequence[Row]] = {}
    said: list[tuple[Seed, str]] = []
    for cell in arm.cells:
        of_seed = f"{label}, {run_name(cell.seed)}"
        if "ppo" in cell.record["stages"]:
            steps = runs[cell.seed] = stored_rows(cell.folder("ppo") / "steps.jsonl")
            said += [(cell.seed, text) for text in {**alarms(steps), **warned(steps)}.values()]
        if answers_alone(cell):
            said += [(cell.seed, text) for text in responses(cell, "generations")]
        if has_rewards(cell):
            scale = store.read_json(cell.folder("scale") / "scale.json")
            if not scale["sft_samples"]["variance"]:
                # its scale is then a guess, and PPO has nothing to learn from
                found.append(f"{of_seed}: the reward does not vary over SFT samples")
        said += [(cell.seed, text) for text in of_training(cell)]
        found += [f"{of_seed}: {text}" for text in undecided(cell)]
    found += [f"{label}, {text}" for text in merged(said)]
    found += [f"{label}: {text}" for text in arm_alarms(runs)]
    left = stage_record(arm.cells[0], "prompts")["figures"].get("test_without_room", 0)
    if left:
        found.append(f"{label} on {arm.task}: {left} held-out prompts too long for the policy's context were left out")
    # the first and the last stage of a cell, over all seeds: an upgrade between any of them shows
    versions = {
        store.canonical(stage_record(cell, role)["versions"]) for cell in arm.cells for role in ("sft", "generations")
    }
    if len(versions) > 1:
        found.append(f"{label}: made with different versions of the software")
    return found


def of_training(cell: CellFiles) -> Iterator[str]:
    """Sentences about a cell's trained reward model: what is left of its random head, what its gold scorers share."""
    # one sentence for all members: those of several would be read as several runs
    whose = "a member: " if has_members(cell) else ""
    figures = [stage_record(cell, role)["figures"] for role in trained_parts(cell)]
    kept = [(own["untrained_correlation"], text) for own in figures for text in untrained_alarm(own)]
    yield from (f"{whose}{text}" for _, text in sorted(kept)[-1:])
    of = " of a member" if has_members(cell) else ""
    proxies = proxy_trainings(cell)
    for name, gold in gold_trainings(cell).items():
        for clauses in dict.fromkeys(", ".join(shared(gold, proxy)) for proxy in proxies):
            if clauses:
                yield f"{name} is no independent gold{of}: {clauses}; errors that both share count as gains"


def answers_alone(cell: CellFiles) -> bool:
    """Whether the responses to held-out prompts alone tell how an arm's policy writes.

    Not under PPO on its own task, of whose rollouts more are known.  Not of the tempered SFT policy, whose last
    checkpoint is its lowest temperature.
    """
    stages = cell.record["stages"]
    return bool(stages.get("ppo") != stages.get("generations") and cell.record["reward_model"] != CONTROL)


def responses(cell: CellFiles, role: str) -> list[str]:
    """Alarms about the sampled responses at the last checkpoint of the stage with this role."""
    folder = cell.folder(role)

    def said() -> list[str]:
        group = read(folder / "generations.jsonl").end("sample")
        return response_alarms(group.column("finished"), group.column("tokens")) if group else []

    found: list[str] = cache.group("response alarms", cell.part(folder)).get(role, said)
    return found


def of_baselines(arms: Sequence[Arm]) -> Iterator[str]:
    """The same of the SFT policy, from which every arm begins: once for each task, whatever its arms."""
    for task in dict.fromkeys(arm.task for arm in arms):
        cells = [cell for arm in arms if arm.task == task for cell in arm.cells if "baseline" in cell.record["stages"]]
        # arms share a baseline: by folder, which its key names
        own = {cell.folder("baseline"): cell for cell in sorted(cells, key=lambda cell: cell.seed)}
        said = [(cell.seed, text) for cell in own.values() for text in responses(cell, "baseline")]
        yield from (f"SFT baseline on {task}, {text}" for text in merged(said))


def merged(said: Sequence[tuple[Seed, str]]) -> Iterator[str]:
    """What was said of several runs, once: their seeds, and the range of the numbers in which the sentences differ."""
    alike: dict[str, list[tuple[Seed, str]]] = {}
    for seed, text in said:
        alike.setdefault(NUMBER.sub("#", text), []).append((seed, text))
    for one in alike.values():
        # not `run_name` of several: seeds in layers have several numbers each
        names = (
            run_name(one[0][0])
            if len(one) == 1
            else f"{len(one)} runs ({', '.join(run_name(seed) for seed, _ in one)})"
        )
        numbers = zip(*(NUMBER.findall(text) for _, text in one), strict=True)
        ranges = iter([_range(own) for own in numbers])
        yield f"{names}: {NUMBER.sub(lambda _: next(ranges), one[0][1])}"  # noqa: B023


def _range(numbers: Sequence[str]) -> str:
    ends = [min(numbers, key=float), max(numbers, key=float)]
    return ends[0] if float(ends[0]) == float(ends[1]) else f"{ends[0]} to {ends[1]}"


def collapses(estimates: Sequence[Estimate], labels: Mapping[str, str]) -> Iterator[str]:
    """Arms some of whose runs collapsed or lie apart, at the last checkpoint, sampled, over all prompts."""
    found = [
        e
        for e in estimates
        if e.statistic.endswith(COLLAPSED) and (e.slice, e.decoding) == ("all", "sample") and e.value is not None
        if e.reward_model != CONTROL  # its last checkpoint is an arbitrary temperature, not the end of a training run
    ]
    last: dict[tuple[str, str, str], Estimate] = {}
    for e in sorted(found, key=lambda e: e.iteration):
        last[e.arm, e.judge, e.statistic] = e
    for e in last.values():
        name = e.statistic.removesuffix(COLLAPSED)
        if e.value or "outlying" in e.note:
            modes = f"; {TWO_MODES}, and no t interval of a mean over them holds" if 0 < (e.value or 0) < 1 else ""
            yield f"{labels[e.arm]} on {e.task}, {name}: {e.note}{modes}"


def undecided(cell: CellFiles) -> Iterator[str]:
    """Judges that left more cases undecided than their threshold allows, as sentences about one cell.

    The threshold is the stored one, which the verdicts were made with; a judge without any allows all.
    """
    for name, folder in cell.judged().items():
        figures = store.read_json(folder / store.MARKER)["figures"]
        if figures["undecided"] > figures.get("threshold", 1) * figures["cases"]:
            yield (
                f"{name} left {figures['undecided']} of {figures['cases']} cases undecided, "
                f"more than its threshold of {figures['threshold']:.1%}"
            )
