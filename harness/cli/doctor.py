"""`bench doctor`: what this machine and installation can do."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rlhf_bench.harness import plugins
from rlhf_bench.harness.checks.fast_paths import fast_path_line
from rlhf_bench.harness.cli.consoles import consoles
from rlhf_bench.harness.cli.listing import KINDS
from rlhf_bench.harness.cli.memory import preset_rows
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.models.policies import pick_device
from rlhf_bench.harness.pipeline.machine import usable_cores
from rlhf_bench.harness.results.table import Table
from rlhf_bench.reports import terminal

PACKAGES = (
    *("rlhf-bench", "torch", "transformers", "trl", "datasets", "tokenizers", "safetensors", "scipy", "numpy", "rich"),
    *("click", "openai", "gguf", "peft", "rouge-score"),
)
"""Distributions whose versions are shown; the last three belong to extras, and may be missing."""


def doctor() -> int:
    """bench doctor

    Exit code 0 in any case: what is missing or broken is a row of the table.
    """
    rows = [("python", platform.python_version()), ("machine", f"{platform.system()} {platform.machine()}")]
    for name in PACKAGES:
        try:
            rows.append((name, version(name)))
        except PackageNotFoundError:
            rows.append((name, "missing"))
    rows += [*hardware_rows(), ("fast paths", fast_path_line()), *preset_rows(pick_device())]
    # importing a plugin is the only way to see whether it works
    for kind in KINDS:
        for plugin in plugins.available(kind).values():
            try:
                plugin.factory()
            except BenchError as error:
                rows.append((f"{kind} {plugin.name}", f"BROKEN: {error.seen}"))
    stdout, _ = consoles(False)
    terminal.show(stdout, Table("doctor", ("what", "found"), rows))
    return 0


def hardware_rows() -> list[tuple[str, str]]:
    """(what, found) of cores, memory, disk and GPUs.

    Cores are those this process may use; memory is the machine's, of which other processes may hold a part.
    """
    import torch

    rows = [("cores", str(usable_cores())), ("torch threads", str(torch.get_num_threads()))]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:  # POSIX alone: Windows has no sysconf
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
