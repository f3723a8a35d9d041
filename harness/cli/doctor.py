"""What this machine and installation can do."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rlhf_bench.harness import plugins
from rlhf_bench.harness.cli.consoles import consoles
from rlhf_bench.harness.cli.memory import preset_rows
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.models.policies import pick_device
from rlhf_bench.harness.pipeline.machine import usable_cores
from rlhf_bench.harness.results.table import Table
from rlhf_bench.reports import terminal

NEEDED = ("torch", "transformers", "trl", "datasets", "tokenizers", "safetensors", "scipy", "numpy", "rich", "click")
OPTIONAL = ("openai", "peft", "rouge-score")


def doctor() -> int:
    """bench doctor"""
    stdout, _ = consoles(False)
    terminal.show(stdout, Table("doctor", ("what", "found"), facts()))
    return 0


def facts() -> list[tuple[str, str]]:
    """(what, found) rows: versions, devices, cores, memory, disk, plugins that cannot be imported."""
    rows = [("python", platform.python_version()), ("machine", f"{platform.system()} {platform.machine()}")]
    rows += [(name, _version(name)) for name in ("rlhf-bench", *NEEDED, *OPTIONAL)]
    rows += _hardware()
    rows += preset_rows(pick_device())
    for kind in ("task", "reward-model", "judge"):
        for plugin in plugins.available(kind).values():
            try:
                plugin.factory()
            except BenchError as error:
                rows.append((f"{kind} {plugin.name}", f"BROKEN: {error.seen}"))
    return rows


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _hardware() -> list[tuple[str, str]]:
    import torch

    rows = [("cores", str(usable_cores())), ("torch threads", str(torch.get_num_threads()))]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        rows.append(("memory", f"{memory / 2**30:.1f} GiB"))
    rows.append(("disk free here", f"{shutil.disk_usage(Path.cwd()).free / 2**30:.1f} GiB"))
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            found = torch.cuda.get_device_properties(index)
            rows.append((f"gpu {index}", f"{found.name}, {found.total_memory / 2**30:.1f} GiB"))
    else:
        rows.append(("gpu", "none found: everything runs on the CPU"))
    return rows
