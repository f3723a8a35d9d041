"""A stage: a function from settings and input folders to a new folder, named by a hash of all it depends on.

The hash covers the stage's parameters, its inputs' hashes and the code that computes the result (fingerprint.py), so a
folder that exists is never stale: whatever changes a result changes its name.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from rlhf_bench.harness import fingerprint, store
from rlhf_bench.harness.pipeline.context import Context, StageFunction
from rlhf_bench.harness.pipeline.integrity import FILES, listed, sealed, stage_place
from rlhf_bench.harness.pipeline.machine import peak_memory, reset_peak_memory, return_freed_memory
from rlhf_bench.harness.pipeline.scratch import check_scratch
from rlhf_bench.harness.pipeline.tracking import Tracked
from rlhf_bench.harness.seams import Progress, no_progress
from rlhf_bench.harness.text.types import JsonObject, Row


@dataclass(frozen=True)
class Stage:
    """One node of the plan.  Two stages with equal keys are the same stage, planned by whichever cell.

    `function` is "module:name".  The key hashes `params` (JSON values), the inputs' keys and the code that computes the
    result: the import closure of the function's module and of the modules in `code` (what the function reaches by name
    instead of by import), and `plugin_code`, the hashes of the plugins involved.  `payload` is passed to the function
    beside `params` and is no part of the key.  `cost` estimates the work in rows through a model; time estimates
    compare stages of one `family` (task and policy).
    """

    kind: str
    label: str
    function: str
    params: Row
    inputs: Mapping[str, Stage] = field(default_factory=dict)
    payload: Row = field(default_factory=dict)
    code: tuple[str, ...] = ()
    plugin_code: tuple[str, ...] = ()
    cost: float = 0.0
    family: str = ""

    @cached_property
    def key(self) -> str:  # cached: every stage that has this one as an input asks for it, and they are many
        """Hash that names the result: equal keys mean equal results."""
        return self._hash(self.params, {name: stage.key for name, stage in self.inputs.items()})

    @cached_property
    def seedless_key(self) -> str:
        """Hash that names the arm: equal for stages that differ, with all their inputs, in the seed alone."""
        params = {name: value for name, value in self.params.items() if name != "seed"}
        return self._hash(params, {name: stage.seedless_key for name, stage in self.inputs.items()})

    def _hash(self, params: Row, inputs: Mapping[str, str]) -> str:
        # Not the label, which is for readers, nor payload, cost and family, which change no result.
        module, _, function = self.function.partition(":")
        code = fingerprint.of(module, *self.code)
        return store.content_key([self.kind, params, inputs, function, code, self.plugin_code])

    @property
    def name(self) -> str:
        """Kind and label, for progress and messages; stages that differ in a setting alone have one name."""
        return f"{self.kind} {self.label}"

    @property
    def place(self) -> list[str]:
        """The result's place in the store as cell records write it: kind, label, short key."""
        return [self.kind, self.label, self.key[: store.KEY_LENGTH]]

    def folder(self, root: store.Store) -> Path:
        """Where the result lies, or will lie, in `root`."""
        return root.folder(self.kind, self.label, self.key)

    def done(self, root: store.Store) -> bool:
        """Whether `root` has the result.  Raises BenchError for a half-written folder of its name."""
        return root.complete(self.kind, self.label, self.key)


def run_stage(
    stage: Stage, root: store.Store, device: str, progress: Progress = no_progress, trackers: Sequence[str] = ()
) -> bool:
    """Compute the stage's folder unless it exists; True when it was computed now.  The inputs must be complete.

    `trackers` names loggers of pipeline/trackers.py for stages that log scalars.  Raises what the stage's function
    raises; an interrupted stage keeps its checkpoints in the store's scratch folder and continues from them.
    """
    import importlib

    module, _, name = stage.function.partition(":")
    with root.writing(stage.kind, stage.label, stage.key) as place:
        if place is None:
            return False  # another process completed it while this one waited for the lock
        check_scratch(place[1])
        # imported before the clocks start: what importing torch takes is no part of the stage's seconds
        function: StageFunction = getattr(importlib.import_module(module), name)
        inputs = {role: needed.folder(root) for role, needed in stage.inputs.items()}
        return_freed_memory()  # that of the stage before
        marked = reset_peak_memory()  # the kernel's mark covers the whole process: earlier stages must not count
        wall, cpu = time.perf_counter(), time.process_time()
        folder = root.root / "tracking" / "-".join(stage.place)
        tracked = Tracked(tuple(trackers), folder, stage.name, place[1])
        # The payload comes second: a name in both has its key's value in `params` (a hash of a task's content) and the
        # value to compute with in `payload` (the task's settings).
        figures = function(Context({**stage.params, **stage.payload}, inputs, *place, device, progress, tracked))
        record = {
            "kind": stage.kind,
            "label": stage.label,
            "key": stage.key,
            "params": stage.params,
            "inputs": {role: path.name for role, path in inputs.items()},
            "device": device,
            "seconds": round(time.perf_counter() - wall, 3),
            "cpu_seconds": round(time.process_time() - cpu, 3),
            "peak_memory_mb": peak_memory() if marked else None,
            "cost": stage.cost,
            "family": stage.family,
            "figures": dict(figures),
            **environment(),
            FILES: listed(place[0]),
        }
        record = sealed(record, stage_place(record))
        store.write_json(place[0] / store.MARKER, record)  # last: the marker's presence says that the folder is whole
    return True


def environment() -> JsonObject:
    """Versions of the libraries that compute, and the kind of machine, of this process.

    For the stage's record alone: they are no part of a key.  A package that is not installed is left out.
    """
    import platform
    from importlib.metadata import PackageNotFoundError, version

    versions = {"python": platform.python_version()}
    for package in ("rlhf-bench", "torch", "transformers", "trl", "numpy", "scipy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {"versions": versions, "machine": f"{platform.system()} {platform.machine()}"}
