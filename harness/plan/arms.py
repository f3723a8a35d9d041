"""The stages of an arm, one function each: what its reward model needs, and what optimisers do with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from rlhf_bench.harness import fingerprint, plugins, store
from rlhf_bench.harness.errors import BenchError, one_line
from rlhf_bench.harness.pipeline.stage import Stage
from rlhf_bench.harness.plan.shared import H, cell_label, safe_label
from rlhf_bench.harness.plan.tasks import Tasks
from rlhf_bench.harness.presets import factory_settings
from rlhf_bench.harness.sampling.engines import check_engine
from rlhf_bench.harness.seams import LoadsPlugins, ReadsExamples, ReadsFiles, RewardModel, TrainableRewardModel
from rlhf_bench.harness.settings import Settings
from rlhf_bench.harness.statistics.best_of_n import check_ns, parse_ns

Stages = Mapping[str, Stage]


@dataclass(frozen=True)
class RewardArm:
    """A cell's reward model: made once to learn what a plan needs of it."""

    name: str
    label: str  # short
    settings: Mapping[str, Any]
    made: Any
    code: str  # fingerprint

    @cached_property
    def params(self) -> dict[str, Any]:
        """What enters keys: name, settings, and the content of the files that these name, where it says so."""
        found = {"name": self.name, "settings": dict(self.settings)}
        try:
            content = dict(self.made.content) if isinstance(self.made, ReadsFiles) else {}
            store.canonical(content)
        except BenchError:
            raise
        except Exception as error:
            seen = f"The reward model {self.name!r} cannot say what it reads: {one_line(error)}."
            raise BenchError(seen) from error
        return {**found, **({"content": content} if content else {})}

    @property
    def reads_examples(self) -> bool:
        return isinstance(self.made, ReadsExamples)


def open_arm(name: str, settings: Settings) -> RewardArm:
    """Imports the reward model's module (to know whether it must be trained), no torch.  Raises BenchError."""
    plugin = plugins.find("reward-model", name)
    values = factory_settings(name, plugin.factory(), settings.plugins.get(name, {}))
    made: Any = plugins.build("reward-model", name, values)
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
    return RewardArm(name, plugin.label, values, made, code)


@dataclass(frozen=True)
class Ground:
    """What an optimiser starts from.

    `stages` by role: sft, train_prompts (optimised on), prompts (held out), pairs, baseline, scale, and reward where
    the reward model is trained.
    """

    tasks: Tasks
    arm: RewardArm
    stages: Stages
    settings: Settings
    family: str

    @property
    def common(self) -> dict[str, Any]:
        """Parameters that every stage of an arm has."""
        seed = self.stages["sft"].params["seed"]
        return {"rm": self.arm.params, "seed": seed, "max_response": self.tasks.home.max_response}

    @property
    def model(self) -> dict[str, Stage]:
        """The folder that the reward model's training left, as an input."""
        return {"reward": self.stages["reward"]} if "reward" in self.stages else {}

    @property
    def shown(self) -> dict[str, Stage]:
        """The prompts optimised on as an input, for a reward model that reads them and where they lie elsewhere."""
        away = self.tasks.evaluated is not self.tasks.optimised
        return {"train_prompts": self.stages["train_prompts"]} if away and self.arm.reads_examples else {}

    @property
    def payload(self) -> dict[str, Any]:
        return {"micro_batch": self.settings.ppo.micro_batch, "task": self.tasks.optimised.params}

    def label(self, task: str) -> str:
        """How the stages of this arm on a task are called."""
        return cell_label(task, self.arm.label, self.stages["sft"].params["seed"])


def scale(ground: Ground) -> Stage:
    """The reward model's scale, and its figures before anything is optimised."""
    ppo = ground.settings.ppo
    return Stage(
        "scale",
        ground.label(ground.tasks.home.name),
        f"{H}.stages.scale:scale",
        {**ground.common, "ppo": ground.settings.group("ppo") | dict.fromkeys(_NOT_OF_SCALE, 1)},
        {**_optimised(ground), "pairs": ground.stages["pairs"]},
        ground.payload,
        plugin_code=(ground.arm.code, ground.tasks.optimised.fingerprint),
        cost=float(ppo.scale_prompts * ppo.scale_samples),
        family=ground.family,
    )


def _optimised(ground: Ground) -> dict[str, Stage]:
    """Inputs of what looks at the prompts that are optimised on."""
    return {"sft": ground.stages["sft"], "prompts": ground.stages["train_prompts"], **ground.model}


def ppo(ground: Ground) -> dict[str, Stage]:
    """PPO, what its policy writes to the held-out prompts, and the proxy reward of the baseline."""
    settings = ground.settings
    check_engine(settings)
    trained = Stage(
        "ppo",
        ground.label(ground.tasks.home.name),
        f"{H}.stages.ppo:ppo",
        {**ground.common, "ppo": settings.group("ppo"), "eval": settings.group("eval")},
        {**_optimised(ground), "scale": ground.stages["scale"]},
        ground.payload,
        plugin_code=(ground.arm.code,),
        cost=float(settings.ppo.iterations * settings.ppo.rollouts * settings.ppo.epochs),
        family=ground.family,
    )
    away = ground.tasks.evaluated is not ground.tasks.optimised
    generations = _transfer(ground, trained) if away else trained
    return {"ppo": trained, "generations": generations, "proxy": proxy(ground, generations)}


def held_out_inputs(ground: Ground) -> dict[str, Stage]:
    """Inputs of what looks at the held-out prompts."""
    inputs = {"sft": ground.stages["sft"], "prompts": ground.stages["prompts"]}
    return {**inputs, **ground.model, **ground.shown}


def _transfer(ground: Ground, trained: Stage) -> Stage:
    """What the trained policy writes to another task's prompts."""
    settings = ground.settings
    return Stage(
        "transfer",
        ground.label(ground.tasks.label),
        f"{H}.stages.ppo:transfer",
        {**ground.common, "ppo": settings.group("ppo"), "eval": settings.group("eval")},
        {**held_out_inputs(ground), "ppo": trained},
        {"micro_batch": settings.ppo.micro_batch},
        plugin_code=(ground.arm.code,),
        cost=2.0 * (settings.eval.prompts or 1000),
        family=ground.family,
    )


def proxy(ground: Ground, generations: Stage) -> Stage:
    """What the reward model gives the baseline, and what its rewards are made of before and after."""
    settings = ground.settings
    return Stage(
        "proxy",
        ground.label(ground.tasks.label),
        f"{H}.stages.proxy:proxy",
        {**ground.common, "eval": {"batch": settings.eval.batch}},
        {**held_out_inputs(ground), "baseline": ground.stages["baseline"], "generations": generations},
        {"micro_batch": settings.ppo.micro_batch},
        plugin_code=(ground.arm.code,),
        cost=2.0 * (settings.eval.prompts or 1000),
        family=ground.family,
    )


def best_of_n(ground: Ground) -> dict[str, Stage]:
    """Best-of-n over one pool of samples, which all reward models of a seed share."""
    settings = ground.settings
    chosen = settings.best_of_n
    ns = parse_ns(chosen.n)
    size = chosen.pool or max(ns)
    ns = check_ns(ns, size)
    drawn = {"samples": size, "independent": chosen.independent}
    common = {"max_response": ground.tasks.home.max_response, "eval": settings.group("eval")}
    prompts = {"sft": ground.stages["sft"], "prompts": ground.stages["prompts"]}
    evaluated, cost = ground.tasks.evaluated, float(size * (settings.eval.prompts or 1000))
    seed = ground.stages["sft"].params["seed"]
    pool = Stage(
        "pool",
        f"{safe_label(evaluated.name)}-s{seed}",
        f"{H}.stages.pool:pool",
        {**common, "seed": seed, "temperature": settings.ppo.temperature, "pool": drawn},
        prompts,
        {"task": evaluated.params},
        plugin_code=(evaluated.fingerprint,),
        cost=cost,
        family=ground.family,
    )
    found = Stage(
        "best_of_n",
        ground.label(ground.tasks.label),
        f"{H}.stages.best_of_n:best_of_n",
        {**ground.common, **common, "best_of_n": {"n": list(ns), "pool": size}},
        {**held_out_inputs(ground), "pool": pool},
        {"micro_batch": settings.ppo.micro_batch},
        plugin_code=(ground.arm.code,),
        cost=cost,
        family=ground.family,
    )
    return {"pool": pool, "generations": found}


def direct(ground: Ground, method: str) -> dict[str, Stage]:
    """Training on the pairs, what its policy writes, and the proxy reward of the baseline."""
    if ground.tasks.optimised is not ground.tasks.home:
        seen = f"--optimizer {method} learns from the pairs of {ground.tasks.home.name!r}, not from prompts."
        raise BenchError(seen, "Leave --train-prompts out.")
    settings, seed = ground.settings, ground.stages["sft"].params["seed"]
    chosen = settings.group(method.replace("-", "_"))
    trained = Stage(
        "direct",
        f"{safe_label(ground.tasks.home.name)}-{method}-s{seed}",
        f"{H}.stages.direct:direct",
        {"method": method, "settings": chosen, "seed": seed},
        {"sft": ground.stages["sft"], "pairs": ground.stages["pairs"]},
        {},
        cost=float(chosen["epochs"]),
        family=f"{ground.family} {method}",
    )
    temperature = {"temperature": settings.ppo.temperature}
    generations = Stage(
        "written",
        ground.label(ground.tasks.label),
        f"{H}.stages.direct:written",
        {**ground.common, "ppo": temperature, "eval": settings.group("eval")},
        {**held_out_inputs(ground), "direct": trained},
        {"micro_batch": settings.ppo.micro_batch},
        plugin_code=(ground.arm.code,),
        cost=2.0 * (settings.eval.prompts or 1000),
        family=ground.family,
    )
    return {"direct": trained, "generations": generations, "proxy": proxy(ground, generations)}


OPTIMIZERS: Mapping[str, Callable[[Ground], Stages]] = {
    "ppo": ppo,
    "best-of-n": best_of_n,
    "dpo": partial(direct, method="dpo"),
    "sft-chosen": partial(direct, method="sft-chosen"),
}
"""What turns an arm into generations: a function from the ground to stages by role, `generations` among them."""


def training(ground: Ground) -> Stage:
    """The training of a reward model: named by its recipe, so that arms which share one share the result."""
    arm: TrainableRewardModel = ground.arm.made
    home, seed = ground.tasks.home, ground.stages["sft"].params["seed"]
    return Stage(
        "reward",
        f"{safe_label(home.name)}-{safe_label(arm.recipe)}-s{seed}",
        f"{H}.stages.reward:reward",
        {
            "recipe": arm.recipe,
            "settings": dict(arm.training_settings),
            "seed": seed,
            "max_response": home.max_response,
        },
        {"sft": ground.stages["sft"], "pairs": ground.stages["pairs"]},
        {"rm": ground.arm.params},
        plugin_code=(ground.arm.code,),
        cost=float(arm.training_settings.get("epochs", 1)),
        family=f"{ground.family} {arm.recipe}",
    )


_NOT_OF_SCALE = (
    *("iterations", "rollouts", "epochs", "minibatches", "micro_batch", "lr", "critic_lr", "clip", "value_clip"),
    *("gamma", "lam", "kl", "whiten", "max_grad_norm", "checkpoints", "save_every"),
    *("micro_tokens", "offload", "critic", "value_weight", "engine", "engine_memory"),
)
"""PPO settings that the scale does not depend on: sweeps over them share it."""
