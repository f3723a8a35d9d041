"""Does another engine write what ours would?  `bench check engine NAME --policy FOLDER`.

Both get the same weights.  What the engine writes is judged by our own pass over it (rollout.logprobs): how far a
greedy token lies behind our own first choice, and how far the engine's log-probabilities are from ours.  A token by
token comparison alone would call every near tie a failure.  Asked again after the weights were changed, because PPO
changes them before every rollout.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_bench.harness.checks.findings import Finding
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.models.placement import read_placement
from rlhf_bench.harness.nouns import Rollout
from rlhf_bench.harness.sampling.engines import Sampler, open_sampler
from rlhf_bench.harness.settings import PPOSettings

if TYPE_CHECKING:
    from torch import Tensor

ENGINES = {"vllm": {"engine": "vllm"}}
"""Settings of the group `ppo` by the engine's name."""
TOLERANCE = {"float32": 0.01, "bfloat16": 0.1}
"""Nats per token, in the mean, that rounding may account for."""
PROMPTS = ("Where?", "Who brings the map, and when do they meet?", "Write one sentence about a river. " * 3)
ROWS, NEW, TEMPERATURE = 24, 24, 0.8


def check_sampler(name: str, policy: Path, device: str) -> list[Finding]:
    """Findings about an engine over the policy in this folder.

    Raises BenchError for an engine that nobody has, that is not installed or cannot open the policy.
    """
    from rlhf_bench.harness.models.policies import check_folder, load_policy

    if name not in ENGINES:
        raise BenchError(f"There is no engine {name!r}.", f"Choose one of: {', '.join(ENGINES)}.")
    check_folder(policy)
    placement = read_placement(policy)
    if placement.lora:
        raise BenchError(f"{policy} is held with adapters.", "Give a folder with whole weights.")
    model, tokenizer = load_policy(policy, device)
    settings = PPOSettings(rollouts=ROWS, **ENGINES[name])  # type: ignore[arg-type]
    with open_sampler(settings, policy, tokenizer, PROMPTS, NEW, device) as sampler:
        return list(_findings(sampler, model, tokenizer, TOLERANCE[placement.dtype]))


def _findings(sampler: Sampler, model: Any, tokenizer: Any, tolerance: float) -> Iterator[Finding]:
    from rlhf_bench.harness.sampling.rollout import make_generator, sample

    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(ROWS)]
    for state in ("", ", after new weights"):
        if state:
            _disturb(model)
        greedy = sampler(model, tokenizer, prompts, NEW)
        equal = _equal(greedy, sample(model, tokenizer, prompts, NEW))
        behind = _behind(model, greedy)
        yield _finding(f"greedy tokens are our own choices{state}", behind, tolerance, f"{equal:.1%} of rows equal")
        drawn = sampler(model, tokenizer, prompts, NEW, generator=make_generator("check"), temperature=TEMPERATURE)
        yield _finding(f"log-probabilities are ours{state}", _apart(model, drawn), tolerance, "of sampled tokens")


def _finding(checked: str, nats: Tensor, tolerance: float, more: str) -> Finding:
    mean, most = float(nats.mean()), float(nats.max())
    seen = f"off by {mean:.2g} nats in the mean, {most:.2g} at most (mean allowed: {tolerance}); {more}"
    return Finding(checked, mean <= tolerance, seen)


def _disturb(model: Any) -> None:
    """Change every weight matrix in place, by a tenth of its size."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                noise = torch.randn(parameter.shape, generator=generator).to(parameter)
                parameter.add_(0.1 * parameter.std() * noise)


def _equal(one: Rollout, two: Rollout) -> float:
    """The share of rows with the same response."""
    pairs = zip(_rows(one), _rows(two), strict=True)
    return sum(a == b for a, b in pairs) / len(one.prompts)


def _rows(rollout: Rollout) -> list[list[int]]:
    return [row[kept].tolist() for row, kept in zip(rollout.response_ids, rollout.mask, strict=True)]


def _behind(model: Any, rollout: Rollout) -> Tensor:
    """By how many nats each token lies behind the most likely one at its place [N]."""
    import torch

    from rlhf_bench.harness.sampling.rollout import full_inputs

    ids, mask, positions = full_inputs(rollout)
    with torch.no_grad():
        output = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
    logits = output.logits[:, rollout.prompt_ids.shape[1] - 1 : -1].float()
    chosen = logits.gather(-1, rollout.response_ids[..., None]).squeeze(-1)
    behind: Tensor = (logits.amax(-1) - chosen)[rollout.mask]
    return behind


def _apart(model: Any, rollout: Rollout) -> Tensor:
    """Distances of the engine's log-probabilities from our own pass [N]."""
    import torch

    from rlhf_bench.harness.sampling.rollout import logprobs

    assert rollout.logprobs is not None
    with torch.no_grad():
        ours = logprobs(model, rollout, TEMPERATURE)
    return (ours - rollout.logprobs)[rollout.mask].abs()
