"""The stage that puts the members of a combination of reward models into one folder, with their scales, and the one
that says what each member paid along a training.

Every other stage of an arm gets its reward model from one folder, a combination's from this one.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from rlhf_bench.harness import store
from rlhf_bench.harness.models import policies
from rlhf_bench.harness.nouns import Generation
from rlhf_bench.harness.pipeline.context import Context, StageFigures
from rlhf_bench.harness.stages.evaluation import read_generations
from rlhf_bench.harness.stages.proxy import score
from rlhf_bench.harness.stages.reward import scorer_of
from rlhf_bench.reward_models import combined as combinations


def combined(context: Context) -> StageFigures:
    """Collect the members' weights and scales.

    Reads: per member I: scaleI (scale.json, measured with ppo.normalise=sd and ppo.centre=sequence), and partI where it
        is trained (all its files).
    Writes: combined.json (reward_models/combined.py: record), and a folder I with the files of partI.
    Parameters: rm (its settings `members`).

    The files are hard links where the file system has them, so that weights take their space once.
    """
    settings, inputs = context.params["rm"]["settings"], context.inputs
    members = settings["members"]
    for at in range(len(members)):
        if f"part{at}" in inputs:
            link_files(inputs[f"part{at}"], context.work / str(at))
        context.progress(at + 1, len(members))
    standards = [store.read_json(inputs[f"scale{at}"] / "scale.json") for at in range(len(members))]
    labels = combinations.Combined(**settings).labels
    store.write_json(context.work / combinations.RECORD, combinations.record(labels, standards))
    return {"members": len(members), "scales": [one["scale"] for one in standards]}


def parts(context: Context) -> StageFigures:
    """What each member pays along a training: the means of the combination's figures at every checkpoint.

    Reads: sft (the tokenizer), baseline and generations (generations.jsonl), prompts (examples.test.jsonl), reward,
        train_prompts (where a member reads examples).
    Writes: parts.json, an array with an object per point, the baseline's first: `iteration`, `responses`, and
        `figures`, the means over sampled responses of what `CombinedScorer.diagnostics` gives.
    Parameters: eval (batch), rm.
    """
    tokenizer, scorer = policies.load_tokenizer(context.inputs["sft"]), scorer_of(context)
    sampled: dict[int, list[Generation]] = {}
    for role in ("baseline", "generations"):
        for one in read_generations(context.inputs[role] / "generations.jsonl"):
            if one.decoding == "sample":
                sampled.setdefault(one.iteration, []).append(one)
    points = []
    for at, iteration in enumerate(sorted(sampled), 1):
        rows = [row["figures"] for row in score(context, tokenizer, scorer, sampled[iteration], rewarded=False)]
        means = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
        points.append({"iteration": iteration, "responses": len(rows), "figures": means})
        context.progress(at, len(sampled))
    store.write_json(context.work / "parts.json", points)
    return {"points": len(points)}


def link_files(source: Path, target: Path) -> None:
    """Give `target` the files of `source` but its stage's record and hidden ones: by hard links, or else by copies."""
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source)
        if not path.is_file() or name.as_posix() == store.MARKER or any(part.startswith(".") for part in name.parts):
            continue
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, place)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, place)
