"""What the arms of a report were trained with, from the records of their stages (plan/setups.py)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rlhf_bench.harness.plan.setups import dict_at, policy_text, setup
from rlhf_bench.reports.cell_records import stage_record

if TYPE_CHECKING:
    from rlhf_bench.harness.results.arms import CellFiles
    from rlhf_bench.harness.text.types import JsonObject, Row

ROLES = ("sft", "reward", "ppo", "direct")
"""The stages that train."""
GROUPS: Mapping[str, tuple[str, ...]] = {
    "policy": ("sft", "policy", "settings"),
    "sft": ("sft", "sft"),
    "data": ("sft", "data"),
    "pairs": ("pairs", "pairs"),
    "eval": ("generations", "eval"),
    "ppo": ("ppo", "ppo"),
    "best_of_n": ("generations", "best_of_n"),
}
"""Where the values of a group of settings lie: the role of a stage, and the keys in its parameters."""
OPTIMISING = ("ppo", "best_of_n", "dpo", "sft_chosen", "sft_tempered")
"""Groups of which an arm uses those of its optimiser alone."""


def setup_of(cell: CellFiles) -> JsonObject:
    """The setup of a cell's arm."""
    records = {role: stage_record(cell, role) for role in ROLES if role in cell.record["stages"]}
    params = {role: record.get("params", {}) for role, record in records.items()}
    figures = records["sft"]["figures"] if "sft" in records else {}
    return setup(cell.record["policy"], cell.record.get("preset", ""), params, figures)


def values_of(cell: CellFiles) -> dict[str, str] | None:
    """The values of the settings that a cell's stages were computed with, by name, as texts; None where no record says.

    Whether a preset or --set gave them makes no difference.  Settings of tasks, which no stage keeps, are left out.
    """
    params: dict[str, Row] = {}
    for role in ("sft", "pairs", "generations", "ppo", "pool", "direct", "scale"):
        if role in cell.record["stages"]:
            params[role] = stage_record(cell, role).get("params", {})
    found: dict[str, Row] = {name: dict_at(params, *path) for name, path in GROUPS.items()}
    found[cell.record["reward_model"]] = dict_at(params, "scale", "rm", "settings")
    # without PPO its sampling temperature alone counts
    temperature = params.get("pool", {}).get("temperature")
    found["ppo"] = found["ppo"] or dict_at(params, "generations", "ppo") or _known(temperature=temperature)
    found["sft_tempered"] = _known(temperatures=params.get("generations", {}).get("temperatures"))
    method = params.get("direct", {}).get("method")
    if isinstance(method, str):
        found[method.replace("-", "_")] = dict_at(params, "direct", "settings")
    made = {f"{group}.{key}": as_text(value) for group, own in found.items() for key, value in own.items()}
    return made or None


def sampling_of(cell: CellFiles) -> JsonObject:
    """`temperature`, `top_p` and `samples` of a cell's sampled evaluations; {} where all are 1, or no record says.

    `samples` is left out where it is 1.
    """
    params = stage_record(cell, "baseline").get("params", {})
    evaluated = dict_at(params, "eval")
    temperature, top_p = evaluated.get("temperature") or params.get("temperature", 1.0), evaluated.get("top_p", 1.0)
    samples = evaluated.get("samples", 1)
    if temperature == top_p == samples == 1:
        return {}
    return {"temperature": temperature, "top_p": top_p, **({"samples": samples} if samples != 1 else {})}


def samples_of(arms: Sequence[Row]) -> int:
    """The responses to each prompt that the arms were evaluated with; the fewest where arms differ."""
    return min(((arm.get("sampling") or {}).get("samples", 1) for arm in arms), default=1)


def sampling_text(arms: Sequence[Row]) -> str:
    """How the arms were sampled for evaluation, in a phrase: "at temperature 0.7, top-p 0.9"; each way once."""
    found = []
    for arm in arms:
        own = arm.get("sampling") or {}
        said = f"at temperature {own.get('temperature', 1.0):g}"
        said += f", top-p {own['top_p']:g}" if own.get("top_p", 1.0) < 1 else ""
        found.append(said + (f", {own['samples']} samples a prompt" if own.get("samples", 1) > 1 else ""))
    return " or ".join(dict.fromkeys(found)) or "at temperature 1"


def _known(**values: object) -> Row:
    return {name: value for name, value in values.items() if value is not None}


def as_text(value: object) -> str:
    """A value of a setting as --set takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return ",".join(map(as_text, value)) if isinstance(value, list | tuple) else str(value)


def setup_lines(arms: Sequence[Row]) -> list[str]:
    """Sentences on the policies of a report's arms, and one on their learning rates; arms are named where they differ.

    [] for a report of an earlier version, whose arms do not say.
    """
    known = [arm for arm in arms if arm.get("setup")]
    policies = _alike((policy_text(arm["setup"]), arm["label"]) for arm in known)
    lines = [f"{said[0].upper()}{said[1:]}{_named(labels, policies)}." for said, labels in policies.items()]
    rates: dict[str, list[tuple[str, str]]] = {}
    for arm in known:
        for name, rate in arm["setup"].get("rates", {}).items():
            rates.setdefault(name, []).append((f"{rate:g}", arm["label"]))
    said = []
    for name, found in rates.items():
        values = _alike(found)
        said.append(f"{name} {' or '.join(f'{value}{_named(labels, values)}' for value, labels in values.items())}")
    return [*lines, *([f"Learning rates: {', '.join(said)}."] if said else [])]


def _alike(said: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """The labels of each text, once each."""
    found: dict[str, list[str]] = {}
    for text, label in said:
        if label not in found.setdefault(text, []):
            found[text].append(label)
    return found


def _named(labels: Sequence[str], found: Mapping[str, object]) -> str:
    return f" ({', '.join(labels)})" if len(found) > 1 else ""
