"""Rewards per token of given texts, by a reward model that a run trained or by one that needs no training."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from rlhf_bench.harness import plugins, store, trust
from rlhf_bench.harness.errors import BenchError, did_you_mean
from rlhf_bench.harness.pipeline import integrity
from rlhf_bench.harness.presets import factory_settings
from rlhf_bench.harness.results.arms import CellFiles
from rlhf_bench.harness.results.found import find_cells
from rlhf_bench.harness.seeds import run_name
from rlhf_bench.harness.text.tokens import Span

BATCH = 16
"""The number of texts in one forward pass."""


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
) -> list[TextRewards]:
    """Unscaled rewards per token of each response to the prompt in its place.

    `rm` is a reward model that a cell in `runs` trained (with this training seed, by default the lowest), or one that
    needs no training, which then uses the tokenizer of any cell.  `named` are texts that records may use beside `rm`
    (trust.py).  Raises BenchError if neither is found, and for a record that names what it may not; DamagedError for a
    stage that is not what was written.
    """
    # imported here: these modules import torch and transformers, which takes seconds
    from rlhf_bench.harness.models.policies import load_tokenizer
    from rlhf_bench.harness.pipeline.machine import quiet_libraries, set_threads
    from rlhf_bench.harness.sampling.rollout import text_rollout
    from rlhf_bench.harness.stages.reward import examples_of, load_reward_model

    # a cell has everything that a reward model needs: weights, settings, the policy's tokenizer
    cells, missing = find_cells([runs])
    scored = [cell for cell in cells if "scale" in cell.record["stages"]]  # not the controls without a reward model
    cell = _choose(scored, missing, rm, seed)
    set_threads(1)
    quiet_libraries()
    marker = cell.folder("scale") / store.MARKER  # the only stage that every reward model has
    made, folder = store.read_json(marker), None
    params, shown = made["params"], made["inputs"].get("prompts")
    if not _trained_by(cell, rm):
        params = {"rm": {"name": rm, "settings": factory_settings(rm, plugins.find("reward-model", rm).factory(), {})}}
    else:
        trust.check_recorded("reward-model", params.get("rm"), marker, (rm, *named))
        folder = cell.folder("reward") if "reward" in cell.record["stages"] else None
    # the record of a stage names its inputs' folders; the scale's are the prompts that PPO optimises on
    if not store.is_plain_name(shown):
        seen = f"{marker} names the prompts {shown!r}, no folder of {runs}."
        raise BenchError(seen, "Copy the results folder again.")
    stored_prompts = cell.root / "prompts" / shown
    store.check_links(stored_prompts, cell.root)
    for one in (cell.folder("scale"), stored_prompts, cell.folder("sft"), *([folder] if folder else [])):
        integrity.check_used(one)
    scorer = load_reward_model(params, folder, "cpu", lambda: examples_of({"prompts": stored_prompts}))
    tokenizer = load_tokenizer(cell.folder("sft"))
    found = []
    for start in range(0, len(prompts), BATCH):
        part = responses[start : start + BATCH]
        rollout = text_rollout(tokenizer, prompts[start : start + BATCH], part, "cpu")
        # rewards [B, T] are padded to the longest response of the batch: cut each to its own tokens
        for response, spans, rewards in zip(part, rollout.spans, scorer.rewards(rollout).tolist(), strict=True):
            found.append(TextRewards(response, spans, tuple(rewards[: len(spans)])))
    return found


def _trained_by(cell: CellFiles, rm: str) -> bool:
    """Whether the cell has this reward model, named in full (`hf:a/long/path`) or by the label that reports show."""
    name = cell.record["reward_model"]
    return bool(name == rm or (":" in rm and name == plugins.find("reward-model", rm).label))


def _choose(cells: Sequence[CellFiles], missing: Sequence[str], rm: str, seed: int | None) -> CellFiles:
    # of several tasks or settings with this reward model and seed, the first that was found
    own = [c for c in cells if _trained_by(c, rm) and seed in (None, c.record["seed"])]
    if own:
        return min(own, key=lambda c: c.seed)
    from rlhf_bench.harness.seams import RewardModel

    if rm not in plugins.available("reward-model") and ":" not in rm:
        raise BenchError(f"Unknown reward model {rm!r}.", did_you_mean(rm, plugins.available("reward-model")))
    plugin = plugins.find("reward-model", rm)
    # built to see whether it must be trained: then no cell of another reward model can stand in
    made = plugins.build("reward-model", rm, factory_settings(rm, plugin.factory(), {}))
    if isinstance(made, RewardModel) and cells and seed is None:
        return cells[0]
    trained = sorted({f"{c.record['reward_model']} ({run_name(c.seed)})" for c in cells})
    raise BenchError(f"No finished cell trained {rm!r}" + (f" with seed {seed}." if seed is not None else "."),
                     f"Found: {', '.join(trained or missing[:1]) or 'none'}. Train it with bench run.")  # fmt: skip
