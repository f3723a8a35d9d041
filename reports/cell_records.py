"""What the records of finished cells say of their stages, for the parts of a report."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rlhf_bench.harness import forms, store
from rlhf_bench.harness.errors import DamagedError
from rlhf_bench.harness.results.arms import CellFiles
from rlhf_bench.harness.training.record import training_of

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject

PART, SCALE = re.compile(r"part(\d{1,4})"), re.compile(r"scale(\d{1,4})")
"""Roles of the stages of a combination's members (plan/combinations.py)."""


def optimizer_of(cell: CellFiles) -> str:
    """The optimiser of a cell; older records lack it: there was PPO alone."""
    return str(cell.record.get("optimizer", "ppo"))


def has_rewards(cell: CellFiles) -> bool:
    """Whether a cell has a reward model: a control has none."""
    return "scale" in cell.record["stages"]


def stage_record(cell: CellFiles, role: str) -> JsonObject:
    """stage.json of one of a cell's stages.

    Raises KeyError for a role that the cell lacks, and BenchError for a file that cannot be read.
    """
    record: JsonObject = store.read_json(cell.folder(role) / store.MARKER)
    return record


def before_of(cell: CellFiles, role: str = "scale") -> JsonObject:
    """What the stage with this role measured of a reward model before anything was optimised: scale.json, with
    `sanity` (sanity.json) where the run has it, and `untrained` where the model's training compared it with itself."""
    found: JsonObject = store.read_json(cell.folder(role) / "scale.json")
    file = cell.folder(role) / "sanity.json"
    if file.is_file():
        found["sanity"] = store.read_json(file)
    if role == "scale" and "gold_agreement" in cell.record["stages"]:
        own = store.read_json(cell.folder("gold_agreement") / "agreement.json")
        # with the gold of the run, in place of the task's own
        found["sft_samples"]["correlation_with_gold"] = own["correlation"]
    trained = {"scale": "reward", "gold_scale": "gold"}[role]
    figures = stage_record(cell, trained)["figures"] if trained in cell.record["stages"] else {}
    own = {name: figures[f"untrained_{name}"] for name in ("correlation", "share") if f"untrained_{name}" in figures}
    return {**found, **({"untrained": own} if own else {})}


def gold_trainings(cell: CellFiles) -> dict[str, JsonObject]:
    """What the reward models that a cell is measured by were trained with, by what they are called in a sentence.

    A gold model of the run itself, and scorers of judges.  Those that no record says anything of are left out.
    """
    found = {}
    stages = cell.record["stages"]
    trained, proxy = ("gold", "reward") if "gold" in stages else ("gold_scale", "scale")
    # the arm `gold` is optimised for the gold model on purpose
    if trained in stages and stages.get(proxy) != stages[trained]:
        own = training_of(cell.folder("gold")) if "gold" in stages else _elsewhere(cell, "gold_scale")
        found["the gold model"] = own
    for name, folder in cell.judged().items():
        if (folder / "account.json").is_file():
            account: object = store.read_json(folder / "account.json")
            by = account.get("trained") if isinstance(account, dict) else None
            found[f"the scorer of {name}"] = by if isinstance(by, dict) else {}
    return {name: own for name, own in found.items() if own}


def trained_parts(cell: CellFiles) -> list[str]:
    """Roles of the stages that trained a cell's reward model; of a combination those of its trained members."""
    stages = cell.record["stages"]
    if has_members(cell):
        return [role for role in stages if PART.fullmatch(role)]
    return ["reward"] if "reward" in stages else []


def has_members(cell: CellFiles) -> bool:
    """Whether a cell's reward model is a combination of others."""
    return "scale0" in cell.record["stages"]


POINTS: forms.Form = [{"iteration": forms.Count, "figures": {str: forms.Number}}]
"""parts.json, from which a report computes means."""


def has_parts(cell: CellFiles) -> bool:
    """Whether a cell's run says what each member of its combination paid at every checkpoint."""
    return "parts" in cell.record["stages"]


def parts_of(cell: CellFiles) -> list[JsonObject]:
    """{"iteration", "figures"} of every point (stages/combined.py: parts).  Raises BenchError for a damaged file."""
    path = cell.folder("parts") / "parts.json"
    found: object = store.read_json(path)
    if problem := forms.problem(found, POINTS):
        raise DamagedError(f"{forms.misfit(path, problem)}.", "Remove its folder and run again.")
    assert isinstance(found, list)
    return [{"iteration": one["iteration"], "figures": one["figures"]} for one in found]


def proxy_trainings(cell: CellFiles) -> list[JsonObject]:
    """What a cell's reward model was trained with, in this run or in another one; {} where no record says.

    Of a combination that of every member.
    """
    stages = cell.record["stages"]
    if not has_members(cell):
        return [training_of(cell.folder("reward")) if "reward" in stages else _elsewhere(cell, "scale")]
    places = [found[1] for role in stages if (found := SCALE.fullmatch(role))]
    return [
        training_of(cell.folder(f"part{at}")) if f"part{at}" in stages else _elsewhere(cell, f"scale{at}")
        for at in places
    ]


def _elsewhere(cell: CellFiles, role: str) -> JsonObject:
    """What the stage with this role, which measured a reward model of another run, says of that model's training."""
    file = cell.folder(role) / "sanity.json" if role in cell.record["stages"] else None
    found = store.read_json(file).get("trained") if file and file.is_file() else None
    return found if isinstance(found, dict) else {}
