"""From names to a plan: which stages make a cell, and which of them are there already.

A cell is (task, reward model, seed, settings).  Cells share every stage whose key is the same: one SFT policy, one set
of pairs and baseline generations per seed, one training per reward-model recipe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rlhf_bench.harness import plugins, store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.seams import ReadsExamples, ReadsFiles, RewardModel, TrainableRewardModel
from rlhf_bench.harness.settings import Settings, factory_settings
from rlhf_bench.harness.stage import Stage
from rlhf_bench.harness.stage_judge import JudgeSpec
from rlhf_bench.harness.task_plan import TaskPlan, Tasks

H = "rlhf_bench.harness"
CODE = {
    "sft": (f"{H}.training",),
    "prompts": (),
    "pairs": (),
    "baseline": (f"{H}.evaluation",),
    "reward": (f"{H}.training",),
    "scale": (f"{H}.scoring", f"{H}.ppo_math", f"{H}.stage_reward"),
    "ppo": (f"{H}.ppo", f"{H}.ppo_math", f"{H}.actors", f"{H}.evaluation", f"{H}.scoring", f"{H}.stage_reward"),
    "transfer": (f"{H}.evaluation", f"{H}.scoring", f"{H}.stage_reward"),
    "verdicts": (),
}
"""Modules, beside the stage's own, whose code makes the result: when they change, the stage is made again."""


@dataclass(frozen=True)
class Cell:
    """A cell and its stages by role.

    sft, prompts (those evaluated), pairs, reward, baseline, scale, ppo, and generations: ppo itself, or the evaluation
    of its policy on another task's prompts.  `home` is the task whose data trained everything, `task` the label.
    """

    task: str
    reward_model: str
    seed: int
    policy: str
    stages: Mapping[str, Stage]
    differing: Mapping[str, Any]  # what was set away from the preset, for labels
    evaluated: TaskPlan
    home: TaskPlan
    reads_examples: bool = False  # the reward model does

    @property
    def key(self) -> str:
        return self.stages["generations"].key

    @property
    def name(self) -> str:
        return f"{cell_label(self.task, self.reward_model, self.seed)}-{self.key[: store.KEY_LENGTH]}"

    def record(self) -> dict[str, Any]:
        """cells/NAME.json: what a report needs to find everything."""
        stages = {role: stage.place for role, stage in self.stages.items()}
        ppo = self.stages["ppo"].params
        return {
            "task": self.task,
            "home": self.home.name,
            "home_origin": asdict(self.home.origin),
            "evaluated": self.evaluated.params,
            "reward_model": self.reward_model,
            "arm": self.stages["generations"].seedless_key[: store.KEY_LENGTH],
            "seed": self.seed,
            "policy": self.policy,
            "differing": dict(self.differing),
            "origin": asdict(self.evaluated.origin),
            "stages": stages,
            "checkpoints": {"iterations": ppo["ppo"]["iterations"], "count": ppo["ppo"]["checkpoints"]},
        }


def safe_label(name: str) -> str:
    """A name as part of a file name."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name).strip(".")[:60] or "unnamed"


def cell_label(task: str, reward_model: str, seed: int) -> str:
    """How a cell's own folders and record are called."""
    return f"{safe_label(task)}-{safe_label(reward_model)}-s{seed}"


def plan_cell(tasks: Tasks, rm_name: str, seed: int, policy: Mapping[str, Any], settings: Settings) -> Cell:
    """The stages of one cell.  Imports the reward model's module (to know whether it must be trained), no torch."""
    plugin = plugins.find("reward-model", rm_name)
    rm_settings = factory_settings(rm_name, plugin.factory(), settings.plugins.get(rm_name, {}))
    arm: Any = plugins.build("reward-model", rm_name, rm_settings)
    if not isinstance(arm, TrainableRewardModel | RewardModel):
        raise BenchError(
            f"The reward model {rm_name!r} has neither rewards(rollout) nor train/load.",
            f"See: bench check reward-model {rm_name}",
        )
    stages = _shared_stages(tasks, seed, policy, settings)
    train_prompts = stages.pop("train_prompts")
    rm = {"name": rm_name, "settings": rm_settings, **_content(rm_name, arm)}
    family = f"{tasks.home.name} {policy['name']}"
    model: dict[str, Stage] = {}
    if isinstance(arm, TrainableRewardModel):
        model["reward"] = stages["reward"] = _training(tasks.home, arm, rm, stages, plugin.fingerprint(), family)
    stages |= _optimisation(tasks, rm, stages, train_prompts, model, settings, plugin.fingerprint(), family)
    stages["generations"] = stages["ppo"]
    if tasks.evaluated is not tasks.optimised:
        shown = {"train_prompts": train_prompts} if isinstance(arm, ReadsExamples) else {}
        stages["generations"] = _transfer(tasks, rm, stages, model | shown, settings, plugin.fingerprint(), family)
    reads = isinstance(arm, ReadsExamples)
    return Cell(tasks.label, plugin.label, seed, policy["name"], stages, {}, tasks.evaluated, tasks.home, reads)


def _content(name: str, arm: Any) -> dict[str, Any]:
    """What the files that a reward model's settings name hold, where it says so."""
    if not isinstance(arm, ReadsFiles):
        return {}
    try:
        found = dict(arm.content)
        store.canonical(found)
    except BenchError:
        raise
    except Exception as error:
        raise BenchError(f"The reward model {name!r} cannot say what it reads: {plugins.one_line(error)}.") from error
    return {"content": found} if found else {}


def _optimisation(
    tasks: Tasks,
    rm: Mapping[str, Any],
    stages: Mapping[str, Stage],
    prompts: Stage,
    model: Mapping[str, Stage],
    settings: Settings,
    code: str,
    family: str,
) -> dict[str, Stage]:
    """The reward model's scale, and PPO against it."""
    seed = stages["sft"].params["seed"]
    label = cell_label(tasks.home.name, plugins.find("reward-model", rm["name"]).label, seed)
    common = {"rm": rm, "seed": seed, "max_response": tasks.home.max_response}
    payload = {"micro_batch": settings.ppo.micro_batch, "task": tasks.optimised.params}
    inputs = {"sft": stages["sft"], "prompts": prompts, **model}
    scale = Stage(
        "scale",
        label,
        f"{H}.stage_scale:scale",
        {**common, "ppo": settings.group("ppo") | dict.fromkeys(_NOT_OF_SCALE, 1)},
        inputs | {"pairs": stages["pairs"]},
        payload,
        CODE["scale"],
        (code, tasks.optimised.fingerprint),
        cost=float(settings.ppo.scale_prompts * settings.ppo.scale_samples),
        family=family,
    )
    ppo = Stage(
        "ppo",
        label,
        f"{H}.stage_ppo:ppo",
        {**common, "ppo": settings.group("ppo"), "eval": settings.group("eval")},
        inputs | {"scale": scale},
        payload,
        CODE["ppo"],
        (code,),
        cost=float(settings.ppo.iterations * settings.ppo.rollouts * settings.ppo.epochs),
        family=family,
    )
    return {"scale": scale, "ppo": ppo}


def _transfer(
    tasks: Tasks,
    rm: Mapping[str, Any],
    stages: Mapping[str, Stage],
    model: Mapping[str, Stage],
    settings: Settings,
    code: str,
    family: str,
) -> Stage:
    """What the trained policy writes to another task's prompts."""
    seed = stages["sft"].params["seed"]
    return Stage(
        "transfer",
        cell_label(tasks.label, plugins.find("reward-model", rm["name"]).label, seed),
        f"{H}.stage_ppo:transfer",
        {
            "rm": rm,
            "seed": seed,
            "max_response": tasks.home.max_response,
            "ppo": settings.group("ppo"),
            "eval": settings.group("eval"),
        },
        {"sft": stages["sft"], "prompts": stages["prompts"], "ppo": stages["ppo"], **model},
        {"micro_batch": settings.ppo.micro_batch},
        CODE["transfer"],
        (code,),
        cost=2.0 * (settings.eval.prompts or 1000),
        family=family,
    )


def _training(
    task: TaskPlan,
    arm: TrainableRewardModel,
    rm: Mapping[str, Any],
    stages: Mapping[str, Stage],
    code: str,
    family: str,
) -> Stage:
    """The training of a reward model: named by its recipe, so that arms which share one share the result."""
    seed = stages["sft"].params["seed"]
    return Stage(
        "reward",
        f"{safe_label(task.name)}-{safe_label(arm.recipe)}-s{seed}",
        f"{H}.stage_reward:reward",
        {
            "recipe": arm.recipe,
            "settings": dict(arm.training_settings),
            "seed": seed,
            "max_response": task.max_response,
        },
        {"sft": stages["sft"], "pairs": stages["pairs"]},
        {"rm": rm},
        CODE["reward"],
        (code,),
        cost=float(arm.training_settings.get("epochs", 1)),
        family=f"{family} {arm.recipe}",
    )


_NOT_OF_SCALE = (
    *("iterations", "rollouts", "epochs", "minibatches", "micro_batch", "lr", "critic_lr", "clip", "value_clip"),
    *("gamma", "lam", "kl", "whiten", "max_grad_norm", "checkpoints", "save_every"),
)
"""PPO settings that the scale does not depend on: sweeps over them share it."""


def _shared_stages(tasks: Tasks, seed: int, policy: Mapping[str, Any], settings: Settings) -> dict[str, Stage]:
    """What all reward models of a seed share: sft, train_prompts, prompts, pairs, baseline."""
    home = tasks.home
    label = f"{safe_label(home.name)}-{safe_label(policy['name'])}-s{seed}"
    family = f"{home.name} {policy['name']}"
    sft = Stage(
        "sft",
        label,
        f"{H}.stage_policy:sft",
        {
            "task": home.content,
            "policy": {k: v for k, v in policy.items() if k != "name"},
            "sft": settings.group("sft"),
            "data": settings.group("data"),
            "seed": seed,
        },
        {},
        {"task": home.params},
        CODE["sft"],
        cost=float(settings.sft.steps * settings.sft.batch),
        family=family,
    )
    pairs = Stage(
        "pairs",
        label,
        f"{H}.stage_pairs:pairs",
        {
            "task": home.params,
            "data": settings.group("data"),
            "pairs": settings.group("pairs"),
            "seed": seed,
            "temperature": settings.ppo.temperature,
            "eval": {"batch": settings.eval.batch},
        },
        {"sft": sft},
        code=CODE["pairs"],
        cost=1.0,
        family=family,
    )
    train_prompts = _prompts(tasks.optimised, tasks, sft, settings)
    prompts = _prompts(tasks.evaluated, tasks, sft, settings)
    baseline = Stage(
        "baseline",
        f"{safe_label(tasks.evaluated.name)}-{safe_label(policy['name'])}-s{seed}",
        f"{H}.stage_policy:baseline",
        {
            "seed": seed,
            "max_response": home.max_response,
            "temperature": settings.ppo.temperature,
            "eval": settings.group("eval"),
        },
        {"sft": sft, "prompts": prompts},
        code=CODE["baseline"],
        cost=2.0 * (settings.eval.prompts or 1000),
        family=family,
    )
    return {"sft": sft, "train_prompts": train_prompts, "prompts": prompts, "pairs": pairs, "baseline": baseline}


def _prompts(task: TaskPlan, tasks: Tasks, sft: Stage, settings: Settings) -> Stage:
    """The prompts of a run, filtered once so that every arm sees the same ones."""
    return Stage(
        "prompts",
        f"{safe_label(task.name)}-s{sft.params['seed']}",
        f"{H}.stage_prompts:prompts",
        {
            "task": task.content,
            "data": settings.group("data"),
            "max_response": tasks.home.max_response,
            "splits": ["train", "test"] if task is tasks.optimised else ["test"],
            "seed": sft.params["seed"],
        },
        {"sft": sft},
        {"task": task.params, "home": tasks.home.params},
        CODE["prompts"],
        cost=1.0,
        family=sft.family,
    )


def judge_stage(task: TaskPlan, judge: JudgeSpec, inputs: Mapping[str, Stage], label: str, seed: int) -> Stage:
    """The stage that lets a judge measure one cell's generations."""
    plugin = plugins.find("judge", judge.name)
    return Stage(
        "verdicts",
        f"{safe_label(judge.name)}-{label}",
        f"{H}.stage_judge:verdicts",
        {"task": task.params, "judge": {"name": judge.name, "settings": dict(judge.content)}, "seed": seed},
        {role: inputs[role] for role in ("prompts", "baseline", "generations")},
        {"judge_settings": dict(judge.settings)},
        CODE["verdicts"],
        (plugin.fingerprint(), task.fingerprint),
    )


def in_order(stages: Sequence[Stage]) -> list[Stage]:
    """All stages needed, each once, inputs before what needs them."""
    found: dict[str, Stage] = {}

    def visit(stage: Stage) -> None:
        if stage.key not in found:
            for needed in stage.inputs.values():
                visit(needed)
            found[stage.key] = stage

    for stage in stages:
        visit(stage)
    return list(found.values())
