"""The plan of memory and time against what stages took: `python benchmarks/plan_memory.py --policy FOLDER`.

Plans one cell of each optimiser with the policy, runs every stage in a process of its own, and prints a table in
Markdown: planned and measured peak, planned and measured time, and their ratios.  Memory is the process's on a CPU and
torch's own allocations on a GPU; time is processor seconds on a CPU (others may load the machine), and wall seconds on
a GPU.  Which settings are tried is in CELLS: each differs from the others in data, lengths, batches and adapters.
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_bench.harness import api, store
from rlhf_bench.harness.models.policies import pick_device
from rlhf_bench.harness.pipeline.execute import run_guarded
from rlhf_bench.harness.pipeline.machine import Machine, set_thread_variables, set_threads
from rlhf_bench.harness.pipeline.stage import Stage
from rlhf_bench.harness.plan.request import Plan
from rlhf_bench.harness.plan.run_costs import Planner, seconds_of

COMMON: dict[str, Any] = {
    "sft.steps": 4, "ppo.iterations": 2, "ppo.checkpoints": 1, "ppo.scale_samples": 2, "best_of_n.n": "1,2",
    "data.limit": 96, "policy.dtype": "float32",
}  # fmt: skip
CELLS: dict[str, dict[str, Any]] = {
    # short texts, as the constants of models/peaks.py were chosen on
    "tuned": {
        "policy.lora": 8, "data.max_prompt_tokens": 64, "TASK.response_tokens": 64, "sft.batch": 8, "ppo.rollouts": 16,
        "ppo.scale_prompts": 8, "eval.prompts": 8, "eval.greedy": False,
    },
    # other lengths, batches, rank and micro-batches
    "fresh": {
        "policy.lora": 4, "data.max_prompt_tokens": 110, "TASK.response_tokens": 80, "sft.batch": 5, "sft.steps": 3,
        "sft.micro_batch": 0, "ppo.iterations": 1, "ppo.rollouts": 8, "ppo.micro_batch": 4, "ppo.scale_prompts": 4,
        "eval.prompts": 6, "eval.batch": 4, "eval.greedy": True, "data.limit": 36, "scalar.batch": 4,
        "scalar.epochs": 1, "scalar.micro_batch": 2, "seq2seq-token.batch": 4, "seq2seq-token.micro_batch": 0,
        "dpo.batch": 4, "dpo.micro_batch": 2,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A stage: bytes and seconds as planned and as measured."""

    name: str
    planned: int
    measured: float
    seconds: float
    took: float


def work(stage: Stage, root: Path, device: str, threads: int, found: Any) -> None:
    """Run a stage in this process; puts (bytes on the device, seconds) into the queue `found`."""
    import torch

    set_threads(threads)
    run_guarded(stage, store.Store(root), Machine(threads=threads, device=device), lambda *_: None)
    record = json.loads((stage.folder(store.Store(root)) / store.MARKER).read_text(encoding="utf-8"))
    if device.startswith("cuda"):
        found.put((torch.cuda.max_memory_allocated(), record["seconds"]))
    else:
        found.put(((record["peak_memory_mb"] or 0.0) * 2**20, record["cpu_seconds"] / threads))


def measure(made: Plan, planner: Planner, root: Path, device: str, threads: int) -> list[Row]:
    """Every stage of a plan, inputs first; a stage that fails ends the measurement."""
    context, rows = multiprocessing.get_context("spawn"), []
    for stage in made.order:
        found = context.SimpleQueue()
        child = context.Process(target=work, args=(stage, root, device, threads, found))
        child.start()
        child.join()
        if child.exitcode:
            raise SystemExit(f"{stage.name} ended with {child.exitcode}.")
        planned = planner.plan(stage)
        took, name = found.get(), f"{planned.kind} {planned.detail}".strip()
        if planned.kind == "verdicts" and any(row.name == name for row in rows):
            continue  # judges of texts are alike
        rows.append(Row(name, planned.peak.bytes, took[0], seconds_of(planned, planner.speeds), took[1]))
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def table(rows: list[Row]) -> str:
    """The rows in Markdown, in MiB and seconds, with planned over measured."""
    lines = ["| stage | memory planned, MiB | measured | ratio | time planned, s | measured | ratio |"]
    lines.append("|---|---|---|---|---|---|---|")
    for row in rows:
        memory = f"{row.planned / 2**20:.0f} | {row.measured / 2**20:.0f} | {row.planned / max(1.0, row.measured):.2f}"
        ratio = f"{row.seconds / row.took:.2f}" if row.took >= 1 else "-"
        lines.append(f"| {row.name} | {memory} | {row.seconds:.0f} | {row.took:.0f} | {ratio} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", required=True, help="a model's folder")
    parser.add_argument("--task", default="saferlhf")
    parser.add_argument("--data", default="", help="the task's real data; default: its synthetic data")
    parser.add_argument("--cell", choices=list(CELLS), default="fresh")
    parser.add_argument("--rm", nargs="+", default=["scalar", "seq2seq-token"])
    parser.add_argument("--optimizer", nargs="+", default=["ppo", "best-of-n", "dpo"])
    parser.add_argument("--device", default="")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[], metavar="GROUP.KEY=VALUE")
    parser.add_argument("--seed", type=int, default=60)
    given = parser.parse_args()
    set_thread_variables(given.threads)
    device = pick_device(given.device)
    settings = {name.replace("TASK", given.task): value for name, value in (COMMON | CELLS[given.cell]).items()}
    # settings of reward models that are not asked for have no effect
    settings |= dict(text.split("=", 1) for text in given.set)
    root = Path(tempfile.mkdtemp(prefix="plan-memory-"))
    try:
        made = api.plan(
            given.task, given.rm, [given.seed], optimizers=given.optimizer, settings=settings, policy=given.policy,
            data=given.data, out=root,
        )  # fmt: skip
        planner = Planner.of(made.cells, given.policy, device, given.threads)
        store.Store(root).prepare()
        rows = measure(made.cells, planner, root, device, given.threads)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    print(f"{today}, {device}, {given.threads} thread(s) of {os.cpu_count()}, cell {given.cell}: {planner.speeds}\n")
    print(table(rows))


if __name__ == "__main__":
    main()
