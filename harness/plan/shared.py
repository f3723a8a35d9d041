"""The stages that all reward models of a seed share (policy, prompts, pairs, baseline), and the labels of folders.

A stage's `params` decide its key.  What only says where to find something (a task's own settings, where the key holds
the hash of its content) goes into `payload`, so that sweeps over unrelated settings share results.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_bench.harness.pipeline.stage import Stage
from rlhf_bench.harness.plan.tasks import TaskPlan, Tasks
from rlhf_bench.harness.seeds import Seed, tag, training_seed
from rlhf_bench.harness.text.types import JsonObject, Row

if TYPE_CHECKING:
    from rlhf_bench.harness.settings import Settings

H = "rlhf_bench.harness"


def safe_label(name: str) -> str:
    """A name as part of a file name: letters, digits and `-_.`, at most 60 characters; "unnamed" for nothing of it."""
    # no dot at the start, which would hide the folder
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name).strip(".")[:60] or "unnamed"


def cell_label(task: str, reward_model: str, seed: Seed) -> str:
    """The label of a cell's own folders and of its record; a key follows it, so it need not be unique."""
    return f"{safe_label(task)}-{safe_label(reward_model)}-{tag(seed)}"


def shared_stages(tasks: Tasks, run: Seed, policy: Row, settings: Settings) -> dict[str, Stage]:
    """The stages sft, train_prompts, prompts, pairs and baseline of a run by role.

    `policy` is what `policy_identity` returns.  `train_prompts` and `prompts` are one stage unless a run optimises on
    or evaluates another task's prompts.
    """
    home, seed = tasks.home, training_seed(run)
    label = f"{safe_label(home.name)}-{safe_label(policy['name'])}-{tag(run)}"
    family = f"{home.name} {policy['name']}"
    sft = Stage(
        "sft",
        label,
        f"{H}.stages.policy:sft",
        {
            "task": home.demonstrated,  # examples alone: settings of the pairs change no SFT policy
            "policy": {k: v for k, v in policy.items() if k != "name"},  # the name is in labels alone
            "sft": without_micro_batch(settings.group("sft")),
            "data": settings.group("data"),
            "seed": seed,
        },
        {},
        {"task": home.trained_opened, "sft": settings.group("sft")},
        plugin_code=home.redrawing,
        cost=float(settings.sft.steps * settings.sft.batch),
        family=family,
    )
    pairs = Stage(
        "pairs",
        label,
        f"{H}.stages.pairs:pairs",
        {
            "task": home.trained_on,
            "data": settings.group("data"),
            "pairs": settings.group("pairs"),
            "seed": seed,
            # how rejected responses are sampled, where a task gives none
            "temperature": settings.ppo.temperature,
            "eval": {"batch": settings.eval.batch},
        },
        {"sft": sft},
        {"task": home.trained_opened},
        plugin_code=home.redrawing,
        cost=1.0,
        family=family,
    )
    train_prompts = _prompts(tasks.optimised, tasks, run, sft, settings)
    prompts = _prompts(tasks.evaluated, tasks, run, sft, settings)
    baseline = Stage(
        "baseline",
        f"{safe_label(tasks.evaluated.name)}-{safe_label(policy['name'])}-{tag(run)}",
        f"{H}.stages.policy:baseline",
        {
            # no task: the prompts' key holds its content
            "seed": seed,
            "max_response": home.max_response,
            "temperature": settings.ppo.temperature,
            "eval": settings.evaluation,
        },
        {"sft": sft, "prompts": prompts},
        cost=2.0 * settings.eval.rows,
        family=family,
    )
    return {"sft": sft, "train_prompts": train_prompts, "prompts": prompts, "pairs": pairs, "baseline": baseline}


def without_micro_batch(group: Row) -> JsonObject:
    """Settings of a training without its micro-batch, which changes no result: lowered, it trains nothing again."""
    return {name: value for name, value in group.items() if name != "micro_batch"}


def _prompts(task: TaskPlan, tasks: Tasks, run: Seed, sft: Stage, settings: Settings) -> Stage:
    """The prompts that fit the policy's context, chosen once so that all arms get the same ones."""
    return Stage(
        "prompts",
        f"{safe_label(task.name)}-{tag(run)}",
        f"{H}.stages.prompts:prompts",
        {
            "task": task.content,
            "data": settings.group("data"),
            "max_response": tasks.home.max_response,
            # an evaluated task may have no training prompts
            "samples": settings.eval.samples,
            "splits": ["train", "test"] if task is tasks.optimised else ["test"],
            "seed": sft.params["seed"],
        },
        {"sft": sft},
        # the home task, in whose training data no prompt held out by another task may be
        {"task": task.opened, "home": tasks.home.opened},
        cost=1.0,
        family=sft.family,
    )
