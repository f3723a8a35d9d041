"""Hostile results folders: records that name code or folders, and places and links that lead outside.

RECORDS and LEADING are what tests/hostile and the campaign benchmarks/faults/hostile.py try.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from typing import Any

from hostile_place import ARM, CELL, LABEL, NAMES, Place

from rlhf_bench.harness.plan.experiments import load as load_experiments


def of_task(name: Any, **settings: Any) -> Callable[[Place], None]:
    """A cell's record with another task."""
    return lambda place: place.change(
        f"cells/{CELL}.json", lambda r: {**r, "evaluated": {"name": name, "settings": settings, "sha256": "0"}}
    )


def of_arm(name: Any, **settings: Any) -> Callable[[Place], None]:
    """A stage's record with another reward model."""
    spec = {"name": name, "settings": settings}
    return lambda place: place.change(
        f"scale/{ARM}/stage.json", lambda r: {**r, "params": {"rm": spec}, "inputs": {"prompts": LABEL}}
    )


JUDGE, SCORE = "judge runs --judge length", "score --rm scalar --prompt a --response b"
RECORDS: list[tuple[str, Callable[[Place], None], str]] = [
    *((JUDGE, of_task(name), f"names the task '{name}'") for name in NAMES),
    *((SCORE, of_arm(name), f"names the reward-model '{name}'") for name in NAMES),
    (JUDGE, of_task("tldr", data="/etc/passwd"), "names '/etc/passwd'"),
    (JUDGE, of_task("tldr", data="outside"), "names 'outside'"),
    (JUDGE, of_task("preferences", data="owner/name"), "names 'owner/name'"),
    (JUDGE, of_task("tldr", data="~/secret"), "names '~/secret'"),
    (JUDGE, of_task("dialogsum", seed=["/etc", {"/x": 1}]), "names '/x'"),
    (JUDGE, of_task(["dialogsum"]), "is damaged"),
    (JUDGE, lambda place: place.change(f"cells/{CELL}.json", lambda r: {**r, "evaluated": "x"}), "is damaged"),
    (SCORE, of_arm("function", source="os:system"), "names 'os:system'"),
    (SCORE, of_arm("function", source="evil"), "names 'evil'"),
    (SCORE, of_arm("hf", source="outside"), "names 'outside'"),
    (SCORE, of_arm("path", source="elsewhere"), "names 'elsewhere'"),
    (SCORE, of_arm("t5-seq2seq", model="/etc"), "names '/etc'"),
    (SCORE, of_arm(3), "is damaged"),
]


def of_place(role: str, *parts: Any) -> Callable[[Place], None]:
    """A cell's record with another place for a role, or for a judge."""

    def build(place: Place) -> None:
        place.change(
            f"cells/{CELL}.json",
            lambda r: {**r, **{key: {**r[key], role: list(parts)} for key in ("stages", "judges") if role in r[key]}},
        )

    return build


def linked(path: str) -> Callable[[Place], None]:
    return lambda place: place.move_out(path)


def linked_record(place: Place) -> None:
    """A record outside of the folder, where a results folder lies as well."""
    shutil.copytree(place.runs, place.outside / "other")
    (place.runs / "cells" / f"{CELL}.json").unlink()
    (place.runs / "cells" / f"{CELL}.json").symlink_to(place.outside / "other" / "cells" / f"{CELL}.json")


def pipe(path: str) -> Callable[[Place], None]:
    def build(place: Place) -> None:
        (place.runs / path).unlink()
        os.mkfifo(place.runs / path)

    return build


REPORT, POWER = "report runs --out new", "power runs --difference 0.1"
LEADING: list[tuple[Callable[[Place], None], str]] = [
    (of_place("generations", "..", "x", "y"), "not three names"),
    (of_place("generations", "/etc", "x", "y"), "not three names"),
    (of_place("generations", "ppo", "../../outside/x", "y"), "not three names"),
    (of_place("generations", "ppo", "x", "y/../../../outside"), "not three names"),
    (of_place("generations", "", "x", "y"), "not three names"),
    (of_place("generations", "a\0b", "x", "y"), "not three names"),
    (of_place("winrate", "..", "outside", "x"), "not three names"),
    (of_place("sft", "..", "x", "y"), "not three names"),
    (linked(f"ppo/{ARM}"), "leads outside of"),
    (linked("ppo"), "leads outside of"),
    (linked("sft"), "leads outside of"),
    (linked(f"ppo/{ARM}/generations.jsonl"), "leads outside of"),
    (linked(f"ppo/{ARM}/stage.json"), "leads outside of"),
    (linked(f"prompts/{LABEL}/examples.test.jsonl"), "leads outside of"),
    (linked(f"verdicts/winrate-{ARM}/measures.json"), "leads outside of"),
    (linked("cells"), "leads outside of"),
    (linked_record, "leads outside of"),
    (pipe(f"ppo/{ARM}/generations.jsonl"), "neither a file nor a folder"),
    (pipe(f"cells/{CELL}.json"), "neither a file nor a folder"),
]


def experiment_record(place: Place, **more: Any) -> None:
    name = next(iter(load_experiments()))
    record = {"name": name, "question": "?", "seeds": [1], "command": "", "runs": {}, "analyses": {}, "left_out": {}}
    path = place.runs / "experiments" / f"{name}.json"
    path.parent.mkdir()
    path.write_text(json.dumps({**record, **more}))
