"""Sound models for hostile.py, and how one of them is made hostile."""

from __future__ import annotations

import json
import os
import pickle  # noqa: TID251 - to write what must never be read
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hostile_folders import SMALL, Folder, finished
from hostile_place import Place
from small import settings

CONTEXT = 2048
"""Tokens of the stock's models: the prompts of the synthetic tasks must fit."""
POLICY = f"run --task dialogsum --rm length-only --policy shared --out new {SMALL}"
CLASSIFIER = f"run --task dialogsum --rm hf:shared --out new --dry-run {shlex.join(settings(()))}"
JUDGED = "judge runs --judge winrate-rm --set winrate-rm.model=shared"
SAVED = f"run --task dialogsum --rm path:shared --out new --dry-run {shlex.join(settings(()))}"

Change = Callable[[Place, Path], object]
"""Makes a sound folder (the second) hostile."""


class Payload:
    """Unpickled it runs a command of the shell."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (self.command,)


def pickles(place: Place, folder: Path, names: Sequence[str]) -> None:
    """Write a pickle that leaves a canary to each of these files, in the forms of torch, NumPy and Python."""
    import numpy as np
    import torch

    payload = Payload(f"touch {shlex.quote(str(place.home / 'sentinel'))}")
    for name in names:
        if name.endswith((".npz", ".npy")):
            array = np.array([payload], dtype=object)
            np.savez(folder / name, x=array) if name.endswith(".npz") else np.save(folder / name, array)
        elif name.endswith((".pkl", ".arrow", ".parquet", ".jsonl", ".gz", ".json")):
            (folder / name).write_bytes(pickle.dumps(payload))
        else:
            torch.save({"weight": payload, "state": {}}, folder / name)


def stock_models(folder: Path) -> None:
    """Sound models: `policy`, `classifier` (with a chat template), `adapter` (of `base`) and `reward` (of the run)."""
    import foreign
    import torch
    from peft import LoraConfig, get_peft_model
    from tiny import make_tokenizer, save

    from rlhf_bench.harness.models.tiny_policy import tiny_model

    foreign.CONTEXT = CONTEXT
    tokenizer = make_tokenizer()
    for name in ("policy", "base"):
        save(tiny_model(tokenizer, CONTEXT, layers=1, width=16, heads=2, seed=0), tokenizer, folder / name)
    foreign.classifier("gpt2", folder / "classifier", chat=True)
    torch.manual_seed(1)
    config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["c_attn"], fan_in_fan_out=True)
    model = get_peft_model(tiny_model(tokenizer, CONTEXT, layers=1, width=16, heads=2, seed=0), config)
    model.save_pretrained(folder / "adapter")
    tokenizer.save_pretrained(folder / "adapter")
    (found,) = (folder / "runs" / "reward").iterdir()
    shutil.copytree(found, folder / "reward")


def of(sound: str, change: Change) -> Callable[[Place, Path], None]:
    """A sound folder of the stock at `shared`, made hostile, beside a finished run."""

    def build(place: Place, stock: Path) -> None:
        finished(lambda _: None)(place, stock)
        shutil.copytree(stock / sound, place.home / "shared")
        if sound == "adapter":
            shutil.copytree(stock / "base", place.home / "base")
            edit(place.home / "shared" / "adapter_config.json", base_model_name_or_path="../base")
        change(place, place.home / "shared")

    return build


def edit(file: Path, **more: Any) -> None:
    """Set values of a JSON object in a file."""
    found = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**found, **more}))


def edited(file: str, **more: Any) -> Change:
    return lambda _, folder: edit(folder / file, **more)


def written(**content: str) -> Change:
    """Files by name with their text."""

    def change(_: Place, folder: Path) -> None:
        for name, text in content.items():
            (folder / name).write_text(text)

    return change


def both(kind: str, name: str, change: Change) -> Iterator[Folder]:
    """The attack in a policy, and in a classifier that is a reward model and a judge."""
    yield Folder(kind, f"{name}, policy", of("policy", change), (POLICY,))
    yield Folder(kind, f"{name}, classifier", of("classifier", change), (CLASSIFIER, JUDGED))
