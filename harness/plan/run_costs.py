"""What a plan needs, by kind of stage over all seeds and arms: memory against what there is, and hours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_bench.harness import cache, store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.forward.packing import ARCHITECTURES
from rlhf_bench.harness.models import memory
from rlhf_bench.harness.models.peaks import Host, Peak
from rlhf_bench.harness.models.placement import Placement, choose_placement, placement_of
from rlhf_bench.harness.plan.policy_speeds import measured
from rlhf_bench.harness.plan.stage_parts import Basis
from rlhf_bench.harness.plan.stage_plans import StagePlan, plan_stage
from rlhf_bench.harness.plan.token_lengths import TokenLengths, token_lengths
from rlhf_bench.harness.sampling.speeds import CPU_SHARE, KNOWN_DEVICES, SHARE, Device, Speeds, from_operations

if TYPE_CHECKING:
    from rlhf_bench.harness.pipeline.stage import Stage
    from rlhf_bench.harness.plan.request import Plan

TRIED = (5_000_000, 2_000_000_000)
"""Parameters between which a policy's speed is measured: smaller ones take no time, and larger ones too much."""
ROW = 128
"""Tokens of the row whose activations are counted; they grow in proportion."""


@dataclass(frozen=True)
class KindCost:
    """Stages of one kind and `detail`: how many, the largest `peak` among them, and `seconds` of all of them on one
    job."""

    kind: str
    detail: str
    count: int
    peak: Peak
    seconds: float

    @property
    def name(self) -> str:
        """Kind and detail."""
        return f"{self.kind} {self.detail}".strip()


@dataclass(frozen=True)
class RunCosts:
    """The pending stages of a plan by kind, in the order of execution.

    `jobs`: stages side by side.  `total` and `free`: bytes of the device's memory.  `halves`: running out of memory is
    noticed there, and passes are made smaller.  `weights`: parameters of the policy.
    """

    kinds: tuple[KindCost, ...]
    jobs: int
    total: int
    free: int
    halves: bool
    speeds: Speeds
    lengths: TokenLengths
    weights: int

    @property
    def seconds(self) -> float:
        """Of all stages on one job."""
        return sum(kind.seconds for kind in self.kinds)

    @property
    def largest(self) -> KindCost:
        """The kind with the largest peak."""
        return max(self.kinds, key=lambda kind: kind.peak.bytes)

    @property
    def together(self) -> int:
        """Bytes of the largest stages that may run side by side."""
        every = sorted((kind.peak.bytes for kind in self.kinds for _ in range(kind.count)), reverse=True)
        return sum(every[: self.jobs])

    def problem(self) -> tuple[str, str] | None:
        """What does not fit and what to lower, as a sentence each; None where all fits.

        A stage that makes its own passes smaller when memory runs out needs memory for one row.
        """
        for kind in sorted(self.kinds, key=lambda kind: -kind.peak.bytes):
            needed = kind.peak.least if self.halves else kind.peak.bytes
            if needed > self.total:
                seen = f"The stage {kind.name} needs about {gib(needed)}, and there are {gib(self.total)}."
                return seen, f"Lower {', '.join(_remedies(kind.peak, self.total))}."
        if self.jobs > 1 and self.together > self.total:
            seen = f"{self.jobs} stages side by side need about {gib(self.together)}, and there are {gib(self.total)}."
            return seen, "Lower --jobs."
        return None

    @property
    def warning(self) -> str:
        """A sentence where it fits, but closely or not now; "" else."""
        top = self.largest
        if self.problem() is not None:
            return ""
        if top.peak.bytes > self.total:
            return f"The stage {top.name} will make its passes smaller: {gib(top.peak.bytes)} of {gib(self.total)}."
        if self.together > memory.SPARE * self.free:
            need = self.together if self.jobs > 1 else top.peak.bytes
            return f"Memory is short: about {gib(need)} will be needed ({top.name}), and {gib(self.free)} are free now."
        return ""


def gib(size: int) -> str:
    """Bytes in GiB (2**30), small ones in MiB."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _remedies(peak: Peak, total: int) -> list[str]:
    """Settings to lower: that of the largest pass where it is enough, else what makes the models themselves smaller."""
    if peak.setting and peak.least <= total:
        room = (total - peak.fixed) / max(1, peak.each * peak.tokens)
        return [f"{peak.setting} to {max(1, int(100 * room))}% of its value or less"]
    found = [peak.setting] if peak.setting else []
    return [*found, "data.max_prompt_tokens", "or train adapters (policy.lora=8), or take a smaller policy"]


@dataclass(frozen=True)
class Planner:
    """Plans stages of one plan: the policy and lengths they stand on, and its speeds."""

    basis: Basis
    speeds: Speeds

    @classmethod
    def of(
        cls,
        made: Plan,
        source: str,
        device: str,
        threads: int,
        *,
        jobs: int = 1,
        measure: bool = True,
        known: str = "",
        speeds: Speeds | None = None,
    ) -> Planner:
        """That of a plan with the policy `source` on a torch device, or on `known`, one of KNOWN_DEVICES.

        `measure`: try the policy for its speed, in as many processes as stages run side by side (`jobs`) and have room,
        unless `speeds` are given.  Raises BenchError where the policy's configuration cannot be read.
        """
        given = KNOWN_DEVICES.get(known)
        placement = planned_placement(made, "cuda" if given else device, bool(given))
        config = memory.config_of(source)
        cpu = not given and device == "cpu"
        packed = cpu and config.model_type in ARCHITECTURES
        host = Host(memory.sizes_of(config, placement, ROW, 0), placement, ROW, cpu, packed)
        lengths = token_lengths(made, source)
        found = speeds or _speeds(made, source, host, lengths, device, threads, jobs, measure, given)
        return cls(Basis(host, lengths, "cuda" if given else device), found)

    def plan(self, stage: Stage) -> StagePlan:
        """What a stage needs."""
        return plan_stage(stage, self.basis)


def run_costs(
    plans: Sequence[Plan],
    source: str,
    device: str,
    jobs: int,
    threads: int,
    out: Path,
    *,
    measure: bool = True,
    known: str = "",
) -> RunCosts | None:
    """What the pending stages of `plans` need with the policy `source`; None where none is pending.

    The other arguments are those of `Planner.of`, which says what it raises.
    """
    root = store.Store(out)
    found: dict[tuple[str, str], list[tuple[StagePlan, float]]] = {}
    planner: Planner | None = None
    seen: set[str] = set()
    for made in plans:
        pending = [stage for stage in made.order if stage.key not in seen and not stage.done(root)]
        seen |= {stage.key for stage in pending}
        if not pending:
            continue
        speeds = planner.speeds if planner else None
        planner = Planner.of(made, source, device, threads, jobs=jobs, measure=measure, known=known, speeds=speeds)
        for planned in map(planner.plan, pending):
            own = found.setdefault((planned.kind, planned.detail), [])
            own.append((planned, seconds_of(planned, planner.speeds)))
    if planner is None:
        return None
    kinds = tuple(
        KindCost(kind, detail, len(own), max((p.peak for p, _ in own), key=lambda x: x.bytes), sum(s for _, s in own))
        for (kind, detail), own in found.items()
    )
    given, basis = KNOWN_DEVICES.get(known), planner.basis
    total = given.memory if given else memory.available_bytes(device)
    free = given.memory if given else memory.free_bytes(device)
    # a CPU's system ends a process that takes too much without a word
    halves = not basis.host.cpu
    return RunCosts(kinds, jobs, total, free, halves, planner.speeds, basis.lengths, basis.host.sizes.total)


def planned_placement(made: Plan, device: str, given: bool) -> Placement:
    """How the plan's policy is held on a device; one that is `given` is taken to have bfloat16."""
    settings = made.settings.group("policy")
    if not given:
        return choose_placement(settings, device)
    wanted = placement_of(settings)
    return replace(wanted, dtype="bfloat16") if wanted.dtype == "auto" else wanted


def seconds_of(planned: StagePlan, speeds: Speeds) -> float:
    """Seconds of a stage at these speeds."""
    work = planned.work
    learned = work.read * speeds.read + work.trained * speeds.trained
    decoded = work.steps * speeds.step + work.drawn * speeds.row
    return learned + decoded + work.loaded * speeds.load + work.seconds


def _speeds(
    made: Plan,
    source: str,
    host: Host,
    lengths: TokenLengths,
    device: str,
    threads: int,
    jobs: int,
    measure: bool,
    given: Device | None,
) -> Speeds:
    """Speeds by measurement where the weights are here and of a size to be tried; else from operations."""
    folder = Path(source).expanduser()
    share = lengths.response / max(1.0, lengths.response + lengths.train.mean)
    small, large = TRIED
    if not given and measure and store.is_folder(folder) and small <= host.sizes.total <= large:
        prompt, response = _rounded(lengths.train.mean), _rounded(lengths.response)
        identity = made.cells[0].stages["sft"].params["policy"]["sha256"]
        # a try holds the weights, a copy of them and what a pass keeps; a GPU's jobs wait for each other
        room = memory.free_bytes(device) // (4 * host.whole + host.libraries)
        side = max(1, min(jobs, room)) if device == "cpu" else 1
        kept = cache.group(
            "speeds", cache.code(), identity, asdict(host.placement), device, threads, side, prompt, response
        )
        try:
            found = kept.get(
                "policy",
                lambda: asdict(measured(source, host.placement, device, threads, prompt, response, side)),
            )
            return Speeds(**found)
        except BenchError:  # SFT names what is wrong with the weights
            pass
    if given is None:
        flops, bandwidth = memory.measured_speed(device, host.placement.half), memory.measured_bandwidth(device)
        given = Device(flops, bandwidth, 0, share=CPU_SHARE if device == "cpu" else SHARE)
    return from_operations(host.sizes, host.placement, given, share)


def _rounded(tokens: float) -> int:
    """The nearest power of two from 8 to 1024: similar lengths share a measurement."""
    size = 8
    while size < 1024 and size * 2**0.5 < tokens:
        size *= 2
    return size
