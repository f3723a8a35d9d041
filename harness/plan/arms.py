"""The stages of an arm: what its reward model needs, and what each optimiser does with it.

An optimiser is a function from an `ArmContext` to stages by role, `generations` among them, and is registered in
OPTIMIZERS.  PPO plans `ppo` and, for prompts of another task, `transfer`; best-of-n plans `pool` and `best_of_n`; DPO
and SFT on the chosen responses plan `direct` and `written`.  A control in CONTROLS has no reward model at all, not even
to score it: one arm serves all of a task and seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

from rlhf_bench.harness import fingerprint, plugins, store
from rlhf_bench.harness.anchors import anchored
from rlhf_bench.harness.errors import BenchError, one_line
from rlhf_bench.harness.pipeline.stage import Stage
from rlhf_bench.harness.plan.shared import H, cell_label, safe_label, without_micro_batch
from rlhf_bench.harness.plan.tasks import Tasks
from rlhf_bench.harness.presets import factory_settings
from rlhf_bench.harness.sampling.engines import check_engine
from rlhf_bench.harness.seams import (
    LoadsPlugins,
    ReadsExamples,
    ReadsFiles,
    ReadsUtility,
    RewardModel,
    TrainableRewardModel,
)
from rlhf_bench.harness.seeds import Seed, of_reward, tag
from rlhf_bench.harness.statistics.best_of_n import check_ns, parse_ns
from rlhf_bench.harness.statistics.entropy_matched import CONTROL, parse_temperatures
from rlhf_bench.harness.text.types import JsonObject, Row

if TYPE_CHECKING:
    from rlhf_bench.harness.settings import Settings

Stages = Mapping[str, Stage]


@dataclass(frozen=True)
class RewardArm:
    """A cell's reward model, built once so that the plan knows whether it is trained and what it reads.

    `made` is the plugin's object.  The plan reads its members and calls no method: stages build the object again.
    """

    name: str
    label: str  # the name without long paths, for file names and reports
    settings: Row
    made: TrainableRewardModel | RewardModel
    code: str  # hash of the code of the reward model and of the plugins that it loads

    @cached_property
    def params(self) -> JsonObject:
        """What enters keys: the name, the settings and, for a model that reads files, hashes of their content.

        Raises BenchError with the model's name where its `content` raises or is no JSON object.
        """
        found = {"name": self.name, "settings": dict(self.settings)}
        try:
            content = dict(self.made.content) if isinstance(self.made, ReadsFiles) else {}
            store.canonical(content)  # a plugin's own property: what is no JSON must fail here, with the plugin's name
        except BenchError:
            raise
        except Exception as error:  # `content` is code of a plugin, which may raise anything
            seen = f"The reward model {self.name!r} cannot say what it reads: {one_line(error)}."
            raise BenchError(seen) from error
        return {**found, **({"content": content} if content else {})}

    @property
    def reads_utility(self) -> bool:
        return isinstance(self.made, ReadsUtility)

    @property
    def reads_examples(self) -> bool:
        """Whether it reads more of an example than its prompt: its stages then need both splits of the prompts."""
        return isinstance(self.made, ReadsExamples)


def open_arm(name: str, settings: Settings) -> RewardArm:
    """The reward model `name` with its settings.

    Imports the plugin's module, and no torch.  Raises BenchError for an unknown name, a wrong setting and an object
    that is no reward model.
    """
    plugin = plugins.find("reward-model", name)
    values = factory_settings(name, plugin.factory(), settings.plugins.get(name, {}))
    made: object = plugins.build("reward-model", name, values)
    if not isinstance(made, TrainableRewardModel | RewardModel):
        raise BenchError(
            f"The reward model {name!r} has neither rewards(rollout) nor train/load.",
            f"See: bench check reward-model {name}",
        )
    # the object's class may lie in another module than its factory, as that of a plain function does
    modules = [plugin.module, type(made).__module__]
    if isinstance(made, LoadsPlugins):
        modules += [plugins.find("reward-model", other).module for other in made.plugins]
    code = fingerprint.of(*dict.fromkeys(modules))
    # stages and records name it as every folder reads it; messages above name it as the user does
    return RewardArm(anchored(name) if ":" in name else name, plugin.label, values, made, code)


@dataclass(frozen=True)
class ArmContext:
    """What an optimiser plans from.

    `stages` by role: sft, train_prompts (those PPO optimises on), prompts (held out), pairs, baseline, scale, and
    reward where the reward model is trained.  `family` names the task and policy, for time estimates.  `start` is the
    SFT policy that the reward model is trained from: another one than `sft` where it has a seed of its own.
    """

    tasks: Tasks
    reward_model: RewardArm
    stages: Stages
    settings: Settings
    family: str
    run: Seed
    start: Stage

    @property
    def common(self) -> JsonObject:
        """Parameters of every stage of the arm: reward model, seed, and the longest response in tokens."""
        # the longest response of the home task, for which SFT left room in the context, also on another task's prompts
        seed = self.stages["sft"].params["seed"]
        found = {"rm": self.reward_model.params, "seed": seed, "max_response": self.tasks.home.max_response}
        if not self.reward_model.reads_utility:
            return found
        # The content of a task's examples does not say what its utility pays.
        return found | {"utility": [self.tasks.optimised.params, self.tasks.evaluated.params]}

    @property
    def code(self) -> tuple[str, ...]:
        """Hashes of the reward model's code, and of the tasks' where it pays their utility."""
        if not self.reward_model.reads_utility:
            return (self.reward_model.code,)
        return (self.reward_model.code, self.tasks.optimised.fingerprint, self.tasks.evaluated.fingerprint)

    @property
    def model(self) -> dict[str, Stage]:
        """The trained reward model's folder as an input; {} for one that is not trained."""
        return {"reward": self.stages["reward"]} if "reward" in self.stages else {}

    @property
    def shown(self) -> dict[str, Stage]:
        """The training prompts as a further input, for a reward model that reads whole examples of another task."""
        reads = self.reward_model.reads_examples or self.reward_model.reads_utility
        if self.tasks.evaluated is self.tasks.optimised or not reads:
            return {}  # the held-out prompts' folder holds both splits then
        return {"train_prompts": self.stages["train_prompts"]}

    @property
    def payload(self) -> JsonObject:
        """Parameters that change no result: the micro-batch, and where the tasks of both splits are opened from."""
        tasks = {"task": self.tasks.optimised.opened, "evaluated": self.tasks.evaluated.opened}
        return {"micro_batch": self.settings.ppo.micro_batch, **tasks}

    def label(self, task: str) -> str:
        """The label of this arm's stages on a task."""
        return cell_label(task, self.reward_model.label, self.run)


def scale(arm: ArmContext) -> Stage:
    """The stage that measures the reward's spread over SFT samples, by which the arm's rewards are divided.

    Every optimiser has it, also those that train without a reward: reports read pair accuracy and diagnostics from it.
    """
    from rlhf_bench.harness.settings import Settings

    ppo, defaults = arm.settings.ppo, Settings().group("ppo")
    return Stage(
        "scale",
        arm.label(arm.tasks.home.name),
        f"{H}.stages.scale:scale",
        # the whole group, because the stage builds PPOSettings from it; defaults stand for what it does not depend on
        {**arm.common, "ppo": arm.settings.group("ppo") | {name: defaults[name] for name in _NOT_OF_SCALE}},
        {**training_inputs(arm), "pairs": arm.stages["pairs"]},
        arm.payload,
        # the task's code too: the stage correlates rewards with the task's gold utility
        plugin_code=(*arm.code, arm.tasks.optimised.fingerprint),
        cost=float(ppo.scale_prompts * ppo.scale_samples),
        family=arm.family,
    )


def training_inputs(arm: ArmContext) -> dict[str, Stage]:
    """Inputs of stages that read the prompts PPO optimises on."""
    return {"sft": arm.stages["sft"], "prompts": arm.stages["train_prompts"], **arm.model}


def ppo(arm: ArmContext) -> dict[str, Stage]:
    """Stages: PPO, the trained policy's responses to the held-out prompts, and the proxy reward of both policies.

    Raises BenchError for an engine (`ppo.engine`) that is not installed or does not go with the policy's settings.
    """
    settings = arm.settings
    check_engine(settings)  # now: a missing engine must not surface after SFT and the reward model's training
    if settings.ppo.rollouts % settings.ppo.samples:
        raise BenchError(
            f"ppo.rollouts={settings.ppo.rollouts} is not a multiple of ppo.samples={settings.ppo.samples}.",
            "Choose a multiple.",
        )
    trained = Stage(
        "ppo",
        arm.label(arm.tasks.home.name),
        f"{H}.stages.ppo:ppo",
        {**arm.common, "ppo": settings.group("ppo"), "eval": settings.evaluation},
        {**training_inputs(arm), "scale": arm.stages["scale"]},
        arm.payload,
        plugin_code=arm.code,
        cost=float(settings.ppo.iterations * settings.ppo.rollouts * settings.ppo.epochs),
        family=arm.family,
    )
    # PPO evaluates its checkpoints on its own task's held-out prompts; prompts of another task need a further stage
    generations = trained if arm.tasks.evaluated is arm.tasks.optimised else transfer(arm, trained)
    return {"ppo": trained, "generations": generations, "proxy": proxy(arm, generations)}


def held_out_inputs(arm: ArmContext) -> dict[str, Stage]:
    """Inputs of stages that read the held-out prompts."""
    # the SFT policy is the reference of the KL, and its folder has the tokenizer
    inputs = {"sft": arm.stages["sft"], "prompts": arm.stages["prompts"]}
    return {**inputs, **arm.model, **arm.shown}


def transfer(arm: ArmContext, trained: Stage) -> Stage:
    """The stage that samples the trained policy's responses to another task's prompts (out of distribution).

    It depends on `trained`, so one training serves any number of tasks.
    """
    settings = arm.settings
    return Stage(
        "transfer",
        arm.label(arm.tasks.label),
        f"{H}.stages.ppo:transfer",
        {**arm.common, "ppo": settings.group("ppo"), "eval": settings.evaluation},
        {**held_out_inputs(arm), "ppo": trained},
        arm.payload,
        plugin_code=arm.code,
        cost=2.0 * settings.eval.rows,
        family=arm.family,
    )


def proxy(arm: ArmContext, generations: Stage) -> Stage:
    """The stage that scores the baseline's and the trained policy's responses, with the reward's own diagnostics.

    From it reports take the curve of gold against proxy (`results.proxy_curves`).
    """
    settings = arm.settings
    return Stage(
        "proxy",
        arm.label(arm.tasks.label),
        f"{H}.stages.proxy:proxy",
        {**arm.common, "eval": {"batch": settings.eval.batch}},
        {**held_out_inputs(arm), "baseline": arm.stages["baseline"], "generations": generations},
        arm.payload,
        plugin_code=arm.code,
        cost=2.0 * settings.eval.rows,
        family=arm.family,
    )


def best_of_n(arm: ArmContext) -> dict[str, Stage]:
    """Stages: one pool of SFT samples, shared by all reward models of a seed, and this arm's choice from it.

    Raises BenchError for an n that is no number, below 1, above the pool, or given twice (`parse_ns`, `check_ns`).
    """
    settings = arm.settings
    chosen = settings.best_of_n
    ns = parse_ns(chosen.n)
    size = chosen.pool or max(ns)  # samples a prompt
    ns = check_ns(ns, size)  # rising: the same numbers in any order have one key
    drawn = {"samples": size, "independent": chosen.independent}
    common = {"max_response": arm.tasks.home.max_response, "eval": settings.evaluation}
    prompts = {"sft": arm.stages["sft"], "prompts": arm.stages["prompts"]}
    evaluated, cost = arm.tasks.evaluated, float(size * settings.eval.rows)
    seed = arm.stages["sft"].params["seed"]
    pool = Stage(
        "pool",
        f"{safe_label(evaluated.name)}-{tag(arm.run)}",
        f"{H}.stages.pool:pool",
        # nothing of the reward model, and of n the pool's size alone: all arms of a seed draw once
        {**common, "seed": seed, "temperature": settings.ppo.temperature, "pool": drawn},
        prompts,
        {"task": evaluated.opened},
        plugin_code=(evaluated.fingerprint,),  # the stage computes the samples' gold utility
        cost=cost,
        family=arm.family,
    )
    found = Stage(
        "best_of_n",
        arm.label(arm.tasks.label),
        f"{H}.stages.best_of_n:best_of_n",
        {**arm.common, **common, "best_of_n": {"n": list(ns), "pool": size}},
        {**held_out_inputs(arm), "pool": pool},
        arm.payload,
        plugin_code=arm.code,
        cost=cost,
        family=arm.family,
    )
    return {"pool": pool, "generations": found}


def direct(arm: ArmContext, method: str) -> dict[str, Stage]:
    """Stages: training on the pairs by `method` (dpo, sft-chosen), the policy's responses, and their proxy reward.

    The training reads no reward model, so all arms of a seed share it; the arm's reward model scores the result.
    Raises BenchError where the prompts to optimise on are another task's.
    """
    if arm.tasks.optimised is not arm.tasks.home:
        seen = f"--optimizer {method} learns from the pairs of {arm.tasks.home.name!r}, not from prompts."
        raise BenchError(seen, "Leave --train-prompts out.")
    settings, seed = arm.settings, arm.stages["sft"].params["seed"]
    chosen = settings.group(method.replace("-", "_"))
    trained = Stage(
        "direct",
        f"{safe_label(arm.tasks.home.name)}-{method}-{tag(arm.run)}",
        f"{H}.stages.direct:direct",
        # no reward model: its arms share the training
        {"method": method, "settings": without_micro_batch(chosen), "seed": seed},
        {"sft": arm.stages["sft"], "pairs": arm.stages["pairs"]},
        {"settings": chosen},
        cost=float(chosen["epochs"]),
        family=f"{arm.family} {method}",
    )
    # of the group `ppo` the temperature alone: no other setting of PPO may change the key
    temperature = {"temperature": settings.ppo.temperature}
    generations = Stage(
        "written",
        arm.label(arm.tasks.label),
        f"{H}.stages.direct:written",
        {**arm.common, "ppo": temperature, "eval": settings.evaluation},
        {**held_out_inputs(arm), "direct": trained},
        arm.payload,
        plugin_code=arm.code,
        cost=2.0 * settings.eval.rows,
        family=arm.family,
    )
    return {"direct": trained, "generations": generations, "proxy": proxy(arm, generations)}


OPTIMIZERS: Mapping[str, Callable[[ArmContext], Stages]] = {
    "ppo": ppo,
    "best-of-n": best_of_n,
    "dpo": partial(direct, method="dpo"),
    "sft-chosen": partial(direct, method="sft-chosen"),
}
"""What turns an arm into generations: a function from an arm's context to stages by role, `generations` among them."""


def sft_tempered(tasks: Tasks, stages: Stages, settings: Settings, family: str, run: Seed) -> dict[str, Stage]:
    """The stage that samples the SFT policy at lower temperatures.

    Nothing of it depends on a reward model.  A run in layers keeps its reward seed all the same, as a part of its name:
    the SFT policies of an arm start from all of their seeds (`seeds.training_seed`), and the control of a run is its
    own SFT policy.

    Raises BenchError for temperatures that `parse_temperatures` refuses.
    """
    temperatures = parse_temperatures(settings.sft_tempered.temperatures)
    baseline = stages["baseline"]
    generations = Stage(
        "tempered",
        cell_label(tasks.label, CONTROL, run),
        f"{H}.stages.tempered:tempered",
        # all that the baseline depends on: it is the same policy on the same prompts
        {**baseline.params, "temperatures": list(temperatures)},
        baseline.inputs,
        cost=float(len(temperatures) * settings.eval.rows),
        family=family,
    )
    return {"generations": generations}


CONTROLS: Mapping[str, Callable[[Tasks, Stages, Settings, str, Seed], Stages]] = {CONTROL: sft_tempered}
"""What is sampled without a reward model: a function from the tasks, the stages that all arms of a seed share
(`shared.shared_stages`), the settings, the name for time estimates and the run to stages by role, `generations` among
them."""


def training(arm: ArmContext) -> Stage:
    """The stage that trains a reward model.  Its key holds the recipe, not the arm: arms of one recipe share it.

    The arm's reward model is a TrainableRewardModel.
    """
    model = arm.reward_model.made
    assert isinstance(model, TrainableRewardModel)  # `cells.plan_cell` plans this stage for no other
    home = arm.tasks.home
    return Stage(
        "reward",
        f"{safe_label(home.name)}-{safe_label(model.recipe)}-{tag(of_reward(arm.run))}",
        f"{H}.stages.reward:reward",
        {
            "recipe": model.recipe,
            "settings": dict(model.training_settings),
            "seed": arm.start.params["seed"],
            "max_response": home.max_response,
        },
        {"sft": arm.start, "pairs": arm.stages["pairs"]},
        {"rm": arm.reward_model.params},  # by which the stage builds the model: no part of the key
        plugin_code=(arm.reward_model.code,),
        cost=float(model.training_settings.get("epochs", 1)),
        family=f"{arm.family} {model.recipe}",  # time estimates compare trainings of one recipe
    )


_NOT_OF_SCALE = (
    *("iterations", "rollouts", "epochs", "minibatches", "micro_batch", "lr", "critic_lr", "clip", "value_clip"),
    *("gamma", "lam", "kl", "whiten", "max_grad_norm", "checkpoints", "save_every"),
    *("samples", "lr_schedule", "kl_estimator", "kl_target", "missing_eos_penalty"),
    *("micro_tokens", "offload", "critic", "value_weight", "engine", "engine_memory"),
)
"""PPO settings that the scale does not depend on: its key holds their defaults, so sweeps over them share it."""
