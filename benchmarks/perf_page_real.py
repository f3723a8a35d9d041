"""The section on a pretrained model in docs/performance.md, from what real_model.py measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

TableOf = Callable[[Sequence[str], Iterable[Sequence[object]]], str]
PHASES = ("sample", "update", "rewards, reference, values and rest")
NAMES = {"small": "the policy", "large": "360M, random weights"}


def section(found: Mapping[str, Any] | None, table: TableOf) -> str:
    """Markdown; says so where nothing was measured."""
    text = "\n## A pretrained model\n"
    if not found:
        return text + "\nNot measured (`make bench POLICY=FOLDER TRL=PYTHON`).\n"
    quick = " It was a quick run: small sizes and one round, for trying the script." if found["quick"] else ""
    text += (
        f"\n`{found['policy']}`, measured on {found['date']}; load of the machine when it began: {found['load']:.1f} "
        "(0 is idle). Where others share the machine, compare engines of one row alone: all took turns. `cpu` is "
        f"processor seconds, of all threads together.{quick}\n"
    )
    text += _sizes(found) + _generation(found, table) + _ppo(found, table)
    # a run that was ended early has the first parts alone
    text += _scoring(found) if "scoring" in found else "\nScoring was not measured.\n"
    return text + (_growth(found, table) if "growth" in found else "\nGrowth was not measured.\n")


def _sizes(found: Mapping[str, Any]) -> str:
    equal, ends = found["sizes"]["equal"], found["sizes"]["as it ends"]
    return (
        f"\nEqual: {equal['batch']} prompts of {equal['prompt']} tokens, responses of {equal['response']}. As it ends: "
        f"{ends['batch']} chat prompts of at most {ends['prompt']} tokens, responses of at most {ends['response']} "
        "that end where the model ends them.\n"
    )


def _generation(found: Mapping[str, Any], table: TableOf) -> str:
    rows = []
    for where, figures in found["generation"].items():
        for dtype in ("float32", "bfloat16"):
            own, other = figures[f"own, {dtype}"], figures[f"generate, {dtype}"]
            speeds = (own["tokens_per_s"], other["tokens_per_s"], own["ratio"])
            rows.append((where, dtype, *speeds, own["tokens_per_cpu_s"], other["tokens_per_cpu_s"], own["cpu_ratio"]))
    head = ("lengths, threads", "precision", "own, tokens/s", "HF generate, tokens/s", "ratio")
    more = ("own, tokens/cpu s", "HF generate, tokens/cpu s", "cpu ratio")
    return "\nDecoding; useful tokens, up to the end of each response.\n" + table((*head, *more), rows)


def _ppo(found: Mapping[str, Any], table: TableOf) -> str:
    minibatches = found["sizes"]["equal"]["minibatches"]
    text = (
        f"\nA PPO step with LoRA adapters of rank 8 on every linear layer, of policy and critic: one epoch, "
        f"{minibatches} optimiser steps, a scalar reward model of the same size. TRL without its two garbage "
        "collections a step; its bfloat16 has all weights in it, ours the frozen layers.\n"
    )
    rows = [
        (where, name, one["wall"], one["cpu"], one.get("x TRL, wall"), one.get("x TRL, cpu"))
        for where, engines in found["ppo"].items()
        for name, one in engines.items()
    ]
    head = ("lengths, threads", "engine", "s a step", "cpu s a step", "x TRL", "x TRL by cpu")
    missing = "" if any("TRL" in name for one in found["ppo"].values() for name in one) else "\nTRL was not run.\n"
    return text + table(head, rows) + missing


def _scoring(found: Mapping[str, Any]) -> str:
    one = found["scoring"]
    return (
        f"\nScoring the equal responses: a scalar pass takes {one['scalar']:.3g} s, a seq2seq-token pass "
        f"{one['seq2seq']:.3g} s, {one['over scalar']:.3g} times as long; {one['flop over scalar']:.3g} times the "
        "operations.\n"
    )


def _growth(found: Mapping[str, Any], table: TableOf) -> str:
    rows: list[tuple[object, ...]] = []
    for name, size in found["growth"].items():
        for phase in PHASES:
            own = size["phases"][phase]
            measured, by_flop = own["measured"], own["predicted"]
            off = measured / by_flop if measured and by_flop else None
            rows.append(
                (NAMES.get(name, name), size["parameters"] / 1e6, phase, own["flop"] / 1e9, measured, by_flop, off)
            )
    text = (
        "\n### Growth\n\nThe equal step on one thread, float32, processor seconds. Predicted: by the operations "
        "(backward through frozen layers counts as much as forward), at each phase's speed at the next smaller size "
        "measured. 2B is Gemma's shape, 7B Llama 2's: what one core of this machine would take, which says why they "
        "need a GPU.\n"
    )
    head = ("size", "M parameters", "phase", "GFLOP", "cpu s measured", "cpu s predicted", "measured / predicted")
    return text + table(head, rows)
