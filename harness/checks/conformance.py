"""Does a plugin keep the rules of its seam?  `bench check` and plugin authors' own tests call `check`.

Nothing a plugin does wrong leaves `check` as an exception: it becomes a Finding that says what was seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from rlhf_bench.harness import plugins
from rlhf_bench.harness.checks.findings import Finding, Probe, attempt, demand
from rlhf_bench.harness.checks.judge import judge_probes
from rlhf_bench.harness.checks.reward_model import reward_probes
from rlhf_bench.harness.checks.task import task_probes
from rlhf_bench.harness.seams import Judge, RewardModel, Task, TrainableRewardModel

SEAMS: Mapping[plugins.Kind, tuple[type, ...]] = {
    "task": (Task,),
    "reward-model": (RewardModel, TrainableRewardModel),
    "judge": (Judge,),
}


def check(kind: plugins.Kind, name: str, settings: Mapping[str, Any]) -> list[Finding]:
    """All findings about one plugin.  A name that nobody has raises BenchError; all else becomes a Finding."""
    plugins.find(kind, name)
    built: list[Any] = []

    def make() -> str:
        built.append(plugins.build(kind, name, settings))
        return type(built[0]).__name__

    found = [attempt("it can be made", make)]
    if built:
        found.append(attempt("it has the members of its seam", lambda: _members(kind, built[0])))
    if not found[-1].ok:
        return found
    return found + [attempt(checked, probe) for checked, probe in _probes(kind, name, settings, built[0])]


def _probes(kind: plugins.Kind, name: str, settings: Mapping[str, Any], made: Any) -> Iterator[tuple[str, Probe]]:
    if kind == "task":
        return task_probes(made, lambda: plugins.build(kind, name, settings))
    return reward_probes(name, made) if kind == "reward-model" else judge_probes(name, made)


def _members(kind: plugins.Kind, made: Any) -> str:
    lacking = [[n for n in sorted(_names(seam)) if not hasattr(made, n)] for seam in SEAMS[kind]]
    demand([] in lacking, " or ".join(f"{type(made).__name__} lacks {', '.join(names)}" for names in lacking))
    return ", ".join(n for seam in SEAMS[kind] for n in sorted(_names(seam)) if hasattr(made, n))


def _names(seam: type) -> set[str]:
    return {n for base in seam.__mro__ if base not in (Protocol, object) for n in vars(base) if not n.startswith("_")}
