"""Rewards per token of given texts, by a reward model that a run trained or by one that needs no training."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rlhf_bench.harness import plugins, store, trust
from rlhf_bench.harness.errors import BenchError, did_you_mean
from rlhf_bench.harness.pipeline import integrity
from rlhf_bench.harness.plan.combination_names import PLUGIN, is_combination, names_of, parse
from rlhf_bench.harness.presets import factory_settings, parse_settings
from rlhf_bench.harness.results.arms import CellFiles
from rlhf_bench.harness.results.found import find_cells
from rlhf_bench.harness.seeds import run_name
from rlhf_bench.harness.text.tokens import Span

if TYPE_CHECKING:
    from rlhf_bench.harness.ppo.scoring import NamedRewardModel
    from rlhf_bench.harness.text.types import JsonObject, Tokenizer

BATCH = 16
"""The number of texts in one forward pass."""
VOCABULARY = 4096
"""Most tokens of the tokenizer that is made of the texts where there is no policy."""
NO_SETTINGS: Mapping[str, str] = {}


class TextRewards(NamedTuple):
    """One response with the character span and the reward of each of its T tokens, the end-of-sequence token last."""

    response: str
    spans: tuple[Span, ...]
    rewards: tuple[float, ...]


def score_texts(
    rm: str,
    prompts: Sequence[str],
    responses: Sequence[str],
    runs: Path,
    seed: int | None = None,
    named: Collection[str] = (),
    settings: Mapping[str, str] = NO_SETTINGS,
) -> list[TextRewards]:
    """Unscaled rewards per token of each response to the prompt in its place.

    `rm` is a reward model of a cell in `runs` (with this training seed, by default the lowest), or one that needs no
    training.  `settings` are its own, by key: of a trained one they choose the cell that was trained with them; of
    another one they override the cell's, or its defaults.  One that needs no training uses the tokenizer and the
    examples of any cell; without a cell a tokenizer made of the texts, and prompts and responses alone.

    `named` are texts that records may use beside `rm` (trust.py).  Raises BenchError if no such reward model is found,
    for a setting that it does not have, and for a record that names what it may not; DamagedError for a stage that is
    not what was written.
    """
    # imported here: these modules import torch and transformers, which takes seconds
    from rlhf_bench.harness.models.tiny_policy import tiny_tokenizer
    from rlhf_bench.harness.pipeline.machine import quiet_libraries, set_threads
    from rlhf_bench.harness.sampling.rollout import text_rollout
    from rlhf_bench.harness.stages.reward import load_reward_model

    # a reward model that needs no training needs no results folder
    cells, missing = find_cells([runs]) if store.exists(runs) else ([], [f"{runs} is not there"])
    scored = [cell for cell in cells if "scale" in cell.record["stages"]]  # not the controls without a reward model
    if is_combination(rm):
        rm = parse(rm).text(lambda name: plugins.find("reward-model", name).label)  # as reports spell it
        if settings:
            raise BenchError(f"--set with {rm!r}, which has the settings that it was trained with.", "Leave it out.")
    cell = _choose(scored, missing, rm, seed, settings, named)
    set_threads(1)
    quiet_libraries()
    if cell is None:
        values = factory_settings(rm, plugins.find("reward-model", rm).factory(), settings)
        scorer = load_reward_model({"rm": {"name": rm, "settings": values}}, None, "cpu")
        tokenizer = tiny_tokenizer(prompts, responses, VOCABULARY)
    else:
        scorer, tokenizer = _of_cell(cell, rm, runs, named, settings)
    found = []
    for start in range(0, len(prompts), BATCH):
        part = responses[start : start + BATCH]
        rollout = text_rollout(tokenizer, prompts[start : start + BATCH], part, "cpu")
        # rewards [B, T] are padded to the longest response of the batch: cut each to its own tokens
        for response, spans, rewards in zip(part, rollout.spans, scorer.rewards(rollout).tolist(), strict=True):
            found.append(TextRewards(response, spans, tuple(rewards[: len(spans)])))
    return found


def _of_cell(
    cell: CellFiles, rm: str, runs: Path, named: Collection[str], settings: Mapping[str, str]
) -> tuple[NamedRewardModel, Tokenizer]:
    """The scorer with a cell's weights, settings and examples, and the tokenizer of its policy."""
    from rlhf_bench.harness.models.policies import load_tokenizer
    from rlhf_bench.harness.stages.reward import examples_of, load_reward_model

    marker = cell.folder("scale") / store.MARKER  # the only stage that every reward model has
    made, folder = store.read_json(marker), None
    shown = made["inputs"].get("prompts")
    if _has(cell, rm):
        spec = _recorded(cell, rm, named)
        folder = cell.folder("reward") if "reward" in cell.record["stages"] else None
        if settings and folder is None:  # the settings of a trained one have chosen the cell
            spec = {**spec, "settings": {**spec["settings"], **_parsed(spec["name"], settings)}}
    else:
        spec = {"name": rm, "settings": factory_settings(rm, plugins.find("reward-model", rm).factory(), settings)}
    # the record of a stage names its inputs' folders; the scale's are the prompts that PPO optimises on
    if not store.is_plain_name(shown):
        seen = f"{marker} names the prompts {shown!r}, no folder of {runs}."
        raise BenchError(seen, "Copy the results folder again.")
    stored_prompts = cell.root / "prompts" / shown
    store.check_links(stored_prompts, cell.root)
    for one in (cell.folder("scale"), stored_prompts, cell.folder("sft"), *([folder] if folder else [])):
        integrity.check_used(one)
    # the parameters of the stage, as far as they are not the reward model's: how many rows are scored at once
    params = {**made["params"], "rm": spec}
    scorer = load_reward_model(params, folder, "cpu", lambda: examples_of({"prompts": stored_prompts}))
    return scorer, load_tokenizer(cell.folder("sft"))


def _recorded(cell: CellFiles, rm: str, named: Collection[str]) -> JsonObject:
    """The name and settings of a cell's reward model; raises BenchError for a record that names what it may not."""
    marker = cell.folder("scale") / store.MARKER
    spec = store.read_json(marker)["params"].get("rm")
    for one in _specs(spec):
        trust.check_recorded("reward-model", one, marker, (rm, *names_of(rm), *named))
    found: JsonObject = spec
    return found


def _specs(spec: object) -> Sequence[object]:
    """The reward models that a record names: the members of a combination, or the one that it is."""
    if isinstance(spec, dict) and spec.get("name") == PLUGIN and isinstance(spec.get("settings"), dict):
        members = spec["settings"].get("members")
        if isinstance(members, list) and members:
            return members
    return [spec]


def _parsed(name: str, given: Mapping[str, str]) -> JsonObject:
    """Settings by hand as values; raises BenchError for one that the reward model lacks."""
    return parse_settings(name, plugins.find("reward-model", name).factory(), given)


def _has(cell: CellFiles, rm: str) -> bool:
    """Whether the cell has this reward model, named in full (`hf:a/long/path`) or by the label that reports show."""
    name = cell.record["reward_model"]
    if is_combination(rm):
        return bool(name == rm)
    return bool(name == rm or (":" in rm and name == plugins.find("reward-model", rm).label))


def _choose(
    cells: Sequence[CellFiles],
    missing: Sequence[str],
    rm: str,
    seed: int | None,
    settings: Mapping[str, str],
    named: Collection[str],
) -> CellFiles | None:
    """The cell whose reward model, tokenizer and examples are used; None where a reward model needs none and there is
    none."""
    # of several tasks or settings with this reward model and seed, the first that was found
    own = [c for c in cells if _has(c, rm) and seed in (None, c.record["seed"])]
    if own and settings and "reward" in own[0].record["stages"]:
        own = _trained_with(own, rm, settings, named)
    if own:
        return min(own, key=lambda c: c.seed)
    from rlhf_bench.harness.seams import RewardModel

    if is_combination(rm):
        raise BenchError(f"No finished cell has {rm!r}.", "Train it with bench run.")
    if rm not in plugins.available("reward-model") and ":" not in rm:
        raise BenchError(f"Unknown reward model {rm!r}.", did_you_mean(rm, plugins.available("reward-model")))
    plugin = plugins.find("reward-model", rm)
    # built to see whether it must be trained: then no cell of another reward model can stand in
    made = plugins.build("reward-model", rm, factory_settings(rm, plugin.factory(), settings))
    if isinstance(made, RewardModel) and seed is None:
        return cells[0] if cells else None
    trained = sorted({f"{c.record['reward_model']} ({run_name(c.seed)})" for c in cells})
    found = f"Found: {', '.join(trained)}. " if trained else "".join(f"{one}. " for one in missing[:1])
    which = f" with seed {seed}" if seed is not None else ""
    raise BenchError(f"No finished cell trained {rm!r}{which}.", f"{found}Train it with bench run.")


def _trained_with(
    cells: Sequence[CellFiles], rm: str, settings: Mapping[str, str], named: Collection[str]
) -> list[CellFiles]:
    """The cells whose reward model was trained with these settings; raises BenchError where there is none."""
    recorded = [_recorded(cell, rm, named) for cell in cells]
    wanted = _parsed(recorded[0]["name"], settings)
    own = [{key: spec["settings"].get(key) for key in wanted} for spec in recorded]
    found = [cell for cell, values in zip(cells, own, strict=True) if values == wanted]
    if found:
        return found
    asked = ", ".join(f"{key}={value}" for key, value in wanted.items())
    others = {", ".join(f"{key}={value}" for key, value in values.items()) for values in own}
    raise BenchError(f"No finished cell trained {rm!r} with {asked}.", f"Found: {'; '.join(sorted(others))}.")
