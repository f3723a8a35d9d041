"""What a reader looks at before believing a reward: its figures and its favourites among samples of the SFT policy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_bench.harness.nouns import Example
from rlhf_bench.harness.training.record import training_of

if TYPE_CHECKING:
    from torch import Tensor

    from rlhf_bench.harness.text.types import JsonObject, Row

SANITY = "sanity.json"
FAVOURITES = 5
"""Texts that are kept."""
LONGEST = 1000
"""Characters of a kept text; the rest is cut off."""


def sanity(examples: Sequence[Example], texts: Sequence[Sequence[str]], grid: Tensor, lengths: Tensor) -> JsonObject:
    """The content of sanity.json: `within_prompt` and `most_rewarded`, and the numbers of prompts and samples.

    texts: the responses of each sample, to all P prompts.   grid, lengths [P, S]: the reward's sum over a response, and
    its tokens, end-of-sequence included.
    """
    return {
        "prompts": grid.shape[0],
        "samples": grid.shape[1],
        **within_prompt(grid, lengths),
        "most_rewarded": most_rewarded(examples, texts, grid, lengths),
    }


def training_elsewhere(settings: Row) -> JsonObject:
    """What the reward model of another run was trained with (training/record.py), from the folder that its setting
    `source` names; {} for others.  It is kept here, because the folder need not be there when a report is made."""
    source = settings.get("source")
    return training_of(Path(source).expanduser()) if isinstance(source, str) and source else {}


def within_prompt(grid: Tensor, lengths: Tensor) -> dict[str, float | None]:
    """Figures of sums [P, S] and lengths in tokens [P, S] among the responses to one prompt.

    `within_prompt_sd`: the square root of the mean over prompts of the variance (n - 1) among its samples.
    `within_prompt_correlation_with_length`: Pearson's, both less their prompt's mean.  None with one sample a prompt,
    the second also where one of the two does not vary.
    """
    if grid.shape[1] < 2:
        return {"within_prompt_sd": None, "within_prompt_correlation_with_length": None}
    reward, length = ((x - x.mean(1, keepdim=True)).double().flatten() for x in (grid.double(), lengths.double()))
    both, r, t = (float(a @ b) for a, b in ((reward, length), (reward, reward), (length, length)))
    # Sums of squares below what float32 rewards round to are no variation.
    tiny = 1e-12 * float(grid.double().square().sum())
    correlation = both / (r * t) ** 0.5 if r > tiny and t > 0 else None
    return {
        "within_prompt_sd": float(grid.double().var(1).mean().sqrt()),
        "within_prompt_correlation_with_length": correlation,
    }


def most_rewarded(
    examples: Sequence[Example], texts: Sequence[Sequence[str]], grid: Tensor, lengths: Tensor
) -> list[JsonObject]:
    """The FAVOURITES different responses with the highest sums, falling: {"example_id", "prompt", "response",
    "reward", "tokens"}.  A response that repeats is listed once; of equal sums the first prompt and sample lead."""
    prompts, samples = grid.shape
    order = sorted(((p, s) for p in range(prompts) for s in range(samples)), key=lambda at: (-float(grid[at]), at))
    found: dict[tuple[str, str], JsonObject] = {}
    for p, s in order:
        example, text = examples[p], texts[s][p]
        found.setdefault(
            (example.prompt, text),
            {
                "example_id": example.id,
                "prompt": str(example.prompt)[:LONGEST],
                "response": text[:LONGEST],
                "reward": float(grid[p, s]),
                "tokens": int(lengths[p, s]),
            },
        )
        if len(found) == FAVOURITES:
            break
    return list(found.values())
