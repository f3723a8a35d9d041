"""The regular expressions of an adapter's configuration, by which peft finds layers: tried in a child process first.

Python's expressions can take time without end on a name, and cannot be stopped inside this process.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.models.adapter_folders import CONFIG, MERGE

CPU_SECONDS, SECONDS = 5, 60.0
"""Of the child: its processor time, and until it is ended in any case."""
LARGEST = 2**27
"""Bytes of the header of a safetensors file that are read."""
USUAL = ("transformer.h.0.attn.c_attn", "model.layers.10.self_attn.q_proj", "model.layers.0.mlp.down_proj", "lm_head")
"""Names of layers, where those of the base are not known here."""
# as peft matches them (tuners_utils.py, lora/model.py)
CHILD = """
import json, re, resource, sys
given = json.load(sys.stdin)
resource.setrlimit(resource.RLIMIT_CPU, (given["seconds"], given["seconds"] + 1))
for text in given["patterns"]:
    for form in ("{}", r"(.*\\.)?({})$", r".*\\.{}\\.(\\d+)\\."):
        try:
            made = re.compile(form.replace("{}", text))
        except Exception:
            continue
        for name in given["names"]:
            made.fullmatch(name), made.match(name)
"""


def check_patterns(adapter: Path, base: Path) -> None:
    """Raises BenchError where an expression in adapter_config.json takes too long on the names of the base's layers.

    `base` is a folder, or the path of none where the base is on the hub.
    """
    try:
        config = json.loads((adapter / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return  # its reader says what is wrong
    patterns = _patterns(config) if isinstance(config, Mapping) else []
    if not patterns:
        return
    given = {"patterns": patterns, "names": sorted(_layers(base) or USUAL), "seconds": CPU_SECONDS}
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", CHILD], input=json.dumps(given), text=True, timeout=SECONDS, check=False,
            capture_output=True,
        )  # fmt: skip
        slow = done.returncode in (-24, -9)  # SIGXCPU or SIGKILL, by which the kernel ends a process at its limit
    except subprocess.TimeoutExpired:
        slow = True
    if slow:
        raise BenchError(f"An expression in {adapter / CONFIG} was stopped: it takes more than {CPU_SECONDS} s.", MERGE)


def _patterns(config: Mapping[str, object]) -> list[str]:
    """The texts that peft takes as expressions."""
    found: list[object] = []
    for key in ("target_modules", "exclude_modules", "layers_pattern", "rank_pattern", "alpha_pattern"):
        value = config.get(key)
        plain = key in ("target_modules", "exclude_modules") and not isinstance(value, str)
        if value and not plain:  # a list of names is compared as text
            found += [value] if isinstance(value, str) else list(value) if isinstance(value, list | dict) else []
    return [one for one in found if isinstance(one, str)]


def _layers(base: Path) -> set[str]:
    """The names of a folder's stored layers, and of what they are parts of; its weights are not read."""
    names: set[str] = set()
    for file in base.glob("*.safetensors"):
        try:
            with file.open("rb") as stream:
                (size,) = struct.unpack("<Q", stream.read(8))
                header = json.loads(stream.read(min(size, LARGEST)))
        except (OSError, ValueError, struct.error, RecursionError):
            continue  # its reader says what is wrong
        for name in header if isinstance(header, dict) else ():
            parts = name.split(".")[:-1]
            names |= {".".join(parts[: n + 1]) for n in range(len(parts))}
    return names
