"""The gold model of a request (`bench run --gold`), and the stages that it adds to a cell.

RM@half trains the recipe of RM on one half of the training pairs, by prompt, and every proxy on the other (Gao et al.
2210.10760).  rm:SOURCE and hf:SOURCE are classifiers of others, path:FOLDER is a reward model of another run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_bench.harness import fingerprint
from rlhf_bench.harness.anchors import anchored
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.pipeline.stage import Stage
from rlhf_bench.harness.plan import arms
from rlhf_bench.harness.plan.combination_names import is_combination
from rlhf_bench.harness.plan.shared import H, cell_label, safe_label, shared_stages
from rlhf_bench.harness.plan.tasks import TaskPlan, Tasks
from rlhf_bench.harness.seams import TrainableRewardModel
from rlhf_bench.harness.seeds import Seed, derived_seed, of_reward
from rlhf_bench.harness.stages.halves import GOLD, PROXIES, check_prompts, prompt_name
from rlhf_bench.harness.stages.judge import KEEP
from rlhf_bench.harness.stages.prompts import load_task
from rlhf_bench.harness.text.types import JsonObject, Row
from rlhf_bench.harness.training.record import training_of

if TYPE_CHECKING:
    from rlhf_bench.harness.settings import Settings

HALF = "half"
CLASSIFIERS = ("rm", "hf")
"""Prefixes of a gold model that is a classifier of others; what follows is a folder or a hub id."""
FORMS = "Give RM@half, such as scalar@half, or rm:, hf: or path: with a folder (rm: and hf: also with a hub id)."
SCORING = "rlhf_bench.reward_models.classifier"
LABEL = "gold"
"""The arm that is optimised for the gold model itself, as for the true utility where there is none: the ceiling."""


@dataclass(frozen=True)
class Gold:
    """A gold model as asked: `name` as reports call it.

    `arm` is a reward model, trained on half of the pairs where its plugin trains; None for a classifier of others, of
    which `source` says where it is and `content` what it is.  `relabel`: the proxies learn from its labels.
    """

    name: str
    arm: arms.RewardArm | None
    source: str
    content: Row
    relabel: bool

    @property
    def trained(self) -> bool:
        """Whether the run trains it, on half of the pairs."""
        return self.arm is not None and isinstance(self.arm.made, TrainableRewardModel)

    @property
    def record(self) -> JsonObject:
        """As a cell's record names it."""
        return {"name": self.name, "relabel": self.relabel}


def plugins_of(text: str) -> list[str]:
    """The reward model whose settings the gold model `text` has, [] for none.  Nothing is checked."""
    name = text.removesuffix(f"@{HALF}")
    if is_combination(name):
        return []  # `open_gold` refuses it
    return [name] if name and text.partition(":")[0] not in CLASSIFIERS else []


def open_gold(text: str, relabel: bool, settings: Settings) -> Gold | None:
    """The gold model that `text` asks for, None for "".  Imports no torch and reads no weights but of their heads.

    Raises BenchError for a text of another form, an unknown or untrainable reward model, and a source that is none.
    """
    if not text:
        if relabel:
            raise BenchError("--relabel without --gold: no model labels the pairs.", "Add --gold RM@half.")
        return None
    kind, colon, source = text.partition(":")
    if is_combination(text.removesuffix(f"@{HALF}")):
        raise BenchError(f"--gold {text}: a combination of reward models cannot be the gold model.", FORMS)
    if kind in CLASSIFIERS and colon:
        return _classifier(kind, source, relabel)
    if kind == "path" and colon:
        arm = arms.open_arm(text, settings)
        return Gold(_short(kind, source), arm, "", {}, relabel)
    recipe, at, part = text.rpartition("@")
    if at and part != HALF:
        raise BenchError(f"--gold {text}: {part!r} is no part of the pairs.", f"Write {recipe}@{HALF}.")
    arm = arms.open_arm(recipe if at else text, settings)
    if not isinstance(arm.made, TrainableRewardModel):
        raise BenchError(f"--gold {text}: the reward model {arm.name!r} learns from no pairs.", FORMS)
    if not at:
        raise BenchError(f"--gold {text} does not say what it learns from.", f"Write {text}@{HALF}.")
    return Gold(f"{arm.label}@{HALF}", arm, "", {}, relabel)


def _classifier(kind: str, source: str, relabel: bool) -> Gold:
    from rlhf_bench.reward_models.sources import check_classifier, model_content, pinned

    if not source.strip():
        raise BenchError(f"--gold {kind}: carries nothing after the colon.", f"Write {kind}:FOLDER_OR_HUB_ID.")
    where = anchored(source, "model")
    check_classifier(where)
    content = model_content(where)
    return Gold(_short(kind, where), None, pinned(where, content), content, relabel)


def _short(kind: str, source: str) -> str:
    """A source without the path of a folder, which names this machine."""
    path = Path(source).expanduser()
    return f"{kind}:{path.resolve().name if path.exists() else source}"


def check_judges(gold: Gold | None, judges: Mapping[str, Mapping[str, object]]) -> None:
    """Raises BenchError where the judge `utility` does not measure by the gold model; `judges` are settings by name."""
    if gold is None:
        return
    if "utility" not in judges:
        raise BenchError("--gold without the judge utility, which measures gold.", "Add --judge +utility.")
    scorer = judges["utility"].get("scorer")
    if scorer:
        raise BenchError(f"--gold {gold.name} and utility.scorer={scorer} both say what gold is.", "Leave one out.")


def check_halves(gold: Gold, home: TaskPlan, limit: int) -> None:
    """Raises BenchError where the task's training pairs, the first `limit` of them (0: all), cannot be halved."""
    pairs = load_task({"task": home.trained_opened}).pairs("train")
    try:
        check_prompts(len({prompt_name(pair.prompt) for pair in pairs[: limit or None]}))
    except BenchError as error:
        raise BenchError(f"--gold {gold.name} on {home.name!r}: {error.seen}", error.fix) from None


@dataclass(frozen=True)
class GoldRun:
    """The stages of a gold model in one run, shared by all of its arms.

    `start` are the shared stages of the reward seed: the gold model starts from its SFT policy, as the proxies do.
    """

    gold: Gold
    tasks: Tasks
    settings: Settings
    family: str
    run: Seed
    start: Mapping[str, Stage]

    @classmethod
    def of(cls, gold: Gold, tasks: Tasks, run: Seed, policy: Row, settings: Settings) -> GoldRun:
        """That of a run; `policy` is what `policy_identity` returns."""
        reward = of_reward(run)  # also for arms that train no reward model: the gold of a run is one
        start = shared_stages(tasks, reward, policy, settings)
        return cls(gold, tasks, settings, f"{tasks.home.name} {policy['name']}", reward, start)

    def _label(self, what: str = "") -> str:
        named = safe_label(self.gold.name)
        return cell_label(self.tasks.home.name, f"{named}-{what}" if what else named, self.run)

    def _half(self, which: str) -> Stage:
        """One half of the pairs; the split has a seed of its own, the same for every gold model."""
        pairs, seed = self.start["pairs"], self.start["sft"].params["seed"]
        return Stage(
            "half",
            self._label(which),
            f"{H}.stages.halves:half",
            {
                "half": which,
                "pairs": pairs.params["pairs"],
                "seed": derived_seed(seed, "halves", self.tasks.home.origin.sha256),
            },
            {"pairs": pairs},
            cost=1.0,
            family=self.family,
        )

    @cached_property
    def model(self) -> dict[str, Stage]:
        """The stage that trains the gold model, by role; {} for one of others."""
        arm = self.gold.arm
        if arm is None or not isinstance(arm.made, TrainableRewardModel):
            return {}
        made, home, seed = arm.made, self.tasks.home, self.start["sft"].params["seed"]
        trained = Stage(
            "gold",
            self._label(),
            f"{H}.stages.reward:reward",
            {
                "recipe": made.recipe,
                "settings": dict(made.training_settings),
                # of its own: a head that gold and a proxy share makes them agree in their errors
                "seed": derived_seed(seed, "gold", made.recipe, home.origin.sha256),
                "max_response": home.max_response,
            },
            {"sft": self.start["sft"], "pairs": self._half(GOLD)},
            {"rm": arm.params},
            plugin_code=(arm.code,),
            cost=float(made.training_settings.get("epochs", 1)),
            family=f"{self.family} {made.recipe}",
        )
        return {"gold": trained}

    @cached_property
    def pairs(self) -> Stage:
        """The pairs that every proxy learns from: gold's other half, relabelled where asked."""
        pairs = self._half(PROXIES) if self.model else self.start["pairs"]
        if not self.gold.relabel:
            return pairs
        stage = self._scoring("relabelled", self._label("relabelled"), "halves:relabelled", {"pairs": pairs})
        return replace(stage, params={**stage.params, "pairs": pairs.params["pairs"]})

    def _scoring(self, kind: str, label: str, function: str, inputs: Mapping[str, Stage], **more: object) -> Stage:
        """A stage that scores texts with the gold model; `more` are further parameters."""
        batch = {"eval": {"batch": self.settings.eval.batch}}
        arm = self.gold.arm
        if arm is None:
            own: JsonObject = {"classifier": dict(self.gold.content)}
            needed: dict[str, Stage] = {}
            payload: JsonObject = {"source": self.gold.source}
            code = (fingerprint.of(SCORING),)
        else:
            own, needed = {"rm": arm.params}, {"sft": self.start["sft"], **self.model}
            payload = {"micro_batch": self.settings.ppo.micro_batch}
            code = (arm.code,)
        return Stage(
            kind,
            label,
            f"{H}.stages.{function}",
            {**own, **batch, **more},
            {**needed, **inputs},
            payload,
            plugin_code=code,
            cost=2.0 * self.settings.eval.rows,
            family=self.family,
        )

    @cached_property
    def measured(self) -> dict[str, Stage]:
        """Stages by role that measure the gold model: on the test pairs, and on SFT samples where a run trained it."""
        pairs = {"pairs": self.start["pairs"]}
        found = {**self.model, "gold_pairs": self._scoring("gold_pairs", self._label(), "gold:gold_pairs", pairs)}
        if self.gold.arm is None and not training_of(Path(self.gold.source).expanduser()):
            return found  # a stranger's classifier may decline a sample, which ends a stage that needs all rewards
        stages = {**self.start, "pairs": self.pairs, **({"reward": self.model["gold"]} if self.model else {})}
        own = arms.ArmContext(self.tasks, self.ceiling, stages, self.settings, self.family, self.run, self.start["sft"])
        return {**found, "gold_scale": arms.scale(own)}

    @cached_property
    def ceiling(self) -> arms.RewardArm:
        """The gold model as the reward model of the arm `gold`."""
        return replace(self.gold.arm or arms.open_arm(f"hf:{self.gold.source}", self.settings), label=LABEL)

    def scores(self, stages: Mapping[str, Stage], label: str) -> dict[str, Stage]:
        """Stages by role that score what a cell's policies write: gold_baseline and gold_generations.

        Of best-of-n the whole pool is scored, once for all arms that choose from it: gold_pool, whose scores are those
        of the chosen responses, too.  `stages` are the cell's, `label` its own.
        """
        base, written = stages["baseline"], stages["generations"]
        # absent where such responses count as they are, as in the keys of verdicts
        cut_off = {} if self.settings.eval.cut_off == KEEP else {"cut_off": self.settings.eval.cut_off}
        label_before, scoring = f"baseline-{base.label}", "gold:gold_scores"
        before = self._scoring("gold_scores", label_before, scoring, {"generations": base}, **cut_off)
        found = {"gold_baseline": before}
        if "pool" in stages:
            pool = stages["pool"]
            inputs = {"pool": pool, "prompts": stages["prompts"]}
            evaluated = self.settings.eval.prompts * self.settings.eval.samples
            drawn = {"samples": pool.params["pool"]["samples"], "prompts": evaluated, **cut_off}
            scored = self._scoring("gold_pool", f"pool-{pool.label}", "gold:gold_pool", inputs, **drawn)
            scored = replace(scored, cost=pool.cost)
            return {**found, "gold_pool": scored, "gold_generations": scored}
        of_written = {"generations": written}
        scored = self._scoring("gold_scores", f"{written.kind}-{label}", scoring, of_written, **cut_off)
        return {**found, "gold_generations": scored}

    def agreement(self, arm: arms.ArmContext, scores: Mapping[str, Stage]) -> dict[str, Stage]:
        """The stage that compares an arm's reward model with the gold model, by role; {} where they are the same."""
        if arm.model and arm.model["reward"].key == self.model.get("gold", arm.stages["sft"]).key:
            return {}
        inputs = {
            **arms.held_out_inputs(arm),
            "pairs": self.start["pairs"],
            "baseline": arm.stages["baseline"],
            "gold_pairs": self.measured["gold_pairs"],
            "gold_baseline": scores["gold_baseline"],
        }
        found = Stage(
            "gold_agreement",
            arm.label(arm.tasks.label),
            f"{H}.stages.gold:gold_agreement",
            {**arm.common, "eval": {"batch": self.settings.eval.batch}},
            inputs,
            arm.payload,
            plugin_code=arm.code,
            cost=2.0 * self.settings.eval.rows,
            family=self.family,
        )
        return {"gold_agreement": found}
