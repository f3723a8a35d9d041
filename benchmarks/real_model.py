"""The speed of a pretrained model, in turns: decoding against `generate`, PPO against TRL 1.12, scoring, growth.

A part of `make bench POLICY=FOLDER TRL=PYTHON`, kept under `real` in results.json.  Seconds of the processor stand
beside those of the clock: where others share the machine, only they and the ratios mean anything.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from peer_model import Sizes
from race import in_process, own, race, ratio, trl

LORA = 8
STEP = Sizes(prompt=64, response=64, batch=16, minibatches=2)
ENDING = Sizes(prompt=96, response=96, batch=16, minibatches=2, mean=48)
"""`mean` tells TRL's engine to stop at the end token; when a response ends is the model's own affair."""
QUICK = {"prompt": 64, "response": 16, "batch": 4, "minibatches": 1}


Found = dict[str, Any]


def nothing(_: Found) -> None:
    """Keeps nothing."""


def measure(
    policy: Path,
    python: str | None,
    quick: bool,
    threads: Sequence[int] = (1, 2),
    keep: Callable[[Found], None] = nothing,
) -> Found:
    """All figures of a pretrained policy; `python` is that of an environment with trl==1.12.0, None to leave it out.

    `keep` is called with what there is after each of them: a run that is ended early has not measured for nothing.
    """
    rounds = 1 if quick else 3
    sizes = {"equal": STEP, "as it ends": ENDING}
    if quick:
        sizes = {name: Sizes(**{**vars(one), **QUICK}) for name, one in sizes.items()}
    found: Found = {
        "policy": named(policy), "date": time.strftime("%Y-%m-%d"), "load": os.getloadavg()[0],
        "quick": quick, "sizes": {name: vars(one) for name, one in sizes.items()}, "generation": {}, "ppo": {},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        folders = {name: Path(scratch) / name.replace(" ", "-") for name in sizes}
        for name, one in sizes.items():
            _prepare(policy, folders[name], one, name != "equal")
        for count in threads:
            for name, one in sizes.items():
                print(f"real model: {name}, {count} threads", flush=True)
                key = f"{name}, {count}"
                found["generation"][key] = _asked("generation", folders[name], one, rounds, count)
                keep(found)
                found["ppo"][key] = _ppo(folders[name], one, python, rounds, count)
                keep(found)
        print("real model: scoring and growth", flush=True)
        found["scoring"] = _asked("scoring", folders["equal"], sizes["equal"], 2 * rounds, 1)
        keep(found)
        found["growth"] = _growth(policy, folders["equal"], Path(scratch), sizes["equal"], rounds)
    return found


def named(policy: Path) -> str:
    """The folder's name with the shape of its model, because a folder may be called anything."""
    config = json.loads((policy / "config.json").read_text(encoding="utf-8"))
    sizes = f"{config['num_hidden_layers']} layers x {config['hidden_size']}, vocabulary {config['vocab_size']}"
    return f"{policy.resolve().name} ({config['model_type']}, {sizes})"


def _prepare(policy: Path, folder: Path, sizes: Sizes, ends: bool, shape: str = "None") -> None:
    for name in ("policy", "reward"):
        (folder / name).mkdir(parents=True)
    call = f"prepare(Path({str(policy)!r}), Path({str(folder)!r}), {sizes!r}, {ends}, {shape})"
    in_process(1, f"from perf_real import *; {call}; print(0)")


def _asked(what: str, folder: Path, sizes: Sizes, rounds: int, threads: int) -> Any:
    call = f"{what}(Path({str(folder)!r}), {sizes!r}, {rounds})"
    return in_process(threads, f"from perf_real import *; print(json.dumps({call}))", timeout=3600)


def _ppo(folder: Path, sizes: Sizes, python: str | None, rounds: int, threads: int) -> dict[str, Any]:
    """Seconds of a PPO step with adapters, and how many times TRL's they are, by precision."""
    flags = [*sizes.flags(), f"--model={folder}", f"--lora={LORA}"]
    engines = {}
    for dtype in ("float32", "bfloat16"):
        engines[f"own, {dtype}"] = own(*flags, f"--dtype={dtype}")
        if python:
            engines[f"TRL, {dtype}"] = trl(python, *flags, f"--dtype={dtype}", "--strong")
    rows = race(engines, threads, rounds)
    found: dict[str, Any] = {}
    for name, steps in rows.items():
        found[name] = {key: median(step[key] for step in steps) for key in ("wall", "cpu")}
        rival = name.replace("own", "TRL")
        if name.startswith("own") and rival in rows:
            found[name] |= {f"x TRL, {key}": 1 / ratio(steps, rows[rival], key) for key in ("wall", "cpu")}
    return found


def _growth(policy: Path, small: Path, scratch: Path, sizes: Sizes, rounds: int) -> dict[str, Any]:
    """Processor seconds by phase of a PPO step, of the policy and of random weights of the next size, and what they
    predict."""
    _prepare(policy, scratch / "large", sizes, False, "SHAPE_360M")
    engines = {name: own(*sizes.flags(), f"--model={at}", f"--lora={LORA}")
               for name, at in (("small", small), ("large", scratch / "large"))}  # fmt: skip
    rows = race(engines, 1, rounds)
    shapes = in_process(1, f"from perf_real import *; print(json.dumps(shapes_of(Path({str(small)!r}))))")
    seconds = {
        name: {phase: median(step["cpu_phases"][phase] for step in steps) for phase in steps[0]["cpu_phases"]}
        for name, steps in rows.items()
    }
    tokens = {name: [int(median(step[key] for step in steps)) for key in ("prompt_tokens", "tokens")]
              for name, steps in rows.items()}  # fmt: skip
    return predicted(shapes, seconds, tokens, sizes.batch)


def predicted(
    shapes: Mapping[str, Mapping[str, int]],
    seconds: Mapping[str, Mapping[str, float]],
    tokens: Mapping[str, Sequence[int]],
    rows: int,
) -> dict[str, Any]:
    """By size and phase: operations, seconds measured, and seconds by operations at the next smaller size's speed.

    `seconds` of `small` and `large` were measured for `rows` responses of `tokens` (of prompts, of responses); the
    others are predicted for the same row as `large`.
    """
    from perf_real import layer_parameters, step_flop

    found: dict[str, Any] = {}
    for name, shape in shapes.items():
        prompt, response = (count / rows for count in tokens.get(name, tokens["large"]))
        base = "small" if name == "large" else "large"
        base_prompt, base_response = (count / rows for count in tokens[base])
        flop = step_flop(shape, prompt, response, rows)
        known = step_flop(shapes[base], base_prompt, base_response, rows)
        phases = {}
        for phase, count in flop.items():
            speed = known[phase] / seconds[base][phase]
            own = seconds.get(name, {}).get(phase)
            expected = None if name == "small" else count / speed
            phases[phase] = {"flop": count, "measured": own, "predicted": expected}
        found[name] = {
            "parameters": layer_parameters(shape) + shape["width"] * shape["vocabulary"],
            "tokens": (prompt + response) * rows,
            "phases": phases,
        }
    return found
