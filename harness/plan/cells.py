"""The stages of a cell, and their order.

A cell is (task, reward model, optimiser, seed, settings).  Cells share every stage whose key is the same: one SFT
policy, one set of pairs, baseline generations and pool of samples per seed, one training per reward-model recipe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from rlhf_bench.harness import plugins, store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.pipeline.stage import Stage
from rlhf_bench.harness.plan import arms, combinations
from rlhf_bench.harness.plan.gold import Gold, GoldRun
from rlhf_bench.harness.plan.judges import JudgeSpec
from rlhf_bench.harness.plan.prepared import prepared
from rlhf_bench.harness.plan.shared import H, cell_label, safe_label, shared_stages
from rlhf_bench.harness.plan.tasks import TaskPlan, Tasks
from rlhf_bench.harness.seeds import Seed, layers_asked, training_seed
from rlhf_bench.harness.stages.judge import FLUENCY, KEEP
from rlhf_bench.harness.text.types import JsonObject, Row

if TYPE_CHECKING:
    from rlhf_bench.harness.settings import Settings


@dataclass(frozen=True)
class Cell:
    """A cell and its stages by role.

    Roles: sft, prompts (those evaluated), pairs, reward, baseline, scale, of a combination's members part0, scale0 and
    so on (under PPO also parts), those of the optimiser (ppo and proxy, or pool), and generations; a control has
    neither reward nor scale, and its own name as `reward_model`.  `home` is the task whose demonstrations and pairs are
    trained on, `task` the label that names it and what differs.
    `reads_examples`: the reward model reads more of an example than its prompt.  `arm`: hash that groups the seeds of
    one arm in reports.  `gold`: the run's gold model (`Gold.record`), whose stages have the roles gold (where the run
    trains it), gold_scale, gold_pairs, gold_baseline, gold_generations, gold_pool and gold_agreement.
    """

    task: str
    reward_model: str
    seed: Seed
    policy: str
    stages: Mapping[str, Stage]
    differing: Row  # settings given by hand, for labels
    evaluated: TaskPlan
    home: TaskPlan
    optimizer: str
    reads_examples: bool
    arm: str
    preset: str = ""
    gold: Row = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Hash that names the cell: the key of its generations, which depend on all that was trained."""
        return self.stages["generations"].key

    @property
    def name(self) -> str:
        """The name of its record without .json; unique in a results folder."""
        return f"{cell_label(self.task, self.reward_model, self.seed)}-{self.key[: store.KEY_LENGTH]}"

    def record(self) -> JsonObject:
        """The content of cells/NAME.json, from which reports find every folder of the cell."""
        stages = {role: stage.place for role, stage in self.stages.items()}
        return {
            "task": self.task,
            "home": self.home.name,
            "home_origin": asdict(self.home.origin),
            "evaluated": self.evaluated.opened,
            "reward_model": self.reward_model,
            "optimizer": self.optimizer,
            "arm": self.arm,
            "seed": self.seed if isinstance(self.seed, int) else self.seed.seed,
            "policy": self.policy,
            "differing": dict(self.differing),
            **({"preset": self.preset} if self.preset else {}),
            **({"gold": dict(self.gold)} if self.gold else {}),
            "origin": asdict(self.evaluated.origin),
            "stages": stages,
            # absent without layers, as in records of runs that know none
            **({"layers": layers} if (layers := layers_asked(self.seed)) else {}),
        }


def plan_cell(
    tasks: Tasks,
    rm_name: str,
    seed: Seed,
    policy: Row,
    settings: Settings,
    optimizer: str = "ppo",
    arm_key: str = "",
    gold: Gold | None = None,
) -> Cell:
    """The stages of one cell; with a gold model those that measure by it, too.

    `policy` is what `policy_identity` returns, `optimizer` a name in OPTIMIZERS or CONTROLS.  A control's cell does not
    depend on `rm_name`, and is named as the control.  `tasks` are as the seed's data seed draws them, and `arm_key`
    then names the arm (`layered_arm`), since keys differ with the data.  Imports the reward model's module, no torch.
    Raises BenchError as `combinations.open_arm` and as the optimiser's function.
    """
    family = f"{tasks.home.name} {policy['name']}"
    by_gold = GoldRun.of(gold, tasks, seed, policy, settings) if gold else None
    if optimizer in arms.CONTROLS:
        shared = shared_stages(tasks, seed, policy, settings)
        stages = {**shared, **arms.CONTROLS[optimizer](tasks, shared, settings, family, seed)}
        if by_gold:
            stages |= {**by_gold.measured, **by_gold.scores(stages, cell_label(tasks.label, optimizer, seed))}
        return with_gold(_cell(tasks, optimizer, seed, policy, stages, optimizer, arm_key), gold)
    arm = combinations.open_arm(rm_name, settings)
    if by_gold and arm.reads_utility and isinstance(arm, combinations.CombinedArm):
        seen = f"--gold with {rm_name!r}, of which a member pays the true utility."
        raise BenchError(seen, "Leave the member out; `gold` alone then pays the gold model's score.")
    for task in (tasks.optimised, tasks.evaluated) if not by_gold else ():
        if arm.reads_utility and not task.has_utility:
            raise BenchError(
                f"The reward model {rm_name!r} pays the true utility, and {task.name!r} has none.",
                "Only synthetic tasks know it (see `bench list tasks`); for others: --gold.",
            )
    context = prepared(tasks, arm, seed, policy, settings, by_gold)
    arm = context.reward_model
    stages = {**context.stages, **arms.OPTIMIZERS[optimizer](context)}
    if isinstance(arm, combinations.CombinedArm) and "ppo" in stages:
        stages["parts"] = combinations.parts(context, stages["generations"])
    if by_gold:
        scores = by_gold.scores(stages, context.label(tasks.label))
        stages |= {**by_gold.measured, **scores, **by_gold.agreement(context, scores)}
    return with_gold(_cell(tasks, arm.label, seed, policy, stages, optimizer, arm_key, arm.reads_examples), gold)


def with_gold(cell: Cell, gold: Gold | None) -> Cell:
    """The cell, which names the gold model that it is measured by."""
    return replace(cell, gold=gold.record) if gold else cell


def _cell(
    tasks: Tasks,
    label: str,
    seed: Seed,
    policy: Row,
    stages: Mapping[str, Stage],
    optimizer: str,
    arm_key: str,
    reads_examples: bool = False,
) -> Cell:
    """The cell of planned stages; `label` is the reward model's.  `make_plan`, which knows the request, adds
    `differing`."""
    # training prompts are an input of other stages; a cell's prompts are the held-out ones
    kept = {role: stage for role, stage in stages.items() if role != "train_prompts"}
    return Cell(
        tasks.label,
        label,
        seed,
        policy["name"],
        kept,
        {},
        tasks.evaluated,
        tasks.home,
        optimizer,
        reads_examples,
        arm_key or stages["generations"].seedless_key[: store.KEY_LENGTH],
    )


def layered_arm(plain: Cell, seed: Seed) -> str:
    """The key of the arm of runs in layers, from the cell of the same request on the task's own data.

    It differs from the plain arm's: an interval over plain seeds is conditional on the data, one over layers is not.
    """
    return store.content_key([plain.arm, sorted(layers_asked(seed))])[: store.KEY_LENGTH]


def judge_stage(
    task: TaskPlan,
    judge: JudgeSpec,
    inputs: Mapping[str, Stage],
    label: str,
    seed: Seed,
    cut_off: str = KEEP,
    gold: str = "",
) -> Stage:
    """The stage in which a judge measures one cell's generations.

    `inputs` have the roles prompts, baseline and generations, and gold_baseline and gold_generations where the gold
    model `gold` scores; `label` and `seed` are the cell's.
    """
    plugin, number = plugins.find("judge", judge.name), training_seed(seed)
    by_gold = ("gold_baseline", "gold_generations") if gold and judge.takes_gold else ()
    return Stage(
        "verdicts",
        f"{safe_label(judge.name)}-{label}",
        f"{H}.stages.judge:verdicts",
        # `content`, not the settings: those that cost only time change no verdict (`seams.HasVerdictSettings`)
        {
            "task": task.params,
            "judge": {"name": judge.name, "settings": dict(judge.content)},
            "seed": number,
            **({"cut_off": cut_off} if cut_off != KEEP else {}),
            **({"gold": gold} if by_gold else {}),
        },
        {role: inputs[role] for role in ("prompts", "baseline", "generations", *by_gold)},
        {"judge_settings": dict(judge.settings), "task": task.opened},
        plugin_code=(plugin.fingerprint(), task.fingerprint),  # the task's: judges may ask it for the true utility
    )


def fluency_stage(cell: Cell) -> Stage:
    """The stage that measures one cell's responses as text; it stands among the cell's judges."""
    sft, generations = cell.stages["sft"], cell.stages["generations"]
    return Stage(
        FLUENCY,
        cell_label(cell.task, cell.reward_model, cell.seed),
        f"{H}.stages.fluency:fluency",
        {"judge": {"name": FLUENCY, "settings": {}}, "policy": sft.params["policy"], "seed": training_seed(cell.seed)},
        {"sft": sft, **{role: cell.stages[role] for role in ("prompts", "baseline")}, "generations": generations},
        cost=cell.stages["baseline"].cost,
        family=sft.family,
    )


def in_order(stages: Sequence[Stage]) -> list[Stage]:
    """Every stage needed, each once, inputs first.

    Depth first instead of by level (graphlib's order): an interrupted run then has finished some cells whole.
    """
    found: dict[str, Stage] = {}  # by key: cells share stages, each planned as an object of its own

    def visit(stage: Stage) -> None:
        if stage.key not in found:
            for needed in stage.inputs.values():
                visit(needed)
            found[stage.key] = stage

    for stage in stages:
        visit(stage)
    return list(found.values())
