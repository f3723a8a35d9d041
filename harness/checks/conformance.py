"""Conformance of a plugin with its Protocol in seams.py: what `bench check KIND NAME` and plugins' own tests call.

```python
assert all(finding.ok for finding in check("reward-model", "my_rewards:Brevity", {}))
```

Nothing that a plugin does wrong leaves `check` as an exception: it becomes a Finding that says what was seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rlhf_bench.harness import plugins
from rlhf_bench.harness.checks.findings import Finding, Probe, attempt, demand
from rlhf_bench.harness.checks.judge import judge_probes
from rlhf_bench.harness.checks.reward_model import reward_probes
from rlhf_bench.harness.checks.task import task_probes
from rlhf_bench.harness.seams import Judge, RewardModel, Task, TrainableRewardModel
from rlhf_bench.harness.text.types import Row

SEAMS: Mapping[plugins.Kind, tuple[type, ...]] = {
    "task": (Task,),
    "reward-model": (RewardModel, TrainableRewardModel),
    "judge": (Judge,),
}
"""The Protocols of each kind of plugin, of which it needs one."""


def check(kind: plugins.Kind, name: str, settings: Row) -> list[Finding]:
    """Build a plugin with its settings and try every rule of its Protocol.

    The list ends early where later rules cannot be tried: the plugin cannot be built, or lacks members.  Raises
    BenchError for a name that is not registered; all else becomes a Finding.
    """
    plugins.find(kind, name)  # outside of `attempt`: a misspelt name is the caller's mistake, not a plugin's
    built: list[Any] = []  # of unknown type: `check_members` tests it below

    def make() -> Any:
        return plugins.build(kind, name, settings)

    def build() -> str:
        built.append(make())
        return type(built[0]).__name__

    found = [attempt("it can be built", build)]
    if built:
        found.append(attempt("it has the members of its Protocol", lambda: check_members(kind, built[0])))
    if not found[-1].ok:  # either of the two: the probes below call members without looking for them
        return found
    probes: Iterator[tuple[str, Probe]]
    # no probe has run yet: these are generators, each of whose probes is tried before the next one is made
    if kind == "task":
        probes = task_probes(built[0], make)
    else:
        probes = reward_probes(name, built[0]) if kind == "reward-model" else judge_probes(name, built[0])
    return found + [attempt(rule, probe) for rule, probe in probes]


def check_members(kind: plugins.Kind, plugin: object) -> str:
    """The members of its Protocols that an object has; BrokenError where it lacks some of each."""
    # A Protocol has those of its base classes too; what Protocol itself adds begins with an underscore.
    members = {
        seam: sorted({n for base in seam.__mro__ for n in vars(base) if not n.startswith("_")}) for seam in SEAMS[kind]
    }
    lacking = [[n for n in names if not hasattr(plugin, n)] for names in members.values()]
    # one Protocol of which nothing is lacking is enough
    demand([] in lacking, " or ".join(f"{type(plugin).__name__} lacks {', '.join(names)}" for names in lacking))
    return ", ".join(n for names in members.values() for n in names if hasattr(plugin, n))
