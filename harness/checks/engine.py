"""Conformance of a sampling engine: `bench check engine NAME --policy FOLDER`.

The engine and the harness get the same weights.  What the engine samples is scored by a forward pass of the harness
(`rollout.logprobs`): how far a greedy token lies behind the most likely one, and how far the engine's log-probabilities
are from those of the pass.  Comparing tokens alone would fail at every near tie, where rounding decides.  All is
repeated after the weights were changed, because PPO changes them before every rollout.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_bench.harness.checks.findings import Finding
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.models.placement import read_placement
from rlhf_bench.harness.nouns import Rollout
from rlhf_bench.harness.sampling.engines import Sampler, open_sampler
from rlhf_bench.harness.settings import PPOSettings

if TYPE_CHECKING:
    from torch import Tensor

    from rlhf_bench.harness.forward.types import CausalLM
    from rlhf_bench.harness.text.types import Tokenizer

ENGINES = {"vllm": {"engine": "vllm"}}
"""Settings of the group `ppo` by the engine's name."""
TOLERANCE = {"float32": 0.01, "bfloat16": 0.1}
"""Largest mean difference that rounding can explain, in nats per token, by the layers' precision."""
# of different lengths, so that a batch has padding
PROMPTS = ("Where?", "Who brings the map, and when do they meet?", "Write one sentence about a river. " * 3)
ROWS, NEW, TEMPERATURE = 24, 24, 0.8


def check_sampler(name: str, policy: Path, device: str) -> list[Finding]:
    """Compare an engine with the harness on the policy in a folder.

    Raises BenchError for an unknown engine, one that is not installed, and one that cannot open the policy.
    """
    from rlhf_bench.harness.models.gguf_files import as_folder
    from rlhf_bench.harness.models.policies import check_folder, load_policy

    if name not in ENGINES:
        raise BenchError(f"Unknown engine {name!r}.", f"Choose one of: {', '.join(ENGINES)}.")
    policy = Path(as_folder(str(policy)))
    check_folder(policy)
    placement = read_placement(policy)
    if placement.lora:  # the engine opens the folder's weights, and adapters lie beside them
        raise BenchError(f"{policy} has adapters beside its weights.", "Give a folder with whole weights.")
    model, tokenizer = load_policy(policy, device)
    settings = PPOSettings(rollouts=ROWS, **ENGINES[name])  # type: ignore[arg-type]
    with open_sampler(settings, policy, tokenizer, PROMPTS, NEW, device) as sampler:
        return list(compare(sampler, model, tokenizer, TOLERANCE[placement.dtype]))


def compare(sampler: Sampler, model: CausalLM, tokenizer: Tokenizer, tolerance: float) -> Iterator[Finding]:
    """Two findings for the model's weights, and the same two for changed weights; the model is changed in place.

    `tolerance` is the largest mean difference allowed, in nats per token.
    """
    from rlhf_bench.harness.sampling.rollout import make_generator, sample

    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(ROWS)]
    for state in ("", ", after new weights"):
        if state:
            change_weights(model)
        # the harness's own tokens are for the detail alone: `nats` decides, which a near tie does not change
        greedy = sampler(model, tokenizer, prompts, NEW)
        equal = share_equal(greedy, sample(model, tokenizer, prompts, NEW))
        nats = behind_best(model, greedy)
        yield make_finding(f"greedy tokens match{state}", nats, tolerance, f"{equal:.1%} of rows equal")
        drawn = sampler(model, tokenizer, prompts, NEW, generator=make_generator("check"), temperature=TEMPERATURE)
        nats = logprob_gap(model, drawn)
        yield make_finding(f"log-probabilities match{state}", nats, tolerance, "of sampled tokens")


def make_finding(checked: str, nats: Tensor, tolerance: float, more: str) -> Finding:
    """A finding about differences [N] in nats: their mean must be within the tolerance."""
    # the mean decides: at a near tie rounding alone can make a single token's difference large
    mean, most = float(nats.mean()), float(nats.max())
    seen = f"difference of {mean:.2g} nats in the mean, {most:.2g} at most (mean allowed: {tolerance}); {more}"
    return Finding(checked, mean <= tolerance, seen)


def change_weights(model: CausalLM) -> None:
    """Add noise to every weight matrix in place: a tenth of its standard deviation, the same in every call."""
    import torch

    generator = torch.Generator().manual_seed(0)
    # in place, as an optimiser step: an engine that keeps a copy of the weights must notice
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                # Drawn on the CPU, so that the weights are the same on every device.
                noise = torch.randn(parameter.shape, generator=generator).to(parameter)
                parameter.add_(0.1 * parameter.std() * noise)


def share_equal(one: Rollout, other: Rollout) -> float:
    """The share of rows with the same response tokens, from 0 to 1; both rollouts have the same prompts."""
    rows, others = ([r.response_ids[i, r.mask[i]].tolist() for i in range(len(r.prompts))] for r in (one, other))
    return sum(a == b for a, b in zip(rows, others, strict=True)) / len(one.prompts)


def behind_best(model: CausalLM, rollout: Rollout) -> Tensor:
    """By how many nats each response token is less likely than the most likely token at its position.

    [N] over the tokens of all responses, 0 where the token is the most likely one.
    """
    import torch

    from rlhf_bench.harness.sampling.rollout import full_inputs

    ids, mask, positions = full_inputs(rollout)
    with torch.no_grad():
        output = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
    logits = output.logits[:, rollout.prompt_ids.shape[1] - 1 : -1].float()  # [B, T, V], each predicts a response token
    chosen = logits.gather(-1, rollout.response_ids[..., None]).squeeze(-1)
    # Differences of logits are differences of log-probabilities: the normaliser cancels.
    behind: Tensor = (logits.amax(-1) - chosen)[rollout.mask]
    return behind


def logprob_gap(model: CausalLM, rollout: Rollout) -> Tensor:
    """Absolute differences [N] of the engine's log-probabilities from those of a forward pass of the harness."""
    import torch

    from rlhf_bench.harness.sampling.rollout import logprobs

    assert rollout.logprobs is not None  # an engine's rollouts have them: PPO compares them with its own pass
    with torch.no_grad():
        own = logprobs(model, rollout, TEMPERATURE)  # of the temperature that the engine sampled at
    return (own - rollout.logprobs)[rollout.mask].abs()
