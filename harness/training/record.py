"""The record beside a trained reward model's weights: which arm trained them and on what, so that it can be shared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError, one_line

if TYPE_CHECKING:
    from rlhf_bench.harness.nouns import Pair
    from rlhf_bench.harness.text.types import JsonObject, Row

RECORD = "reward_model.json"
"""{"name", "settings", "trained"} of the arm that trained the weights beside it."""
SAMPLE = 256
"""Pairs that a record names by their hashes."""
HASH = 12
"""Hexadecimal digits of such a hash."""


def write_record(folder: Path, name: str, settings: Row, trained: Row | None = None) -> None:
    """Write the record of the arm `name` with `settings` beside the weights in `folder`.

    `settings` are JSON values: reward_models/saved.py builds the reward model from them again.  `trained`: what
    `trained_on` returns; left out where None.
    """
    row = {"name": name, "settings": dict(settings)}
    store.write_json(folder / RECORD, row if trained is None else {**row, "trained": dict(trained)})


def trained_on(recipe: str, settings: Row, seed: int, policy: Path, pairs: Sequence[Pair]) -> JsonObject:
    """What a reward model was trained with, by which two can be compared: whether they share data or a beginning.

    recipe, settings, seed: of the training; `head_std` is the standard deviation of a head drawn from the seed, None
    without one.   policy: the SFT policy's folder, named by a hash of its files, its base by the hash or the hub id
    that its own stage used; `adapters`: the rank of adapters drawn from the seed, 0 for none.   pairs: their number,
    a hash of all of them, and hashes of SAMPLE of them.

    A pair's hash does not depend on which response is the chosen one: pairs with new labels are the same texts.  Those
    with the smallest hashes are named, of every model's, so that the overlap of two can be estimated.
    """
    from rlhf_bench.harness.models.identity import folder_hash
    from rlhf_bench.harness.models.placement import read_placement

    texts = [[pair.prompt, pair.chosen, pair.rejected or ""] for pair in pairs]
    hashes = sorted({store.content_key([prompt, *sorted(sides)])[:HASH] for prompt, *sides in texts})
    return {
        "recipe": recipe,
        "seed": seed,
        "head_std": settings.get("head_std"),
        "settings": dict(settings),
        # without the stage's record, which names the run
        "policy": {"sha256": folder_hash(policy, without=(store.MARKER,)), "base": _base(policy)},
        "adapters": read_placement(policy).lora,
        "pairs": {"count": len(hashes), "sha256": store.content_key(texts), "sample": hashes[:SAMPLE]},
    }


def _base(policy: Path) -> str:
    """The model that an SFT policy began as: the hash of its folder, its hub id, "tiny"; "" where no stage says."""
    try:
        params = store.read_json(policy / store.MARKER)["params"]["policy"]
        # never the path of a folder: the record is shared
        return str(params.get("sha256") or params.get("source", ""))
    except (BenchError, KeyError, TypeError, AttributeError):
        return ""


def training_of(folder: Path) -> JsonObject:
    """What the model in a folder was trained with (`trained_on`); {} where no record there says."""
    try:
        found = json.loads((folder / RECORD).read_text(encoding="utf-8")).get("trained", {})
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}
    return dict(found) if isinstance(found, dict) else {}


def read_record(folder: Path) -> tuple[str, JsonObject]:
    """(name, settings) of the arm that trained a reward model.

    Raises BenchError for a folder without a record or weights, or with a damaged record.
    """
    if not store.is_folder(folder):
        raise BenchError(f"There is no folder {folder}.", "Give runs/reward/NAME of a run, or a copy of it.")
    try:
        row = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        name, settings = str(row["name"]), dict(row["settings"])
    except FileNotFoundError:  # the common mistake: a policy, or a reward model from elsewhere
        raise BenchError(
            f"{folder} has no {RECORD}: no run trained it as a reward model.",
            "Give runs/reward/NAME of a run; for any other classifier: --rm hf:FOLDER.",
        ) from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BenchError(f"{folder / RECORD} cannot be read: {one_line(error)}.", "Copy the folder again.") from None
    # Checked here, so that a half-copied folder is an error of one line, not one of transformers.
    if not list(folder.glob("*.safetensors")):
        raise BenchError(f"{folder} has no safetensors weights.", "Copy the whole folder.")
    return name, settings
