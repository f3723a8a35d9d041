"""What an arm is trained with: policy, adapters, precision, template, preset and learning rates.

From the parameters of its stages, which a plan has and stage.json keeps: a run's first lines and its report say the
same.  Records may come from someone else, so a value of another type counts as one that is not there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rlhf_bench.harness.plan.request import Plan
    from rlhf_bench.harness.text.types import JsonObject, Row

T = TypeVar("T")


def setup(policy: str, preset: str, params: Mapping[str, Row], figures: Row) -> JsonObject:
    """`policy` and `preset` by name; `lora` (the adapters' rank, 0 for all weights), `dtype`, `template`, `parameters`;
    `rates`: learning rates by setting.  What is not known is left out.

    `params` are those of the stages by role, `figures` those of the stage sft, where it has ended: they say which
    precision and template `auto` came to.
    """
    settings = _at(params, dict, "sft", "policy", "settings") or {}
    found: JsonObject = {"policy": policy, **({"preset": preset} if preset else {})}
    if (rank := _at(settings, int, "lora")) is not None:
        found["lora"] = rank
    for name in ("dtype", "template"):
        value = _at(figures, str, name) or _at(settings, str, name)
        found |= {name: value} if value else {}
    count = _at(figures, int, "parameters")
    rates = {
        "sft.lr": _rate(params, "sft", "sft", "lr"),
        f"{_at(params, str, 'reward', 'recipe') or 'reward model'}.lr": _rate(params, "reward", "settings", "lr"),
        "ppo.lr": _rate(params, "ppo", "ppo", "lr"),
        "ppo.critic_lr": _rate(params, "ppo", "ppo", "critic_lr"),
        f"{(_at(params, str, 'direct', 'method') or 'direct').replace('-', '_')}.lr": _rate(
            params, "direct", "settings", "lr"
        ),
    }
    known = {name: rate for name, rate in rates.items() if rate is not None}
    return {**found, **({"parameters": count} if count else {}), **({"rates": known} if known else {})}


def setups_of(made: Plan, figures: Row) -> list[JsonObject]:
    """The setups of a plan's arms, each once; `figures`: `dtype` and `template`, as far as `auto` is resolved."""
    found: list[JsonObject] = []
    for cell in made.cells:
        own = setup(cell.policy, made.preset, {role: stage.params for role, stage in cell.stages.items()}, figures)
        found += [] if own in found else [own]
    return found


def policy_text(setup: Row) -> str:
    """Policy, adapters, precision, template and preset of a setup, in a phrase."""
    parts = [f"policy {setup['policy']}"]
    if "parameters" in setup:
        parts[0] += f" ({setup['parameters']:,} parameters)"
    if "lora" in setup:
        parts.append(f"LoRA adapters of rank {setup['lora']}" if setup["lora"] else "all weights trained")
    parts += [f"precision {setup['dtype']}"] if "dtype" in setup else []
    parts += [f"template {setup['template']}"] if "template" in setup else []
    return ", ".join([*parts, *([f"preset {setup['preset']}"] if "preset" in setup else [])])


def rates_text(setup: Row) -> str:
    """The learning rates of a setup, in a phrase; "" where none is known."""
    rates = ", ".join(f"{name} {rate:g}" for name, rate in setup.get("rates", {}).items())
    return f"learning rates: {rates}" if rates else ""


def dict_at(row: Mapping[str, object], *path: str) -> Row:
    """The object at a path of keys; {} where there is none."""
    return _at(row, dict, *path) or {}


def _rate(params: Mapping[str, Row], *path: str) -> float | None:
    whole = _at(params, int, *path)
    return _at(params, float, *path) if whole is None else float(whole)


def _at(row: Mapping[str, object], kind: type[T], *path: str) -> T | None:
    """The value at a path of keys; None where there is none, or one of another type."""
    value: object = row
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, kind) and not isinstance(value, bool) else None
